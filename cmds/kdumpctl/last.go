package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/blockdev"
	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/targets"
)

// findTimeout bounds the look for the device of a target: what is mounted is there.
const findTimeout = time.Second

// lastCrash is the newest result in the folders where this system can see dumps:
// dir if it is named, and else those of the targets. A crash of this machine goes
// before those of others, which a server's folder has too. nil: none is there.
func (h *host) lastCrash(dir string, urls []string) (*result.Result, error) {
	folders := []string{dir}
	if dir != "" {
		if _, err := os.Stat(dir); err != nil {
			return nil, err
		}
	} else {
		folders = nil
		for _, url := range urls {
			folders = append(folders, h.folder(url))
		}
	}
	var best *result.Result
	for _, folder := range folders {
		r, err := result.NewestOf(folder, h.node)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return best, err
		}
		if best == nil || h.newer(r, best) {
			best = r
		}
	}
	return best, nil
}

// newer tells which of two crashes is shown.
func (h *host) newer(a, b *result.Result) bool {
	if (a.Host == h.node) != (b.Host == h.node) {
		return a.Host == h.node
	}
	return a.CrashTime.After(b.CrashTime)
}

// printable keeps what others have written from driving the terminal it is shown on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

// folder is where the directory of a target is in this system, "" if it is nowhere:
// on a server, or on a disk that is not mounted.
func (h *host) folder(url string) string {
	spec, err := targets.Parse(url)
	switch {
	case err != nil:
		return ""
	case spec.Scheme == "file":
		return h.path(spec.Path)
	case spec.Scheme != "disk":
		return ""
	}
	device, err := blockdev.ParseSpec(spec.Device)
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
	defer cancel()
	found, err := blockdev.Find(ctx, device, nil)
	if err != nil {
		return ""
	}
	mounts, err := os.ReadFile(h.path("/proc/self/mountinfo"))
	if err != nil {
		return ""
	}
	point := mountPoint(string(mounts), deviceNumber(found.Path), func(source string) bool {
		real, err := filepath.EvalSymlinks(source)
		return err == nil && real == found.Path
	})
	if point == "" {
		return ""
	}
	return h.path(filepath.Join(point, spec.Path))
}

// deviceNumber is MAJOR:MINOR of a device, as mountinfo has it, "" if path is none.
func deviceNumber(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// mountPoint is where the root of a file system is mounted, "" if it is not: that on
// the device with this number, or from a source that is. The kernel calls the source
// of a root that it has mounted itself /dev/root, which is nowhere; btrfs has numbers
// that are no device's. mountinfo is in the form of /proc/self/mountinfo, see proc(5):
//
//	36 35 98:0 /ROOT /POINT OPTIONS ... - FSTYPE SOURCE OPTIONS
func mountPoint(mountinfo, number string, is func(source string) bool) string {
	octal := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		place, source := strings.Fields(head), strings.Fields(tail)
		if !ok || len(place) < 5 || len(source) < 2 || place[3] != "/" {
			continue
		}
		if number != "" && place[2] == number || is(octal.Replace(source[1])) {
			return octal.Replace(place[4])
		}
	}
	return ""
}
