// Package console writes lines to every console the kernel has, not only to
// /dev/console, which is just the last one named on the command line.
package console

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// queued is how many lines wait for a console that does not take them before
// more are dropped: a serial line without a reader must not stop a capture.
const queued = 256

// Set is the consoles that lines go to.
type Set struct {
	ttys []*tty
	wg   sync.WaitGroup
}

type tty struct {
	f     *os.File
	lines chan line
}

// line is a line, or a mark between lines.
type line struct {
	text string
	done chan<- struct{} // told once all before it are out; nil: of no interest
}

// Open opens all active consoles below dev (/dev), as listed in the file active
// (/sys/class/tty/console/active). One that cannot be opened is left out; with
// none at all it falls back to dev/console, and then to nothing.
func Open(active, dev string) *Set {
	s := &Set{}
	names := []string{"console"}
	if b, err := os.ReadFile(active); err == nil && len(strings.Fields(string(b))) > 0 {
		names = strings.Fields(string(b))
	}
	for _, name := range names {
		s.open(filepath.Join(dev, name))
	}
	if len(s.ttys) == 0 {
		s.open(filepath.Join(dev, "console"))
	}
	return s
}

func (s *Set) open(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	t := &tty{f: f, lines: make(chan line, queued)}
	s.ttys = append(s.ttys, t)
	s.wg.Go(func() {
		for l := range t.lines {
			_, _ = t.f.WriteString(l.text) // a console that fails has nobody to tell
			if l.done != nil {
				l.done <- struct{}{}
			}
		}
		t.f.Close()
	})
}

// Line queues a line for every console. It never blocks: a console that is
// behind loses the line.
func (s *Set) Line(l string) {
	for _, t := range s.ttys {
		select {
		case t.lines <- line{text: l + "\r\n"}:
		default:
		}
	}
}

// LineWithin queues a line for every console, waiting up to patience for each
// that is behind.
func (s *Set) LineWithin(l string, patience time.Duration) {
	for _, t := range s.ttys {
		select {
		case t.lines <- line{text: l + "\r\n"}:
		case <-time.After(patience):
		}
	}
}

// Flush waits until all lines that were queued before it are out, or until timeout.
func (s *Set) Flush(timeout time.Duration) {
	end := time.After(timeout)
	done := make(chan struct{}, len(s.ttys)) // room for all: one that is late blocks nobody
	for _, t := range s.ttys {
		select {
		case t.lines <- line{done: done}:
		case <-end:
			return
		}
	}
	for range s.ttys {
		select {
		case <-done:
		case <-end:
			return
		}
	}
}

// Close waits until all lines are out, or until timeout. No Line may follow.
func (s *Set) Close(timeout time.Duration) {
	for _, t := range s.ttys {
		close(t.lines)
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(timeout):
	}
	s.ttys = nil
}
