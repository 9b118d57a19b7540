package vmcoretest

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"slices"
	"strings"
)

const (
	ehdrSize = 64
	phdrSize = 56
	shdrSize = 64
	pnXnum   = 0xffff
)

// writeELF writes: header, program headers, section header 0, notes, memory.
func (c *core) writeELF(f *os.File) error {
	notes := c.allNotes()
	phnum := len(c.loads) + 1
	off := int64(ehdrSize + phnum*phdrSize + shdrSize)
	off = roundUp(off, int64(c.pageSize))
	head := c.ehdr(phnum, int64(ehdrSize+phnum*phdrSize))
	head = append(head, phdr(elf.PT_NOTE, off, load{filesz: uint64(len(notes)), size: uint64(len(notes))})...)
	if _, err := f.WriteAt(notes, off); err != nil {
		return err
	}
	off += int64(len(notes))
	loads := slices.Clone(c.loads)
	for i := range loads {
		l := &loads[i]
		if l.offset < 0 {
			l.offset = roundUp(off, int64(c.pageSize)) + int64(l.paddr%c.pageSize)
			off = l.offset + int64(l.filesz)
		}
		head = append(head, phdr(elf.PT_LOAD, l.offset, *l)...)
	}
	if _, err := f.WriteAt(append(head, c.shdr(phnum)...), 0); err != nil {
		return err
	}
	if err := grow(f, off); err != nil {
		return err
	}
	if err := c.writeLoads(f, loads); err != nil {
		return err
	}
	if c.truncate >= 0 {
		return f.Truncate(c.truncate)
	}
	return nil
}

// grow makes a file at least size long.
func grow(f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

// writeMemory writes memory as it is, and headers as the kernel prepares them
// for the capture kernel: a PT_NOTE for each note, with room behind it.
func (c *core) writeMemory(f *os.File, at int64) error {
	loads := slices.Clone(c.loads)
	for i := range loads {
		loads[i].offset = int64(loads[i].paddr)
	}
	if err := c.writeLoads(f, loads); err != nil {
		return err
	}
	notes := append(slices.Clone(c.notes), c.infoNote())
	phnum := len(loads) + len(notes)
	head := c.ehdr(phnum, int64(ehdrSize+phnum*phdrSize))
	off := roundUp(at+int64(len(head)+phnum*phdrSize+shdrSize), blockSize)
	for _, n := range notes {
		b := n.bytes()
		room := uint64(roundUp(int64(len(b))+24, 64)) // the kernel ends its buffer with a header of zeros
		head = append(head, phdr(elf.PT_NOTE, off, load{paddr: uint64(off), filesz: room, size: room})...)
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off = roundUp(off+int64(room), blockSize)
	}
	for _, l := range loads {
		head = append(head, phdr(elf.PT_LOAD, l.offset, l)...)
	}
	if err := grow(f, off); err != nil {
		return err
	}
	_, err := f.WriteAt(append(head, c.shdr(phnum)...), at)
	return err
}

// writeLoads writes what of the memory the loads have in the file.
func (c *core) writeLoads(f *os.File, loads []load) error {
	for _, r := range c.patterns {
		buf := make([]byte, 64<<10)
		for at := uint64(0); at < r.size; at += uint64(len(buf)) {
			b := buf[:min(uint64(len(buf)), r.size-at)]
			Pattern(b, r.paddr+at)
			if err := writeTo(f, loads, b, r.paddr+at); err != nil {
				return err
			}
		}
	}
	for paddr, b := range c.memory {
		if err := writeTo(f, loads, b, paddr); err != nil {
			return err
		}
	}
	return nil
}

// writeTo writes b, which lies at paddr, into every load that has some of it.
func writeTo(f *os.File, loads []load, b []byte, paddr uint64) error {
	for _, l := range loads {
		start, end := max(paddr, l.paddr), min(paddr+uint64(len(b)), l.paddr+l.filesz)
		if start >= end {
			continue
		}
		if _, err := f.WriteAt(b[start-paddr:end-paddr], l.offset+int64(start-l.paddr)); err != nil {
			return err
		}
	}
	return nil
}

func (c *core) ehdr(phnum int, shoff int64) []byte {
	h := make([]byte, ehdrSize)
	copy(h, elf.ELFMAG)
	h[elf.EI_CLASS], h[elf.EI_DATA], h[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	le := binary.LittleEndian
	le.PutUint16(h[16:], uint16(elf.ET_CORE))
	le.PutUint16(h[18:], uint16(c.arch.machine))
	le.PutUint32(h[20:], uint32(elf.EV_CURRENT))
	le.PutUint64(h[32:], ehdrSize)
	le.PutUint16(h[52:], ehdrSize)
	le.PutUint16(h[54:], phdrSize)
	le.PutUint16(h[56:], uint16(phnum))
	if c.xnum || phnum >= pnXnum {
		le.PutUint16(h[56:], pnXnum)
		le.PutUint64(h[40:], uint64(shoff))
		le.PutUint16(h[58:], shdrSize)
		le.PutUint16(h[60:], 1)
	}
	return h
}

func (c *core) shdr(phnum int) []byte {
	h := make([]byte, shdrSize)
	binary.LittleEndian.PutUint32(h[44:], uint32(phnum))
	return h
}

func phdr(typ elf.ProgType, offset int64, l load) []byte {
	h := make([]byte, phdrSize)
	le := binary.LittleEndian
	le.PutUint32(h[0:], uint32(typ))
	le.PutUint64(h[8:], uint64(offset))
	le.PutUint64(h[16:], l.vaddr)
	le.PutUint64(h[24:], l.paddr)
	le.PutUint64(h[32:], l.filesz)
	le.PutUint64(h[40:], l.size)
	return h
}

func (c *core) infoNote() note {
	if len(c.info) == 0 {
		return note{raw: []byte{}}
	}
	return note{name: "VMCOREINFO", desc: []byte(strings.Join(c.info, "\n") + "\n")}
}

func (c *core) allNotes() []byte {
	var b []byte
	for _, n := range append(slices.Clone(c.notes), c.infoNote()) {
		b = append(b, n.bytes()...)
	}
	return b
}

func (n note) bytes() []byte {
	if n.raw != nil {
		return n.raw
	}
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(n.name)+1))
	b = le.AppendUint32(b, uint32(len(n.desc)))
	b = le.AppendUint32(b, n.kind)
	b = append(b, n.name...)
	b = append(b, make([]byte, 4-len(n.name)%4)...) // ends the name and pads it
	b = append(b, n.desc...)
	return append(b, make([]byte, -len(n.desc)&3)...)
}

// prstatus is NT_PRSTATUS of a CPU, 336 bytes on x86_64; pr_reg is at 112.
func prstatus(cpu uint64, a arch) note {
	n := note{name: "CORE", kind: 1, desc: make([]byte, 336+56)}
	binary.LittleEndian.PutUint64(n.desc[112+8*a.stackRegister:], cpu+1)
	return n
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
