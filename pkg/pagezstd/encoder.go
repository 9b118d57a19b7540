package pagezstd

import (
	"encoding/binary"
	"math/bits"
)

// MaxPage is the longest page that Encode takes, in bytes.
const MaxPage = 64 << 10

// Levels of New.
const (
	LevelFast    = 0 // literals are not entropy coded
	LevelDefault = 1
	LevelSmall   = 2 // one step of lazy matching, finer tables; higher levels are the same
)

const (
	minPage    = 32 // bytes; a shorter one cannot pay for the frame around it
	frameMagic = 0xfd2fb528

	blockRLE        = 1
	blockCompressed = 2
)

// Encoder writes one zstd frame per page. It is for one goroutine; each worker has its own. It holds about 60 KiB for
// pages of 4 KiB; once it has seen a larger page of n bytes, 27 KiB and 8.5 n.
type Encoder struct {
	hash  [1 << hashLog]uint16 // last position of a four byte pattern; 0 is also "none", and as a candidate harmless
	seqs  []seq                // of the page: n/minMatch at most
	nseq  int
	lits  []byte // the literals of the page: n at most, and pad
	nlit  int
	out   []byte // the frame: 5/4 n at most before it is found too long, and pad
	level int
	huff  huffman
	codes seqEncoder
}

// pad is room after a buffer for stores of whole words.
const pad = 64

// New returns an Encoder for the level. It takes some microseconds.
func New(level int) *Encoder {
	e := &Encoder{level: level}
	e.huff.init()
	e.codes.init()
	if level >= LevelSmall {
		e.codes.finer = 1
	}
	e.grow(4 << 10)
	return e
}

// grow makes room for pages of n bytes.
func (e *Encoder) grow(n int) {
	e.seqs = make([]seq, n/minMatch+2)
	e.lits = make([]byte, n+pad)
	e.out = make([]byte, n+n/2+pad)
	e.codes.packed = make([]packed, len(e.seqs))
}

// Encode appends src, one page of at most MaxPage bytes, to dst as one zstd frame and reports true. If the frame would
// not be shorter than src, or src is longer than MaxPage, it returns dst as it is and reports false: such a page is to be
// stored as it is. There is no error and, with room for a page in dst, no allocation.
func (e *Encoder) Encode(dst, src []byte) ([]byte, bool) {
	n := len(src)
	if n < minPage || n > MaxPage {
		return dst, false
	}
	if n+pad > len(e.lits) {
		e.grow(n)
	}
	b := e.out
	head := putHeader(b, n)
	p := head + 3 // after the block header
	if allEqual(src) {
		putBlockHeader(b[head:], blockRLE, n)
		b[p] = src[0]
		return append(dst, b[:p+1]...), true
	}
	e.find(src)
	var ok bool
	if e.level <= LevelFast {
		p, ok = putRaw(b, p, e.lits[:e.nlit], n)
	} else {
		p, ok = e.huff.encode(b, p, e.lits[:e.nlit], n)
	}
	if ok {
		p, ok = e.codes.encode(b, p, e.seqs[:e.nseq], n)
	}
	if !ok {
		return dst, false
	}
	putBlockHeader(b[head:], blockCompressed, p-head-3)
	return append(dst, b[:p]...), true
}

// putHeader writes magic, descriptor (single segment) and content size; it returns their length.
func putHeader(b []byte, n int) int {
	binary.LittleEndian.PutUint32(b, frameMagic)
	if n < 256 {
		b[4], b[5] = 1<<5, byte(n)
		return 6
	}
	b[4] = 1<<6 | 1<<5
	binary.LittleEndian.PutUint16(b[5:], uint16(n-256))
	return 7
}

// putBlockHeader writes the header of the last block of a frame.
func putBlockHeader(b []byte, kind, n int) {
	v := uint32(1 | kind<<1 | n<<3)
	b[0], b[1], b[2] = byte(v), byte(v>>8), byte(v>>16)
}

// allEqual reports whether p, of 8 bytes or more, is one byte over and over.
func allEqual(p []byte) bool {
	v := load64(p, 0)
	if v != bits.RotateLeft64(v, 8) {
		return false
	}
	i := 8
	for ; i+8 <= len(p); i += 8 {
		if load64(p, i) != v {
			return false
		}
	}
	return load64(p, len(p)-8) == v
}
