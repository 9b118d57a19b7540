package vmcore

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// ELF64 offsets, include/uapi/linux/elf.h.
const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	pnXNum   = 0xffff // e_phnum: the number is in sh_info of section 0
)

// Bounds on headers that may be torn: a kernel has one PT_LOAD per RAM range
// and one note per CPU.
const (
	maxPhdrs    = 1 << 20
	maxNoteSize = 64 << 20
)

// Segment is a PT_LOAD: Memsz bytes of memory from Paddr, of which the first
// Filesz are in the file at Offset.
type Segment struct{ Paddr, Vaddr, Offset, Filesz, Memsz uint64 }

// headers is what the ELF header and the program headers say.
type headers struct {
	machine elf.Machine
	order   binary.ByteOrder
	loads   []Segment
	notes   []Segment
	skipped []string
}

// readHeaders parses the headers of a 64 bit ELF core. A program header that
// cannot be true is skipped and told of; only an unreadable or foreign file
// header is an error. debug/elf is not used: it knows no PN_XNUM.
func readHeaders(r io.ReaderAt) (*headers, error) {
	var eh [ehdrSize]byte
	if _, err := r.ReadAt(eh[:], 0); err != nil {
		return nil, fmt.Errorf("read ELF header: %w", err)
	}
	if !bytes.Equal(eh[:4], []byte(elf.ELFMAG)) {
		return nil, fmt.Errorf("not an ELF file: it begins with %q", eh[:4])
	}
	if elf.Class(eh[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return nil, fmt.Errorf("ELF class %d: only 64 bit cores are supported", eh[elf.EI_CLASS])
	}
	h := &headers{order: binary.LittleEndian}
	if elf.Data(eh[elf.EI_DATA]) == elf.ELFDATA2MSB {
		h.order = binary.BigEndian
	}
	if t := elf.Type(h.order.Uint16(eh[16:])); t != elf.ET_CORE {
		return nil, fmt.Errorf("ELF type %v: not a core", t)
	}
	h.machine = elf.Machine(h.order.Uint16(eh[18:]))
	phoff, phentsize := h.order.Uint64(eh[32:]), uint64(h.order.Uint16(eh[54:]))
	phnum := uint64(h.order.Uint16(eh[56:]))
	if phnum == pnXNum {
		var sh [shdrSize]byte
		if _, err := r.ReadAt(sh[:], int64(h.order.Uint64(eh[40:]))); err != nil {
			return nil, fmt.Errorf("read number of program headers from section 0: %w", err)
		}
		phnum = uint64(h.order.Uint32(sh[44:]))
	}
	if phentsize != phdrSize || phnum > maxPhdrs || phoff > 1<<62 {
		return nil, fmt.Errorf("ELF header: %d program headers of %d bytes at %#x cannot be", phnum, phentsize, phoff)
	}
	return h, h.readPhdrs(r, phoff, phnum)
}

func (h *headers) readPhdrs(r io.ReaderAt, phoff, phnum uint64) error {
	const batch = 256
	buf := make([]byte, batch*phdrSize)
	for i := uint64(0); i < phnum; i += batch {
		n := min(phnum-i, batch)
		if _, err := r.ReadAt(buf[:n*phdrSize], int64(phoff+i*phdrSize)); err != nil {
			if i == 0 {
				return fmt.Errorf("read program headers: %w", err)
			}
			h.skip("program headers from %d of %d: %v", i, phnum, err)
			return nil
		}
		for j := range n {
			h.phdr(int(i+j), buf[j*phdrSize:])
		}
	}
	return nil
}

func (h *headers) skip(format string, a ...any) {
	const most = 32
	if len(h.skipped) < most {
		h.skipped = append(h.skipped, fmt.Sprintf(format, a...))
	}
}

func (h *headers) phdr(i int, p []byte) {
	s := Segment{Offset: h.order.Uint64(p[8:]), Vaddr: h.order.Uint64(p[16:]), Paddr: h.order.Uint64(p[24:]),
		Filesz: h.order.Uint64(p[32:]), Memsz: h.order.Uint64(p[40:])}
	const most = 1 << 56 // no machine has more address bits
	switch elf.ProgType(h.order.Uint32(p)) {
	case elf.PT_NOTE:
		if s.Filesz > maxNoteSize || s.Offset > most {
			h.skip("note segment %d: %d bytes at %#x cannot be", i, s.Filesz, s.Offset)
			return
		}
		h.notes = append(h.notes, s)
	case elf.PT_LOAD:
		if s.Memsz == 0 {
			return
		}
		if s.Paddr > most || s.Memsz > most || s.Offset > most || s.Filesz > s.Memsz {
			h.skip("segment %d: %#x bytes at physical %#x, %#x of them at %#x in the file, cannot be", i, s.Memsz, s.Paddr, s.Filesz, s.Offset)
			return
		}
		h.loads = append(h.loads, s)
	}
}

// sortLoads orders segments by physical address and drops from each what
// another one before it covers.
func (h *headers) sortLoads() {
	slices.SortStableFunc(h.loads, func(a, b Segment) int {
		if a.Paddr != b.Paddr {
			if a.Paddr < b.Paddr {
				return -1
			}
			return 1
		}
		return 0
	})
	var end uint64
	kept := h.loads[:0]
	for _, s := range h.loads {
		if s.Paddr < end {
			cut := min(end-s.Paddr, s.Memsz)
			s.Paddr, s.Vaddr, s.Offset, s.Memsz = s.Paddr+cut, s.Vaddr+cut, s.Offset+cut, s.Memsz-cut
			s.Filesz -= min(cut, s.Filesz)
		}
		if s.Memsz > 0 {
			kept = append(kept, s)
			end = s.Paddr + s.Memsz
		}
	}
	h.loads = kept
}
