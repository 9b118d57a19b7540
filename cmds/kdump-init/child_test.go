package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/console"
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
	for _, tt := range []struct {
		name, script string
		stall        time.Duration
		status       int
		err          string
	}{
		{"stands still", "exec /bin/sleep 60", time.Second, 0, "nothing moved for "},
		{"slow", "for i in 1 2 3 4 5 6 7; do /bin/sleep 1; printf '\\000' >&3; done; exit 3", 5 * time.Second, 3, ""},
		{"waits with a reason", "printf '\\001' >&3; /bin/sleep 7; exit 3", 5 * time.Second, 3, ""},
		{"its reason is over", "printf '\\001\\000' >&3; exec /bin/sleep 60", time.Second, 0, "nothing moved for "},
	} {
		c.cfg.StallTimeout = tt.stall
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

// The end of a kernel log is the panic: the last resort is not over before a slow
// console has that.
func TestLastResortOnSlowConsole(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "console")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	serial, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer serial.Close()
	c := &capture{cfg: config.Default()}
	c.log.consoles = console.Open(filepath.Join(dir, "none"), dir)
	var got bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		for buf := make([]byte, 1024); !strings.HasSuffix(got.String(), " end\r\n"); time.Sleep(5 * time.Millisecond) {
			n, err := serial.Read(buf)
			if err != nil {
				return
			}
			got.Write(buf[:n])
		}
	}()
	const lines = 4000
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo a line of the kernel log: $i; i=$((i+1)); done; echo the end", lines)
	a := attempt{argv: []string{"/bin/sh", "-c", script, "-"}, timeout: time.Minute}
	if status, err := c.child(a); status != exitSaved || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	select {
	case <-read:
	case <-time.After(10 * time.Second): // it is in the fifo
		serial.Close()
		<-read
	}
	if n := strings.Count(got.String(), "\n"); n != lines+1 {
		t.Errorf("%d of %d lines", n, lines+1)
	}

	a.timeout = 3 * time.Second // and now nobody reads
	if status, err := c.child(a); err == nil {
		t.Errorf("status %d of a log that did not come out", status)
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
