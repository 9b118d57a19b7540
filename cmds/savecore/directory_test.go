package main

import (
	"slices"
	"testing"
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
