package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
)

func TestHostName(t *testing.T) {
	for in, want := range map[string]string{
		"": "localhost", "(none)": "localhost", "router-7": "router-7", "a.b.example": "a.b.example",
		"../../etc": "etc", "sp ace/slash": "spaceslash", "...": "localhost", "-x-": "x", "caf\u00e9": "caf",
	} {
		if got := hostName(in); got != want {
			t.Errorf("hostName(%q) = %q, want %q", in, got, want)
		}
	}
}

// Retention removes directories: it must never take one that savecore did not make.
func TestIsDumpDirectory(t *testing.T) {
	for name, want := range map[string]bool{
		"router-20261121T061300Z-1a2b":   true,
		"a-b-c-20261121T061300Z-1a2b":    true,
		"router-20261121T061300Z":        false,
		"router-20261121T061300Z-1a2bc":  false,
		"router-2026-11-21-06:13-1a2b":   false,
		"lost+found":                     false,
		"":                               false,
		"20261121T061300Z-1a2b":          false,
		"router-20261321T061300Z-1a2b":   false,
		"router-20261121T061300Z-1a2b-x": false,
	} {
		if got := isDumpDirectory(name); got != want {
			t.Errorf("isDumpDirectory(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestCrashOrder(t *testing.T) {
	names := []string{"z-20260101T000000Z-ffff", "a-20261231T235959Z-0000", "m-19700101T000007Z-1111"}
	slices.SortFunc(names, crashOrder)
	if names[0][0] != 'm' || names[1][0] != 'z' || names[2][0] != 'a' {
		t.Errorf("not in the order of crashes: %v", names)
	}
}

// Where the clock says 1970, or an old dump is of a time to come, nobody knows which is
// the oldest: none is removed. With the clock right again, those of 1970 go first.
func TestRetentionAfterClockReset(t *testing.T) {
	root := t.TempDir()
	recent, older := "router-7-20251101T000000Z-aaaa", "router-7-19700101T000009Z-bbbb"
	for _, dir := range []string{recent, older} {
		put(t, filepath.Join(root, dir), "vmcore")
	}
	there := func(dir string) bool { _, err := os.Stat(filepath.Join(root, dir, "vmcore")); return err == nil }
	dead := vmcoretest.File(t, strings.Replace(machine, "CRASHTIME=1763697600", "CRASHTIME=60", 1))
	r := save(t, root, dead, "-reserve", "0", "-keep", "1")
	r.want(t, exitSaved, "retention: router-7-19700101T000100Z-", "is not the last by its name: is the clock right?")
	if !there(recent) || !there(older) {
		t.Error("a dump was removed by a name that tells nothing")
	}
	r = save(t, root, vmcoretest.File(t, machine), "-reserve", "0", "-keep", "2")
	r.want(t, exitSaved, "retention: removed "+older, "retention: removed router-7-19700101T000100Z-")
	if !there(recent) || there(older) {
		t.Error("keep 2 has to leave the new one and the one before it")
	}
}
