package memmap

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// pageReader is how to read one struct page of the crashed kernel: byte
// offsets in it and the values its fields take.
type pageReader struct {
	order binary.ByteOrder
	size  uint64 // SIZE(page)

	// missing is what VMCOREINFO lacks for telling all classes apart; nil: nothing.
	// Otherwise fields whose key is missing are 0, and only the classes count that
	// are never read.
	missing error

	flags, mapcount, mapping, private, compound uint64 // offsets

	lru, hasPrivate, swapcache, swapbacked, slab, hwpoison, head uint64 // masks of flags, 0: not in this kernel

	hasTypes bool // mapcount is known
	hasTails bool // compound and head are
	types    pageTypes
	hugetlb  hugetlbRule
	orders   uint64 // LENGTH(zone.free_area): a free block's order is below it
}

// newPageReader collects the layout from VMCOREINFO. Its error says which keys are
// missing even for the classes that are never read.
func newPageReader(info *vmcoreinfo.Info, order binary.ByteOrder) (*pageReader, error) {
	if err := info.Require("SIZE(page)", "OFFSET(page.flags)"); err != nil {
		return nil, err
	}
	p := &pageReader{order: order, types: newPageTypes(info), hugetlb: newHugetlbRule(info)}
	if p.size, _ = info.Size("page"); p.size < 32 || p.size > 4096 {
		return nil, &layoutError{"SIZE(page)", p.size}
	}
	var err error
	if p.flags, _, err = p.offset(info, "page.flags", 8); err != nil {
		return nil, err
	}
	p.lru = flagMask(info, "PG_lru")
	p.hasPrivate = flagMask(info, "PG_private")
	p.swapcache = flagMask(info, "PG_swapcache")
	p.swapbacked = flagMask(info, "PG_swapbacked")
	p.slab = flagMask(info, "PG_slab")
	p.hwpoison = flagMask(info, "PG_hwpoison")
	head, hasHead := info.Number("PG_head_mask")
	p.head = uint64(head)
	p.missing = p.rest(info, hasHead)
	return p, nil
}

// rest collects what may be missing, and says what is. Nothing that it leaves is
// outside of a struct page.
func (p *pageReader) rest(info *vmcoreinfo.Info, hasHead bool) error {
	err := info.Require("OFFSET(page._mapcount)", "OFFSET(page.mapping)", "OFFSET(page.private)", "NUMBER(PG_lru)", "NUMBER(PG_private)",
		"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "LENGTH(zone.free_area)", "NUMBER(PG_head_mask)")
	name := "page.compound_head"
	if _, ok := info.Offset("page.compound_info"); ok { // renamed in Linux 7.1
		name = "page.compound_info"
	}
	var errs [5]error
	p.mapcount, p.hasTypes, errs[0] = p.offset(info, "page._mapcount", 4)
	p.mapping, _, errs[1] = p.offset(info, "page.mapping", 8)
	p.private, _, errs[2] = p.offset(info, "page.private", 8)
	p.compound, p.hasTails, errs[3] = p.offset(info, name, 8)
	if !p.hasTails {
		errs[3] = cmp.Or(errs[3], info.Require("OFFSET(page.compound_head)"))
	}
	p.hasTails = p.hasTails && hasHead
	if p.orders, _ = info.Length("zone.free_area"); p.orders == 0 || p.orders > maxOrders {
		errs[4] = &layoutError{"LENGTH(zone.free_area)", p.orders}
		p.orders = x86Orders
	}
	if wrong := p.hugetlb.check(p.size); wrong != nil {
		err, p.hugetlb = cmp.Or(err, wrong), hugetlbRule{}
	}
	return cmp.Or(err, cmp.Or(errs[:]...))
}

// offset gives that of a member, if it is known and inside of struct page. A missing
// one is no error.
func (p *pageReader) offset(info *vmcoreinfo.Info, member string, width uint64) (off uint64, ok bool, err error) {
	off, ok = info.Offset(member)
	if ok && (off > p.size || off+width > p.size) {
		return 0, false, &layoutError{"OFFSET(" + member + ")", off}
	}
	return off, ok, nil
}

// x86Orders is LENGTH(zone.free_area) of x86_64, where MAX_PAGE_ORDER is 10: of a
// kernel that does not tell only the blocks of unaccepted memory count, and no other
// architecture has that (CONFIG_UNACCEPTED_MEMORY).
const x86Orders = 11

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
	if c, typed := p.typed(page); typed {
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

// typed gives the class of a page that has a type.
func (p *pageReader) typed(page []byte) (c Class, typed bool) {
	if !p.hasTypes {
		return Unknown, false
	}
	return p.types.class(p.order.Uint32(page[p.mapcount:]))
}

// told is what counts of class c: where keys are missing, only what is certain
// without them.
func (p *pageReader) told(c Class) Class {
	if p.missing == nil || c == NoStruct || Level(0).Excludes(c) {
		return c
	}
	return Unknown
}

// tail gives the word that leads to the head, if the page is the tail of a compound page.
func (p *pageReader) tail(page []byte) (word uint64, ok bool) {
	word = p.u64(page, p.compound)
	return word, word&1 != 0 && p.hasTails
}

// blockOrder gives the order of the block of pages that a page begins which the
// allocator has: the other pages of the block have nothing of it in their own
// struct pages. Unaccepted memory always comes in blocks of the largest order
// (__free_unaccepted() in mm/page_alloc.c).
func (p *pageReader) blockOrder(page []byte, c Class) (order uint64, block bool) {
	switch c {
	case Free: // which tells nothing where keys are missing: nothing is left out for it
		return p.u64(page, p.private), p.missing == nil
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
	_, typed := p.typed(page)
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
