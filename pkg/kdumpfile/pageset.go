package kdumpfile

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// Pages is what writers want to know of a set of pages: a [Bitmap] or a [PageSet].
type Pages interface {
	Next(i uint64) (uint64, bool)
	NextClear(i uint64) uint64
	Count() uint64
	CountRange(start, end uint64) uint64
}

// PageSet is one bit per pfn, as Bitmap is, of a machine whose memory may lie far
// apart: a part of 32768 pages of which it has none takes 8 bytes. Concurrent use is
// safe as that of a Bitmap, but for Set and SetRange: nobody else may then use the
// same part.
type PageSet struct {
	parts []*pageSetPart // nil: all clear
	bits  uint64
}

// pageSetPart is 128 MiB of pages of 4 KiB, a page of memory.
type pageSetPart [4096]byte

const partBits = 8 * uint64(len(pageSetPart{}))

// NewPageSet makes a set for n pages, empty.
func NewPageSet(n uint64) *PageSet {
	return &PageSet{parts: make([]*pageSetPart, (n+partBits-1)/partBits), bits: n}
}

// Len is the number of pages that may be in the set.
func (s *PageSet) Len() uint64 { return s.bits }

// Clone makes a copy.
func (s *PageSet) Clone() *PageSet {
	c := &PageSet{parts: slices.Clone(s.parts), bits: s.bits}
	for i, p := range c.parts {
		if p != nil {
			part := *p
			c.parts[i] = &part
		}
	}
	return c
}

// Bitmap is the whole set as it is on disk: Len/8 bytes.
func (s *PageSet) Bitmap() Bitmap {
	b := NewBitmap(s.bits)
	for i, p := range s.parts {
		if p != nil {
			copy(b[uint64(i)*partBits/8:], p[:])
		}
	}
	return b
}

// Get says whether page i is in the set.
func (s *PageSet) Get(i uint64) bool {
	if i/partBits >= uint64(len(s.parts)) {
		return false
	}
	p := s.parts[i/partBits]
	return p != nil && p[i%partBits/8]&(1<<(i%8)) != 0
}

func (s *PageSet) Set(i uint64) {
	p := &s.parts[i/partBits]
	if *p == nil {
		*p = new(pageSetPart)
	}
	Bitmap((*p)[:]).Set(i % partBits)
}

func (s *PageSet) Clear(i uint64) {
	if p := s.parts[i/partBits]; p != nil {
		Bitmap(p[:]).Clear(i % partBits)
	}
}

// SetRange adds pages [start, end).
func (s *PageSet) SetRange(start, end uint64) {
	end = min(end, s.bits)
	for ; start < end; start = start/partBits*partBits + partBits {
		p := &s.parts[start/partBits]
		if *p == nil {
			*p = new(pageSetPart)
		}
		Bitmap((*p)[:]).SetRange(start%partBits, min(partBits, end-start/partBits*partBits))
	}
}

// ClearRange takes pages [start, end) away.
func (s *PageSet) ClearRange(start, end uint64) {
	end = min(end, s.bits)
	for ; start < end; start = start/partBits*partBits + partBits {
		if p := s.parts[start/partBits]; p != nil {
			Bitmap(p[:]).ClearRange(start%partBits, min(partBits, end-start/partBits*partBits))
		}
	}
}

// Count is the number of pages in the set.
func (s *PageSet) Count() uint64 { return s.CountRange(0, s.bits) }

// CountRange is the number of pages of [start, end) in the set.
func (s *PageSet) CountRange(start, end uint64) (n uint64) {
	end = min(end, s.bits)
	for ; start < end; start = start/partBits*partBits + partBits {
		if p := s.parts[start/partBits]; p != nil {
			n += Bitmap(p[:]).CountRange(start%partBits, min(partBits, end-start/partBits*partBits))
		}
	}
	return n
}

// Next gives the first page at or after i that is in the set.
func (s *PageSet) Next(i uint64) (uint64, bool) {
	for part, off := i/partBits, i%partBits; part < uint64(len(s.parts)); part, off = part+1, 0 {
		p := s.parts[part]
		if p == nil {
			continue
		}
		// What is mostly wanted is in this word.
		if word := binary.LittleEndian.Uint64(p[off/64*8:]) >> (off % 64); word != 0 {
			return part*partBits + off + uint64(bits.TrailingZeros64(word)), true
		}
		if at, ok := Bitmap(p[:]).Next(off); ok {
			return part*partBits + at, true
		}
	}
	return 0, false
}

// NextClear gives the first page at or after i that is not in the set.
func (s *PageSet) NextClear(i uint64) uint64 {
	for i < s.bits {
		p := s.parts[i/partBits]
		if p == nil {
			break
		}
		at := Bitmap(p[:]).NextClear(i % partBits)
		i = i/partBits*partBits + at
		if at < partBits {
			break
		}
	}
	return i
}
