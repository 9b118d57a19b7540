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
		loop    []int
	}{
		{"none", nil, 2, nil},
		{"one", []int{0}, 2, nil},
		{"as many as allowed", []int{0, 1}, 2, nil},
		{"one more", []int{0, 1, 2}, 2, []int{0, 1}},
		{"just within", []int{0, 1, 60}, 2, []int{0, 1}},
		{"just over", []int{0, 1, 61}, 2, nil},
		{"all within, but off", []int{0, 1, 2, 3}, 0, nil},
		{"one long before", []int{-1000, 0, 1, 2}, 2, []int{0, 1}},
		{"longer than its time", []int{0, 20, 40, 60, 80, 100, 120}, 2, []int{0, 20, 40, 60, 80, 100}},
		{"a second loop", []int{0, 1, 2, 1000, 1001, 1002, 1003}, 2, []int{1000, 1001, 1002}},
	} {
		var dirs, want []string
		for _, m := range tt.minutes {
			dirs = append(dirs, dirAt("a-b", m))
		}
		for _, m := range tt.loop {
			want = append(want, dirAt("a-b", m))
		}
		if got := loopOf(dirs, tt.n, time.Hour); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
	}
}

func put(t *testing.T, dir string, files ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The first and the newest keep their cores; another host's, one long before, and
// what is no dump are nobody's business.
func TestCrashLoop(t *testing.T) {
	root := t.TempDir()
	put := func(dir string, files ...string) { put(t, filepath.Join(root, dir), files...) }
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

// Of a loop whose first crash left no core here, the first core that there is stays.
func TestCrashLoopWithoutFirstCore(t *testing.T) {
	root := t.TempDir()
	for i, files := range []string{"vmcore-dmesg.txt", "vmcore", "vmcore", "vmcore"} {
		put(t, filepath.Join(root, dirAt("router-7", -40+10*i)), files)
	}
	save(t, root, vmcoretest.File(t, machine), "-reserve", "0", "-crash-loop", "3/60").want(t, exitSaved)
	for minute, want := range map[int]bool{-30: true, -20: false, -10: false} {
		if _, err := os.Stat(filepath.Join(root, dirAt("router-7", minute), "vmcore")); (err == nil) != want {
			t.Errorf("minute %d: %v, want a core: %v", minute, err, want)
		}
	}
}

// A loop that never ends has bounded directories.
func TestCrashLoopForEver(t *testing.T) {
	root := t.TempDir()
	for i := range maxLogs + 4 {
		put(t, filepath.Join(root, dirAt("router-7", i-maxLogs-4)), "vmcore-dmesg.txt")
	}
	save(t, root, vmcoretest.File(t, machine), "-reserve", "0").want(t, exitSaved)
	dirs, _ := filepath.Glob(root + "/*")
	if len(dirs) != maxLogs+2 {
		t.Errorf("%d directories, want the first, the newest and %d", len(dirs), maxLogs)
	}
	if _, err := os.Stat(filepath.Join(root, dirAt("router-7", -maxLogs-4))); err != nil {
		t.Errorf("the first: %v", err)
	}
}

// Crashes of which only the log fits, day after day, do not fill the target; a core
// is never removed for it.
func TestLogsForEver(t *testing.T) {
	for _, flags := range [][]string{{"-log-only"}, {"-reserve", "1000T"}} {
		root := t.TempDir()
		const day = 24 * 60
		for i := range maxLogs + 4 {
			put(t, filepath.Join(root, dirAt("router-7", (i-maxLogs-4)*day)), "vmcore-dmesg.txt")
		}
		core := filepath.Join(root, dirAt("router-7", -1000*day))
		put(t, core, "vmcore")
		save(t, root, vmcoretest.File(t, machine), flags...)
		dirs, _ := filepath.Glob(root + "/*")
		if len(dirs) != maxLogs+1 || !slices.Contains(dirs, core) {
			t.Errorf("%s: %d directories, want %d and the one with a core", flags, len(dirs), maxLogs)
		}
	}
}
