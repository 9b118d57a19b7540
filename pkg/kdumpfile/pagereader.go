package kdumpfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/anchore/go-lzo"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Windows of a PageReader: they are its memory, besides the decompressors' own.
const (
	mapWindow  = 4 << 10
	descWindow = 12 << 10
	dataWindow = 256 << 10
)

// PageReader reads the pages of a dump for one goroutine.
type PageReader struct {
	k                *Kdump
	bits, desc, data window

	zstd *zstd.Decoder
	zlib io.Reader // a zlib.Resetter, too
	src  bytes.Reader
}

// NewReader makes a PageReader.
func (k *Kdump) NewReader() *PageReader {
	return &PageReader{k: k, bits: newWindow(k, mapWindow), desc: newWindow(k, descWindow), data: newWindow(k, dataWindow)}
}

// Close gives back what the decompressors hold.
func (r *PageReader) Close() error {
	if r.zstd != nil {
		r.zstd.Close()
	}
	return nil
}

// ReadPage reads page pfn into buf, which has Header().BlockSize bytes. The
// error is ErrExcluded where the page is not in the dump.
func (r *PageReader) ReadPage(pfn uint64, buf []byte) error {
	if len(buf) != r.k.h.BlockSize {
		return fmt.Errorf("read pfn %#x: buffer of %d bytes for a page of %d", pfn, len(buf), r.k.h.BlockSize)
	}
	rank, err := r.rank(pfn)
	if err == nil {
		err = r.readRank(rank, buf)
	}
	if err != nil {
		return fmt.Errorf("read pfn %#x: %w", pfn, err)
	}
	return nil
}

// Next gives the first pfn at or after pfn that is in the file.
func (r *PageReader) Next(pfn uint64) (next uint64, ok bool, err error) {
	pfn = max(pfn, r.k.start)
	for pfn < r.k.end {
		at := pfn &^ 63
		n := min(mapWindow*8, r.k.end-at)
		p, err := r.bits.get(r.k.l.bitmap2+int64(at/8), int(n+7)/8)
		if err != nil {
			return 0, false, fmt.Errorf("read 2nd bitmap: %w", err)
		}
		if i, found := Bitmap(p).Next(pfn - at); found && at+i < r.k.end {
			return at + i, true, nil
		}
		pfn = at + n
	}
	return 0, false, nil
}

// rank counts the pages of the file before pfn: the place of its descriptor.
func (r *PageReader) rank(pfn uint64) (uint64, error) {
	k := r.k
	if pfn < k.start || pfn >= k.end {
		return 0, ErrExcluded
	}
	base := k.start &^ 63
	g := (pfn - base) / k.granule
	rank := k.ranks[g]
	for at, to := base+g*k.granule, pfn+1; at < to; {
		n := min(mapWindow*8, to-at)
		p, err := r.bits.get(k.l.bitmap2+int64(at/8), int(n+7)/8)
		if err != nil {
			return 0, fmt.Errorf("2nd bitmap: %w", err)
		}
		if at+n == to && !Bitmap(p).Get(pfn-at) {
			return 0, ErrExcluded
		}
		rank += onesFrom(p, k.start, at, at+n)
		at += n
	}
	return rank - 1, nil
}

func (r *PageReader) readRank(rank uint64, buf []byte) error {
	p, err := r.desc.get(r.k.l.descs+int64(rank)*descSize, descSize)
	if err != nil {
		return fmt.Errorf("page descriptor %d: %w", rank, err)
	}
	le := binary.LittleEndian
	offset, size, codec := le.Uint64(p), le.Uint32(p[8:]), Codec(le.Uint32(p[12:]))
	if size > uint32(len(buf)) || size == 0 || offset < uint64(len(buf)) {
		return fmt.Errorf("page descriptor %d: %d bytes at %#x: %w", rank, size, offset, ErrCorrupt)
	}
	src, err := r.data.get(int64(offset), int(size)) // beyond the file's end if it does not fit an int64
	if err != nil {
		return err
	}
	n, err := r.decompress(codec, src, buf)
	if err == nil && n != len(buf) {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, len(buf), ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("%s data of %d bytes at %#x: %w", codec, size, offset, err)
	}
	return nil
}

// decompress decompresses src into buf and gives the length; more than buf's is
// an error.
func (r *PageReader) decompress(c Codec, src, buf []byte) (n int, err error) {
	switch c {
	case None:
		return copy(buf, src), nil
	case Zlib:
		return r.inflate(src, buf)
	case LZO:
		return unLZO(src, buf)
	case Snappy:
		if n, err = s2.DecodedLen(src); err != nil || n > len(buf) {
			return n, err
		}
		_, err = s2.Decode(buf, src)
		return n, err
	case Zstd:
		return r.unzstd(src, buf)
	}
	return 0, errors.New("unknown compression")
}

func (r *PageReader) unzstd(src, buf []byte) (n int, err error) {
	if r.zstd == nil {
		r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxPage), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return 0, err
		}
	}
	out, err := r.zstd.DecodeAll(src, buf[:0:len(buf)])
	return len(out), err
}

func (r *PageReader) inflate(src, buf []byte) (n int, err error) {
	r.src.Reset(src)
	if r.zlib == nil {
		r.zlib, err = zlib.NewReader(&r.src)
	} else {
		err = r.zlib.(zlib.Resetter).Reset(&r.src, nil)
	}
	if err != nil {
		r.zlib = nil // of a reader that could not be made nothing is left to reset
		return 0, err
	}
	if n, err = io.ReadFull(r.zlib, buf); err != nil {
		return n, err
	}
	var more [1]byte
	if m, err := r.zlib.Read(more[:]); m > 0 {
		return n + m, nil
	} else if err != io.EOF { // with the end comes the checksum
		return n, err
	}
	return n, nil
}

// unLZO guards against a decoder that was not written for any input.
func unLZO(src, buf []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v: %w", p, ErrCorrupt)
		}
	}()
	return lzo.Decompress(src, buf)
}

// window reads a file ahead where it is read in sequence.
type window struct {
	k    *Kdump
	size int
	at   int64
	buf  []byte // of the file at at
	mem  []byte // at most size, or what was asked for at once
}

func newWindow(k *Kdump, size int) window { return window{k: k, size: size} }

// get gives n bytes of the file, valid until the next call.
func (w *window) get(at int64, n int) ([]byte, error) {
	end := w.at + int64(len(w.buf))
	if at >= w.at && at <= end && int64(n) <= end-at {
		return w.buf[at-w.at:][:n], nil
	}
	if at < 0 || at > w.k.size || int64(n) > w.k.size-at {
		return nil, fmt.Errorf("%d bytes at %#x of a file of %#x: %w", n, at, w.k.size, io.ErrUnexpectedEOF)
	}
	want := n
	if at >= w.at && at-end < int64(w.size) { // the next part, or one a little further on
		want = int(min(max(int64(w.size), int64(n)), w.k.size-at))
	}
	if cap(w.mem) < want {
		w.mem = make([]byte, max(want, w.k.h.BlockSize))
	}
	w.at, w.buf = at, nil
	if err := w.k.readAt(w.mem[:want], at); err != nil {
		return nil, err
	}
	w.buf = w.mem[:want]
	return w.buf[:n], nil
}
