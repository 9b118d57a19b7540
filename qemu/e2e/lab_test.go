package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
)

const mib = 1 << 20

// lab is what the crashes of one test run share.
type lab struct {
	*rig.Rig
	images string // folder of the capture images, one for each kernel
	conf   string // their kdump.conf

	vmcoreOnce sync.Once
	vmcorePath string // of the command vmcore, once it is built
}

// newLab builds the capture images of the kernels, as make initramfs does.
func newLab(t *testing.T, kernels ...string) *lab {
	t.Helper()
	return newLabWith(t, "target = disk:///crash?dev=LABEL=CRASH\n", kernels...)
}

// newLabWith has what the configuration takes in its images.
func newLabWith(t *testing.T, conf string, kernels ...string) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	r, err := rig.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	l := &lab{Rig: r, images: t.TempDir(), conf: conf}
	for _, name := range kernels {
		k, err := r.Kernel(name)
		if err != nil {
			t.Fatal(err)
		}
		said, err := r.Capture(ctx, l.image(name), k, conf, l.secrets(t, conf)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("capture image for %s:\n%s", name, said)
	}
	return l
}

// secrets are flags for placeholders of the files that the targets of conf name: the
// true ones are made with the server, after the image, and run puts them over these.
func (l *lab) secrets(t *testing.T, conf string) (flags []string) {
	t.Helper()
	placeholder := filepath.Join(l.images, "placeholder")
	if err := os.WriteFile(placeholder, []byte("placeholder: the true file was not put over it\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range secretFiles(conf) {
		flags = append(flags, "-files", placeholder+":"+name)
	}
	return flags
}

// secretFiles are the files that the targets of conf name, each once.
func secretFiles(conf string) (names []string) {
	for line := range strings.Lines(conf) {
		url, ok := strings.CutPrefix(strings.TrimSpace(line), "target = ")
		if !ok {
			continue
		}
		spec, err := targets.Parse(url)
		if err != nil {
			continue // a configuration may be corrupt on purpose
		}
		for _, name := range spec.Files() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (l *lab) image(kernel string) string { return filepath.Join(l.images, kernel+".cpio.zst") }

// setup is a crash as most tests want it: the disk "target" of size bytes,
// labelled CRASH, and conf in place of the image's kdump.conf.
type setup struct {
	crash    rig.Crash
	conf     string
	files    map[string]string // further ones of the image, by name
	programs []string
	flags    []string // of mkinitramfs, for an image of its own; nil: the lab's
	size     int64
	fs       disk.FS
	part     disk.Part // if it has a Size: the filesystem is in this partition, the second
	first    disk.Part // the partition before that; 1 MiB if it has no Size
}

// run makes the crash. It fails the test unless production came back.
func (l *lab) run(t *testing.T, kernel string, s setup) *rig.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute) // waiting for others included
	defer cancel()
	res, err := l.Run(ctx, l.prepare(ctx, t, kernel, s))
	if err != nil {
		t.Fatalf("%v\n%s", err, res.Tail(60))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("files in %s; the end of the console:\n%s", res.Dir, res.Tail(40))
		}
	})
	for _, m := range rig.Timeline(res.Lines) {
		t.Logf("%7.2f s  %s", m.At.Seconds(), m.Name)
	}
	if _, ok := res.Said("appliance: production is back"); !ok {
		t.Fatal("production did not come back")
	}
	return res
}

// prepare makes the images of the crash.
func (l *lab) prepare(ctx context.Context, t *testing.T, kernel string, s setup) rig.Crash {
	t.Helper()
	c := s.crash
	var err error
	if c.Kernel, err = l.Kernel(kernel); err != nil {
		t.Fatal(err)
	}
	c.Name = strings.ReplaceAll(t.Name(), "/", "-")
	dir := t.TempDir()
	c.Base = l.image(kernel)
	if s.flags != nil {
		c.Base = filepath.Join(dir, "base.cpio.zst")
		if said, err := l.Capture(ctx, c.Base, c.Kernel, s.conf, s.flags...); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
	}
	c.Capture = filepath.Join(dir, "capture.cpio.zst")
	files := maps.Clone(s.files)
	if files == nil {
		files = map[string]string{}
	}
	if s.conf != "" {
		files["etc/kdump.conf"] = s.conf
	}
	conf := s.conf
	if conf == "" {
		conf = l.conf
	}
	for _, name := range secretFiles(conf) {
		if files[strings.TrimPrefix(name, "/")] == "" {
			t.Fatalf("%s: the image would have nothing but the placeholder for it", name)
		}
	}
	if err := l.Wrap(ctx, c.Capture, c.Base, s.programs, files); err != nil {
		t.Fatal(err)
	}
	if len(s.programs) > 0 {
		c.Append += " rdinit=/" + filepath.Base(s.programs[0])
	}
	c.Target, err = makeTarget(ctx, filepath.Join(dir, "target.img"), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func makeTarget(ctx context.Context, path string, s setup) (*rig.Target, error) {
	size, f := s.size, s.fs
	if size == 0 {
		size = 1 << 30
	}
	if f.Type == "" {
		f = disk.FS{Type: "ext4", Label: "CRASH"}
	}
	t := &rig.Target{Path: path, FSType: f.Type}
	if s.crash.Target != nil {
		t.Bus = s.crash.Target.Bus
	}
	if s.part.Size == 0 {
		return t, disk.Format(ctx, path, size, f)
	}
	t.Part = 2
	s.part.FS = f
	if s.first.Size == 0 {
		s.first = disk.Part{Name: "first", Size: mib}
	}
	return t, disk.Partitioned(ctx, path, []disk.Part{s.first, s.part})
}

// want fails the test if the console did not say text.
func want(t *testing.T, res *rig.Result, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, ok := res.Said(text); !ok {
			t.Errorf("the console does not say %q", text)
		}
	}
}

// found is what the group of pattern has where the console says it, which it must.
func found(t *testing.T, res *rig.Result, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for _, line := range res.Lines {
		if m := re.FindStringSubmatch(line.Text); m != nil {
			return m[1]
		}
	}
	t.Fatalf("the console does not say %s", pattern)
	return ""
}

// oneDirectory is the dump directory, which must be the only one.
func oneDirectory(t *testing.T, res *rig.Result) string {
	t.Helper()
	dirs := res.Directories("crash/*")
	if len(dirs) != 1 {
		t.Fatalf("dump directories on the target: %q, want one", dirs)
	}
	if name := filepath.Base(dirs[0]); !regexp.MustCompile(`^localhost-\d{8}T\d{6}Z-[0-9a-f]{4}$`).MatchString(name) {
		t.Errorf("dump directory %s, want the form localhost-YYYYMMDDTHHMMSSZ-XXXX", name)
	}
	return dirs[0]
}

// files are the names of the regular files below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// checkFiles checks names, that none is empty, and SHA256SUMS.
func checkFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	checkFilesBut(t, dir, "", names...)
}

// checkFilesBut is for a dump whose SHA256SUMS does not have the file unsummed.
func checkFilesBut(t *testing.T, dir, unsummed string, names ...string) {
	t.Helper()
	slices.Sort(names)
	if got := files(t, dir); !slices.Equal(got, names) {
		t.Errorf("files: %q, want %q", got, names)
	}
	f, err := os.Open(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	var summed []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		summed = append(summed, name)
		if got := hashFile(t, filepath.Join(dir, name)); got != sum {
			t.Errorf("SHA256SUMS: %s has %s, the file %s", name, sum, got)
		}
	}
	slices.Sort(summed)
	if wantSums := slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		return n == "SHA256SUMS" || n == unsummed || strings.Contains(n, "-incomplete")
	}); !slices.Equal(summed, wantSums) {
		t.Errorf("SHA256SUMS lists %q, want %q", summed, wantSums)
	}
}

func hashFile(t *testing.T, path string) string {
	t.Helper()
	sum, err := sha256File(path)
	if err != nil {
		t.Error(err)
	}
	return sum
}

func sha256File(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// contains checks a text file of the dump directory.
func contains(t *testing.T, dir, name string, texts ...string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
		return
	}
	for _, text := range texts {
		if !strings.Contains(string(b), text) {
			t.Errorf("%s does not contain %q", name, text)
		}
	}
}

// comparison is what testdata/pages.py prints.
type comparison struct {
	RAM         int   `json:"ram"`
	RAMBits     int   `json:"ram_in_bitmap1"`
	Kept        int   `json:"kept"`
	Compared    int   `json:"compared"`
	Level       int   `json:"level"`
	Status      int   `json:"status"`
	Different   int   `json:"n_different"`
	Unreadable  int   `json:"n_unreadable"`
	Hidden      []int `json:"readable_though_left_out"`
	OutsideRAM  int   `json:"n_outside_ram"`
	TheyKeep    int   `json:"they_keep"`
	OnlyTheyOf  []int `json:"only_they_keep"`
	OnlyThey    int   `json:"n_only_they_keep"`
	OnlyWeOf    []int `json:"only_we_keep"`
	OnlyWe      int   `json:"n_only_we_keep"`
	WhatDiffers []int `json:"different"`
}

// comparePages reads our vmcore with drgn and libkdumpfile, and filters the raw
// core with makedumpfile.
func (l *lab) comparePages(t *testing.T, vmcore, raw string, level string) (c comparison, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	theirs := filepath.Join(t.TempDir(), "theirs.kdump")
	if _, ok := l.tool(ctx, t, "makedumpfile", "-l", "-d", level, "--message-level", "7", raw, theirs); !ok {
		return c, false
	}
	out, ok := l.tool(ctx, t, "python3", "testdata/pages.py", vmcore, raw, theirs)
	if !ok {
		return c, false
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		t.Errorf("pages.py: %v in %q", err, out)
		return c, false
	}
	return c, true
}

// vmcore is the path of our command of that name.
func (l *lab) vmcore(t *testing.T) string {
	t.Helper()
	l.vmcoreOnce.Do(func() {
		path := filepath.Join(l.images, "vmcore")
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmds/vmcore")
		cmd.Dir = l.Root
		if _, err := rig.Output(cmd); err != nil {
			t.Error(err)
		}
		l.vmcorePath = path
	})
	return l.vmcorePath
}

// verify has vmcore verify look at a dump.
func (l *lab) verify(t *testing.T, name string) {
	t.Helper()
	if _, err := rig.Output(exec.CommandContext(t.Context(), l.vmcore(t), "verify", name)); err != nil {
		t.Error(err)
	}
}

// tool runs a foreign reader. A failure is the test's, which goes on.
func (l *lab) tool(ctx context.Context, t *testing.T, name string, args ...string) (out string, ok bool) {
	t.Helper()
	cmd, err := l.Tool(ctx, name, args...)
	if err == nil {
		out, err = rig.Output(cmd)
	}
	if err != nil {
		t.Error(err)
	}
	return out, err == nil
}
