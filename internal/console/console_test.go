package console

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestEveryActiveConsole(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "active"), "tty0 ttyS0 gone/ttyS9\n")
	write(t, filepath.Join(dir, "tty0"), "")
	write(t, filepath.Join(dir, "ttyS0"), "")
	s := Open(filepath.Join(dir, "active"), dir)
	s.Line("one")
	s.Line("two")
	s.Close(time.Second)
	for _, name := range []string{"tty0", "ttyS0"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != "one\r\ntwo\r\n" {
			t.Errorf("%s got %q", name, b)
		}
	}
}

func TestFallsBackToDevConsole(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "console"), "")
	s := Open(filepath.Join(dir, "active"), dir)
	s.Line("x")
	s.Close(time.Second)
	if b, _ := os.ReadFile(filepath.Join(dir, "console")); string(b) != "x\r\n" {
		t.Errorf("console got %q", b)
	}
}

// A console that nobody reads must not hold up the capture.
func TestStuckConsoleDoesNotBlock(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "console")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	keep, err := os.OpenFile(fifo, os.O_RDWR, 0) // so that opening for write does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	s := Open(filepath.Join(dir, "none"), dir)
	done := make(chan struct{})
	go func() {
		for range 100000 {
			s.Line("a line that fills the pipe at last")
		}
		s.Close(50 * time.Millisecond)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("a console without a reader blocked the writer")
	}
}

// The kernel log on the console, the last resort, is longer than the queue.
func TestLineWithinLosesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "console"), "")
	s := Open(filepath.Join(dir, "none"), dir)
	const lines = 20 * queued
	for range lines {
		s.LineWithin("x", time.Minute)
	}
	s.Close(time.Minute)
	if st, err := os.Stat(filepath.Join(dir, "console")); err != nil || st.Size() != lines*int64(len("x\r\n")) {
		t.Errorf("%d lines became %d bytes (%v)", lines, st.Size(), err)
	}
}

// What comes after a Flush is not overtaken by the kernel log; a console that nobody
// reads from costs no more than the time allowed.
func TestFlush(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "console"), "")
	s := Open(filepath.Join(dir, "none"), dir)
	const lines = queued
	for range lines {
		s.Line("x")
	}
	s.Flush(time.Minute)
	if st, err := os.Stat(filepath.Join(dir, "console")); err != nil || st.Size() != lines*int64(len("x\r\n")) {
		t.Errorf("after Flush, %d lines are %d bytes (%v)", lines, st.Size(), err)
	}
	s.Close(time.Minute)

	write(t, filepath.Join(dir, "active"), "stuck console")
	stuck := filepath.Join(dir, "stuck")
	if err := syscall.Mkfifo(stuck, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(stuck, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s = Open(filepath.Join(dir, "active"), dir)
	for range 4 * queued {
		s.Line(string(make([]byte, 1024)))
	}
	start := time.Now()
	s.Flush(100 * time.Millisecond)
	if took := time.Since(start); took < 100*time.Millisecond || took > 20*time.Second {
		t.Errorf("Flush of a stuck console came back after %s", took)
	}
	s.Close(100 * time.Millisecond)
}

func write(t *testing.T, path, s string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}
