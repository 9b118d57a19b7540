package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// report is how a conversion went. Sizes are bytes.
type report struct {
	Files      []string     `json:"files,omitempty"`
	Format     string       `json:"format,omitempty"`
	Codec      string       `json:"codec,omitempty"`
	Level      int          `json:"level"`              // of OUT: that of IN and that which was asked for
	AskedLevel int          `json:"askedLevel"`         // could not be had if there is
	Degraded   string       `json:"degraded,omitempty"` // why not
	Notes      []string     `json:"notes,omitempty"`    // what of the page array could not be read or believed
	PageSize   int          `json:"pageSize"`
	RAM        uint64       `json:"ramPages"`
	Classes    []classCount `json:"classes"`
	Kept       uint64       `json:"kept"`   // pages that were to be written
	Absent     uint64       `json:"absent"` // pages of the level that IN does not have
	Zero       uint64       `json:"zero"`   // pages of zeros among those written
	Shared     uint64       `json:"shared"` // pages that -dedup found to be the same as others
	Unreadable uint64       `json:"unreadable"`
	Errors     []string     `json:"errors,omitempty"` // of the first of them
	Size       int64        `json:"size,omitempty"`
	Estimate   uint64       `json:"estimate,omitempty"`
	Seconds    float64      `json:"seconds,omitempty"`
}

// classCount is the pages of a memmap.Class.
type classCount struct {
	Class string `json:"class"`
	Pages uint64 `json:"pages"`
	Kept  bool   `json:"kept"`
}

// take notes what was planned.
func (r *report) take(core *vmcore.Core, m *memmap.Map, asked memmap.Level) {
	r.PageSize, r.RAM = 1<<core.PageShift(), m.Ram.Count()
	r.Level, r.AskedLevel = int(m.Level|earlierLevel(core)), int(asked)
	r.Kept, r.Absent, r.Notes = m.Keep.Count(), m.Absent, m.Notes
	r.Classes = []classCount{}
	for c := range memmap.NumClasses {
		if n := m.Counts[c]; n > 0 {
			r.Classes = append(r.Classes, classCount{c.String(), n, !m.Level.Excludes(c)})
		}
	}
}

// add notes what was written.
func (r *report) add(s dump.Stats, w kdumpfile.Output) {
	r.Zero, r.Unreadable = s.Zero, s.Unreadable
	for _, err := range s.Errors {
		r.Errors = append(r.Errors, err.Error())
	}
	if d, ok := w.(deduplicator); ok {
		r.Shared, _ = d.Shared()
	}
}

// output notes where it was written to.
func (r *report) output(o convertOptions, name string, out *output) {
	r.Files, r.Format, r.Codec = []string{name}, o.format, o.codec.String()
	if len(out.files) > 0 {
		r.Files = nil
	}
	for _, f := range out.files {
		r.Files = append(r.Files, f.name)
	}
}

func (r *report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	page := uint64(r.PageSize)
	row := func(what string, pages uint64, note string) {
		fmt.Fprintf(t, "%s\t%d\t%s\t  %s\t\n", what, pages, byteText(pages*page), note)
	}
	fmt.Fprint(t, "class\tpages\tmemory\t  level\t\n")
	for _, c := range r.Classes {
		row(c.Class, c.Pages, map[bool]string{true: "kept", false: "left out"}[c.Kept])
	}
	row("memory", r.RAM, "")
	if r.Absent > 0 {
		row("not in IN", r.Absent, "left out")
	}
	row("dump", r.Kept-r.Unreadable, fmt.Sprintf("level %d", r.Level))
	if err := t.Flush(); err != nil {
		return err
	}
	return r.printResult(w)
}

// printResult tells of the file in one line.
func (r *report) printResult(w io.Writer) error {
	if len(r.Files) == 0 {
		_, err := fmt.Fprintf(w, "about %s at level %d\n", byteText(r.Estimate), r.Level)
		return err
	}
	read := float64(r.Kept) * float64(r.PageSize)
	_, err := fmt.Fprintf(w, "%s: %s, %s %s, %d pages of zeros", names(r.Files), byteText(uint64(r.Size)), r.Format, r.Codec, r.Zero)
	if err == nil && r.Shared > 0 {
		_, err = fmt.Fprintf(w, ", %d shared", r.Shared)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, ", %.2f s, %.0f MB/s\n", r.Seconds, read/1e6/max(r.Seconds, 1e-3))
	}
	return err
}

// names is one name, or the first and the last.
func names(files []string) string {
	if len(files) == 1 {
		return files[0]
	}
	return files[0] + " to " + files[len(files)-1]
}
