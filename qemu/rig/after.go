package rig

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/qemu/vm"
)

// rawCore turns the disk that rawcopy wrote into the core it holds.
func rawCore(img, out string) (string, error) {
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 64)
	if _, err := f.ReadAt(b, rawSize-4096); err != nil {
		return "", err
	}
	var size int64
	if _, err := fmt.Sscanf(string(b), "ukdump raw core %d\n", &size); err != nil {
		return "", fmt.Errorf("%s: rawcopy left no core there", img)
	}
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	return out, os.Rename(img, out)
}

// untar unpacks the archive at the start of a disk image.
func untar(img, dir string) error {
	f, err := os.Open(img)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(bufio.NewReaderSize(f, 1<<20))
	for n := 0; ; n++ {
		h, err := t.Next()
		switch {
		case err == io.EOF && n == 0:
			return errors.New("the export disk is empty")
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case h.Typeflag == tar.TypeDir:
			err = root.MkdirAll(h.Name, 0o755)
		case h.Typeflag == tar.TypeReg:
			err = unpackFile(root, h, t)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, h *tar.Header, r io.Reader) error {
	f, err := root.OpenFile(h.Name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// Mark is a step of a crash and when it was reached.
type Mark struct {
	Name    string
	At, CPU time.Duration // as in vm.Line
}

// Timeline finds the steps of a crash on the console. Its times count from the
// panic. A step that is not there, because it failed, is left out.
func Timeline(lines []vm.Line) []Mark {
	var marks []Mark
	var start vm.Line
	at := 0
	for _, step := range []struct {
		name string
		text []string // any of them
	}{
		{"panic", []string{"sysrq: Trigger a crash"}},
		{"capture kernel", []string{"Linux version"}},
		{"its init", []string{"Run /init as init", "Run /rawcopy as init", "Run /saboteur as init"}},
		{"configuration read", []string{"kdump-init: a kernel crashed", "kdump-init: run "}},
		{"target ready", []string{"target disk:"}},
		{"log saved", []string{"saved vmcore-dmesg.txt"}},
		{"core saved", []string{"saved vmcore:", "baseline: saved"}},
		{"reboot", []string{"reboot: Restarting system"}},
		{"production kernel", []string{"Linux version"}},
		{"production back", []string{"appliance: production is back"}},
	} {
		for i := at; i < len(lines); i++ {
			if !containsAny(lines[i].Text, step.text) {
				continue
			}
			if step.name == "panic" {
				start = lines[i]
			}
			marks = append(marks, Mark{step.name, lines[i].At - start.At, lines[i].CPU - start.CPU})
			at = i + 1
			break
		}
		if len(marks) == 0 {
			return nil // no panic, no times
		}
	}
	return marks
}

func containsAny(s string, texts []string) bool {
	for _, t := range texts {
		if strings.Contains(s, t) {
			return true
		}
	}
	return false
}

// Find returns the mark of a name.
func Find(marks []Mark, name string) (Mark, bool) {
	for _, m := range marks {
		if m.Name == name {
			return m, true
		}
	}
	return Mark{}, false
}

// Directories are the folders below the target that hold a dump.
func (r *Result) Directories(pattern string) []string {
	names, _ := filepath.Glob(filepath.Join(r.Tree, pattern))
	var dirs []string
	for _, n := range names {
		if st, err := os.Stat(n); err == nil && st.IsDir() {
			dirs = append(dirs, n)
		}
	}
	return dirs
}

// Said returns the first line of the console that contains text.
func (r *Result) Said(text string) (string, bool) {
	for _, l := range r.Lines {
		if strings.Contains(l.Text, text) {
			return l.Text, true
		}
	}
	return "", false
}

// Tail is the end of the console, for a failed test.
func (r *Result) Tail(n int) string {
	var b strings.Builder
	for _, l := range r.Lines[max(0, len(r.Lines)-n):] {
		fmt.Fprintf(&b, "%7.2f %s\n", l.At.Seconds(), l.Text)
	}
	return b.String()
}
