package memmap

import (
	"context"
	"fmt"
	"strings"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Plan is what a dump is made of: the map of [Classify] if that can be had and
// stands the [SelfCheck], and if not one that keeps every page, with an error
// that says why. Pages that an earlier filter left out of the core's file are
// counted as Absent and not kept. There always is a map; only if ctx ends it is
// not one to use.
func Plan(ctx context.Context, core *vmcore.Core, o Options) (*Map, error) {
	m, err := Classify(ctx, core, o)
	if ctx.Err() != nil {
		return Everything(core), ctx.Err()
	}
	if err == nil {
		err = SelfCheck(core, m)
	}
	if err != nil {
		var notes []string
		if m != nil {
			notes = m.Notes
		}
		m = Everything(core)
		m.Level, m.Notes = Weaker(o.Level), notes
		err = fmt.Errorf("dump level %d cannot be had, every page is kept: %w", o.Level, err)
	}
	absent, bitmapErr := core.DropAbsent(m.Keep)
	if bitmapErr != nil { // then a page that is absent is one that cannot be read
		m.Notes = append(m.Notes, bitmapErr.Error())
	}
	m.Absent = absent
	return m, err
}

// CountsLine lists the classes that occur, as "kernel 1234, free 99".
func (m *Map) CountsLine() string {
	var parts []string
	for c := range NumClasses {
		if n := m.Counts[c]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", c, n))
		}
	}
	return strings.Join(parts, ", ")
}
