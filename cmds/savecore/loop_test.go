package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/vmcoretest"
)

func dirAt(host string, minute int) string {
	at := time.Date(2025, 11, 21, 4, 0, 0, 0, time.UTC).Add(time.Duration(minute) * time.Minute)
	return fmt.Sprintf("%s-%s-%04x", host, at.Format(timeForm), minute&0xffff)
}

func TestLoopOf(t *testing.T) {
	for _, tt := range []struct {
		name    string
		minutes []int
		n       int
		between []int
	}{
		{"none", nil, 2, nil},
		{"one", []int{0}, 2, nil},
		{"as many as allowed", []int{0, 1}, 2, nil},
		{"one more", []int{0, 1, 2}, 2, []int{1}},
		{"just within", []int{0, 1, 60}, 2, []int{1}},
		{"just over", []int{0, 1, 61}, 2, nil},
		{"all within, but off", []int{0, 1, 2, 3}, 0, nil},
		{"one long before", []int{-1000, 0, 1, 2}, 2, []int{1}},
		{"longer than its time", []int{0, 20, 40, 60, 80, 100, 120}, 2, []int{20, 40, 60, 80, 100}},
		{"a second loop", []int{0, 1, 2, 1000, 1001, 1002, 1003}, 2, []int{1001, 1002}},
	} {
		var dirs, want []string
		for _, m := range tt.minutes {
			dirs = append(dirs, dirAt("a-b", m))
		}
		for _, m := range tt.between {
			want = append(want, dirAt("a-b", m))
		}
		if got := loopOf(dirs, tt.n, time.Hour); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
	}
}

// The first and the newest keep their cores; another host's, one long before, and
// what is no dump are nobody's business.
func TestCrashLoop(t *testing.T) {
	root := t.TempDir()
	put := func(dir string, files ...string) {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(root, dir, f), []byte(f), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, first, second, torn, other := dirAt("router-7", -500), dirAt("router-7", -40), dirAt("router-7", -30), dirAt("router-7", -20), dirAt("router-8", -25)
	for _, d := range []string{before, first, second, other} {
		put(d, "vmcore", "vmcore-dmesg.txt")
	}
	put(torn, "vmcore-incomplete", "vmcore-dmesg.txt")
	put("router-7-notes", "vmcore")
	core := vmcoretest.File(t, machine)

	r := save(t, root, core, "-reserve", "0", "-crash-loop", "4/60")
	r.want(t, exitSaved)
	if strings.Contains(r.out, "crash loop") {
		t.Errorf("four of four allowed are no loop:\n%s", r.out)
	}
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	r = save(t, root, core, "-reserve", "0", "-crash-loop", "3/60")
	r.want(t, exitSaved, "crash loop: removed "+second+"/vmcore", "crash loop: removed "+torn+"/vmcore-incomplete")
	for name, want := range map[string]bool{
		before + "/vmcore": true, first + "/vmcore": true, second + "/vmcore": false, second + "/vmcore-dmesg.txt": true,
		torn + "/vmcore-incomplete": false, torn + "/vmcore-dmesg.txt": true, other + "/vmcore": true, "router-7-notes/vmcore": true,
		filepath.Base(r.dir) + "/vmcore": true,
	} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
}

// A loop that never ends has bounded directories.
func TestCrashLoopForEver(t *testing.T) {
	root := t.TempDir()
	for i := range maxLoopLogs + 4 {
		dir := filepath.Join(root, dirAt("router-7", i-maxLoopLogs-4))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "vmcore-dmesg.txt"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(t, root, vmcoretest.File(t, machine), "-reserve", "0").want(t, exitSaved)
	dirs, _ := filepath.Glob(root + "/*")
	if len(dirs) != maxLoopLogs+2 {
		t.Errorf("%d directories, want the first, the newest and %d", len(dirs), maxLoopLogs)
	}
	if _, err := os.Stat(filepath.Join(root, dirAt("router-7", -maxLoopLogs-4))); err != nil {
		t.Errorf("the first: %v", err)
	}
}
