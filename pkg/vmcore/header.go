package vmcore

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"
)

// ELF64 file header and program header, as in elf(5), little endian:
//
//	e_ident 0  e_type 16  e_machine 18  e_phoff 32  e_shoff 40  e_flags 48
//	e_phentsize 54  e_phnum 56
//	p_type 0  p_offset 8  p_vaddr 16  p_paddr 24  p_filesz 32  p_memsz 40
//
// With e_phnum == PN_XNUM the number of program headers is sh_info (at 44) of
// section header 0.
const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	pnXnum   = 0xffff
	// maxSegments bounds what a torn sh_info can make us read: 224 MiB.
	maxSegments = 1 << 22
)

// segment is a program header that is PT_LOAD or PT_NOTE.
type segment struct {
	note          bool
	index         int // among the program headers, for messages
	offset        int64
	vaddr, paddr  uint64
	filesz, memsz uint64
}

type header struct {
	machine  elf.Machine
	flags    uint32
	end      int64 // end of the program headers in the file
	segments []segment
}

// bytesAt reads all of p at an offset of the file, or fails.
type bytesAt interface {
	readFull(p []byte, off int64) error
}

func readHeader(r bytesAt, at int64, skip *skipList) (h header, err error) {
	var e [ehdrSize]byte
	if err := r.readFull(e[:], at); err != nil {
		return h, fmt.Errorf("read ELF header: %w", err)
	}
	le := binary.LittleEndian
	switch {
	case !bytes.HasPrefix(e[:], []byte(elf.ELFMAG)):
		return h, fmt.Errorf("no ELF header: it begins with % x", e[:4])
	case elf.Class(e[elf.EI_CLASS]) != elf.ELFCLASS64:
		return h, fmt.Errorf("ELF class is %v, want ELFCLASS64", elf.Class(e[elf.EI_CLASS]))
	case elf.Data(e[elf.EI_DATA]) != elf.ELFDATA2LSB:
		return h, fmt.Errorf("ELF data is %v, want ELFDATA2LSB", elf.Data(e[elf.EI_DATA]))
	case elf.Type(le.Uint16(e[16:])) != elf.ET_CORE:
		return h, fmt.Errorf("ELF type is %v, want ET_CORE", elf.Type(le.Uint16(e[16:])))
	}
	h.machine, h.flags = elf.Machine(le.Uint16(e[18:])), le.Uint32(e[48:])
	if size := le.Uint16(e[54:]); size != phdrSize {
		skip.add("e_phentsize %d: %d assumed", size, phdrSize)
	}
	phoff := le.Uint64(e[32:])
	if phoff < ehdrSize || phoff > math.MaxInt64/2 {
		skip.add("e_phoff %#x: %#x assumed", phoff, ehdrSize)
		phoff = ehdrSize
	}
	phnum := uint32(le.Uint16(e[56:]))
	if phnum == pnXnum {
		phnum = extendedCount(r, at, le.Uint64(e[40:]), skip)
	}
	if phnum > maxSegments {
		skip.add("%d program headers: only %d are read", phnum, maxSegments)
		phnum = maxSegments
	}
	return h, h.readSegments(r, at+int64(phoff), int(phnum), skip)
}

// extendedCount reads the number of program headers where e_phnum is PN_XNUM.
func extendedCount(r bytesAt, at int64, shoff uint64, skip *skipList) uint32 {
	var s [shdrSize]byte
	if shoff < ehdrSize || shoff > math.MaxInt64/2 {
		skip.add("e_phnum is PN_XNUM, but e_shoff is %#x: %d program headers assumed", shoff, pnXnum)
		return pnXnum
	}
	if err := r.readFull(s[:], at+int64(shoff)); err != nil {
		skip.add("e_phnum is PN_XNUM, but section header 0: %v: %d program headers assumed", err, pnXnum)
		return pnXnum
	}
	return binary.LittleEndian.Uint32(s[44:])
}

// readSegments reads n program headers, as far as they can be read.
func (h *header) readSegments(r bytesAt, off int64, n int, skip *skipList) error {
	h.end = off + int64(n)*phdrSize
	buf := make([]byte, min(n, 1024)*phdrSize) // at most 56 KiB, reused
	for i := 0; i < n; {
		part := buf[:min(n-i, len(buf)/phdrSize)*phdrSize]
		if err := r.readFull(part, off+int64(i)*phdrSize); err != nil {
			if len(buf) > phdrSize { // find how far it goes
				buf = buf[:len(buf)/phdrSize/2*phdrSize]
				continue
			}
			skip.add("program headers %d to %d: %v", i, n-1, err)
			break
		}
		for at := 0; at < len(part); at, i = at+phdrSize, i+1 {
			h.addSegment(part[at:at+phdrSize], i, skip)
		}
	}
	if len(h.segments) == 0 {
		return fmt.Errorf("no usable program header among %d", n)
	}
	return nil
}

// addSegment takes a PT_LOAD or PT_NOTE whose numbers do not overflow.
func (h *header) addSegment(p []byte, index int, skip *skipList) {
	le := binary.LittleEndian
	typ := elf.ProgType(le.Uint32(p))
	if typ != elf.PT_LOAD && typ != elf.PT_NOTE {
		return
	}
	offset := le.Uint64(p[8:])
	s := segment{
		note: typ == elf.PT_NOTE, index: index, offset: int64(offset),
		vaddr: le.Uint64(p[16:]), paddr: le.Uint64(p[24:]), filesz: le.Uint64(p[32:]), memsz: le.Uint64(p[40:]),
	}
	if offset > math.MaxInt64 || s.filesz > math.MaxInt64-offset {
		skip.add("%v %d: p_offset %#x with p_filesz %#x overflows", typ, index, offset, s.filesz)
		return
	}
	h.segments = append(h.segments, s)
}
