package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// How often progress is shown: as a bar that is drawn over, and as lines.
const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 2 * time.Second
)

// progress shows how far something is: a bar on a terminal, a line now and then
// elsewhere. Nothing is shown of what takes less than the first interval.
type progress struct {
	w        io.Writer
	fd       int // of a terminal, or -1
	what     string
	pageSize uint64

	mu         sync.Mutex // guards what follows
	start, due time.Time
	drawn      int // columns of the bar on the screen
}

func newProgress(w io.Writer, what string, pageSize uint64) *progress {
	p := &progress{w: w, fd: -1, what: what, pageSize: pageSize, start: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.fd = int(f.Fd())
	}
	p.due = p.start.Add(p.interval())
	return p
}

func (p *progress) interval() time.Duration {
	if p.fd >= 0 {
		return barEvery
	}
	return lineEvery
}

// at is told of pages done and in all.
func (p *progress) at(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Before(p.due) || done == 0 || total == 0 {
		return
	}
	p.due = now.Add(p.interval())
	if p.fd < 0 {
		fmt.Fprintln(p.w, p.text(now, done, total))
		return
	}
	width, _, err := term.GetSize(p.fd)
	if err != nil || width <= 0 {
		width = 80
	}
	p.draw(bar(p.text(now, done, total), width-1, done, total)) // the last column would wrap on some
}

// text is "what  42%  1.2 GiB of 2.8 GiB  640 MB/s  3 s left".
func (p *progress) text(now time.Time, done, total uint64) string {
	rate := float64(done) / max(now.Sub(p.start).Seconds(), 1e-3)
	return fmt.Sprintf("%s %3d%%  %s of %s  %.0f MB/s  %.0f s left", p.what, 100*done/total,
		byteText(done*p.pageSize), byteText(total*p.pageSize), rate*float64(p.pageSize)/1e6, float64(total-done)/rate)
}

// bar puts a bar behind the text where there is room, and cuts the text where
// there is too little.
func bar(text string, width int, done, total uint64) string {
	room := width - len(text) - len("  []")
	if room < 5 {
		return text[:max(0, min(len(text), width))]
	}
	full := int(uint64(room) * done / total)
	return text + "  [" + strings.Repeat("#", full) + strings.Repeat(".", room-full) + "]"
}

// draw replaces the bar on the screen.
func (p *progress) draw(line string) {
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.drawn-len(line))))
	p.drawn = len(line)
}

// end takes the bar away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn > 0 {
		p.draw("")
		fmt.Fprint(p.w, "\r")
	}
}
