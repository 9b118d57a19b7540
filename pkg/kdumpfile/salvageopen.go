package kdumpfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// open is Kdump.open for a file of which not everything needs to be there.
func (s *salvager) open() error {
	k := s.k
	var block [headerSize]byte
	n, err := k.r.ReadAt(block[:], 0)
	if err != nil && err != io.EOF {
		s.problem(err)
	}
	clear(block[n:])
	err = k.readHeader(block[:])
	if err != nil {
		if !allZero(block[:]) || !s.rebuild() {
			return err
		}
		s.out.Rebuilt = true
	}
	sub := s.subHeader(k.l.block)
	if err := k.readSubHeader(sub); err != nil {
		s.problem(err)
		clear(sub)
		_ = k.readSubHeader(sub) // of zeros: the max_mapnr of block 0
	}
	if err := k.placeMaps(); err != nil {
		return err
	}
	if err := k.readNotes(sub); err != nil {
		s.problem(err)
	}
	if k.l.descs >= k.size {
		return fmt.Errorf("its %#x bytes end before the first page: %w", k.size, io.ErrUnexpectedEOF)
	}
	if err := k.readMark(); err != nil {
		s.problem(err)
	}
	k.ram, k.dumped = mapSource{k.r, k.l.bitmap1, k.size}, s.fileBits()
	return s.prepare()
}

func (s *salvager) problem(err error) {
	if len(s.out.Problems) < maxProblems {
		s.out.Problems = append(s.out.Problems, err)
	}
}

// subHeader reads a sub header, of which what is not there is zeros.
func (s *salvager) subHeader(at int64) []byte {
	sub := make([]byte, subHeaderSize)
	n, err := s.k.r.ReadAt(sub, at)
	if err != nil && err != io.EOF {
		s.problem(err)
	}
	clear(sub[n:])
	return sub
}

// prepare finds out how far the descriptors can be believed.
func (s *salvager) prepare() (err error) {
	k := s.k
	s.bits, s.next, s.end, s.limit = s.fileBits().window(), k.start, k.end, k.size
	s.held, s.last = NewBitmap(k.h.MaxPFN), k.start
	if s.out.Promised, err = s.fileBits().count(&s.bits, k.start, k.end); err != nil {
		return err
	}
	if s.out.Rebuilt {
		k.summed = s.marked()
	}
	if k.summed { // MaxPFN is bounded by the bitmaps, which are in the file
		s.limit = min(s.limit, k.l.descs+int64(k.end-k.start)*descSize)
		return nil
	}
	return s.believe()
}

// marked tells by the descriptors what block 0 would: nobody else writes page_flags.
func (s *salvager) marked() bool {
	w := window{r: s.k.r, end: s.k.size, size: descWindow}
	for at := s.k.l.descs; ; at += descSize {
		p, err := w.get(at, descSize)
		if err != nil {
			return false
		}
		if d := decodeDesc(p); d != (pageDesc{}) {
			return d.pageFlags != 0
		}
	}
}

// believe finds where bits of the 2nd bitmap may be lost, and then whether they
// are: makedumpfile and QEMU write the first data right behind as many descriptors
// as there are bits.
func (s *salvager) believe() error {
	lost, err := s.blankBlock()
	if err != nil || lost == s.end {
		return err
	}
	k, first := s.k, int64(math.MaxInt64)
	w := window{r: k.r, end: k.size, size: descWindow}
	for i := range int64(s.out.Promised) {
		p, err := w.get(k.l.descs+i*descSize, descSize)
		if err != nil {
			break
		}
		if d := decodeDesc(p); d.check(k, 0) == nil && d.offset < math.MaxInt64 {
			first = min(first, int64(d.offset))
		}
	}
	if first == k.l.descs+int64(s.out.Promised)*descSize {
		return nil
	}
	behind, err := s.fileBits().count(&s.bits, lost, s.end)
	s.end, s.out.Misplaced = lost, behind
	return err
}

// blankBlock gives the first pfn of the first block of the 2nd bitmap that has no
// bits: a lost one, or a hole, or memory of which nothing is dumped.
func (s *salvager) blankBlock() (uint64, error) {
	const step = lostSize * 8
	k := s.k
	for pfn := k.start; pfn < k.end; pfn = pfn&^(step-1) + step {
		end := min(pfn&^(step-1)+step, k.end)
		bits, err := s.fileBits().count(&s.bits, pfn, end)
		if err != nil {
			return 0, err
		}
		if bits == 0 {
			return pfn, nil
		}
	}
	return k.end, nil
}

// rebuild makes block 0 from what the sub header and VMCOREINFO say.
func (s *salvager) rebuild() bool {
	le, k := binary.LittleEndian, s.k
	for block := int64(4096); block <= maxPage; block *= 2 {
		sub := s.subHeader(block)
		maxPFN, notes := le.Uint64(sub[offMaxMapnr64:]), le.Uint64(sub[offNoteSize:])
		if maxPFN == 0 || maxPFN > math.MaxInt64/maxPage || notes > maxNotes || le.Uint64(sub[offNote:]) != uint64(block+subHeaderSize) {
			continue
		}
		k.version, k.l.block = headerVersion, block
		if k.readNotes(sub) != nil || infoKey(k.info, "PAGESIZE") != strconv.FormatInt(block, 10) {
			continue
		}
		k.h = k.headerFromInfo()
		k.h.BlockSize = int(block)
		whole := newLayout(&Header{BlockSize: int(block), MaxPFN: maxPFN, Notes: k.h.Notes}, 0)
		k.l.subBlocks, k.l.mapBlks = whole.subBlocks, whole.mapBlks
		k.status = statusIncomplete
		return true
	}
	return false
}

// headerFromInfo makes what it can of VMCOREINFO and the notes.
func (k *Kdump) headerFromInfo() Header {
	h := Header{Sysname: "Linux", Nodename: "(none)", Release: infoKey(k.info, "OSRELEASE"), Version: "#0", Domainname: "(none)", Notes: k.h.Notes,
		VMCoreInfoOff: k.h.VMCoreInfoOff, VMCoreInfoSize: k.h.VMCoreInfoSize}
	for _, m := range []struct{ key, machine string }{
		{"SYMBOL(init_top_pgt)", "x86_64"}, {"NUMBER(phys_base)", "x86_64"}, {"NUMBER(kimage_voffset)", "aarch64"},
		{"NUMBER(va_kernel_pa_offset)", "riscv64"}, {"NUMBER(KERNEL_LINK_ADDR)", "riscv64"},
	} {
		if h.Machine == "" && infoKey(k.info, m.key) != "" {
			h.Machine = m.machine
		}
	}
	if sec, err := strconv.ParseInt(infoKey(k.info, "CRASHTIME"), 10, 64); err == nil {
		h.Time = time.Unix(sec, 0)
	}
	eachNote(k.h.Notes, func(name string, typ uint32, _ []byte) {
		if name == "CORE" && typ == ntPRSTATUS {
			h.NumCPUs++
		}
	})
	return h
}

// infoKey gives the value of a key of VMCOREINFO.
func infoKey(info []byte, key string) string {
	for line := range bytes.Lines(info) {
		if k, v, ok := bytes.Cut(line, []byte{'='}); ok && string(k) == key {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

const ntPRSTATUS = 1

// eachNote calls f for each ELF note, and tells whether they are whole.
func eachNote(p []byte, f func(name string, typ uint32, desc []byte)) bool {
	le := binary.LittleEndian
	for len(p) > 0 {
		if len(p) < 12 {
			return allZero(p)
		}
		nameSize, descSize, typ := uint64(le.Uint32(p)), uint64(le.Uint32(p[4:])), le.Uint32(p[8:])
		desc := 12 + (nameSize+3)&^3
		end := desc + (descSize+3)&^3
		if desc+descSize > uint64(len(p)) {
			return false
		}
		name, _, _ := bytes.Cut(p[12:12+nameSize], []byte{0})
		f(string(name), typ, p[desc:desc+descSize])
		p = p[min(end, uint64(len(p))):]
	}
	return true
}
