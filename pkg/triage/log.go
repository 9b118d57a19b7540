// Package triage reads from a crashed kernel's memory what a person wants to
// know first. [Log] writes the kernel log as dmesg shows it.
//
// The package reads through pkg/vmcore and takes every offset from VMCOREINFO.
// It does not need debug information, and does not read other structures than
// those that VMCOREINFO describes.
package triage

import (
	"bufio"
	"fmt"
	"io"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// LogOptions says how a log is written.
type LogOptions struct {
	// Priority puts "<N>" before each record, N being 8*facility+level, as
	// dmesg --raw does and RFC 5424 numbers them.
	Priority bool
}

// Log writes the kernel log to w, a line a record: "[seconds.micros] text",
// or "[seconds.micros] [caller] text" where the kernel tells which task (T) or
// CPU (C) wrote it, the lines after the first of a record indented below it.
// It knows the printk ring of Linux 5.10 and later and the buffer of records of
// 3.11 to 5.9. Records that were never finished are skipped, as are empty ones;
// one that cannot be read costs only itself. It returns the number of records written,
// which is not 0 without an error. The error is a write error, or says why there
// is no log to be had.
func Log(core *vmcore.Core, w io.Writer, o LogOptions) (records int, err error) {
	log, err := openLog(core)
	if err != nil {
		return 0, fmt.Errorf("kernel log: %w", err)
	}
	defer log.close()
	out := logWriter{Writer: bufio.NewWriterSize(w, 32<<10), LogOptions: o}
	for rec := range log.records {
		out.record(rec)
		records++
	}
	if err := out.end(); err != nil {
		return records, fmt.Errorf("write kernel log: %w", err)
	}
	if records == 0 {
		return 0, fmt.Errorf("kernel log: no record can be read %s", log.where())
	}
	return records, nil
}

// logSource is one of the forms in which kernels keep their log.
type logSource interface {
	records(yield func(record) bool) // oldest first
	where() string                   // "in a ring of 4096", for errors
	close()
}

func openLog(core *vmcore.Core) (logSource, error) {
	_, ring := core.Info().Symbol("prb")
	if _, old := core.Info().Symbol("log_first_idx"); old && !ring {
		return openBuffer(core)
	}
	if !ring {
		return nil, core.Info().Require("SYMBOL(prb)")
	}
	return openRing(core)
}

// record is one message of the kernel log. text is valid until the next one is read.
type record struct {
	nanos     uint64
	priority  uint   // 8*facility+level
	caller    string // "T1" for a task, "C0" for a CPU outside of tasks; "" if not known
	text      []byte
	continues bool // the line of the record before
	open      bool // the next record may continue its line
}

// callerName is printk_caller_id()'s number as print_caller() shows it, kernel/printk/printk.c.
func callerName(id uint32) string {
	if id&(1<<31) != 0 {
		return fmt.Sprintf("C%d", id&^(1<<31))
	}
	return fmt.Sprintf("T%d", id)
}

// logWriter formats records. Errors stay in it until the end.
type logWriter struct {
	*bufio.Writer
	LogOptions
	indent int  // of the line that was begun last
	open   bool // that line has no end yet
}

func (w *logWriter) record(r record) {
	if w.open && !r.continues {
		w.WriteByte('\n')
	}
	if !w.open || !r.continues {
		w.prefix(r)
	}
	for _, c := range r.text {
		switch {
		case c == '\n':
			fmt.Fprintf(w, "\n%*s", w.indent, "")
		case c >= ' ' && c < 0x7f, c >= '\t' && c <= '\r':
			w.WriteByte(c)
		default:
			fmt.Fprintf(w, `\x%02x`, c)
		}
	}
	if w.open = r.open; !w.open {
		w.WriteByte('\n')
	}
}

func (w *logWriter) prefix(r record) {
	prefix := fmt.Sprintf("[%5d.%06d] ", r.nanos/1e9, r.nanos%1e9/1e3)
	if r.caller != "" {
		prefix += fmt.Sprintf("[%8s] ", r.caller)
	}
	w.indent = len(prefix)
	if w.Priority {
		fmt.Fprintf(w, "<%d>", r.priority)
	}
	w.WriteString(prefix)
}

func (w *logWriter) end() error {
	if w.open {
		w.WriteByte('\n')
	}
	return w.Flush()
}
