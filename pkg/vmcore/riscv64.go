package vmcore

// riscv64: Documentation/arch/riscv/vm-layout.rst for the layout,
// arch/riscv/include/asm/pgtable-64.h for the entries.
const (
	riscvValid = 1 << 0
	riscvRWX   = 7 << 1  // any of them: memory
	riscvN     = 1 << 63 // Svnapot: 16 pages, in the low bits of the page number
)

// newRISCV: the kernel image lies va_kernel_pa_offset above its memory, from
// KERNEL_LINK_ADDR up; the direct map begins at PAGE_OFFSET.
func newRISCV(c *Core) *mmu {
	m := &mmu{pageShift: 12, topMask: 511, decode: riscvDecode}
	if m.noTables = c.info.Require("NUMBER(VA_BITS)", "SYMBOL(swapper_pg_dir)"); m.noTables != nil {
		return m
	}
	m.levels = riscvLevels(c)
	m.sign = m.levelShift(m.levels) - 1
	link := uint64(0xffffffff80000000)
	if n, ok := c.info.Number("KERNEL_LINK_ADDR"); ok {
		link = uint64(n)
	}
	image, ok := riscvImage(c, link)
	if ok {
		m.linears = append(m.linears, image)
	}
	pageOffset, ok1 := c.info.Number("PAGE_OFFSET")
	ramBase, ok2 := c.info.Number("phys_ram_base")
	if ok1 && ok2 && uint64(pageOffset) < link {
		m.linears = append(m.linears, linear{uint64(pageOffset), link - 1, uint64(pageOffset - ramBase)})
	}
	pgd, _ := c.info.Symbol("swapper_pg_dir")
	m.root = pgd - image.delta
	if !ok {
		m.noTables = c.info.Require("NUMBER(va_kernel_pa_offset)")
	}
	return m
}

// riscvImage is the mapping of the kernel image. va_kernel_pa_offset was
// exported later than the rest; before, the segment of the kernel's text tells.
func riscvImage(c *Core, link uint64) (linear, bool) {
	l := linear{start: link, end: ^uint64(0)}
	if n, ok := c.info.Number("va_kernel_pa_offset"); ok {
		l.delta = uint64(n)
		return l, true
	}
	for _, s := range c.header.segments {
		if s.vaddr >= link && s.memsz > 0 {
			l.delta = s.vaddr - s.paddr
			return l, true
		}
	}
	return linear{}, false
}

// riscvLevels: the mode in satp is 8 for Sv39, 9 for Sv48, 10 for Sv57.
func riscvLevels(c *Core) int {
	if satp, ok := c.info.Number("satp"); ok {
		if mode := uint64(satp) >> 60; mode >= 8 && mode <= 10 {
			return int(mode) - 5
		}
	}
	switch bits, _ := c.info.Number("VA_BITS"); {
	case bits > 48:
		return 5
	case bits > 39:
		return 4
	}
	return 3
}

func riscvDecode(entry uint64, level int) (paddr uint64, leaf uint, present bool) {
	paddr = entry >> 10 & (1<<44 - 1) << 12
	present = entry&riscvValid != 0
	switch {
	case entry&riscvRWX == 0:
		return paddr, 0, present && level > 0
	case level == 0 && entry&riscvN != 0 && paddr>>12&0xf == 8:
		return paddr, 16, present
	}
	return paddr, 12 + 9*uint(level), present
}
