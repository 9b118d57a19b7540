package kdumpfile

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// sparse is a file in memory that keeps what is not zero.
type sparse struct {
	blocks map[int64][]byte
	size   int64
	writes int
	failAt int // write that fails, from 1; 0: none
}

const sparseBlock = 4096

var _ io.ReaderAt = (*sparse)(nil)

func newSparse() *sparse { return &sparse{blocks: map[int64][]byte{}} }

const errInjected Error = "injected"

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if s.writes++; s.writes == s.failAt {
		return 0, errInjected
	}
	s.size = max(s.size, off+int64(len(p)))
	for n := 0; n < len(p); {
		at := off + int64(n)
		b := s.blocks[at/sparseBlock]
		m := min(len(p)-n, int(sparseBlock-at%sparseBlock))
		if b == nil {
			if len(bytes.Trim(p[n:n+m], "\x00")) == 0 {
				n += m
				continue
			}
			b = make([]byte, sparseBlock)
			s.blocks[at/sparseBlock] = b
		}
		n += copy(b[at%sparseBlock:], p[n:n+m])
	}
	return len(p), nil
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off+int64(n) < s.size {
		at := off + int64(n)
		m := int(min(int64(len(p)-n), sparseBlock-at%sparseBlock, s.size-at))
		if b := s.blocks[at/sparseBlock]; b != nil {
			copy(p[n:n+m], b[at%sparseBlock:])
		} else {
			clear(p[n : n+m])
		}
		n += m
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *sparse) Write([]byte) (int, error) { return 0, errors.New("Write of a file that has WriteAt") }

// testPage is what page pfn holds: every fifth is zeros, every seventh does not
// compress, the others do.
func testPage(pfn uint64, block int) []byte {
	p := make([]byte, block)
	x := pfn*0x9e3779b97f4a7c15 + 1
	switch {
	case pfn%5 == 0:
	case pfn%7 == 0:
		for i := range p {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			p[i] = byte(x)
		}
	default:
		for i := range p[:64] {
			p[i] = byte(x >> (i % 8 * 8))
		}
		p[block-1] = byte(pfn)
	}
	return p
}

// batcher hands test pages to an Output.
type batcher struct {
	t     testing.TB
	out   Output
	codec Codec
	comp  Compressor
	block int
	page  func(pfn uint64, block int) []byte
	b     Batch
}

func newBatcher(t testing.TB, out Output, codec Codec, block int) *batcher {
	t.Helper()
	comp, err := NewCompressor(codec, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &batcher{t: t, out: out, codec: codec, comp: comp, block: block, page: testPage}
}

func (b *batcher) add(pfn uint64) error {
	page := b.page(pfn, b.block)
	d := Desc{}
	if len(bytes.Trim(page, "\x00")) > 0 {
		start := len(b.b.Data)
		b.b.Data = b.comp.Compress(b.b.Data, page)
		d = Desc{Size: uint32(len(b.b.Data) - start), Flags: uint32(b.codec)}
		if int(d.Size) >= b.block {
			b.b.Data = append(b.b.Data[:start], page...)
			d = Desc{Size: uint32(b.block)}
		}
	}
	b.b.PFNs, b.b.Descs = append(b.b.PFNs, pfn), append(b.b.Descs, d)
	if len(b.b.PFNs) == 100 {
		return b.flush()
	}
	return nil
}

func (b *batcher) flush() error {
	err := b.out.Batch(&b.b)
	b.b = Batch{PFNs: b.b.PFNs[:0], Descs: b.b.Descs[:0], Data: b.b.Data[:0]}
	return err
}

// bitmapOf makes a bitmap with the given bits.
func bitmapOf(n uint64, set func(uint64) bool) Bitmap {
	b := NewBitmap(n)
	for i := range n {
		if set(i) {
			b.Set(i)
		}
	}
	return b
}
