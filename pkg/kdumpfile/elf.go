package kdumpfile

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"sort"
)

// An ELF core as ELFWriter lays it out:
//
//	0      Elf64_Ehdr
//	64     Elf64_Phdr of PT_NOTE, then one of PT_LOAD for each run of memory
//	then   with PN_XNUM or more of them: one Elf64_Shdr, whose sh_info is their number
//	then   the notes
//	then   512 bytes beyond a page boundary, the pages in pfn order
//
// makedumpfile maps a page aligned segment up to its p_memsz and so takes other
// pages' data for excluded ones, or dies of SIGBUS; what is not page aligned it
// reads (observed with 1.7.8; its own ELF files never are aligned).
//
// crash reads PT_NOTE at offset 64, takes the lowest p_offset of a PT_LOAD as
// the size of all headers, and p_align 0 as the mark of a kdump core.
const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	pnXNUM   = 0xffff

	offPage = 512

	offEFlags     = 48
	elfIncomplete = 1 // DUMP_ELF_INCOMPLETE of makedumpfile, in e_flags
)

// ELFHeader is what an ELF core says of itself.
type ELFHeader struct {
	Machine   elf.Machine
	BlockSize int    // page size
	MaxPFN    uint64 // one past the last pfn
	Notes     []byte // ELF notes

	// Segments are those of the core that is dumped, in its order. They may
	// overlap, as the kernel's text does: the pages are in the file once. RAM
	// that no segment covers gets one with Vaddr 0.
	Segments []ELFSegment
}

// ELFSegment is a run of physical memory, in bytes, and where it is mapped.
type ELFSegment struct{ Paddr, Vaddr, Memsz uint64 }

func (s ELFSegment) end() uint64 { return s.Paddr + s.Memsz }

// Bounds of what an ELFWriter makes of fragmented memory. Readers look for a
// page in one segment after another.
const (
	maxChunks   = 4096 // runs of pages in the file: 24 bytes of memory each, and about 56 per segment over it
	minGap      = 16   // pages: shorter runs of excluded pages become zeros in the file
	maxSegments = 1 << 16
)

// chunk is a run of pages that are in the file.
type chunk struct {
	start, end uint64 // pfn
	offset     int64  // in the file
}

// ELFWriter writes an ELF core. Pages come uncompressed. Excluded pages are the
// part of a segment's p_memsz beyond its p_filesz; short runs of them, and pages
// of kept that no batch brings, are zeros in the file, which readers cannot
// tell from pages of zeros.
//
// Where w is an io.WriterAt, it is used as one: e_flags says incomplete until
// Finish, and pages of zeros are left as holes, so that w has to read as zeros
// where nothing was written. Where it is not, or refuses the first WriteAt as a
// pipe does, everything is written in sequence, and nothing but its length tells
// a file cut off from a complete one.
type ELFWriter struct {
	out    elfSink
	block  uint64
	chunks []chunk
	data   int64  // file offset of the pages
	end    int64  // size of the file
	at     int    // chunk of the next page
	next   uint64 // lowest pfn that may come
	err    error  // sticky
}

var _ Output = (*ELFWriter)(nil)

// NewELFWriter writes headers and notes. ram has the pages that exist and kept,
// a part of them, those that are to be in the file; neither is used afterwards.
func NewELFWriter(w io.Writer, h ELFHeader, ram, kept Pages) (*ELFWriter, error) {
	return newELFWriter(w, h, ram, kept, maxChunks)
}

func newELFWriter(w io.Writer, h ELFHeader, ram, kept Pages, limit int) (*ELFWriter, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	e := &ELFWriter{block: uint64(h.BlockSize), chunks: planChunks(ram, kept, h.MaxPFN, limit)}
	segments := append([]ELFSegment{}, h.Segments...)
	segments = append(segments, uncovered(h.Segments, ram, h.MaxPFN, e.block)...)
	count := 1 + e.eachLoad(segments, func(elf.Prog64) {})
	e.data = blocks(int64(ehdrSize+count*phdrSize+shdrSize+len(h.Notes)), int64(e.block))*int64(e.block) + offPage
	e.end = e.data
	for i, c := range e.chunks {
		e.chunks[i].offset = e.end
		e.end += int64((c.end - c.start) * e.block)
	}
	e.out = newELFSink(w)
	e.out.head(e.header(&h, segments, count))
	e.err = e.out.err
	return e, e.err
}

func (h *ELFHeader) check() error {
	plain := Header{BlockSize: h.BlockSize}
	if err := plain.check(); err != nil {
		return err
	}
	if h.MaxPFN > math.MaxInt64/uint64(h.BlockSize) || len(h.Segments) > maxSegments {
		return fmt.Errorf("dump header: %#x page frames in %d segments are too many", h.MaxPFN, len(h.Segments))
	}
	for _, s := range h.Segments {
		if s.end() < s.Paddr || s.end() > math.MaxInt64 {
			return fmt.Errorf("dump header: segment at %#x of %#x bytes is not physical memory", s.Paddr, s.Memsz)
		}
	}
	return nil
}

// planChunks makes runs of the kept pages, at most limit of them as far as the
// holes in ram allow, by filling the shortest gaps.
func planChunks(ram, kept Pages, maxPFN uint64, limit int) []chunk {
	bitLen := bits.Len64
	var gaps [65]int // in ram, by the number of bits of their length
	holes := 0       // gaps that cannot be filled
	eachRun(kept, maxPFN, func(last, start, _ uint64) {
		if n := start - last; ram.CountRange(last, start) == n {
			gaps[bitLen(n)]++
		} else {
			holes++
		}
	})
	fill := bitLen(minGap - 1) // gaps of at most so many bits are filled
	left := holes
	for _, n := range gaps[fill+1:] {
		left += n
	}
	for ; left > limit && fill < 64; fill++ {
		left -= gaps[fill+1]
	}
	var chunks []chunk
	eachRun(kept, maxPFN, func(last, start, end uint64) {
		n := len(chunks)
		if n > 0 && bitLen(start-last) <= fill && ram.CountRange(last, start) == start-last {
			chunks[n-1].end = end
			return
		}
		chunks = append(chunks, chunk{start: start, end: end})
	})
	return chunks
}

// eachRun calls f for each run of set bits, with the end of the run before it.
func eachRun(b Pages, maxBit uint64, f func(last, start, end uint64)) {
	last := uint64(0)
	start, ok := b.Next(0)
	for ok && start < maxBit {
		end := min(b.NextClear(start), maxBit)
		f(last, start, end)
		last = end
		start, ok = b.Next(end)
	}
}

// uncovered gives segments for the runs of ram outside of segments.
func uncovered(segments []ELFSegment, ram Pages, maxPFN, block uint64) (out []ELFSegment) {
	sorted := slices.SortedFunc(slices.Values(segments), func(a, b ELFSegment) int { return cmp.Compare(a.Paddr, b.Paddr) })
	add := func(start, end uint64) {
		if start < end {
			out = append(out, ELFSegment{Paddr: start * block, Memsz: (end - start) * block})
		}
	}
	eachRun(ram, maxPFN, func(_, at, end uint64) {
		for _, s := range sorted {
			add(at, min(end, s.Paddr/block))
			at = max(at, (s.end()+block-1)/block)
		}
		add(at, end)
	})
	return out
}

// eachLoad calls f for each PT_LOAD that segments become, and counts them: a new
// one begins where pages of the file begin.
func (e *ELFWriter) eachLoad(segments []ELFSegment, f func(elf.Prog64)) (count int) {
	take := func(p elf.Prog64, end uint64) {
		if p.Memsz = end - p.Paddr; p.Memsz > 0 {
			count++
			f(p)
		}
	}
	for _, s := range segments {
		p := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
			Paddr: s.Paddr, Vaddr: s.Vaddr, Off: uint64(e.data)}
		first := sort.Search(len(e.chunks), func(i int) bool { return e.chunks[i].end*e.block > s.Paddr })
		for _, c := range e.chunks[first:] {
			start, end := max(s.Paddr, c.start*e.block), min(s.end(), c.end*e.block)
			if start >= end {
				break
			}
			take(p, start)
			p.Paddr, p.Vaddr = start, s.Vaddr+(start-s.Paddr)
			p.Off, p.Filesz = uint64(c.offset)+(start-c.start*e.block), end-start
		}
		take(p, s.end())
	}
	return count
}

// header encodes everything before the pages.
func (e *ELFWriter) header(h *ELFHeader, segments []ELFSegment, count int) []byte {
	notes := int64(ehdrSize + count*phdrSize)
	eh := elf.Header64{Type: uint16(elf.ET_CORE), Machine: uint16(h.Machine), Version: 1, Phoff: ehdrSize,
		Ehsize: ehdrSize, Phentsize: phdrSize, Phnum: uint16(min(count, pnXNUM)), Flags: elfIncomplete}
	eh.Ident = [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}
	var sections []byte
	if count >= pnXNUM {
		eh.Shoff, eh.Shentsize, eh.Shnum = uint64(notes), shdrSize, 1
		sections = encode(nil, elf.Section64{Info: uint32(count)})
		notes += shdrSize
	}
	p := encode(make([]byte, 0, e.data), eh)
	p = encode(p, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: uint64(notes), Filesz: uint64(len(h.Notes)), Memsz: uint64(len(h.Notes))})
	e.eachLoad(segments, func(load elf.Prog64) { p = encode(p, load) })
	p = append(append(p, sections...), h.Notes...)
	return append(p, make([]byte, e.data-int64(len(p)))...)
}

func encode(p []byte, v any) []byte {
	p, err := binary.Append(p, binary.LittleEndian, v)
	if err != nil {
		panic(err) // a struct without fixed size: a mistake in this file
	}
	return p
}

// Batch takes pages; see Output.
func (e *ELFWriter) Batch(b *Batch) error {
	data := b.Data
	for i, d := range b.Descs {
		if d.Flags != 0 || uint64(d.Size) != e.block && d.Size != 0 || uint64(d.Size) > uint64(len(data)) {
			return e.fail(fmt.Errorf("page %#x has %d bytes, flags %#x: an ELF core takes whole pages as they are", b.PFNs[i], d.Size, d.Flags))
		}
		offset, ok := e.place(b.PFNs[i])
		if !ok {
			return e.fail(fmt.Errorf("page %#x was not announced, or comes behind page %#x", b.PFNs[i], e.next))
		}
		if d.Size > 0 {
			e.out.zeroTo(offset)
			e.out.write(data[:d.Size])
		}
		data = data[d.Size:]
	}
	return e.fail(e.out.err)
}

// place finds the page's offset in the file.
func (e *ELFWriter) place(pfn uint64) (int64, bool) {
	for e.at < len(e.chunks) && e.chunks[e.at].end <= pfn {
		e.at++
	}
	if e.at == len(e.chunks) || pfn < e.chunks[e.at].start || pfn < e.next {
		return 0, false
	}
	e.next = pfn + 1
	c := e.chunks[e.at]
	return c.offset + int64((pfn-c.start)*e.block), true
}

func (e *ELFWriter) fail(err error) error {
	if e.err == nil {
		e.err = err
	}
	return e.err
}

// Finish writes the rest, makes it durable where the output can, and then takes
// the incomplete mark away where there is one.
func (e *ELFWriter) Finish() error {
	if e.err != nil {
		return e.err
	}
	if err := e.fail(e.out.finish(e.end)); err != nil {
		return err
	}
	e.err = errFinished
	return nil
}

// elfSink writes in sequence; where it can write at an offset, with holes for zeros.
type elfSink struct {
	w   io.Writer
	at  io.WriterAt // nil: w is a stream
	pos int64       // of buf[0]
	buf []byte      // dataBuffer bytes, not yet written
	err error       // sticky
}

func newELFSink(w io.Writer) elfSink {
	at, _ := w.(io.WriterAt)
	return elfSink{w: w, at: at, buf: make([]byte, 0, dataBuffer)}
}

// head writes what stands at offset 0. A pipe is an *os.File too, and shows only
// here that it cannot write at an offset; it gets no mark that could never be
// taken away.
func (s *elfSink) head(p []byte) {
	if s.at != nil {
		if n, err := s.at.WriteAt(p, 0); err == nil || n > 0 {
			s.pos, s.err = int64(n), err
			return
		}
		s.at = nil
	}
	p[offEFlags] &^= elfIncomplete
	_, s.err = s.w.Write(p)
	s.pos = int64(len(p))
}

func (s *elfSink) write(p []byte) {
	for len(p) > 0 && s.err == nil {
		n := min(len(p), cap(s.buf)-len(s.buf))
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
		if len(s.buf) == cap(s.buf) {
			s.flush()
		}
	}
}

func (s *elfSink) flush() {
	if s.err != nil || len(s.buf) == 0 {
		return
	}
	if s.at != nil {
		_, s.err = s.at.WriteAt(s.buf, s.pos)
	} else {
		_, s.err = s.w.Write(s.buf)
	}
	s.pos += int64(len(s.buf))
	s.buf = s.buf[:0]
}

// zeroTo goes on to offset.
func (s *elfSink) zeroTo(offset int64) {
	if s.pos+int64(len(s.buf)) >= offset {
		return
	}
	if s.at != nil {
		s.flush()
		s.pos = offset
		return
	}
	for n := offset - s.pos - int64(len(s.buf)); n > 0 && s.err == nil; {
		room := s.buf[len(s.buf):cap(s.buf)]
		room = room[:min(n, int64(len(room)))]
		clear(room)
		s.buf = s.buf[:len(s.buf)+len(room)]
		n -= int64(len(room))
		if len(s.buf) == cap(s.buf) {
			s.flush()
		}
	}
}

// finish makes the output size bytes long.
func (s *elfSink) finish(size int64) error {
	if s.at != nil && s.pos+int64(len(s.buf)) < size {
		s.zeroTo(size - 1)
		s.write([]byte{0})
	}
	s.zeroTo(size)
	s.flush()
	if f, ok := s.w.(syncer); ok && s.at != nil && s.err == nil {
		s.err = f.Sync()
	}
	if s.at != nil && s.err == nil {
		_, s.err = s.at.WriteAt([]byte{0}, offEFlags)
	}
	return s.err
}
