package kdumpfile

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// OpenSplit makes one dump of the parts of a split one, in whatever order they
// are given. A dump that is not split may stand alone.
//
// The error is ErrOtherDump where a file is no part of the same dump as the
// first, or is given twice, and ErrPartMissing where pages of the 2nd bitmap are
// in none of the parts; errors count parts from 1 in the order given. partial says to
// take what there is: the dump is then Incomplete.
func OpenSplit(parts []*Kdump, partial bool) (*Kdump, error) {
	if len(parts) == 0 {
		return nil, fmt.Errorf("open split dump: no files: %w", ErrPartMissing)
	}
	if len(parts) == 1 && !parts[0].split {
		return parts[0], nil
	}
	for i, part := range parts {
		if err := parts[0].sameDump(part); err != nil {
			return nil, fmt.Errorf("open split dump: part %d of %d: %w", i+1, len(parts), err)
		}
	}
	sorted := slices.SortedFunc(slices.Values(parts), func(a, b *Kdump) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end))
	})
	k := &Kdump{parts: sorted, h: parts[0].h, info: parts[0].info, version: parts[0].version, end: parts[0].h.MaxPFN}
	k.h.Codec = None
	at := uint64(0)
	for i, part := range sorted {
		if part.start < at {
			a, b := slices.Index(parts, sorted[i-1]), len(parts)-1
			for parts[b] != part {
				b--
			}
			return nil, fmt.Errorf("open split dump: parts %d and %d of %d both have pfns %#x to %#x: %w",
				min(a, b)+1, max(a, b)+1, len(parts), part.start, min(at, part.end)-1, ErrOtherDump)
		}
		if err := k.gap(at, part.start, partial); err != nil {
			return nil, err
		}
		at = part.end
		k.status |= part.status
		k.h.Codec |= part.h.Codec
	}
	if err := k.gap(at, k.end, partial); err != nil {
		return nil, err
	}
	return k, nil
}

// sameDump tells why other is no part of the split dump that k is a part of.
func (k *Kdump) sameDump(other *Kdump) error {
	a, b := k.h, other.h
	switch {
	case !other.split:
		return fmt.Errorf("it is a whole dump: %w", ErrOtherDump)
	case !a.Time.Equal(b.Time) || a.Nodename != b.Nodename:
		return fmt.Errorf("%s of %s and %s of %s: %w", b.Nodename, b.Time.UTC(), a.Nodename, a.Time.UTC(), ErrOtherDump)
	case a.Release != b.Release || a.Version != b.Version || a.Machine != b.Machine:
		return fmt.Errorf("of another kernel: %w", ErrOtherDump)
	case a.BlockSize != b.BlockSize || a.MaxPFN != b.MaxPFN || a.NumCPUs != b.NumCPUs || k.l.mapBlks != other.l.mapBlks:
		return fmt.Errorf("of another machine: %w", ErrOtherDump)
	case !bytes.Equal(a.Notes, b.Notes) || a.PhysBase != b.PhysBase:
		return fmt.Errorf("the notes are those of another crash: %w", ErrOtherDump)
	case a.DumpLevel != b.DumpLevel:
		return fmt.Errorf("dump level %d instead of %d: %w", b.DumpLevel, a.DumpLevel, ErrOtherDump)
	}
	return nil
}

// gap looks at the pfns from start to end, which none of the parts has.
func (k *Kdump) gap(start, end uint64, partial bool) error {
	promised := mapSource{k.parts[0].r, k.parts[0].l.bitmap2, k.parts[0].size}
	w := promised.window()
	n, err := promised.count(&w, start, end)
	switch {
	case err != nil:
		return fmt.Errorf("open split dump: %w", err)
	case n == 0:
	case partial:
		k.status |= statusIncomplete
	default:
		return fmt.Errorf("open split dump: %d pages, pfns %#x to %#x: %w", n, start, end-1, ErrPartMissing)
	}
	return nil
}
