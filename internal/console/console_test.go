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
	s.Close(time.Minute)
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
	s.Close(time.Minute)
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
	if !s.Flush(time.Minute, time.Minute, nil) {
		t.Error("Flush: not whole")
	}
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
	s.Flush(100*time.Millisecond, time.Minute, nil)
	if took := time.Since(start); took < 100*time.Millisecond || took > 20*time.Second {
		t.Errorf("Flush of a stuck console came back after %s", took)
	}
	start = time.Now()
	s.Flush(time.Minute, 100*time.Millisecond, nil)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("Flush of a stuck console with little patience came back after %s", took)
	}
	s.Close(100 * time.Millisecond)
}

// A console that takes nothing costs its patience once, and the other one gets every
// line of a long log, at its own pace.
func TestStuckConsoleBesideSlowOne(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "active"), "stuck slow")
	readers := make(map[string]*os.File)
	for _, name := range []string{"stuck", "slow"} {
		fifo := filepath.Join(dir, name)
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers[name] = r
	}
	s := Open(filepath.Join(dir, "active"), dir)
	const lines, size = 4 * queued, 1024
	got := make(chan int)
	go func() {
		n := 0
		for buf := make([]byte, 8*size); n < lines*(size+2); time.Sleep(time.Millisecond) {
			more, err := readers["slow"].Read(buf)
			if n += more; err != nil {
				break
			}
		}
		got <- n
	}()
	const patience = 2 * time.Second
	start := time.Now()
	for range lines {
		s.LineWithin(string(make([]byte, size)), patience)
	}
	moved := 0
	whole := s.Flush(time.Minute, patience, func() { moved++ })
	if took := time.Since(start); took > 20*patience { // once a line it would be hundreds
		t.Errorf("took %s", took)
	}
	n := 0
	select {
	case n = <-got:
	case <-time.After(20 * time.Second): // what is in the fifo is read long since: a line was lost
		readers["slow"].Close()
		n = <-got
	}
	if !whole || moved == 0 || n != lines*(size+2) {
		t.Fatalf("whole %v, moved %d times; the slow console has %d bytes, want %d", whole, moved, n, lines*(size+2))
	}
	s.Close(100 * time.Millisecond)

	s = Open(filepath.Join(dir, "active"), dir) // now nobody reads from either
	for range lines {
		s.LineWithin(string(make([]byte, size)), 50*time.Millisecond)
	}
	if s.Flush(time.Minute, 100*time.Millisecond, nil) {
		t.Error("whole, and nobody has read it")
	}
	s.Close(100 * time.Millisecond)
}

func write(t *testing.T, path, s string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}
