// Package kmsg writes to and reads from the running kernel's log through
// /dev/kmsg. What a capture writes there is kept with the kernel's own
// messages, in order, and so can be saved beside the dump.
package kmsg

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxText is how much text one write may carry: the kernel refuses more than
// 1024 bytes less its own prefix (LOG_LINE_MAX, kernel/printk/printk.c).
const maxText = 900

// Priority of a line, as in <linux/kern_levels.h>, with facility LOG_USER. Debug
// lines reach the log but, by default, no console.
type Priority int

const (
	Err   Priority = 1<<3 | 3
	Info  Priority = 1<<3 | 6
	Debug Priority = 1<<3 | 7
)

// Writer writes whole lines to /dev/kmsg.
type Writer struct {
	f    *os.File
	prio Priority
	tag  string // "kdump-init: "
}

// Open opens /dev/kmsg for writing and lifts the kernel's rate limit on it,
// which lets only 10 records in 5 seconds through. Without /proc mounted the
// limit stays.
func Open(tag string, prio Priority) (*Writer, error) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	// Not fatal: a limited log is better than none.
	_ = os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0) // the newline is required
	return &Writer{f: f, prio: prio, tag: tag}, nil
}

// Line writes one line, in several records if it is long.
func (w *Writer) Line(s string) {
	for len(s) > 0 {
		n := min(len(s), maxText)
		_, err := fmt.Fprintf(w.f, "<%d>%s%s\n", w.prio, w.tag, s[:n])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // there is nowhere to complain
		}
		s = s[n:]
	}
}

func (w *Writer) Close() error { return w.f.Close() }

// Copy writes all records that the kernel log holds now to w, as dmesg shows
// them. Records that are overwritten while it reads are skipped.
func Copy(w io.Writer) error {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kmsg: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192) // CONSOLE_EXT_LOG_MAX: one record with its escapes
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EAGAIN || (err == nil && n == 0):
			return nil
		case err == unix.EPIPE || err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read /dev/kmsg: %w", err)
		}
		if line, ok := format(buf[:n]); ok {
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	}
}

// format turns "prio,seq,micros,flags[,...];text\n KEY=value..." into a line.
func format(rec []byte) ([]byte, bool) {
	head, text, ok := bytes.Cut(rec, []byte(";"))
	if !ok {
		return nil, false
	}
	fields := bytes.SplitN(head, []byte(","), 4)
	if len(fields) < 4 {
		return nil, false
	}
	micros, err := strconv.ParseUint(string(fields[2]), 10, 63)
	if err != nil {
		return nil, false
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	t := time.Duration(micros) * time.Microsecond
	return fmt.Appendf(nil, "[%5d.%06d] %s\n", t/time.Second, t%time.Second/time.Microsecond, text), true
}
