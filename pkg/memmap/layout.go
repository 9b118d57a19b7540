package memmap

import (
	"encoding/binary"
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// pageReader is how to read one struct page of the crashed kernel: byte
// offsets in it and the values its fields take.
type pageReader struct {
	order binary.ByteOrder
	size  uint64 // SIZE(page)

	flags, mapcount, mapping, private, compound uint64 // offsets

	lru, hasPrivate, swapcache, swapbacked, slab, hwpoison, head uint64 // masks of flags, 0: not in this kernel

	types   pageTypes
	hugetlb hugetlbRule
	orders  uint64 // LENGTH(zone.free_area): a free block's order is below it
}

// newPageReader collects the layout from VMCOREINFO, or says which keys are
// missing for it.
func newPageReader(info *vmcoreinfo.Info, order binary.ByteOrder) (*pageReader, error) {
	if err := info.Require("SIZE(page)", "OFFSET(page.flags)", "OFFSET(page._mapcount)", "OFFSET(page.mapping)",
		"OFFSET(page.private)", "NUMBER(PG_lru)", "NUMBER(PG_private)", "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)",
		"LENGTH(zone.free_area)", "NUMBER(PG_head_mask)"); err != nil {
		return nil, err
	}
	compound, ok := info.Offset("page.compound_head")
	if !ok { // renamed in Linux 7.1
		if compound, ok = info.Offset("page.compound_info"); !ok {
			return nil, info.Require("OFFSET(page.compound_head)")
		}
	}
	p := &pageReader{order: order, compound: compound, types: newPageTypes(info), hugetlb: newHugetlbRule(info)}
	p.size, _ = info.Size("page")
	p.flags, _ = info.Offset("page.flags")
	p.mapcount, _ = info.Offset("page._mapcount")
	p.mapping, _ = info.Offset("page.mapping")
	p.private, _ = info.Offset("page.private")
	p.orders, _ = info.Length("zone.free_area")
	p.lru = flagMask(info, "PG_lru")
	p.hasPrivate = flagMask(info, "PG_private")
	p.swapcache = flagMask(info, "PG_swapcache")
	p.swapbacked = flagMask(info, "PG_swapbacked")
	p.slab = flagMask(info, "PG_slab")
	p.hwpoison = flagMask(info, "PG_hwpoison")
	head, _ := info.Number("PG_head_mask")
	p.head = uint64(head)
	if err := p.checkBounds(); err != nil {
		return nil, err
	}
	return p, nil
}

// checkBounds refuses a VMCOREINFO whose offsets lie outside struct page.
func (p *pageReader) checkBounds() error {
	if p.size < 32 || p.size > 4096 {
		return &layoutError{"SIZE(page)", p.size}
	}
	for _, f := range []struct {
		key           string
		offset, width uint64
	}{
		{"OFFSET(page.flags)", p.flags, 8}, {"OFFSET(page._mapcount)", p.mapcount, 4}, {"OFFSET(page.mapping)", p.mapping, 8},
		{"OFFSET(page.private)", p.private, 8}, {"OFFSET(page.compound_head)", p.compound, 8},
	} {
		if f.offset > p.size || f.offset+f.width > p.size {
			return &layoutError{f.key, f.offset}
		}
	}
	if p.orders == 0 || p.orders > maxOrders {
		return &layoutError{"LENGTH(zone.free_area)", p.orders}
	}
	return p.hugetlb.check(p.size)
}

// maxOrders bounds the order of a free block; MAX_PAGE_ORDER is at most 16.
const maxOrders = 32

// flagMask gives the bit of a page flag, 0 if this kernel does not name it.
func flagMask(info *vmcoreinfo.Info, name string) uint64 {
	n, ok := info.Number(name)
	if !ok || n < 0 || n > 63 {
		return 0
	}
	return 1 << uint(n)
}

func (p *pageReader) u64(page []byte, off uint64) uint64 { return p.order.Uint64(page[off:]) }

// isHead says whether the page is the head of a compound page.
func (p *pageReader) isHead(page []byte) bool { return p.u64(page, p.flags)&p.head != 0 }

// poisoned says whether the page is broken memory, which every page of a
// compound page is on its own.
func (p *pageReader) poisoned(page []byte) bool { return p.u64(page, p.flags)&p.hwpoison != 0 }

// unlessPoisoned is class c, or HWPoison.
func (p *pageReader) unlessPoisoned(page []byte, c Class) Class {
	if p.poisoned(page) {
		return HWPoison
	}
	return c
}

// classify decides the class of a page that is not the tail of a compound
// page, poisoned or not. page holds its struct page and, if there is one, the struct page after
// it, where older kernels keep what is true of the whole compound page.
//
// The type, where there is one, decides alone: other fields overlay mapping,
// lru and private of typed pages (slab since Linux 6.2).
func (p *pageReader) classify(page []byte) Class {
	flags := p.u64(page, p.flags)
	if c, typed := p.types.class(p.order.Uint32(page[p.mapcount:])); typed {
		return c
	}
	if flags&p.slab != 0 {
		return Kernel
	}
	anon := p.u64(page, p.mapping)&1 != 0 // PAGE_MAPPING_ANON
	cache := flags&p.lru != 0 || (p.swapbacked != 0 && p.swapcache != 0 && flags&p.swapbacked != 0 && flags&p.swapcache != 0)
	switch {
	case anon:
		return User
	case cache && flags&p.hasPrivate != 0:
		return CachePrivate
	case cache:
		return Cache
	case p.isHead(page) && p.hugetlb.match(p.order, page):
		return User
	}
	return Kernel
}

// blockOrder gives the order of the block of pages that a page begins which the
// allocator has: the other pages of the block have nothing of it in their own
// struct pages. Unaccepted memory always comes in blocks of the largest order
// (__free_unaccepted() in mm/page_alloc.c).
func (p *pageReader) blockOrder(page []byte, c Class) (order uint64, block bool) {
	switch c {
	case Free:
		return p.u64(page, p.private), true
	case Unaccepted:
		return p.orders - 1, true
	}
	return 0, false
}

// tailClass is what class c of a compound page's head means for its tails. page is
// as for classify. A free block is not compound. A poisoned hugetlb page may be
// broken in any of its pages: they are listed in memory behind the head, and only
// the head has the flag, since Linux commit 161df60e9e89 ("mm, hwpoison, hugetlb:
// support saving mechanism of raw error pages") (in v6.1).
func (p *pageReader) tailClass(page []byte, c Class) Class {
	switch {
	case c == Free:
		return Unknown
	case c == User && p.poisoned(page) && p.isHugetlb(page):
		return HWPoison
	}
	return c
}

// isHugetlb looks at a head of class User. No other type of page is User.
func (p *pageReader) isHugetlb(page []byte) bool {
	_, typed := p.types.class(p.order.Uint32(page[p.mapcount:]))
	return typed || p.hugetlb.match(p.order, page)
}

// layoutError is a VMCOREINFO value that cannot be true.
type layoutError struct {
	key   string
	value uint64
}

func (e *layoutError) Error() string {
	return fmt.Sprintf("vmcoreinfo %s=%d: that cannot be", e.key, e.value)
}
