package memmap

import (
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// section is a run of pfns whose struct pages lie in one array.
type section struct {
	vmcore.Range
	pages   uint64 // vaddr of the struct page of Start; 0: there is none
	offline bool   // the kernel does not use this memory
}

// Bits of mem_section.section_mem_map; include/linux/mmzone.h. How many flags
// there are below the pointer depends on the configuration and grows: five, and
// six with CONFIG_SPARSEMEM_VMEMMAP_PREINIT (in v6.15). But the pointer is that
// of a whole page less a multiple of the section's size in pages, so none of its
// low 12 bits is ever set.
const (
	sectionPresent = 1 << 0
	sectionOnline  = 1 << 2
	sectionMapMask = ^uint64(0xfff)
)

// memModel finds the struct page array: SPARSEMEM (static or extreme) or FLATMEM.
type memModel struct {
	core *vmcore.Core

	flat      uint64 // FLATMEM: vaddr of mem_map
	flatStart vmcore.PFN

	roots       []uint64 // SPARSEMEM: vaddr of each root's array of mem_section
	perRoot     uint64
	entrySize   uint64
	mapOffset   uint64
	sectionBits uint // pfns per section, as a power of two

	// tellsOnline: the flag sectionOnline means what it says. Memory that was added
	// but is not in use, or was taken out of use, has struct pages that nobody has
	// filled (pfn_to_online_page() in the kernel), and may be gone at any time.
	// Since Linux commit 2d070eab2e82 ("mm: consider zone which is not fully populated
	// to have holes") (in v4.13).
	tellsOnline bool
}

// newMemModel reads where the struct page array is, from the core's VMCOREINFO.
func newMemModel(core *vmcore.Core) (*memModel, error) {
	info := core.Info()
	if _, ok := info.Symbol("mem_section"); !ok {
		return newFlatModel(core)
	}
	if err := info.Require("SYMBOL(mem_section)", "LENGTH(mem_section)", "SIZE(mem_section)",
		"OFFSET(mem_section.section_mem_map)", "NUMBER(SECTION_SIZE_BITS)", "NUMBER(MAX_PHYSMEM_BITS)"); err != nil {
		return nil, err
	}
	m := &memModel{core: core}
	length, _ := info.Length("mem_section")
	m.entrySize, _ = info.Size("mem_section")
	m.mapOffset, _ = info.Offset("mem_section.section_mem_map")
	sizeBits, _ := info.Number("SECTION_SIZE_BITS")
	physBits, _ := info.Number("MAX_PHYSMEM_BITS")
	shift := int64(core.PageShift())
	if sizeBits <= shift || physBits < sizeBits || physBits > 57 || m.entrySize < 8 || m.entrySize > 1<<shift || m.mapOffset+8 > m.entrySize {
		return nil, fmt.Errorf("mem_section: SECTION_SIZE_BITS %d, MAX_PHYSMEM_BITS %d, SIZE %d do not fit together", sizeBits, physBits, m.entrySize)
	}
	m.sectionBits = uint(sizeBits - shift)
	m.perRoot = (1 << shift) / m.entrySize
	sections := uint64(1) << uint(physBits-sizeBits)
	array, _ := info.Symbol("mem_section")
	if length == sections { // static SPARSEMEM: the sections themselves stand in the kernel image
		m.perRoot, m.roots = sections, []uint64{array}
		m.tellsOnline = m.kernelOnline()
		return m, nil
	}
	if want := (sections + m.perRoot - 1) / m.perRoot; length != want {
		return nil, fmt.Errorf("mem_section: LENGTH %d, want %d roots", length, want)
	}
	if err := m.readRoots(array, length); err != nil {
		return nil, err
	}
	m.tellsOnline = m.kernelOnline()
	return m, nil
}

// kernelOnline says whether the section of the kernel's own text has the flag. If
// not, it cannot be what it was.
func (m *memModel) kernelOnline() bool {
	stext, ok := m.core.Info().Symbol("_stext")
	if !ok {
		return false
	}
	paddr, err := m.core.Translate(stext)
	if err != nil {
		return false
	}
	v, err := m.entry(vmcore.PFN(paddr >> m.core.PageShift()))
	return err == nil && v&sectionPresent != 0 && v&sectionOnline != 0
}

// entry gives section_mem_map of the section that holds pfn; 0 where there is none.
func (m *memModel) entry(pfn vmcore.PFN) (uint64, error) {
	nr := uint64(pfn >> m.sectionBits)
	if root := nr / m.perRoot; root >= uint64(len(m.roots)) || m.roots[root] == 0 {
		return 0, nil
	}
	var raw [8]byte
	at := m.roots[nr/m.perRoot] + nr%m.perRoot*m.entrySize + m.mapOffset
	if err := m.core.ReadVirt(raw[:], at); err != nil {
		return 0, fmt.Errorf("read mem_section %d: %w", nr, err)
	}
	return m.core.ByteOrder().Uint64(raw[:]), nil
}

// readRoots reads the root array of SPARSEMEM_EXTREME as far as this core's RAM
// goes. Since Linux commit a0b1280368d1 ("kdump: write correct address of
// mem_section into vmcoreinfo") (in v4.15) the symbol is the array itself.
func (m *memModel) readRoots(array, length uint64) error {
	perRootPages := m.perRoot << m.sectionBits
	need := (uint64(m.core.MaxPFN()) + perRootPages - 1) / perRootPages
	need = min(need, length)
	raw := make([]byte, need*8)
	if err := m.core.ReadVirt(raw, array); err != nil {
		return fmt.Errorf("read mem_section roots: %w", err)
	}
	m.roots = make([]uint64, need)
	for i := range m.roots {
		m.roots[i] = m.core.ByteOrder().Uint64(raw[i*8:])
	}
	return nil
}

func newFlatModel(core *vmcore.Core) (*memModel, error) {
	info := core.Info()
	symbol, ok := info.Symbol("mem_map")
	if !ok {
		return nil, info.Require("SYMBOL(mem_section)")
	}
	var raw [8]byte
	if err := core.ReadVirt(raw[:], symbol); err != nil {
		return nil, fmt.Errorf("read mem_map: %w", err)
	}
	m := &memModel{core: core, flat: core.ByteOrder().Uint64(raw[:]), sectionBits: 15}
	if m.flat == 0 {
		return nil, fmt.Errorf("mem_map is a null pointer")
	}
	// ARCH_PFN_OFFSET of riscv; elsewhere the first memory there is.
	if base, ok := info.Number("phys_ram_base"); ok && base != 0 {
		m.flatStart = vmcore.PFN(uint64(base) >> core.PageShift())
	} else if r := core.Ranges(); len(r) > 0 {
		m.flatStart = r[0].Start
	}
	return m, nil
}

// section gives the section that holds pfn. An unreadable or absent one has no
// pages; that is an error only if the kernel says that the section is there.
func (m *memModel) section(pfn vmcore.PFN, pageSize uint64) (section, error) {
	start := pfn >> m.sectionBits << m.sectionBits
	s := section{Range: vmcore.Range{Start: start, End: start + 1<<m.sectionBits}}
	if m.flat != 0 {
		if s.End > m.flatStart { // the array may begin within the section
			s.Start = max(start, m.flatStart)
			s.pages = m.flat + uint64(s.Start-m.flatStart)*pageSize
		}
		return s, nil
	}
	v, err := m.entry(pfn)
	if err == nil && v&sectionPresent != 0 {
		s.pages = v&sectionMapMask + uint64(start)*pageSize
		s.offline = m.tellsOnline && v&sectionOnline == 0
	}
	return s, err
}
