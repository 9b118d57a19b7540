package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ukdump/ukdump/internal/kmsg"
)

// maxLog bounds what the logger remembers for capture.log.
const maxLog = 256 << 10

// logger says what happens on standard output and, in the capture kernel, in
// the kernel's log, from which capture.log is then made.
type logger struct {
	out   io.Writer
	kmsg  *kmsg.Writer // nil: not asked for
	start time.Time

	mu    sync.Mutex // guards out and lines
	lines []byte
}

func newLogger(out io.Writer, toKmsg bool) *logger {
	l := &logger{out: out, start: time.Now()}
	if toKmsg {
		w, err := kmsg.Open("savecore: ", kmsg.Debug)
		if err != nil {
			l.printf("log to /dev/kmsg: %v", err)
			return l
		}
		l.kmsg = w
	}
	return l
}

func (l *logger) printf(format string, a ...any) {
	line := fmt.Sprintf(format, a...)
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.out, line)
	if l.kmsg != nil {
		l.kmsg.Line(line)
		return
	}
	if len(l.lines) < maxLog {
		l.lines = fmt.Appendf(l.lines, "[%8.3f] %s\n", time.Since(l.start).Seconds(), line)
	}
}

// save writes the log so far to w.
func (l *logger) save(w io.Writer) error {
	if l.kmsg != nil {
		return kmsg.Copy(w)
	}
	l.mu.Lock()
	lines := l.lines[:len(l.lines):len(l.lines)]
	l.mu.Unlock() // w may have something to say
	_, err := w.Write(lines)
	return err
}

func (l *logger) close() {
	if l.kmsg != nil {
		l.kmsg.Close()
	}
}
