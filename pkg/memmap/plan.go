package memmap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Plan is what a dump is made of: the map of [Classify] if that can be had and
// stands the [SelfCheck], and if not one that keeps every page that may be read,
// with an error that says why. Pages that an earlier filter left out of the core's
// file are counted as Absent and not kept. There always is a map; only if ctx ends it
// is not one to use.
func Plan(ctx context.Context, core *vmcore.Core, o Options) (*Map, error) {
	m, err := Classify(ctx, core, o)
	if ctx.Err() != nil {
		return Everything(core), ctx.Err()
	}
	if err != nil {
		m = weaker(ctx, core, o, nil)
		err = fmt.Errorf("dump level %d cannot be had, every page is kept: %w", o.Level, err)
	} else if f := examine(core, m); len(f.errs) == 0 {
		m.keep(f.stacks)
	} else if err = errors.Join(f.errs...); o.Doubted {
		m.keep(f.stacks)
		m.keep(f.missing)
		m.Doubted = true
		err = fmt.Errorf("dump level %d by a page array that is in doubt: %w", o.Level, err)
	} else {
		m = weaker(ctx, core, o, m.Notes)
		m.Doubted = true
		err = fmt.Errorf("dump level %d cannot be had, every page is kept: %w", o.Level, err)
	}
	if ctx.Err() != nil {
		return m, ctx.Err()
	}
	absent, bitmapErr := core.DropAbsent(m.Keep)
	if bitmapErr != nil { // then a page that is absent is one that cannot be read
		m.Notes = append(m.Notes, bitmapErr.Error())
	}
	m.Absent = absent
	return m, err
}

// weaker is the map to fall back to. What must not be read is left out of it as well,
// unless the page array says that of so much that it tells nothing.
func weaker(ctx context.Context, core *vmcore.Core, o Options, notes []string) *Map {
	o.Level = Weaker(o.Level)
	m, _ := Classify(ctx, core, o) // which fails at levels that filter only
	if len(notes) > 0 {
		m.Notes = notes
	}
	f := examine(core, m)
	if len(f.missing) > 1 || len(f.poisoned) > 1 || m.Counts[HWPoison] > m.Ram.Count()/4 {
		m = Everything(core)
		m.Level, m.Notes = o.Level, append(notes, "what it says of broken and offline pages cannot be believed either")
	}
	m.keep(f.missing)
	return m
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
