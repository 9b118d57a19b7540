// Package result is what a capture leaves about itself for programs: result.json.
//
// While the capture runs it is a file in memory, RunPath, to which each attempt adds
// what became of it. With the dump goes the state of it at that time; the
// production system finds that with Newest.
package result

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Name is the file in a dump directory.
const Name = "result.json"

// RunPath is the file while the capture runs.
const RunPath = "/run/kdump/" + Name

// PathVariable is the environment variable that tells an attempt where the file is.
const PathVariable = "UKDUMP_RESULT"

// What was saved, of a crash or by an attempt.
const (
	SavedAll     = "all"
	SavedLog     = "log" // the kernel log, but no core
	SavedNothing = "nothing"
)

// Unfinished is the error of an attempt that has saved the log and goes on: if it is
// killed, that is the last it has told.
const Unfinished = "not ended"

// Died notes that an attempt of target, which took so long, ended without its own word.
func (r *Result) Died(target string, why error, took time.Duration) {
	a := Attempt{Target: target, Saved: SavedNothing}
	if n := len(r.Attempts); n > 0 && r.Attempts[n-1].Target == target && r.Attempts[n-1].Error == Unfinished {
		a, r.Attempts = r.Attempts[n-1], r.Attempts[:n-1]
	}
	a.Error, a.Seconds = why.Error(), took.Round(time.Millisecond).Seconds()
	r.Attempts = append(r.Attempts, a)
}

// Result is one capture. Fields are added, never changed; what is not known is left out.
type Result struct {
	Version   int       `json:"version"` // 1
	Directory string    `json:"directory,omitempty"`
	CrashTime time.Time `json:"crash_time,omitzero"`
	Host      string    `json:"host,omitempty"`
	Kernel    string    `json:"kernel,omitempty"` // release of the one that crashed
	Saved     string    `json:"saved"`
	Target    string    `json:"target,omitempty"` // URL of the one that has it, without passwords
	Seconds   float64   `json:"seconds"`          // since the capture kernel started
	Files     []File    `json:"files,omitempty"`
	Lost      []string  `json:"lost,omitempty"` // what is not in the dump, a sentence each
	Attempts  []Attempt `json:"attempts"`       // in order; the last one wrote this
	Memory    *Memory   `json:"memory,omitempty"`
}

// File is one file of the dump directory.
type File struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Attempt is one try of one target.
type Attempt struct {
	Target  string  `json:"target"`
	Saved   string  `json:"saved"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
	Steps   []Step  `json:"steps,omitempty"`
}

// Step is a part of an attempt.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// Memory tells how close the capture came to the end of it, in KiB.
type Memory struct {
	SystemKiB         int `json:"system_kib"`          // RAM of the capture kernel, of /proc/iomem
	TotalKiB          int `json:"total_kib"`           // MemTotal
	UnpackKiB         int `json:"unpack_kib"`          // least RAM with which the image can be unpacked, 0: not known
	LeastAvailableKiB int `json:"least_available_kib"` // MemAvailable at its lowest
	PeakKiB           int `json:"savecore_peak_kib"`   // VmHWM of savecore
	CrashkernelMiB    int `json:"crashkernel_mib"`     // what crashkernel= should be, 0: not known
}

// maxFile bounds result.json: a plan has at most 64 attempts of a dozen steps.
const maxFile = 1 << 20

// Read reads a result. A version that is not ours is an error.
func Read(r io.Reader) (*Result, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, err
	}
	var res Result
	if err := json.Unmarshal(b, &res); err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, err)
	}
	if res.Version != 1 {
		return nil, fmt.Errorf("read %s: version %d, want 1", Name, res.Version)
	}
	return &res, nil
}

// Load reads the file at path.
func Load(path string) (*Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f)
}

// Write writes a result as JSON.
func (r *Result) Write(w io.Writer) error {
	r.Version = 1
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Store replaces the file at path in one step: whoever writes it may be killed.
func (r *Result) Store(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// String is the result in one line: "saved to disk:///crash?dev=LABEL=CRASH in 41 s".
func (r *Result) String() string {
	var text string
	switch r.Saved {
	case SavedAll:
		text = "saved to " + r.Target
	case SavedLog:
		text = "only the kernel log saved to " + r.Target
	default:
		text = "nothing saved"
	}
	text += fmt.Sprintf(" in %.0f s", r.Seconds)
	var failed []string
	for _, a := range r.Attempts {
		if a.Error != "" {
			failed = append(failed, a.Target+": "+a.Error)
		}
	}
	if len(failed) > 0 {
		text += "; failed: " + strings.Join(failed, "; ")
	}
	return text
}

// Newest finds the result of the last crash in root, a folder of dump directories.
// It returns fs.ErrNotExist if there is none, and passes over those it cannot read. Who
// else may write there, may lay links and pipes there: only regular files count.
func Newest(root string) (*Result, error) {
	return newest(root, func(*Result) bool { return true })
}

// NewestOf is Newest for the crashes of a host, and where root has none of them, of any.
func NewestOf(root, host string) (*Result, error) {
	return newest(root, func(r *Result) bool { return r.Host == host })
}

func newest(root string, isOwn func(*Result) bool) (*Result, error) {
	if root == "" {
		return nil, &fs.PathError{Op: "find " + Name, Path: root, Err: fs.ErrNotExist}
	}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var own, other *Result
	for _, d := range dirs {
		r, err := loadRegular(filepath.Join(root, d.Name(), Name))
		if err != nil {
			continue
		}
		best := &other
		if isOwn(r) {
			best = &own
		}
		if *best == nil || r.CrashTime.After((*best).CrashTime) {
			*best = r
		}
	}
	if own == nil {
		own = other
	}
	if own == nil {
		return nil, &fs.PathError{Op: "find " + Name, Path: root, Err: fs.ErrNotExist}
	}
	return own, nil
}

// loadRegular is Load for a file that anybody may have put there.
func loadRegular(path string) (*Result, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fs.ErrInvalid}
	}
	return Read(f)
}
