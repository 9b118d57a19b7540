package kdumpfile

import (
	"compress/flate"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/ukdump/ukdump/pkg/pagezstd"
)

// Codec is how a page is compressed, as the flag of its page descriptor.
type Codec uint32

const (
	None   Codec = 0
	Zlib   Codec = 0x1
	LZO    Codec = 0x2 // read only
	Snappy Codec = 0x4
	Zstd   Codec = 0x20
)

func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Zlib:
		return "zlib"
	case LZO:
		return "lzo"
	case Snappy:
		return "snappy"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%#x)", uint32(c))
}

// ParseCodec gives the codec of a name that dumps are written with.
func ParseCodec(s string) (Codec, error) {
	for _, c := range []Codec{Zstd, Snappy, Zlib, None} {
		if s == c.String() {
			return c, nil
		}
	}
	return None, fmt.Errorf("compress %q: want zstd, snappy, zlib or none", s)
}

// Compressor compresses pages, one at a time, each on its own. It is for one
// goroutine and allocates nothing per page.
type Compressor interface {
	// Compress appends the compressed src to dst. A result that is not smaller
	// than src is to be thrown away by the caller, who keeps src as it is.
	Compress(dst, src []byte) []byte
}

// maxPage is the largest page size of any architecture that Linux dumps.
const maxPage = 64 << 10

// NewCompressor makes a compressor. Level 0 is the codec's fastest useful one;
// zstd takes 1 to 22, zlib 1 to 9.
func NewCompressor(c Codec, level int) (Compressor, error) {
	switch c {
	case None:
		return rawCompressor{}, nil
	case Snappy:
		return snappyCompressor{}, nil
	case Zlib:
		return newZlib(level)
	case Zstd:
		return newZstd(level)
	}
	return nil, fmt.Errorf("compress %s: writing it is not supported", c)
}

type rawCompressor struct{}

func (rawCompressor) Compress(dst, src []byte) []byte { return append(dst, src...) }

type snappyCompressor struct{}

func (snappyCompressor) Compress(dst, src []byte) []byte {
	n := len(dst)
	most := s2.MaxEncodedLen(len(src))
	if cap(dst)-n < most {
		dst = append(dst, make([]byte, most)...)[:n]
	}
	return dst[:n+len(s2.EncodeSnappy(dst[n:n+most], src))]
}

// zstdCompressor's window is one page: more would only cost memory.
type zstdCompressor struct{ enc *zstd.Encoder }

func newZstd(level int) (Compressor, error) {
	switch level {
	case 0, 1:
		return pageCompressor{pagezstd.New(pagezstd.LevelDefault)}, nil
	case 2:
		return pageCompressor{pagezstd.New(pagezstd.LevelSmall)}, nil
	}
	if level < 1 || level > 22 {
		return nil, fmt.Errorf("compress zstd:%d: want a level from 1 to 22", level)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithWindowSize(maxPage), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	return zstdCompressor{enc}, err
}

func (c zstdCompressor) Compress(dst, src []byte) []byte { return c.enc.EncodeAll(src, dst) }

// pageCompressor serves levels 0 to 2: made for single pages, several times as
// fast as an encoder made for streams.
type pageCompressor struct{ enc *pagezstd.Encoder }

func (c pageCompressor) Compress(dst, src []byte) []byte {
	out, ok := c.enc.Encode(dst, src)
	if !ok {
		return append(dst, src...)
	}
	return out
}

type zlibCompressor struct {
	w   *zlib.Writer
	out appender
}

// appender lets a writer append to a slice that changes from page to page.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

func newZlib(level int) (Compressor, error) {
	if level == 0 {
		level = flate.BestSpeed
	}
	w, err := zlib.NewWriterLevel(nil, level)
	if err != nil || level < 1 {
		return nil, fmt.Errorf("compress zlib:%d: want a level from 1 to 9", level)
	}
	return &zlibCompressor{w: w}, nil
}

func (c *zlibCompressor) Compress(dst, src []byte) []byte {
	c.out.b = dst
	c.w.Reset(&c.out)
	_, _ = c.w.Write(src) // to memory: it cannot go wrong
	_ = c.w.Close()
	dst, c.out.b = c.out.b, nil
	return dst
}
