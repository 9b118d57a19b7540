package kdumpfile

import (
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
)

const (
	// ErrNotFlattened is the cause where a file is not flattened at all.
	ErrNotFlattened Error = "not a flattened dump"
	// ErrTorn is the cause where a flattened file stops before its end marker.
	ErrTorn Error = "flattened dump without its end marker: it was cut off"
)

// maxFlatSegments bounds the index of a flattened file: 24 bytes each, and as
// much again while it is made. makedumpfile writes segments of some KiB.
const maxFlatSegments = 8 << 20

// FlattenedReader shows a flattened file as the plain one.
type FlattenedReader struct {
	r       io.ReaderAt
	extents []flatExtent // disjoint, sorted
	torn    bool
}

// flatExtent is a run of bytes of the plain file. The later it stands in
// the flattened one, the later it was written: it replaces what is before it.
type flatExtent struct {
	start, end int64 // in the plain file
	pos        int64 // of start, in the flattened one
}

// IsFlattened tells by its first bytes whether a file is flattened; 16 are enough.
func IsFlattened(head []byte) bool {
	return bytes.HasPrefix(head, []byte(flatSignature+"\x00\x00\x00\x00"))
}

// OpenFlattened indexes a flattened file of size bytes. Without its end marker
// the error is ErrTorn, unless torn says to take what there is, up to where the
// file ends or makes no sense any more. A torn file of makedumpfile with an ELF
// core in it has no program headers: they are written last.
func OpenFlattened(r io.ReaderAt, size int64, torn bool) (*FlattenedReader, error) {
	f := &FlattenedReader{r: r}
	list, err := f.scan(size, torn)
	if err != nil {
		return nil, fmt.Errorf("open flattened dump: %w", err)
	}
	f.extents = flatten(list)
	return f, nil
}

// scan walks from segment to segment.
func (f *FlattenedReader) scan(size int64, torn bool) (list []flatExtent, err error) {
	var head [32]byte
	if n, err := f.r.ReadAt(head[:], 0); n < len(head) && err != io.EOF {
		return nil, err
	}
	be := binary.BigEndian
	if !IsFlattened(head[:]) || be.Uint64(head[16:]) != flatType || be.Uint64(head[24:]) != flatVersion {
		return nil, ErrNotFlattened
	}
	for pos := int64(flatHeaderSize); ; {
		var b [16]byte
		if size-pos < int64(len(b)) {
			break
		}
		if n, err := f.r.ReadAt(b[:], pos); n < len(b) {
			return nil, fmt.Errorf("read segment at %#x: %w", pos, err)
		}
		pos += int64(len(b))
		start, n := int64(be.Uint64(b[:])), int64(be.Uint64(b[8:]))
		if start == -1 && n == -1 {
			return list, nil
		}
		if start < 0 || n < 0 || n > math.MaxInt64-start {
			if torn {
				break
			}
			return nil, fmt.Errorf("segment at %#x: %d bytes for offset %#x: %w", pos-int64(len(b)), n, start, ErrCorrupt)
		}
		if len(list) == maxFlatSegments {
			return nil, fmt.Errorf("more than %d segments: rearrange it with makedumpfile -R", maxFlatSegments)
		}
		if have := min(n, size-pos); have > 0 {
			list = append(list, flatExtent{start, start + have, pos})
		}
		if n > size-pos {
			break
		}
		pos += n
	}
	if !torn {
		return nil, ErrTorn
	}
	f.torn = true
	return list, nil
}

// flatten makes the extents disjoint: of those over one place the last written
// counts. It sweeps over them by start, with those over the place in a heap.
func flatten(list []flatExtent) (out []flatExtent) {
	slices.SortStableFunc(list, func(a, b flatExtent) int { return cmp.Compare(a.start, b.start) })
	var over latest
	out = make([]flatExtent, 0, len(list)+len(list)/64)
	for i, at := 0, int64(0); i < len(list) || len(over) > 0; {
		if len(over) == 0 {
			at = max(at, list[i].start)
		}
		for ; i < len(list) && list[i].start <= at; i++ {
			heap.Push(&over, list[i])
		}
		top := over[0]
		if top.end <= at {
			heap.Pop(&over)
			continue
		}
		end := top.end
		if i < len(list) {
			end = min(end, list[i].start)
		}
		out = append(out, flatExtent{at, end, top.pos + at - top.start})
		at = end
	}
	return slices.Clip(out)
}

// latest is a heap of extents, the one written last on top.
type latest []flatExtent

func (l latest) Len() int           { return len(l) }
func (l latest) Less(i, j int) bool { return l[i].pos > l[j].pos }
func (l latest) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *latest) Push(x any)        { *l = append(*l, x.(flatExtent)) }
func (l *latest) Pop() any {
	n := len(*l) - 1
	x := (*l)[n]
	*l = (*l)[:n]
	return x
}

// Torn reports whether the end marker is missing.
func (f *FlattenedReader) Torn() bool { return f.torn }

// Size is that of the plain file.
func (f *FlattenedReader) Size() int64 {
	if len(f.extents) == 0 {
		return 0
	}
	return f.extents[len(f.extents)-1].end
}

// ReadAt reads the plain file; where no segment is it has zeros.
func (f *FlattenedReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	i := sort.Search(len(f.extents), func(i int) bool { return f.extents[i].end > off })
	for n < len(p) && i < len(f.extents) {
		e, at := f.extents[i], off+int64(n)
		if at < e.start {
			gap := min(int64(len(p)-n), e.start-at)
			clear(p[n : n+int(gap)])
			n += int(gap)
			continue
		}
		want := min(int64(len(p)-n), e.end-at)
		m, err := f.r.ReadAt(p[n:n+int(want)], e.pos+at-e.start)
		if n += m; int64(m) < want {
			return n, err
		}
		i++
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
