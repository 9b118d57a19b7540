package main

import (
	"context"
	"fmt"
	"math/bits"
	"path/filepath"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
	"github.com/ukdump/ukdump/qemu/rig"
)

// subject is the core of one crash, classified at every level.
type subject struct {
	*rig.Rig
	dir  string // for what is written on the way
	raw  string
	core *vmcore.Core
	maps [memmap.LevelMax + 1]*memmap.Map

	crashFlags []string // without them crash does not open the raw core
}

func newSubject(ctx context.Context, r *rig.Rig, raw string) (*subject, error) {
	s := &subject{Rig: r, dir: filepath.Dir(raw), raw: raw}
	var err error
	if s.core, err = vmcore.Open(raw); err != nil {
		return nil, err
	}
	for level := range s.maps {
		m, err := memmap.Classify(ctx, s.core, memmap.Options{Level: memmap.Level(level)})
		if err != nil {
			return nil, fmt.Errorf("classify at level %d: %w", level, err)
		}
		s.maps[level] = m
	}
	return s, s.agree()
}

// agree: a level leaves out what its bits leave out, no more and no less; every
// level counts the same pages, but for those poisoned inside of a free block, which
// are not looked for where free pages are left out; and no page is unknown.
func (s *subject) agree() error {
	var keep [memmap.LevelMax + 1]kdumpfile.Bitmap
	for level, m := range s.maps {
		keep[level] = m.Keep.Bitmap()
	}
	for level, m := range s.maps {
		for i, got := range keep[level] {
			want := keep[0][i]
			for bit := 1; bit <= level; bit <<= 1 {
				if level&bit != 0 {
					want &= keep[bit][i]
				}
			}
			if got != want {
				return fmt.Errorf("level %d keeps %08b of the pfns from %#x on, its bits %08b", level, got, i*8, want)
			}
		}
		counts, all := m.Counts, s.maps[0].Counts
		for _, c := range []*[memmap.NumClasses]uint64{&counts, &all} {
			c[memmap.Free] += c[memmap.HWPoison]
			c[memmap.HWPoison] = 0
		}
		if same := counts == all; !same || level < 16 && m.Counts != s.maps[0].Counts {
			return fmt.Errorf("level %d counts %v, level 0 %v", level, m.Counts, s.maps[0].Counts)
		}
		if err := memmap.SelfCheck(s.core, m); err != nil {
			return fmt.Errorf("level %d: %w", level, err)
		}
	}
	if m := s.maps[0]; m.Counts[memmap.Unknown] > 0 || len(m.Notes) > 0 {
		return fmt.Errorf("%d unknown pages: %q", m.Counts[memmap.Unknown], m.Notes)
	}
	return nil
}

// difference is a page that one side keeps and the other does not.
type difference struct {
	pfn   uint64
	level memmap.Level
	ours  bool // we keep it
}

// differences lists the pages in which the two bitmaps differ.
func differences(level memmap.Level, ours, theirs kdumpfile.Bitmap) []difference {
	var all []difference
	at := func(m kdumpfile.Bitmap, i int) byte {
		if i < len(m) {
			return m[i]
		}
		return 0
	}
	for i := range max(len(ours), len(theirs)) {
		a, b := at(ours, i), at(theirs, i)
		for d := a ^ b; d != 0; d &= d - 1 {
			bit := bits.TrailingZeros8(d)
			all = append(all, difference{uint64(i*8 + bit), level, a>>bit&1 != 0})
		}
	}
	return all
}
