//go:build !race

// The race detector keeps several bytes of its own for each byte of a program.

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
)

// mainVariable makes the test binary the command itself, for a test that measures
// a process of its own.
const mainVariable = "UKDUMP_TEST_AS_VMCORE"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) == "" {
		os.Exit(m.Run())
	}
	status := run(os.Args[1:], os.Stdin, io.Discard, os.Stderr)
	fmt.Println(peakMemory())
	os.Exit(status)
}

// peakMemory is the most resident memory that this process had, in bytes.
func peakMemory() (n uint64) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if k, err := fmt.Sscanf(line, "VmHWM: %d kB", &n); k == 1 && err == nil {
			return n << 10
		}
	}
	return 0
}

// Memory is 24 MiB, and 64 MiB for each TiB of RAM: two bits a page.
func TestMemoryOfLargeMachines(t *testing.T) {
	for _, tt := range []struct {
		ram  string
		gib  uint64
		args string
	}{
		{"2G", 2, "-level 31"},
		{"2G", 2, "-level 1"},
		{"2G", 2, "-level 31 -dedup"},
		{"2G", 2, "-level 0 -compress snappy"},
		{"1T", 1 << 10, "-level 31"},
	} {
		core := filepath.Join(t.TempDir(), "core")
		if err := vmcoretest.Write(core, vmcoretest.Large(tt.ram)); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"convert", "-workers", "2"}, strings.Fields(tt.args)...)
		cmd := exec.Command("/proc/self/exe", append(args, core, core+".kdump")...)
		cmd.Env = append(os.Environ(), mainVariable+"=1")
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, &complaint)
		}
		var peak uint64
		if _, err := fmt.Sscan(string(out), &peak); err != nil || peak == 0 {
			t.Fatalf("%q: %v", out, err)
		}
		limit := uint64(24<<20) + tt.gib<<16
		t.Logf("%s of RAM, convert %s: %.1f MiB, at most %.1f allowed", tt.ram, tt.args, float64(peak)/(1<<20), float64(limit)/(1<<20))
		if peak > limit {
			t.Errorf("%s of RAM, convert %s: %d bytes of memory, want at most %d", tt.ram, tt.args, peak, limit)
		}
		if err := os.Remove(core + ".kdump"); err != nil {
			t.Fatal(err)
		}
	}
}
