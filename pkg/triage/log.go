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

// Log writes the kernel log to w, a line a record: "[seconds.micros] text",
// or "[seconds.micros] [caller] text" where the kernel tells which task (T) or
// CPU (C) wrote it, the lines after the first of a record indented below it.
// Records that were never finished are skipped, as are empty ones; one that
// cannot be read costs only itself. It returns the number of records written,
// which is not 0 without an error. The error is a write error, or says why there
// is no log to be had.
func Log(core *vmcore.Core, w io.Writer) (records int, err error) {
	if _, ok := core.Info().Symbol("prb"); !ok {
		return 0, fmt.Errorf("kernel log: %w", core.Info().Require("SYMBOL(prb)"))
	}
	ring, err := openRing(core)
	if err != nil {
		return 0, fmt.Errorf("kernel log: %w", err)
	}
	defer ring.reader.Close()
	out := bufio.NewWriterSize(w, 32<<10)
	for id := range ring.ids {
		if rec, ok := ring.record(id); ok {
			writeRecord(out, rec)
			records++
		}
	}
	if err := out.Flush(); err != nil {
		return records, fmt.Errorf("write kernel log: %w", err)
	}
	if records == 0 {
		return 0, fmt.Errorf("kernel log: none of %d records can be read", ring.count)
	}
	return records, nil
}

// writeRecord formats one record. Errors stay in out until Flush.
func writeRecord(out *bufio.Writer, r record) {
	prefix := fmt.Sprintf("[%5d.%06d] ", r.nanos/1e9, r.nanos%1e9/1e3)
	if r.caller != "" {
		prefix += fmt.Sprintf("[%8s] ", r.caller)
	}
	out.WriteString(prefix)
	for _, c := range r.text {
		switch {
		case c == '\n':
			fmt.Fprintf(out, "\n%*s", len(prefix), "")
		case c >= ' ' && c < 0x7f, c >= '\t' && c <= '\r':
			out.WriteByte(c)
		default:
			fmt.Fprintf(out, `\x%02x`, c)
		}
	}
	out.WriteByte('\n')
}
