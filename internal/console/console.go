// Package console writes lines to every console the kernel has, not only to
// /dev/console, which is just the last one named on the command line.
package console

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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
	lines chan string

	sent, out atomic.Int64 // lines queued; those written of them
	lost      atomic.Int64 // lines that LineWithin could not queue
	stuckAt   atomic.Int64 // what out was when LineWithin waited in vain
}

// queue tells whether there was room for a line within patience.
func (t *tty) queue(l string, patience time.Duration) bool {
	select {
	case t.lines <- l:
		t.sent.Add(1)
		return true
	default:
	}
	if patience == 0 || t.stuckAt.Load() == t.out.Load() {
		return false
	}
	select {
	case t.lines <- l:
		t.sent.Add(1)
		return true
	case <-time.After(patience):
		t.stuckAt.Store(t.out.Load())
		return false
	}
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
	t := &tty{f: f, lines: make(chan string, queued)}
	t.stuckAt.Store(-1)
	s.ttys = append(s.ttys, t)
	s.wg.Go(func() {
		for l := range t.lines {
			_, _ = t.f.WriteString(l) // a console that fails has nobody to tell
			t.out.Add(1)
		}
		t.f.Close()
	})
}

// Line queues a line for every console. It never blocks: a console that is
// behind loses the line.
func (s *Set) Line(l string) {
	for _, t := range s.ttys {
		t.queue(l+"\r\n", 0)
	}
}

// LineWithin queues a line for every console, waiting up to patience for each
// that is behind. One that takes nothing in that time is not waited for again
// until it has written a line.
func (s *Set) LineWithin(l string, patience time.Duration) {
	for _, t := range s.ttys {
		if !t.queue(l+"\r\n", patience) {
			t.lost.Add(1)
		}
	}
}

// Flush waits until all lines that were queued before it are out, until no console
// has written one for patience, or until limit. moved, which may be nil, is called
// while they write. whole tells that a console is there, or none, that has all of
// them and has missed none of LineWithin's.
func (s *Set) Flush(limit, patience time.Duration, moved func()) (whole bool) {
	const look = 10 * time.Millisecond
	want := make([]int64, len(s.ttys))
	for i, t := range s.ttys {
		want[i] = t.sent.Load()
	}
	start := time.Now()
	for last, before := start, int64(-1); ; time.Sleep(look) {
		whole = len(s.ttys) == 0
		all, sum := true, int64(0)
		for i, t := range s.ttys {
			out := t.out.Load()
			sum += out
			all = all && out >= want[i]
			whole = whole || out >= want[i] && t.lost.Load() == 0
		}
		if all {
			return whole
		}
		now := time.Now()
		if sum != before {
			last, before = now, sum
			if moved != nil {
				moved()
			}
		}
		if now.Sub(start) >= limit || now.Sub(last) >= patience {
			return whole
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
}
