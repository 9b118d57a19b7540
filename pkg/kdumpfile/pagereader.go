package kdumpfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"

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
	minWindow  = 4 << 10 // where a single page or descriptor is read
)

// PageReader reads the pages of a dump for one goroutine.
type PageReader struct {
	k                *Kdump
	bits, desc, data window
	*decoder

	parts []*PageReader // of a split dump; then nothing else is used
}

// decoder decompresses pages, one at a time.
type decoder struct {
	zstd *zstd.Decoder
	zlib io.Reader // a zlib.Resetter, too
	src  bytes.Reader
}

// NewReader makes a PageReader.
func (k *Kdump) NewReader() *PageReader { return k.newReader(&decoder{}) }

func (k *Kdump) newReader(d *decoder) *PageReader {
	r := &PageReader{k: k, decoder: d}
	for _, part := range k.parts {
		r.parts = append(r.parts, part.newReader(d))
	}
	r.bits = window{r: k.dumped.r, end: k.dumped.size, size: mapWindow}
	r.desc = window{r: k.r, end: k.size, size: descWindow}
	r.data = window{r: k.r, end: k.size, size: dataWindow}
	return r
}

// Close gives back what the decompressors hold.
func (r *PageReader) Close() error {
	if r.zstd != nil {
		r.zstd.Close()
	}
	return nil
}

// ReadPage reads page pfn into buf, which has Header().BlockSize bytes. The
// error is ErrExcluded where the page is not in the dump. Data that do not have
// the checksum of their descriptor, where there is one, are ErrCorrupt.
func (r *PageReader) ReadPage(pfn uint64, buf []byte) error {
	if len(buf) != r.k.h.BlockSize {
		return fmt.Errorf("read pfn %#x: buffer of %d bytes for a page of %d", pfn, len(buf), r.k.h.BlockSize)
	}
	if r.parts != nil {
		if i := r.part(pfn); i < len(r.parts) {
			return r.parts[i].ReadPage(pfn, buf)
		}
		return fmt.Errorf("read pfn %#x: %w", pfn, ErrExcluded)
	}
	rank, err := r.rank(pfn)
	if err == nil {
		err = r.readRank(pfn, rank, buf)
	}
	if err != nil {
		return fmt.Errorf("read pfn %#x: %w", pfn, err)
	}
	return nil
}

// part gives the first part with pages at or after pfn.
func (r *PageReader) part(pfn uint64) int {
	return sort.Search(len(r.parts), func(i int) bool { return r.parts[i].k.end > pfn })
}

// Next gives the first pfn at or after pfn that is in the file.
func (r *PageReader) Next(pfn uint64) (next uint64, ok bool, err error) {
	if r.parts != nil {
		for _, part := range r.parts[r.part(pfn):] {
			if next, ok, err = part.Next(pfn); ok || err != nil {
				return next, ok, err
			}
		}
		return 0, false, nil
	}
	return r.k.dumped.next(&r.bits, max(pfn, r.k.start), r.k.end)
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
		p, err := r.bits.get(k.dumped.at+int64(at/8), int(n+7)/8)
		if err != nil {
			return 0, fmt.Errorf("2nd bitmap: %w", err)
		}
		if at+n == to && !Bitmap(p).Get(pfn-at) {
			return 0, ErrExcluded
		}
		rank += onesFrom(p, k.start, at, at+n)
		at += n
	}
	return rank - 1 + k.skipped(pfn), nil
}

// pageDesc is a page_desc.
type pageDesc struct {
	offset    uint64
	size      uint32
	codec     Codec
	pageFlags uint64
}

func decodeDesc(p []byte) pageDesc {
	le := binary.LittleEndian
	return pageDesc{le.Uint64(p), le.Uint32(p[8:]), Codec(le.Uint32(p[12:])), le.Uint64(p[16:])}
}

// check tells what can be told of a descriptor of pfn without its data.
func (d pageDesc) check(k *Kdump, pfn uint64) error {
	block := uint64(k.h.BlockSize)
	switch {
	case d.size == 0 || uint64(d.size) > block || d.codec == None && uint64(d.size) != block:
		return fmt.Errorf("%d bytes of %s data: %w", d.size, d.codec, ErrCorrupt)
	case d.offset < uint64(k.l.descs):
		return fmt.Errorf("data at %#x: %w", d.offset, ErrCorrupt)
	case k.summed && uint32(d.pageFlags) != uint32(pfn):
		return fmt.Errorf("it says to be of a pfn ending in %#x: %w", uint32(d.pageFlags), ErrCorrupt)
	}
	return nil
}

func (r *PageReader) readRank(pfn, rank uint64, buf []byte) error {
	p, err := r.desc.get(r.k.l.descs+int64(rank)*descSize, descSize)
	if err != nil {
		return fmt.Errorf("page descriptor %d: %w", rank, err)
	}
	d := decodeDesc(p)
	if err := d.check(r.k, pfn); err != nil {
		return fmt.Errorf("page descriptor %d: %w", rank, err)
	}
	return r.readData(d, buf)
}

func (r *PageReader) readData(d pageDesc, buf []byte) error {
	src, err := r.data.get(int64(d.offset), int(d.size)) // beyond the file's end if it does not fit an int64
	if err != nil {
		return err
	}
	if r.k.summed && crc32.Checksum(src, r.k.crc) != uint32(d.pageFlags>>32) {
		return fmt.Errorf("%s data of %d bytes at %#x have another checksum: %w", d.codec, d.size, d.offset, ErrCorrupt)
	}
	n, err := r.decompress(d.codec, src, buf)
	if err == nil && n != len(buf) {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, len(buf), ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("%s data of %d bytes at %#x: %w", d.codec, d.size, d.offset, err)
	}
	return nil
}

// decompress decompresses src into buf and gives the length; more than buf's is
// an error.
func (r *decoder) decompress(c Codec, src, buf []byte) (n int, err error) {
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

func (r *decoder) unzstd(src, buf []byte) (n int, err error) {
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

func (r *decoder) inflate(src, buf []byte) (n int, err error) {
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
	r    io.ReaderAt
	end  int64 // of r
	size int
	at   int64
	buf  []byte // of the file at at
	mem  []byte // at most size, or what was asked for at once
}

// get gives n bytes of the file, valid until the next call.
func (w *window) get(at int64, n int) ([]byte, error) {
	end := w.at + int64(len(w.buf))
	if at >= w.at && at <= end && int64(n) <= end-at {
		return w.buf[at-w.at:][:n], nil
	}
	if at < 0 || at > w.end || int64(n) > w.end-at {
		return nil, fmt.Errorf("%d bytes at %#x of a file of %#x: %w", n, at, w.end, io.ErrUnexpectedEOF)
	}
	want := n
	if at >= w.at && at-end < int64(w.size) { // the next part, or one a little further on
		want = int(min(max(int64(w.size), int64(n)), w.end-at))
	}
	if cap(w.mem) < want {
		w.mem = make([]byte, max(want, minWindow))
	}
	w.at, w.buf = at, nil
	if m, err := w.r.ReadAt(w.mem[:want], at); m < want {
		return nil, err
	}
	w.buf = w.mem[:want]
	return w.buf[:n], nil
}
