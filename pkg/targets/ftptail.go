package targets

import (
	"bytes"
	"slices"
)

const (
	// tailBlock is also what is written to the socket at once.
	tailBlock = 256 << 10

	// tailBlocks are 8 MiB. To go on after a lost connection they have to reach
	// back to what the server's program had read by then: what waits in this
	// machine's socket (4 MiB at most, net.ipv4.tcp_wmem) and in the server's
	// (6 MiB with its bookkeeping, tcp_rmem) is gone.
	tailBlocks = 32
)

// tail is the end of a stream: all bytes from low on. Its memory is bounded by
// tailBlocks blocks, made as they are needed.
type tail struct {
	blocks   [][]byte // all but the last are full
	low, end int64
}

// append takes what fits into the last block, and lets the first one go when it
// needs room for another.
func (t *tail) append(p []byte) int {
	n := len(t.blocks)
	if n == 0 || len(t.blocks[n-1]) == tailBlock {
		var b []byte
		if n == tailBlocks {
			b = t.blocks[0][:0]
			t.blocks = slices.Delete(t.blocks, 0, 1)
			t.low += tailBlock
			n--
		} else {
			b = make([]byte, 0, tailBlock)
		}
		t.blocks = append(t.blocks, b)
		n++
	}
	last := &t.blocks[n-1]
	p = p[:min(len(p), tailBlock-len(*last))]
	*last = append(*last, p...)
	t.end += int64(len(p))
	return len(p)
}

// full is true when the next append needs another block.
func (t *tail) full() bool { return t.end > t.low && (t.end-t.low)%tailBlock == 0 }

// at is what one block holds from off on, which is at least low and less than
// end.
func (t *tail) at(off int64) []byte {
	off -= t.low
	return t.blocks[off/tailBlock][off%tailBlock:]
}

// overwrite changes what is still here of the bytes at off, which end at or
// before the end of the stream.
func (t *tail) overwrite(p []byte, off int64) {
	if skip := t.low - off; skip > 0 {
		p, off = p[min(skip, int64(len(p))):], t.low
	}
	for len(p) > 0 {
		n := copy(t.at(off), p)
		p, off = p[n:], off+int64(n)
	}
}

// patches are writes into the middle of a file that have not been sent. Later
// ones win. They are kept sorted, and neither touch nor overlap.
type patches struct {
	list []patch
	size int // bytes in all
}

type patch struct {
	off int64
	b   []byte
}

func (p patch) end() int64 { return p.off + int64(len(p.b)) }

const (
	// maxPatches bounds what is sent one by one: each costs several round trips.
	maxPatches = 256

	// maxPatchBytes is the descriptors of 170,000 pages.
	maxPatchBytes = 4 << 20
)

// full is true when n more bytes shall wait until those here are sent.
func (s *patches) full(n int) bool { return s.size+n > maxPatchBytes || len(s.list) >= maxPatches }

// add copies b.
func (s *patches) add(b []byte, off int64) {
	end := off + int64(len(b))
	// from is the first one that ends at off or behind, to the first that begins
	// behind end: those between become one.
	from, _ := slices.BinarySearchFunc(s.list, off, func(p patch, off int64) int {
		if p.end() < off {
			return -1
		}
		return 1
	})
	to := from
	for to < len(s.list) && s.list[to].off <= end {
		to++
	}
	if from == to {
		s.list = slices.Insert(s.list, from, patch{off, bytes.Clone(b)})
		s.size += len(b)
		return
	}
	// Mostly one that grows at its end, or is written over.
	first := &s.list[from]
	before := 0
	for _, p := range s.list[from:to] {
		before += len(p.b)
	}
	last := s.list[to-1]
	if off < first.off {
		first.b = slices.Concat(b[:first.off-off], first.b)
		first.off = off
	}
	n := copy(first.b[off-first.off:], b)
	first.b = append(first.b, b[n:]...)
	if to-1 > from && last.end() > first.end() {
		first.b = append(first.b, last.b[first.end()-last.off:]...)
	}
	s.size += len(first.b) - before
	s.list = slices.Delete(s.list, from+1, to)
}

// last is the one with the highest offset, which is to be sent first: in a dump
// file that is the order from data over their descriptors and the bitmap to the
// header, in which it is right at every moment for what it says.
func (s *patches) last() (patch, bool) {
	if len(s.list) == 0 {
		return patch{}, false
	}
	return s.list[len(s.list)-1], true
}

// drop takes the last one away.
func (s *patches) drop() {
	n := len(s.list) - 1
	s.size -= len(s.list[n].b)
	s.list[n] = patch{}
	s.list = s.list[:n]
}
