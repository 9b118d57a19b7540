package pagezstd

import (
	"encoding/binary"
	"math/bits"
)

// MaxPage is the longest src of Encode.
const MaxPage = 64 << 10

const (
	frameMagic = 0xfd2fb528
	blockRaw   = 0
	blockRLE   = 1
	blockComp  = 2
	pad        = 64 // room after every buffer for whole-word stores
)

// Encoder writes one zstd frame per page.
type Encoder struct {
	hash  [1 << hashLog]uint16
	seqs  []seq
	nseq  int
	lits  []byte
	nlit  int
	out   []byte
	huff  huffman
	codes seqEncoder
}

// New returns an Encoder.
func New(level int) *Encoder {
	e := &Encoder{}
	e.codes.init()
	e.huff.init()
	e.grow(4096)
	return e
}

func (e *Encoder) grow(n int) {
	e.seqs = make([]seq, n/minMatch+2)
	e.lits = make([]byte, n+pad)
	e.out = make([]byte, n+pad)
	e.codes.grow(len(e.seqs))
}

// Encode appends to dst.
func (e *Encoder) Encode(dst, src []byte) ([]byte, bool) {
	n := len(src)
	if n < 32 || n > MaxPage {
		return dst, false
	}
	if n+pad > len(e.out) {
		e.grow(n)
	}
	head := putHeader(e.out, n)
	if allEqual(src) {
		putBlockHeader(e.out[head:], blockRLE, n)
		e.out[head+3] = src[0]
		return append(dst, e.out[:head+4]...), true
	}
	e.find(src)
	size, ok := e.block(head+3, n)
	if !ok {
		return dst, false
	}
	putBlockHeader(e.out[head:], blockComp, size-head-3)
	return append(dst, e.out[:size]...), true
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

func putBlockHeader(b []byte, kind, n int) {
	v := uint32(1 | kind<<1 | n<<3)
	b[0], b[1], b[2] = byte(v), byte(v>>8), byte(v>>16)
}

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

// block writes the literals and sequences sections at out[at:]; limit is the size that is no gain.
func (e *Encoder) block(at, limit int) (int, bool) {
	p, ok := e.huff.encode(e.out, at, e.lits[:e.nlit+8], e.nlit, limit)
	if !ok {
		return 0, false
	}
	return e.codes.encode(e.out, p, e.seqs[:e.nseq], limit)
}
