package vmcore

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// TranslateError is a virtual address for which no physical one was found.
type TranslateError struct {
	Vaddr uint64
	Err   error
}

func (e *TranslateError) Error() string {
	return fmt.Sprintf("translate vaddr %#x: %v", e.Vaddr, e.Err)
}
func (e *TranslateError) Unwrap() error { return e.Err }

// mapping is size bytes of virtual memory that lie in one piece of physical
// memory.
type mapping struct{ vaddr, size, paddr uint64 }

// linear is a region of virtual addresses from which the physical ones are
// calculated: paddr = vaddr - delta. It counts only where that is RAM.
type linear struct{ start, end, delta uint64 } // end included

// mmu translates virtual addresses of the crashed kernel.
type mmu struct {
	linears   []linear
	root      uint64 // paddr of the top table
	noTables  error  // why the tables cannot be walked, or nil
	levels    int    // at most maxLevels
	pageShift uint   // of the tables: they have 1<<(pageShift-3) entries
	topMask   uint64 // index bits of the top table
	sign      uint   // all bits from here up are set in a kernel address
	tagged    bool   // the top byte of an address does not count

	// decode gives what an entry points to: memory of 1<<leaf bytes, or with
	// leaf 0 the next table. Level 0 is that of single pages.
	decode func(entry uint64, level int) (paddr uint64, leaf uint, present bool)
}

const maxLevels = 5

// newMMU is the table of architectures.
func newMMU(c *Core) *mmu {
	switch c.header.machine {
	case elf.EM_X86_64:
		return newX86(c)
	case elf.EM_AARCH64:
		return newARM64(c)
	case elf.EM_RISCV:
		return newRISCV(c)
	}
	return &mmu{noTables: fmt.Errorf("virtual addresses of %v are not supported", c.header.machine)}
}

// levelShift is the number of address bits below the index of a level.
func (m *mmu) levelShift(level int) uint { return m.pageShift + uint(level)*(m.pageShift-3) }

// untag sets the top byte of a kernel address to what the tables are made for.
func (m *mmu) untag(vaddr uint64) uint64 {
	if m.tagged && vaddr&(1<<55) != 0 {
		vaddr |= 0xff << 56
	}
	return vaddr
}

// walk goes through the page tables.
func (m *mmu) walk(r *Reader, vaddr uint64) (mapping, error) {
	if m.noTables != nil {
		return mapping{}, m.noTables
	}
	if int64(vaddr)>>m.sign != -1 {
		return mapping{}, ErrNotMapped
	}
	mask := m.topMask
	table := m.root
	for level := m.levels - 1; level >= 0; level-- {
		shift := m.levelShift(level)
		entry, err := r.tableEntry(m, level, table+8*(vaddr>>shift&mask))
		if err != nil {
			return mapping{}, fmt.Errorf("page table of level %d: %w", level, err)
		}
		next, leaf, present := m.decode(entry, level)
		if !present {
			return mapping{}, ErrNotMapped
		}
		if leaf > 0 {
			size := uint64(1) << leaf
			return mapping{vaddr &^ (size - 1), size, next &^ (size - 1)}, nil
		}
		table, mask = next, 1<<(m.pageShift-3)-1
	}
	return mapping{}, ErrNotMapped
}

// calculate translates what lies in a linear region.
func (m *mmu) calculate(c *Core, vaddr uint64) (mapping, bool) {
	for _, l := range m.linears {
		if vaddr < l.start || vaddr > l.end {
			continue
		}
		paddr := vaddr - l.delta
		start, end, ok := c.ramAround(paddr)
		if !ok {
			continue
		}
		before, after := min(paddr-start, vaddr-l.start), min(end-paddr-1, l.end-vaddr)
		return mapping{vaddr - before, before + 1 + after, paddr - before}, true
	}
	return mapping{}, false
}

// tableCache keeps the last table page of each level.
type tableCache struct {
	data  []byte // maxLevels pages of the crashed kernel; allocated once
	paddr [maxLevels]uint64
	valid [maxLevels]bool
}

// tableEntry reads one page table entry.
func (r *Reader) tableEntry(m *mmu, level int, paddr uint64) (uint64, error) {
	size := uint64(1) << m.pageShift
	t := &r.tables
	if t.data == nil {
		t.data = make([]byte, maxLevels*size)
	}
	page := t.data[uint64(level)*size:][:size]
	if base := paddr &^ (size - 1); !t.valid[level] || t.paddr[level] != base {
		t.valid[level] = false
		if err := r.readPhys(page, base, true); err != nil {
			return 0, err
		}
		t.paddr[level], t.valid[level] = base, true
	}
	return binary.LittleEndian.Uint64(page[paddr&(size-1):]), nil
}

// Translate gives the physical address of a kernel virtual address.
func (r *Reader) Translate(vaddr uint64) (paddr uint64, err error) {
	vaddr = r.c.mmu.untag(vaddr)
	t, err := r.translate(vaddr)
	if err != nil {
		return 0, err
	}
	return t.paddr + (vaddr - t.vaddr), nil
}

// translate gives the mapping that holds vaddr.
func (r *Reader) translate(vaddr uint64) (*mapping, error) {
	for i := range r.translations {
		if t := &r.translations[i]; vaddr-t.vaddr < t.size {
			return t, nil
		}
	}
	found, ok := r.c.mmu.calculate(r.c, vaddr)
	if !ok {
		var err error
		if found, err = r.c.mmu.walk(r, vaddr); err != nil {
			return nil, &TranslateError{vaddr, err}
		}
	}
	t := &r.translations[r.nextSlot]
	r.nextSlot = (r.nextSlot + 1) % len(r.translations)
	*t = found
	return t, nil
}

// ReadVirt fills p from the kernel virtual address vaddr. The error is a
// *[TranslateError] or a *[ReadError].
func (r *Reader) ReadVirt(p []byte, vaddr uint64) error {
	vaddr = r.c.mmu.untag(vaddr)
	for len(p) > 0 {
		t, err := r.translate(vaddr)
		if err != nil {
			return err
		}
		off := vaddr - t.vaddr
		n := min(uint64(len(p)), t.size-off)
		if err := r.ReadPhys(p[:n], t.paddr+off); err != nil {
			return err
		}
		p, vaddr = p[n:], vaddr+n
	}
	return nil
}
