package vmcore

import "fmt"

// arm64: Documentation/arch/arm64/memory.rst for the layout,
// arch/arm64/include/asm/{memory,pgtable-hwdef}.h for the rest.
const (
	arm64Valid = 1 << 0
	arm64Table = 1 << 1 // on level 0: a page
)

// newARM64: the linear map begins at PAGE_OFFSET, which is -(1<<VA_BITS) since
// Linux commit 14c127c957c1 ("arm64: mm: Flip kernel VA space") (in v5.4); the
// kernel image lies kimage_voffset above its memory.
func newARM64(c *Core) *mmu {
	m := &mmu{pageShift: c.pageShift, tagged: true}
	if m.noTables = c.info.Require("NUMBER(VA_BITS)", "NUMBER(kimage_voffset)", "SYMBOL(swapper_pg_dir)"); m.noTables != nil {
		return m
	}
	n, _ := c.info.Number("VA_BITS")
	if n < 36 || n > 52 {
		m.noTables = fmt.Errorf("NUMBER(VA_BITS)=%d is not between 36 and 52", n)
		return m
	}
	vaBits := uint(n)
	actual := vaBits // vabits_actual
	for _, key := range []string{"TCR_EL1_T1SZ", "tcr_el1_t1sz"} {
		if t1sz, ok := c.info.Number(key); ok && t1sz >= 12 && t1sz <= 28 {
			actual = uint(64 - t1sz)
		}
	}
	index := vaBits
	if m.pageShift != 16 {
		// With 4K and 16K pages a 52-bit kernel on hardware without LPA2 takes a
		// level less; with 64K it keeps the large top table.
		index = actual
	}
	m.levels, m.sign = int((index-4)/(m.pageShift-3)), index
	m.topMask = 1<<(index-m.levelShift(m.levels-1)) - 1
	m.decode = arm64Decode(m.pageShift, m.pageShift != 16 && actual > 48)

	voffset, _ := c.info.Number("kimage_voffset")
	for _, s := range c.header.segments {
		if s.vaddr-s.paddr == uint64(voffset) && s.memsz > 0 {
			m.linears = append(m.linears, linear{s.vaddr, s.vaddr + s.memsz - 1, uint64(voffset)})
		}
	}
	if physOffset, ok := c.info.Number("PHYS_OFFSET"); ok {
		pageOffset, pageEnd := -(uint64(1) << vaBits), -(uint64(1) << (arm64VABitsMin(vaBits, m.pageShift) - 1))
		m.linears = append(m.linears, linear{pageOffset, pageEnd - 1, pageOffset - uint64(physOffset)})
	}
	pgd, _ := c.info.Symbol("swapper_pg_dir")
	m.root = pgd - uint64(voffset)
	return m
}

// arm64VABitsMin is VA_BITS_MIN: what hardware without 52-bit addresses has.
func arm64VABitsMin(vaBits, pageShift uint) uint {
	switch {
	case vaBits <= 48:
		return vaBits
	case pageShift == 14:
		return 47
	}
	return 48
}

// arm64Decode: address bits 48 to 51 are bits 12 to 15 of an entry of 64K pages
// (LPA), and address bits 50 and 51 are bits 8 and 9 with LPA2, which only 4K
// and 16K pages have; without it those bits are attributes.
func arm64Decode(pageShift uint, lpa2 bool) func(uint64, int) (uint64, uint, bool) {
	page := uint64(1)<<pageShift - 1
	return func(entry uint64, level int) (uint64, uint, bool) {
		paddr := entry & (1<<48 - 1) &^ page
		switch {
		case pageShift == 16:
			paddr |= entry >> 12 & 0xf << 48
		case lpa2:
			paddr = entry&(1<<50-1)&^page | entry>>8&3<<50
		}
		table, valid := entry&arm64Table != 0, entry&arm64Valid != 0
		switch {
		case level == 0:
			return paddr, pageShift, valid && table
		case table:
			return paddr, 0, valid
		}
		return paddr, pageShift + uint(level)*(pageShift-3), valid
	}
}
