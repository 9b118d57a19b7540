package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/config"
)

func shell(script string, timeout time.Duration) attempt {
	return attempt{argv: []string{"/bin/sh", "-c", script}, timeout: timeout}
}

// The children of these tests are reaped with wait4(-1), as PID 1 does it: so
// they must not run beside others.
func TestChild(t *testing.T) {
	c := &capture{cfg: config.Default()} // one: another's reaper may still be about
	for _, tt := range []struct {
		name   string
		script string
		limit  time.Duration
		status int
		err    string
	}{
		{"ends", "exit 3", time.Minute, 3, ""},
		{"leaves an orphan to reap", "(/bin/sleep 0.1) & exit 0", time.Minute, 0, ""},
		{"dies of a signal", "kill -9 $$", time.Minute, 0, "killed by SIGKILL"},
		{"outlives its deadline", "exec /bin/sleep 60", 200 * time.Millisecond, 0, "not done after 200ms, killed"},
		{"ignores SIGTERM", "trap '' TERM; while :; do /bin/sleep 1; done", 200 * time.Millisecond, 0, "not done after 200ms, killed"},
		{"a grandchild holds its output", "/bin/sleep 5 & exit 0", time.Minute, 0, ""},
	} {
		start := time.Now()
		status, err := c.child(shell(tt.script, tt.limit))
		if status != tt.status || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %d, %v, want %d, %q", tt.name, status, err, tt.status, tt.err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %s", tt.name, took)
		}
	}
}

// An attempt that stands still is ended long before its deadline; one that is slow,
// and one that has asked for time, are not.
func TestChildThatStandsStill(t *testing.T) {
	c := &capture{cfg: config.Default()}
	c.cfg.StallTimeout = time.Second
	for _, tt := range []struct {
		name, script string
		status       int
		err          string
	}{
		{"stands still", "exec /bin/sleep 60", 0, "nothing moved for "},
		{"slow", "for i in 1 2 3 4 5; do /bin/sleep 0.5; printf '\\000' >&3; done; exit 3", 3, ""},
		{"waits with a reason", "printf '\\001' >&3; /bin/sleep 2.5; exit 3", 3, ""},
		{"its reason is over", "printf '\\001\\000' >&3; exec /bin/sleep 60", 0, "nothing moved for "},
	} {
		status, err := c.child(shell(tt.script, time.Minute))
		if status != tt.status || (err == nil) != (tt.err == "") || (err != nil && !strings.HasPrefix(err.Error(), tt.err)) {
			t.Errorf("%s: %d, %v, want %d, %q", tt.name, status, err, tt.status, tt.err)
		}
	}
}

// What the Go runtime says of a panic is in the log of the capture: nobody else has it.
func TestLastWords(t *testing.T) {
	c := &capture{cfg: config.Default()} // one: another's reaper may still be about
	for _, tt := range []struct {
		name, script string
		want, not    string
	}{
		{"a panic", "echo fine; echo 'panic: no memory map' >&2; exit 2", "kdump-init: savecore: panic: no memory map\n", "kdump-init: savecore: fine"},
		{"without end", "i=0; while [ $i -lt 300 ]; do echo trace $i >&2; i=$((i+1)); done; exit 2", "kdump-init: savecore: and so on\n", "trace 60"},
	} {
		said, err := os.Create(filepath.Join(t.TempDir(), "said"))
		if err != nil {
			t.Fatal(err)
		}
		before := os.Stderr
		os.Stderr = said // where the log goes that is not open
		status, err := c.child(shell(tt.script, time.Minute))
		os.Stderr = before
		if status != 2 || err != nil {
			t.Errorf("%s: %d, %v", tt.name, status, err)
		}
		b, err := os.ReadFile(said.Name())
		if text := string(b); err != nil || !strings.Contains(text, tt.want) || strings.Contains(text, tt.not) {
			t.Errorf("%s: %v, the log has\n%s", tt.name, err, text)
		}
		said.Close()
	}
}

func TestChildThatCannotStart(t *testing.T) {
	c := &capture{}
	if _, err := c.child(attempt{argv: []string{"/nonexistent"}, timeout: time.Second}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("error %v, want ENOENT", err)
	}
}

// A step that hangs, and one that panics, must not take PID 1 with them.
func TestDo(t *testing.T) {
	c := &capture{}
	hang := make(chan struct{})
	defer close(hang)
	if err := c.do(step{timeout: 50 * time.Millisecond, run: func() error { <-hang; return nil }}); err == nil || !strings.Contains(err.Error(), "not done after 50ms") {
		t.Errorf("a step that hangs: %v", err)
	}
	if err := c.do(step{timeout: time.Minute, run: func() error { panic("no memory map") }}); err == nil || !strings.Contains(err.Error(), "panic: no memory map") {
		t.Errorf("a step that panics: %v", err)
	}
	if err := c.do(step{run: func() error { return nil }}); err != nil {
		t.Errorf("a step that bounds itself: %v", err)
	}
}
