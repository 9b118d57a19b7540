package kdumpfile

import (
	"cmp"
	"context"
	"slices"
)

// maxExtents bounds how many places of data Verify compares at once, 16 bytes
// each: a dump with more of them is looked at several times.
const maxExtents = 4 << 20

// extent is where data of n pages are.
type extent struct {
	start   uint64
	size, n uint32
}

func (e extent) end() uint64 { return e.start + uint64(e.size) }

// extents are the places of data in a file from an offset on: those that fit.
type extents struct {
	list     []extent
	limit    int // of list
	from, to uint64
}

// add takes an extent in. Where there is no room, equal ones become one, and if that
// does not help the upper half is left for the next time.
func (x *extents) add(e extent) {
	if e.start < x.from || e.start >= x.to {
		return
	}
	if n := len(x.list); n > 0 && x.list[n-1].start == e.start && x.list[n-1].size == e.size {
		x.list[n-1].n++
		return
	}
	x.list = append(x.list, e)
	if len(x.list) < x.limit {
		return
	}
	x.compact()
	if len(x.list) > x.limit*3/4 {
		half := len(x.list) / 2
		for half > 0 && x.list[half-1].start == x.list[half].start {
			half--
		}
		if half > 0 {
			x.to, x.list = x.list[half].start, x.list[:half]
		}
	}
}

// compact sorts the list and makes one of equal extents.
func (x *extents) compact() {
	slices.SortFunc(x.list, func(a, b extent) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.size, b.size)) })
	n := 0
	for i, e := range x.list {
		if i > 0 && x.list[n-1].start == e.start && x.list[n-1].size == e.size {
			x.list[n-1].n += e.n
			continue
		}
		x.list[n] = e
		n++
	}
	x.list = x.list[:n]
}

// verifyExtents looks for data that overlap, and counts what is shared.
func (v *verifier) verifyExtents(ctx context.Context, k *Kdump) error {
	return v.compareExtents(ctx, k, maxExtents)
}

func (v *verifier) compareExtents(ctx context.Context, k *Kdump, limit int) error {
	x := extents{limit: limit}
	end := uint64(k.l.descs) + (k.ranks[len(k.ranks)-1]+k.skipped(k.end))*descSize // of what comes before
	for x.from < uint64(k.size) {
		x.list, x.to = x.list[:0], uint64(k.size)
		if err := v.collect(ctx, k, &x); err != nil {
			return err
		}
		x.compact()
		for _, e := range x.list {
			v.Bytes += uint64(e.size)
			v.Shared += uint64(e.n) - 1
			if e.start < end {
				v.add(ProblemOverlap, "%d bytes of data at %#x, but others end at %#x", e.size, e.start, end)
			}
			end = max(end, e.end())
		}
		x.from = x.to
	}
	v.Trailing += uint64(k.size) - min(end, uint64(k.size))
	return nil
}

// collect puts the extents of all descriptors that can be right into x.
func (v *verifier) collect(ctx context.Context, k *Kdump, x *extents) error {
	r := k.NewReader()
	defer r.Close()
	r.desc.size = dataWindow
	rank := uint64(0)
	pfn, ok, err := r.Next(k.start)
	for ; ok && err == nil; pfn, ok, err = r.Next(pfn + 1) {
		p, err := r.desc.get(k.l.descs+int64(rank+k.skipped(pfn))*descSize, descSize)
		if rank++; rank%verifyStep == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			continue // the page is told of when it is read
		}
		d := decodeDesc(p)
		if d.check(k, pfn) == nil && d.offset <= uint64(k.size) && uint64(d.size) <= uint64(k.size)-d.offset {
			x.add(extent{d.offset, d.size, 1})
		}
	}
	return nil
}
