package vmcore

import "fmt"

// x86_64: Documentation/arch/x86/x86_64/mm.rst for the layout,
// arch/x86/include/asm/pgtable_types.h for the entries.
const (
	x86StartKernelMap  = 0xffffffff80000000 // __START_KERNEL_map
	x86KernelImageSize = 512 << 20          // where NUMBER(KERNEL_IMAGE_SIZE) is absent
	x86KernelHalf      = 1 << 63

	x86Present     = 1 << 0
	x86PSE         = 1 << 7 // memory, on the levels of 2 MiB and 1 GiB
	x86AddressMask = 1<<52 - 1<<12
)

// newX86: the kernel image is linear, the direct map has its base in the
// p_vaddr of the segments, everything else is in the tables of init_top_pgt.
func newX86(c *Core) *mmu {
	m := &mmu{levels: 4, pageShift: 12, topMask: 511, sign: 47}
	if n, _ := c.info.Number("pgtable_l5_enabled"); n != 0 {
		m.levels, m.sign = 5, 56
	}
	sme, _ := c.info.Number("sme_mask")
	m.decode = func(entry uint64, level int) (uint64, uint, bool) {
		leaf := uint(0)
		if level == 0 || level <= 2 && entry&x86PSE != 0 {
			leaf = m.levelShift(level)
		}
		return entry & x86AddressMask &^ uint64(sme), leaf, entry&x86Present != 0
	}
	size := uint64(x86KernelImageSize)
	if n, ok := c.info.Number("KERNEL_IMAGE_SIZE"); ok && n > 0 && n < 1<<31 {
		size = uint64(n)
	}
	image, ok := x86Image(c, size)
	if ok {
		m.linears = append(m.linears, image)
		c.physBase = x86StartKernelMap - image.delta
	}
	direct, haveDirect := directMap(c, x86KernelHalf, x86StartKernelMap-1)
	if haveDirect {
		m.linears = append(m.linears, direct)
	}
	pgd, known := c.info.Symbol("init_top_pgt")
	if !known {
		pgd, known = c.info.Symbol("swapper_pg_dir")
	}
	switch {
	case !known:
		m.noTables = c.info.Require("SYMBOL(swapper_pg_dir)")
	case !ok:
		m.noTables = c.info.Require("NUMBER(phys_base)")
	case pgd < image.start || pgd > image.end:
		m.noTables = fmt.Errorf("SYMBOL(swapper_pg_dir) %#x is not in the kernel image", pgd)
	}
	m.root = pgd - image.delta
	if m.noTables == nil && !haveDirect && c.pages != nil {
		if direct, ok := m.x86DirectMap(c.shared); ok {
			m.linears = append(m.linears, direct)
		}
	}
	return m
}

// x86DirectMap finds the direct map in the page tables, of a file without
// segments. It is the first thing that the kernel half of init_top_pgt maps, and
// its first page is paddr 0: its base is random by whole GiB
// (kernel_randomize_memory() in arch/x86/mm/kaslr.c).
func (m *mmu) x86DirectMap(r *Reader) (linear, bool) {
	table, vaddr, index := m.root, uint64(0), uint64(256)
	for level := m.levels - 1; level >= 0; level-- {
		for ; ; index++ {
			if index == 512 {
				return linear{}, false
			}
			entry, err := r.tableEntry(m, level, table+8*index)
			if err != nil {
				return linear{}, false
			}
			next, leaf, present := m.decode(entry, level)
			if !present {
				continue
			}
			vaddr |= index << m.levelShift(level)
			if leaf > 0 {
				vaddr |= -(uint64(1) << m.sign)
				delta := vaddr - next
				return linear{delta, x86StartKernelMap - 1, delta}, delta%(1<<30) == 0 && delta >= x86KernelHalf
			}
			table, index = next, 0
			break
		}
	}
	return linear{}, false
}

// x86Image is the mapping of the kernel image, from NUMBER(phys_base), or from
// the segment that kexec makes of the kernel's text.
func x86Image(c *Core, size uint64) (linear, bool) {
	l := linear{start: x86StartKernelMap, end: x86StartKernelMap + size - 1}
	if n, ok := c.info.Number("phys_base"); ok {
		l.delta = x86StartKernelMap - uint64(n)
		return l, true
	}
	for _, s := range c.header.segments {
		if s.vaddr >= l.start && s.vaddr <= l.end {
			l.delta = s.vaddr - s.paddr
			return l, true
		}
	}
	return linear{}, false
}

// directMap is the region in which the kernel maps all memory, as the p_vaddr
// of most memory have it. Only segments that lie in low to high count.
func directMap(c *Core, low, high uint64) (linear, bool) {
	bytes := make(map[uint64]uint64) // by delta
	var best uint64
	for _, s := range c.header.segments {
		if s.vaddr < low || s.vaddr > high {
			continue
		}
		delta := s.vaddr - s.paddr
		bytes[delta] += s.memsz
		if bytes[delta] > bytes[best] {
			best = delta
		}
	}
	if bytes[best] == 0 {
		return linear{}, false
	}
	return linear{max(low, best), high, best}, true
}
