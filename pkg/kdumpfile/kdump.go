package kdumpfile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Offsets in disk_dump_header (block 0) and kdump_sub_header (block 1), as in
// makedumpfile's diskdump_mod.h.
const (
	signature     = "KDUMP   "
	headerVersion = 6
	utsLen        = 65 // __NEW_UTS_LEN and the terminating zero

	offSignature    = 0
	offVersion      = 8
	offUtsname      = 12
	offTimestamp    = 408 // struct timeval
	offStatus       = 424
	offBlockSize    = 428
	offSubHdrSize   = 432 // in blocks
	offBitmapBlocks = 436 // of both maps
	offMaxMapnr     = 440
	offNrCPUs       = 460
	headerSize      = 464

	offPhysBase       = 0
	offDumpLevel      = 8
	offSplit          = 12
	offStartPFN       = 16
	offEndPFN         = 24
	offVMCoreInfo     = 32
	offVMCoreInfoSize = 40
	offNote           = 48
	offNoteSize       = 56
	offEraseinfo      = 64
	offEraseinfoSize  = 72
	offStartPFN64     = 80
	offEndPFN64       = 88
	offMaxMapnr64     = 96
	subHeaderSize     = 104

	statusIncomplete = 8 // DUMP_DH_COMPRESSED_INCOMPLETE

	descSize = 24 // page_desc: offset u64, size u32, flags u32, page_flags u64

	// pageSumMark stands in the last bytes of block 0, which no reader looks at,
	// where each page_flags is the CRC-32C of the page's data as they are in the file
	// in the upper half, and the lower half of its pfn in the lower. makedumpfile
	// writes 0 there, and makedumpfile, crash and libkdumpfile do not use it.
	pageSumMark = "ukdump pfn crc32"
)

// pageFlags makes a page_flags.
func pageFlags(pfn uint64, sum uint32) uint64 { return uint64(sum)<<32 | uint64(uint32(pfn)) }

// Header is what a dump says of itself.
type Header struct {
	Sysname, Nodename, Release, Version, Machine, Domainname string

	Time      time.Time // of the crash; whole seconds are kept
	BlockSize int       // page size
	MaxPFN    uint64    // one past the last pfn
	NumCPUs   int
	DumpLevel int
	PhysBase  uint64
	Codec     Codec  // of most pages; each page's descriptor counts
	Notes     []byte // ELF notes

	VMCoreInfoOff, VMCoreInfoSize int // the VMCOREINFO descriptor in Notes
}

// Desc describes one page of a Batch: Size bytes of data; 0 is a page of zeros.
type Desc struct {
	Size  uint32
	Flags uint32 // Codec, 0 for a page as it is
}

// Batch is a run of pages in pfn order: PFNs[i] is described by Descs[i], and
// their data stand one behind the other in Data.
type Batch struct {
	PFNs  []uint64
	Descs []Desc
	Data  []byte
}

// Output is a dump format to write pages to.
type Output interface {
	// Batch appends pages. The batches come in pfn order; b may be used again
	// when it returns.
	Batch(b *Batch) error
	// Finish writes what is left and marks the dump complete. Without it the dump
	// stays marked incomplete.
	Finish() error
}

// layout is where the parts of a kdump-compressed file are.
type layout struct {
	block              int64
	bitmap1, bitmap2   int64
	bitmapBytes        int64 // of one map, whole blocks
	descs, data        int64
	subBlocks, mapBlks int64
}

func newLayout(h *Header, maxKept uint64) layout {
	b := int64(h.BlockSize)
	l := layout{block: b}
	l.subBlocks = blocks(subHeaderSize+int64(len(h.Notes)), b)
	// Readers tell two maps from one by bitmap_blocks >= 2*ceil(max_mapnr/8/B).
	l.bitmapBytes = blocks(int64((h.MaxPFN+7)/8), b) * b
	l.mapBlks = 2 * l.bitmapBytes / b
	l.bitmap1 = (1 + l.subBlocks) * b
	l.bitmap2 = l.bitmap1 + l.bitmapBytes
	l.descs = l.bitmap2 + l.bitmapBytes
	l.data = l.descs + blocks(int64(maxKept)*descSize, b)*b
	return l
}

func blocks(n, b int64) int64 { return (n + b - 1) / b }

// encodeHeader makes block 0.
func encodeHeader(h *Header, l layout, status uint32) []byte {
	p := make([]byte, l.block)
	le := binary.LittleEndian
	copy(p[offSignature:], signature)
	le.PutUint32(p[offVersion:], headerVersion)
	for i, s := range []string{h.Sysname, h.Nodename, h.Release, h.Version, h.Machine, h.Domainname} {
		copy(p[offUtsname+i*utsLen:offUtsname+(i+1)*utsLen-1], s)
	}
	// tv_usec stays 0: libkdumpfile tries the 32 bit header first, in which
	// block_size lies over it.
	le.PutUint64(p[offTimestamp:], uint64(h.Time.Unix()))
	le.PutUint32(p[offStatus:], status)
	le.PutUint32(p[offBlockSize:], uint32(l.block))
	le.PutUint32(p[offSubHdrSize:], uint32(l.subBlocks))
	le.PutUint32(p[offBitmapBlocks:], uint32(l.mapBlks))
	le.PutUint32(p[offMaxMapnr:], uint32(min(h.MaxPFN, 1<<32-1)))
	le.PutUint32(p[offNrCPUs:], uint32(h.NumCPUs))
	copy(p[l.block-int64(len(pageSumMark)):], pageSumMark)
	return p
}

// encodeSubHeader makes block 1 and the notes behind it; part is nil for a
// dump in one file.
func encodeSubHeader(h *Header, l layout, part *splitPart) []byte {
	p := make([]byte, l.subBlocks*l.block)
	le := binary.LittleEndian
	notes := uint64(l.block + subHeaderSize)
	le.PutUint64(p[offPhysBase:], h.PhysBase)
	le.PutUint32(p[offDumpLevel:], uint32(h.DumpLevel))
	if h.VMCoreInfoSize > 0 {
		le.PutUint64(p[offVMCoreInfo:], notes+uint64(h.VMCoreInfoOff))
		le.PutUint64(p[offVMCoreInfoSize:], uint64(h.VMCoreInfoSize))
	}
	if len(h.Notes) > 0 {
		le.PutUint64(p[offNote:], notes)
		le.PutUint64(p[offNoteSize:], uint64(len(h.Notes)))
	}
	if part != nil {
		le.PutUint32(p[offSplit:], 1)
		le.PutUint64(p[offStartPFN:], part.start)
		le.PutUint64(p[offEndPFN:], part.end)
		le.PutUint64(p[offStartPFN64:], part.start)
		le.PutUint64(p[offEndPFN64:], part.end)
	}
	le.PutUint64(p[offMaxMapnr64:], h.MaxPFN)
	copy(p[subHeaderSize:], h.Notes)
	return p
}

func (h *Header) check() error {
	if h.BlockSize < 4096 || h.BlockSize > maxPage || h.BlockSize&(h.BlockSize-1) != 0 {
		return fmt.Errorf("dump header: page size %d is not 4096 to 65536", h.BlockSize)
	}
	if h.VMCoreInfoOff < 0 || h.VMCoreInfoSize < 0 || h.VMCoreInfoOff+h.VMCoreInfoSize > len(h.Notes) {
		return fmt.Errorf("dump header: VMCOREINFO at %d+%d is not in the %d bytes of notes", h.VMCoreInfoOff, h.VMCoreInfoSize, len(h.Notes))
	}
	return nil
}

// Buffers of a KdumpWriter: its memory is bounded by their sum.
const (
	dataBuffer = 1 << 20
	descBuffer = 8192 * descSize // descriptors between two flushes
	bitsBuffer = 64 << 10        // of the 2nd bitmap: 2 GiB of pages of 4 KiB
)

// splitPart is what a file has of a split dump: pfns from start up to end, of a dump
// of so many pages. Right behind as many descriptors makedumpfile --reassemble
// looks for the page of zeros; any other it copies for each page that shares it.
type splitPart struct{ start, end, pages uint64 }

// KdumpWriter writes the kdump-compressed format. The file is at every moment
// consistent for the pages before the last flush: their data are written first,
// then their descriptors, then their bits of the 2nd bitmap, which begins as
// zeros; and the header says incomplete until Finish.
//
// Over a Flattener the header says complete from the start, and that it is not is
// told by the missing end marker: crash looks for a segment that has a byte, not
// for the last of them (read_flattened_format() in its makedumpfile.c), so that
// nothing can be written again.
type KdumpWriter struct {
	w      io.WriterAt
	h      Header
	l      layout
	err    error // sticky
	codecs Codec // flags of the pages written
	crc    *crc32.Table
	dedup  *dedup // nil: off
	once   bool   // nothing may be written a second time

	*pageBuffers
	dataAt int64 // file offset of data[0]
	descAt int64 // and of descs[0]

	others    []io.WriterAt // get the bits, too: the other parts of a split dump
	bitsAt    uint64        // pfn of the first of bits
	bitsFrom  uint64        // first pfn whose bit may not be on disk yet
	bitsTo    uint64        // one past the last pfn taken
	kept, max uint64
	zero      place // of the page of zeros that all such pages share, offset 0: none yet
}

// pageBuffers are what a KdumpWriter has in hand.
type pageBuffers struct {
	data  []byte // of pages, not yet written
	descs []byte // not yet written, whose pages are written or in data
	bits  Bitmap // a window of the 2nd bitmap
}

func newPageBuffers() *pageBuffers {
	return &pageBuffers{data: make([]byte, 0, dataBuffer), descs: make([]byte, 0, descBuffer), bits: make(Bitmap, bitsBuffer)}
}

// place is where a page's data are in the file, and their checksum.
type place struct {
	offset int64
	sum    uint32
}

// NewKdumpWriter writes header, notes and ram (the 1st bitmap), and is then
// ready for at most maxKept pages.
func NewKdumpWriter(w io.WriterAt, h Header, ram Pages, maxKept uint64) (*KdumpWriter, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	k := newKdumpWriter(w, h, ram, maxKept, nil)
	k.pageBuffers = newPageBuffers()
	return k, k.err
}

// newKdumpWriter leaves the buffers to the caller.
func newKdumpWriter(w io.WriterAt, h Header, ram Pages, maxKept uint64, part *splitPart) *KdumpWriter {
	k := &KdumpWriter{w: w, h: h, l: newLayout(&h, maxKept), max: maxKept, crc: crc32.MakeTable(crc32.Castagnoli)}
	if part != nil {
		k.l.data = k.l.descs + int64(part.pages)*descSize
	}
	k.dataAt, k.descAt = k.l.data, k.l.descs
	_, k.once = w.(*Flattener)
	status := uint32(statusIncomplete)
	if k.once {
		status = uint32(h.Codec)
	}
	k.write(encodeHeader(&h, k.l, status), 0)
	k.write(encodeSubHeader(&h, k.l, part), k.l.block)
	k.writeRAM(ram)
	if !k.once {
		// The last byte before the data, so that the maps and descriptors exist as zeros.
		k.write([]byte{0}, k.l.data-1)
	}
	return k
}

// mapPiece is how much of the 1st bitmap is made at once: 4 GiB of pages of 4 KiB.
const mapPiece = 128 << 10

// writeRAM writes the 1st bitmap: where holes read as zeros, only what is not zeros.
func (k *KdumpWriter) writeRAM(ram Pages) {
	if ram == nil {
		return
	}
	piece := make(Bitmap, min(mapPiece, k.l.bitmapBytes))
	for at := uint64(0); at < k.h.MaxPFN && k.err == nil; at += 8 * uint64(len(piece)) {
		pfn, ok := ram.Next(at)
		if !k.once {
			if !ok || pfn >= k.h.MaxPFN {
				return
			}
			at = pfn - pfn%(8*mapPiece)
		}
		clear(piece)
		end := min(at+8*uint64(len(piece)), k.h.MaxPFN)
		for ok && pfn < end {
			next := ram.NextClear(pfn)
			piece.SetRange(pfn-at, min(next, end)-at)
			pfn, ok = ram.Next(next)
		}
		k.write(piece[:(end-at+7)/8], k.l.bitmap1+int64(at/8))
	}
}

func (k *KdumpWriter) write(p []byte, at int64) {
	if k.err == nil && len(p) > 0 {
		_, k.err = k.w.WriteAt(p, at)
	}
}

// Batch takes pages; see Output.
func (k *KdumpWriter) Batch(b *Batch) error {
	data := b.Data
	for i, d := range b.Descs {
		pfn := b.PFNs[i]
		if k.kept == k.max || uint64(d.Size) > uint64(len(data)) || pfn < k.bitsTo || pfn >= k.h.MaxPFN {
			k.fail(fmt.Errorf("page %#x does not fit behind page %#x in this dump", pfn, k.bitsTo))
			break
		}
		at := k.place(data[:d.Size], d.Flags)
		data = data[d.Size:]
		if d.Size == 0 {
			d = Desc{Size: uint32(k.h.BlockSize)}
		}
		k.describe(pfn, at, d)
	}
	return k.err
}

func (k *KdumpWriter) fail(err error) {
	if k.err == nil {
		k.err = err
	}
}

// place buffers a page's data, unless they are in the file already.
func (k *KdumpWriter) place(page []byte, flags uint32) place {
	if len(page) == 0 {
		if k.zero.offset == 0 {
			k.zero = k.append(make([]byte, k.h.BlockSize))
		}
		return k.zero
	}
	if k.dedup != nil {
		return k.dedup.place(k, page, flags)
	}
	return k.append(page)
}

func (k *KdumpWriter) append(page []byte) place {
	if len(k.data)+len(page) > cap(k.data) {
		k.flushData()
	}
	at := k.dataAt + int64(len(k.data))
	k.data = append(k.data, page...)
	return place{at, crc32.Update(0, k.crc, page)}
}

func (k *KdumpWriter) describe(pfn uint64, at place, d Desc) {
	if pfn >= k.bitsAt+8*uint64(len(k.bits)) {
		k.moveBits(pfn)
	}
	n := len(k.descs)
	k.descs = k.descs[:n+descSize]
	p, le := k.descs[n:], binary.LittleEndian
	le.PutUint64(p, uint64(at.offset))
	le.PutUint32(p[8:], d.Size)
	le.PutUint32(p[12:], d.Flags)
	le.PutUint64(p[16:], pageFlags(pfn, at.sum))
	k.bits.Set(pfn - k.bitsAt)
	k.kept++
	k.bitsTo = pfn + 1
	k.codecs |= Codec(d.Flags)
	if len(k.descs) == cap(k.descs) {
		k.flush(false)
	}
}

// moveBits makes the window of the 2nd bitmap begin at pfn.
func (k *KdumpWriter) moveBits(pfn uint64) {
	k.flush(true)
	clear(k.bits)
	k.bitsAt = pfn &^ 63
	k.bitsFrom = pfn
}

func (k *KdumpWriter) flushData() {
	k.write(k.data, k.dataAt)
	k.dataAt += int64(len(k.data))
	k.data = k.data[:0]
}

// flush brings the file up to the last page taken. Where nothing may be written
// twice, that leaves out the last byte of the 2nd bitmap if it is not full yet,
// unless nothing more comes to this window of it.
func (k *KdumpWriter) flush(last bool) {
	k.flushData()
	k.write(k.descs, k.descAt)
	k.descAt += int64(len(k.descs))
	k.descs = k.descs[:0]
	to := k.bitsTo
	if k.once && !last {
		to &^= 7
	}
	if k.bitsFrom >= to {
		return
	}
	from := k.bitsFrom / 8
	p := k.bits[from-k.bitsAt/8 : (to+7)/8-k.bitsAt/8]
	k.write(p, k.l.bitmap2+int64(from))
	for _, w := range k.others {
		if k.err == nil {
			_, k.err = w.WriteAt(p, k.l.bitmap2+int64(from))
		}
	}
	k.bitsFrom = to
}

// syncer is what an output may have besides WriteAt.
type syncer interface{ Sync() error }

// sync makes durable what was written, where the output can.
func (k *KdumpWriter) sync() {
	if s, ok := k.w.(syncer); ok && k.err == nil {
		k.err = s.Sync()
	}
}

// complete takes the incomplete mark away, where there is one.
func (k *KdumpWriter) complete(codecs Codec) {
	if codecs == 0 {
		codecs = k.h.Codec
	}
	switch {
	case !k.once:
		k.write(encodeHeader(&k.h, k.l, uint32(codecs)), 0)
	case k.kept == 0: // so that the maps exist as zeros
		k.write([]byte{0}, k.l.data-1)
	}
}

// Finish writes the rest, makes it durable where the output can, and only then
// marks the header complete.
func (k *KdumpWriter) Finish() error {
	k.flush(true)
	k.sync()
	k.complete(k.codecs)
	if k.err == nil {
		k.err = errFinished
		return nil
	}
	return k.err
}

// Error is a sentinel of this package.
type Error string

func (e Error) Error() string { return string(e) }

const errFinished Error = "the dump is finished"
