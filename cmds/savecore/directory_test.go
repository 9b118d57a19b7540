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

// A dump of a time to come is from before the clock was set back. Those of 1970 stay as
// long as they are the last, and go first when the clock is right again.
func TestRetentionAfterClockReset(t *testing.T) {
	root := t.TempDir()
	recent, dead1 := "router-7-20251101T000000Z-aaaa", "router-7-19700101T000009Z-bbbb"
	for _, dir := range []string{recent, dead1} {
		put(t, filepath.Join(root, dir), "vmcore")
	}
	there := func(dir string) bool { _, err := os.Stat(filepath.Join(root, dir, "vmcore")); return err == nil }
	at := func(second string) string {
		return vmcoretest.File(t, strings.Replace(machine, "CRASHTIME=1763697600", "CRASHTIME="+second, 1))
	}
	r := save(t, root, at("5"), "-reserve", "0", "-keep", "2")
	r.want(t, exitSaved, "retention: removed "+recent)
	if there(recent) || !there(dead1) {
		t.Error("keep 2 has to leave the new one and the one before it")
	}
	r = save(t, root, vmcoretest.File(t, machine), "-reserve", "0", "-keep", "2")
	r.want(t, exitSaved, "retention: removed router-7-19700101T000005Z-")
	if !there(dead1) {
		t.Error("keep 2 has to leave two")
	}
}

func TestOldestFirst(t *testing.T) {
	dirs := []string{"h-19700101T000500Z-0001", "h-20251101T000000Z-0002", "h-19700101T001000Z-0003", "h-20240101T000000Z-0004", "h-19700101T000700Z-0005"}
	oldestFirst(dirs, dirs[4])
	if got := strings.Join(dirs, " "); got != "h-20240101T000000Z-0004 h-20251101T000000Z-0002 h-19700101T000500Z-0001 h-19700101T000700Z-0005 h-19700101T001000Z-0003" {
		t.Error(got)
	}
}
