package kdumpfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"time"
)

const (
	// ErrExcluded is the error of reading a page that is not in the dump.
	ErrExcluded Error = "page is not in the dump"
	// ErrFormat is the cause where a file is not what it is opened as.
	ErrFormat Error = "not a kdump-compressed file of a 64-bit little endian machine"
	// ErrCorrupt is the cause where parts of a file contradict each other.
	ErrCorrupt Error = "corrupt dump"
	// ErrOtherDump is the cause where files are not of one split dump.
	ErrOtherDump Error = "not parts of the same split dump"
	// ErrPartMissing is the cause where files of a split dump are missing.
	ErrPartMissing Error = "a part of the split dump is missing"
)

// Bounds of what a file can make a reader allocate.
const (
	maxNotes    = 16 << 20 // of 8192 CPUs: 3 MiB
	maxInfo     = 1 << 20  // VMCOREINFO: a page
	maxGranules = 1 << 20  // entries of the rank index, 8 bytes each
	minGranule  = 4096     // bits of the 2nd bitmap per entry
)

// Kdump is an open dump in the kdump-compressed format: a file, the parts of a
// split dump together, or what Salvage found. It is safe for concurrent use; pages
// are read with a PageReader for each goroutine.
type Kdump struct {
	parts []*Kdump // of a split dump put together, by pfn; all that follows but h, info, start and end is then theirs

	r    io.ReaderAt
	size int64
	h    Header
	l    layout

	version    uint32
	status     uint32
	info       []byte
	start, end uint64 // pfns that this file has descriptors of: a part of them in a split dump
	split      bool
	summed     bool // page_flags are pageFlags
	crc        *crc32.Table
	salvaged   bool // the maps are not the file's

	ram     mapSource // the 1st bitmap
	dumped  mapSource // the 2nd bitmap, or which pages Salvage found
	granule uint64    // bits per entry of ranks
	ranks   []uint64  // set bits of dumped from start to the entry's first bit; the last is their number
	skips   []skip    // sorted
}

// mapSource is where a bitmap is.
type mapSource struct {
	r        io.ReaderAt
	at, size int64 // of the map, and of all that r has
}

// OpenKdump opens a dump of size bytes, written by whomever: header versions 1
// to 6, 64 bit and little endian. A flattened file needs OpenFlattened first. An
// incomplete one opens for the pages it has.
func OpenKdump(r io.ReaderAt, size int64) (*Kdump, error) {
	k := newKdump(r, size)
	if err := k.open(); err != nil {
		return nil, fmt.Errorf("open dump: %w", err)
	}
	return k, nil
}

func newKdump(r io.ReaderAt, size int64) *Kdump {
	return &Kdump{r: r, size: size, crc: crc32.MakeTable(crc32.Castagnoli)}
}

func (k *Kdump) open() error {
	var block [headerSize]byte
	if _, err := k.r.ReadAt(block[:min(k.size, headerSize)], 0); err != nil && err != io.EOF {
		return fmt.Errorf("read header: %w", err)
	}
	if err := k.readHeader(block[:]); err != nil {
		return err
	}
	var sub [subHeaderSize]byte
	if err := k.readAt(sub[:], k.l.block); err != nil {
		return fmt.Errorf("read sub header: %w", err)
	}
	if err := k.readSubHeader(sub[:]); err != nil {
		return err
	}
	if err := k.placeMaps(); err != nil {
		return err
	}
	if err := k.readNotes(sub[:]); err != nil {
		return err
	}
	if err := k.readMark(); err != nil {
		return err
	}
	k.ram, k.dumped = mapSource{k.r, k.l.bitmap1, k.size}, mapSource{k.r, k.l.bitmap2, k.size}
	return k.buildIndex()
}

// readMark tells whether the page_flags are ours.
func (k *Kdump) readMark() error {
	var mark [len(pageSumMark)]byte
	if err := k.readAt(mark[:], k.l.block-int64(len(mark))); err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	k.summed = string(mark[:]) == pageSumMark
	return nil
}

// readAt is a ReadAt within the file.
func (k *Kdump) readAt(p []byte, at int64) error {
	if at < 0 || at > k.size || int64(len(p)) > k.size-at {
		return fmt.Errorf("%d bytes at %#x of a file of %#x: %w", len(p), at, k.size, io.ErrUnexpectedEOF)
	}
	if n, err := k.r.ReadAt(p, at); n < len(p) {
		return err
	}
	return nil
}

func (k *Kdump) readHeader(p []byte) error {
	le, h := binary.LittleEndian, &k.h
	k.version = le.Uint32(p[offVersion:])
	h.BlockSize = int(le.Uint32(p[offBlockSize:]))
	if string(p[:len(signature)]) != signature || k.version < 1 || k.version > 0xff || h.check() != nil {
		return ErrFormat
	}
	for i, s := range []*string{&h.Sysname, &h.Nodename, &h.Release, &h.Version, &h.Machine, &h.Domainname} {
		field := p[offUtsname+i*utsLen : offUtsname+(i+1)*utsLen]
		name, _, _ := bytes.Cut(field, []byte{0})
		*s = string(name)
	}
	h.Time = time.Unix(int64(le.Uint64(p[offTimestamp:])), 0)
	k.status = le.Uint32(p[offStatus:])
	h.Codec = Codec(k.status &^ statusIncomplete)
	h.MaxPFN = uint64(le.Uint32(p[offMaxMapnr:]))
	h.NumCPUs = int(int32(le.Uint32(p[offNrCPUs:])))
	k.l = layout{block: int64(h.BlockSize), subBlocks: int64(le.Uint32(p[offSubHdrSize:])), mapBlks: int64(le.Uint32(p[offBitmapBlocks:]))}
	return nil
}

// readSubHeader takes the fields that the header's version has.
func (k *Kdump) readSubHeader(p []byte) error {
	le, h := binary.LittleEndian, &k.h
	h.PhysBase = le.Uint64(p[offPhysBase:])
	h.DumpLevel = int(le.Uint32(p[offDumpLevel:]))
	k.split = k.version >= 2 && le.Uint32(p[offSplit:]) != 0
	k.start, k.end = le.Uint64(p[offStartPFN:]), le.Uint64(p[offEndPFN:])
	if k.version >= 6 {
		k.start, k.end = le.Uint64(p[offStartPFN64:]), le.Uint64(p[offEndPFN64:])
		if n := le.Uint64(p[offMaxMapnr64:]); n != 0 {
			h.MaxPFN = n
		}
	}
	if !k.split {
		k.start, k.end = 0, h.MaxPFN
	}
	k.end = min(k.end, h.MaxPFN)
	if k.start > k.end || h.MaxPFN > math.MaxInt64/maxPage {
		return fmt.Errorf("pfns %#x to %#x of %#x: %w", k.start, k.end, h.MaxPFN, ErrCorrupt)
	}
	return nil
}

// placeMaps finds the bitmaps and the descriptors. There may be one map for
// both purposes, which the number of blocks tells.
func (k *Kdump) placeMaps() error {
	l := &k.l
	one := blocks(int64((k.h.MaxPFN+7)/8), l.block)
	l.bitmap1 = (1 + l.subBlocks) * l.block
	l.bitmap2 = l.bitmap1
	l.bitmapBytes = l.mapBlks * l.block
	if l.mapBlks >= 2*one {
		l.bitmapBytes = l.mapBlks / 2 * l.block
		l.bitmap2 += l.bitmapBytes
	}
	l.descs = l.bitmap1 + l.mapBlks*l.block
	if l.bitmapBytes < one*l.block {
		return fmt.Errorf("bitmaps of %d blocks for %#x pfns: %w", l.mapBlks, k.h.MaxPFN, ErrCorrupt)
	}
	if l.bitmap2+one*l.block > k.size {
		return fmt.Errorf("bitmaps up to %#x in %#x bytes: %w", l.descs, k.size, io.ErrUnexpectedEOF)
	}
	return nil
}

func (k *Kdump) readNotes(sub []byte) (err error) {
	le := binary.LittleEndian
	part := func(at int, bound uint64) []byte {
		offset, size := le.Uint64(sub[at:]), le.Uint64(sub[at+8:])
		if size == 0 || err != nil {
			return nil
		}
		if size > bound || offset > math.MaxInt64 {
			err = fmt.Errorf("%#x bytes of notes at %#x: %w", size, offset, ErrCorrupt)
			return nil
		}
		if int64(offset) > k.size || int64(size) > k.size-int64(offset) {
			err = fmt.Errorf("notes: %w", io.ErrUnexpectedEOF)
			return nil
		}
		p := make([]byte, size)
		err = k.readAt(p, int64(offset))
		return p
	}
	if k.version >= 3 {
		k.info = part(offVMCoreInfo, maxInfo)
	}
	if k.version >= 4 {
		k.h.Notes = part(offNote, maxNotes)
	}
	if rel := le.Uint64(sub[offVMCoreInfo:]) - le.Uint64(sub[offNote:]); len(k.info) > 0 && rel+uint64(len(k.info)) <= uint64(len(k.h.Notes)) && rel < uint64(len(k.h.Notes)) {
		k.h.VMCoreInfoOff, k.h.VMCoreInfoSize = int(rel), len(k.info)
	}
	return err
}

// buildIndex counts the bits of the pages there are.
func (k *Kdump) buildIndex() error {
	k.granule = minGranule
	for (k.end-k.start)/k.granule >= maxGranules {
		k.granule *= 2
	}
	base := k.start &^ 63
	k.ranks = make([]uint64, 1, (k.end-base)/k.granule+2)
	w := k.dumped.window()
	for at, count := base, uint64(0); at < k.end; at += k.granule {
		n, err := k.dumped.count(&w, max(at, k.start), min(at+k.granule, k.end))
		if err != nil {
			return err
		}
		count += n
		k.ranks = append(k.ranks, count)
	}
	return nil
}

func (s mapSource) window() window { return window{r: s.r, end: s.size, size: 64 << 10} }

// count counts the bits from start to end.
func (s mapSource) count(w *window, start, end uint64) (n uint64, err error) {
	for at := start &^ 63; at < end; {
		to := min(at+64<<10*8, end)
		p, err := w.get(s.at+int64(at/8), int(to-at+7)/8)
		if err != nil {
			return 0, fmt.Errorf("read 2nd bitmap: %w", err)
		}
		n += onesFrom(p, start, at, to)
		at = to
	}
	return n, nil
}

// next gives the first set bit from pfn to end.
func (s mapSource) next(w *window, pfn, end uint64) (next uint64, ok bool, err error) {
	for pfn < end {
		at := pfn &^ 63
		n := min(mapWindow*8, end-at)
		p, err := w.get(s.at+int64(at/8), int(n+7)/8)
		if err != nil {
			return 0, false, fmt.Errorf("read 2nd bitmap: %w", err)
		}
		if i, found := Bitmap(p).Next(pfn - at); found && at+i < end {
			return at + i, true, nil
		}
		pfn = at + n
	}
	return 0, false, nil
}

// onesFrom counts the bits of [from, to) that are not below start; p begins with
// bit from, a multiple of 8.
func onesFrom(p []byte, start, from, to uint64) uint64 {
	var n int
	i := max(start, from) - from
	for end := to - from; i < end; {
		if i%64 == 0 && end-i >= 64 {
			n += bits.OnesCount64(binary.LittleEndian.Uint64(p[i/8:]))
			i += 64
			continue
		}
		n += int(p[i/8] >> (i % 8) & 1)
		i++
	}
	return uint64(n)
}

// Header is what the dump says of itself.
func (k *Kdump) Header() Header { return k.h }

// Notes are the ELF notes; none before header version 4. The caller must not
// change them.
func (k *Kdump) Notes() []byte { return k.h.Notes }

// VMCoreInfo is the text of VMCOREINFO; empty if there is none. The caller must
// not change it.
func (k *Kdump) VMCoreInfo() []byte { return k.info }

// Incomplete reports whether the header of the file, or of one of the parts, says
// that it was not finished, or a part is missing.
func (k *Kdump) Incomplete() bool { return k.status&statusIncomplete != 0 }

// Split gives the pfns that this part of a split dump has, and false for a
// whole dump.
func (k *Kdump) Split() (start, end uint64, ok bool) { return k.start, k.end, k.split }

// Pages is the number of pages in the dump, or in this part of it.
func (k *Kdump) Pages() (n uint64) {
	for _, part := range k.files() {
		n += part.ranks[len(part.ranks)-1]
	}
	return n
}

// files gives the parts of a dump put together, or the only file.
func (k *Kdump) files() []*Kdump {
	if k.parts != nil {
		return k.parts
	}
	return []*Kdump{k}
}

// RAM reads the 1st bitmap, the pages that the machine had: MaxPFN/8 bytes.
func (k *Kdump) RAM() (Bitmap, error) {
	return k.files()[0].bitmap(k.files()[0].ram)
}

// Dumped gives the pages that can be read: MaxPFN/8 bytes. That is the 2nd
// bitmap, of a part of a split dump its own pfns only.
func (k *Kdump) Dumped() (Bitmap, error) {
	var all Bitmap
	for _, part := range k.files() {
		b, err := part.bitmap(part.dumped)
		if err != nil {
			return nil, err
		}
		b.ClearRange(0, part.start)
		b.ClearRange(part.end, uint64(len(b))*8)
		if all == nil {
			all = b
			continue
		}
		for i := part.start / 8; i < (part.end+7)/8; i++ {
			all[i] |= b[i]
		}
	}
	return all, nil
}

func (k *Kdump) bitmap(from mapSource) (Bitmap, error) {
	b := NewBitmap(k.h.MaxPFN) // not more than the file has: placeMaps
	n := (int64(k.h.MaxPFN) + 7) / 8
	if n > from.size-from.at {
		return nil, fmt.Errorf("read bitmap: %w", io.ErrUnexpectedEOF)
	}
	if m, err := from.r.ReadAt(b[:n], from.at); int64(m) < n {
		return nil, fmt.Errorf("read bitmap: %w", err)
	}
	b.ClearRange(k.h.MaxPFN, uint64(len(b))*8)
	return b, nil
}
