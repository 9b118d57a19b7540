package kdumpfile

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Bitmap is one bit per pfn, least significant bit of a byte first: the form
// it has on disk. Concurrent use is safe where no two goroutines touch the same
// byte and one of them writes.
type Bitmap []byte

// NewBitmap makes a bitmap of at least n bits, all clear. Its length is a
// multiple of 8 bytes.
func NewBitmap(n uint64) Bitmap { return make(Bitmap, (n+63)/64*8) }

// Get says whether bit i is set; bits beyond the end are clear.
func (b Bitmap) Get(i uint64) bool { return i/8 < uint64(len(b)) && b[i/8]&(1<<(i%8)) != 0 }

func (b Bitmap) Set(i uint64)   { b[i/8] |= 1 << (i % 8) }
func (b Bitmap) Clear(i uint64) { b[i/8] &^= 1 << (i % 8) }

// SetRange sets bits [start, end).
func (b Bitmap) SetRange(start, end uint64) {
	b.spans(start, end, func(i uint64, mask byte) { b[i] |= mask })
}

// ClearRange clears bits [start, end).
func (b Bitmap) ClearRange(start, end uint64) {
	b.spans(start, end, func(i uint64, mask byte) { b[i] &^= mask })
}

// spans calls f for each byte that [start, end) touches, with the bits touched.
func (b Bitmap) spans(start, end uint64, f func(i uint64, mask byte)) {
	end = min(end, uint64(len(b))*8)
	for start < end {
		i, lo := start/8, start%8
		hi := min(8, end-i*8)
		f(i, byte(0xff<<lo&(1<<hi-1)))
		start = (i + 1) * 8
	}
}

// Count is the number of set bits.
func (b Bitmap) Count() uint64 { return b.CountRange(0, uint64(len(b))*8) }

// CountRange is the number of set bits in [start, end).
func (b Bitmap) CountRange(start, end uint64) uint64 {
	end = min(end, uint64(len(b))*8)
	var n int
	for start < end {
		if start%64 == 0 && end-start >= 64 {
			n += bits.OnesCount64(binary.LittleEndian.Uint64(b[start/8:]))
			start += 64
			continue
		}
		if b.Get(start) {
			n++
		}
		start++
	}
	return uint64(n)
}

// Next gives the first set bit at or after i.
func (b Bitmap) Next(i uint64) (uint64, bool) {
	for end := uint64(len(b)) * 8; i < end; {
		at := i / 8 &^ 7
		var word uint64
		if at+8 <= uint64(len(b)) {
			word = binary.LittleEndian.Uint64(b[at:])
		} else {
			for j, c := range b[at:] {
				word |= uint64(c) << (8 * j)
			}
		}
		if word = word >> (i % 64) << (i % 64); word != 0 {
			return at*8 + uint64(bits.TrailingZeros64(word)), true
		}
		i = (at + 8) * 8
	}
	return 0, false
}

// NextClear gives the first bit at or after i that is clear; those beyond the
// end are.
func (b Bitmap) NextClear(i uint64) uint64 {
	for i < uint64(len(b))*8 {
		if i%8 == 0 && b[i/8] == 0xff {
			if at := i / 8; at%8 == 0 && at+8 <= uint64(len(b)) && binary.LittleEndian.Uint64(b[at:]) == math.MaxUint64 {
				i += 64
				continue
			}
			i += 8
			continue
		}
		if !b.Get(i) {
			break
		}
		i++
	}
	return i
}
