package vmcoretest

import (
	"fmt"
	"strings"
)

// pageArray is the struct page array.
type pageArray struct {
	region
	first uint64 // pfn of its first struct page
	size  uint64 // of struct page
}

// memmapInfo is what a 6.1 kernel for x86_64 says of struct page.
func memmapInfo() []string {
	return []string{
		"SIZE(mem_section)=16", "OFFSET(mem_section.section_mem_map)=0",
		"NUMBER(SECTION_SIZE_BITS)=27", "NUMBER(MAX_PHYSMEM_BITS)=46",
		"SIZE(page)=64", "OFFSET(page.flags)=0", "OFFSET(page._refcount)=52", "OFFSET(page.mapping)=24",
		"OFFSET(page.lru)=8", "OFFSET(page._mapcount)=48", "OFFSET(page.private)=40",
		"OFFSET(page.compound_dtor)=16", "OFFSET(page.compound_order)=17", "OFFSET(page.compound_head)=8",
		"LENGTH(zone.free_area)=11", "NUMBER(PG_lru)=4", "NUMBER(PG_private)=13", "NUMBER(PG_swapcache)=10",
		"NUMBER(PG_swapbacked)=19", "NUMBER(PG_slab)=9", "NUMBER(PG_hwpoison)=22", "NUMBER(PG_head_mask)=65536",
		"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129", "NUMBER(HUGETLB_PAGE_DTOR)=2",
		"NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257",
	}
}

// memmap makes the struct page array and what leads to it. Lines of VMCOREINFO
// that are there already stay.
func (c *core) memmap(a *args) error {
	model, r := a.word(), region{vaddr: a.number(), paddr: a.number()}
	r.repeat = a.option("repeat", 0)
	if err := a.done(nil); err != nil {
		return err
	}
	for _, line := range memmapInfo() {
		key, _, _ := strings.Cut(line, "=")
		if _, err := c.infoNumber(key); err != nil && !c.hasInfo(key) {
			c.setInfo(line)
		}
	}
	var err error
	if c.pages.size, err = c.infoNumber("SIZE(page)"); err != nil {
		return err
	}
	first, end := ^uint64(0), uint64(0)
	for _, l := range c.loads {
		first, end = min(first, l.paddr/c.pageSize), max(end, (l.paddr+l.size+c.pageSize-1)/c.pageSize)
	}
	if end == 0 {
		return fmt.Errorf("there are no loads yet")
	}
	if model != "flat" {
		first = 0
	}
	c.pages.first = first
	r.size = uint64(roundUp(int64((end-first)*c.pages.size), int64(max(c.pageSize, r.repeat))))
	if r.repeat == 0 {
		r.repeat = r.size
	}
	c.pages.region = r
	if err := c.mapRegion(r, 0); err != nil {
		return err
	}
	switch model {
	case "flat":
		return c.flat()
	case "extreme", "static":
		return c.sections(model)
	}
	return fmt.Errorf("no such model: want extreme, static or flat")
}

func (c *core) hasInfo(key string) bool {
	for _, line := range c.info {
		if strings.HasPrefix(line, key+"=") {
			return true
		}
	}
	return false
}

// flat stores the array's address in a variable mem_map.
func (c *core) flat() error {
	at, err := c.alloc(8)
	if err != nil {
		return err
	}
	c.put(at, le64(c.pages.vaddr))
	c.setInfo(fmt.Sprintf("SYMBOL(mem_map)=%x", at-c.image.paddr+c.image.vaddr))
	c.dropInfo("SIZE(mem_section)")
	c.dropInfo("OFFSET(mem_section.section_mem_map)")
	return nil
}

// sections makes the mem_section entries of all sections that have memory, in
// one array (static) or in a page for each root (extreme).
func (c *core) sections(model string) error {
	var n [4]uint64
	for i, key := range []string{"SIZE(mem_section)", "OFFSET(mem_section.section_mem_map)",
		"NUMBER(SECTION_SIZE_BITS)", "NUMBER(MAX_PHYSMEM_BITS)"} {
		var err error
		if n[i], err = c.infoNumber(key); err != nil {
			return err
		}
	}
	size, offset, count := n[0], n[1], uint64(1)<<(n[3]-n[2])
	perRoot, length, entry := count, count, size
	if model == "extreme" {
		perRoot = c.pageSize / size
		length, entry = (count+perRoot-1)/perRoot, 8
	}
	array, err := c.alloc(length * entry)
	if err != nil {
		return err
	}
	roots := make(map[uint64]uint64)
	for _, l := range c.loads {
		for nr := l.paddr >> n[2]; nr<<n[2] < l.paddr+l.size; nr++ {
			root := array
			if model == "extreme" {
				if root = roots[nr/perRoot]; root == 0 {
					if root, err = c.alloc(c.pageSize); err != nil {
						return err
					}
					roots[nr/perRoot] = root
					c.put(array+8*(nr/perRoot), le64(root-c.image.paddr+c.image.vaddr))
				}
			}
			// Encoded as the kernel does: less the section's first pfn, which for a
			// vmemmap gives its base; bits 0 to 3: present, has a mem_map, online, early.
			c.put(root+nr%perRoot*size+offset, le64(c.pages.vaddr|0xf))
		}
	}
	c.setInfo(fmt.Sprintf("SYMBOL(mem_section)=%x", array-c.image.paddr+c.image.vaddr))
	c.setInfo(fmt.Sprintf("LENGTH(mem_section)=%d", length))
	return nil
}

// page sets members of struct pages.
func (c *core) page(a *args) error {
	pfn, count := a.number(), a.number()
	type member struct{ offset, width, value uint64 }
	var members []member
	for len(a.words) > 0 {
		name, value, _ := strings.Cut(a.word(), "=")
		m := member{width: 8}
		var err error
		if m.offset, err = c.infoNumber("OFFSET(page." + name + ")"); err != nil {
			return err
		}
		if m.value, err = number(value); err != nil {
			return err
		}
		if name == "_refcount" || name == "_mapcount" {
			m.width = 4
		}
		members = append(members, m)
	}
	if c.pages.size == 0 {
		return fmt.Errorf("pages need a memmap: directive memmap")
	}
	for ; count > 0; pfn, count = pfn+1, count-1 {
		at, err := c.physical(c.pages.vaddr + (pfn-c.pages.first)*c.pages.size)
		if err != nil {
			return err
		}
		for _, m := range members {
			c.put(at+m.offset, le64(m.value)[:m.width])
		}
	}
	return a.err
}
