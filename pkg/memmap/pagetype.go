package memmap

import (
	"encoding/binary"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// pageTypes decides by page_type, which shares its word with _mapcount.
//
// Up to Linux 6.11 a type is a bit cleared in a word of ones (buddy is
// 0xffffff7f, in 6.11 0xbfffffff, where the low 16 bits belong to the owner);
// since Linux commit 4ffca5a96678 ("mm: support only one page_type per page")
// (in v6.12) it is a value in the top byte (buddy is 0xf0) and the low 24 bits
// belong to the owner. The form is told by the exported value itself.
type pageTypes struct {
	values bool
	least  int32            // from here up a word is a map count; PAGE_MAPCOUNT_RESERVE
	owner  uint32           // bits that do not count
	byBits map[uint32]Class // values: top byte; else: the cleared bit
}

func newPageTypes(info *vmcoreinfo.Info) pageTypes {
	buddy, ok := info.Number("PAGE_BUDDY_MAPCOUNT_VALUE")
	if !ok { // another type has the same form
		buddy, _ = info.Number("PAGE_OFFLINE_MAPCOUNT_VALUE")
	}
	t := pageTypes{values: uint32(buddy)&0x00ffffff == 0, least: -128, byBits: map[uint32]Class{}}
	// Types that exist but that no level leaves out; include/linux/page-flags.h.
	known := []uint32{0x200, 0x400, 0x1000, 0x2000} // table, guard, slab, zsmalloc
	switch {
	case t.values:
		// PGTY_mapcount_underflow is 0xff.
		t.least = -1 << 24
		known = []uint32{0xf2, 0xf3, 0xf5, 0xf6, 0xf8} // table, guard, slab, zsmalloc, large_kmalloc
	case ^uint32(buddy) > 0xffff:
		t.least, t.owner = -1<<16, 0xffff
		known = []uint32{0x10000000, 0x08000000, 0x02000000, 0x01000000} // table, guard, slab, zsmalloc
	}
	for _, k := range known {
		t.byBits[k] = Kernel
	}
	for _, e := range []struct {
		name  string
		class Class
	}{
		{"PAGE_BUDDY_MAPCOUNT_VALUE", Free}, {"PAGE_OFFLINE_MAPCOUNT_VALUE", Offline}, {"PAGE_SLAB_MAPCOUNT_VALUE", Kernel},
		{"PAGE_HUGETLB_MAPCOUNT_VALUE", User}, {"PAGE_UNACCEPTED_MAPCOUNT_VALUE", Unaccepted},
	} {
		if v, ok := info.Number(e.name); ok {
			t.byBits[t.key(uint32(v))] = e.class
		}
	}
	return t
}

// key is what distinguishes the type in a page_type word.
func (t *pageTypes) key(word uint32) uint32 {
	if t.values {
		return word >> 24
	}
	return ^(word | t.owner)
}

// class gives the class of a typed page; typed is false for a word that is a
// plain map count.
func (t *pageTypes) class(word uint32) (c Class, typed bool) {
	if int32(word) >= t.least {
		return Kernel, false
	}
	if c, ok := t.byBits[t.key(word)]; ok {
		return c, true
	}
	return Unknown, true
}

// hugetlbRule tells a hugetlb page by its head before it became a page type
// (Linux 6.9). Offsets count from the head's struct page; 0 in at means there
// is no rule.
type hugetlbRule struct {
	at   uint64
	wide bool   // an 8-byte flags word with mask in, else one byte that equals want
	mask uint64 // of the flags word
	want byte
}

func newHugetlbRule(info *vmcoreinfo.Info) hugetlbRule {
	size, _ := info.Size("page")
	if bit := flagMask(info, "PG_hugetlb"); bit != 0 { // 6.6 to 6.8: a flag of the second struct page
		flags, _ := info.Offset("page.flags")
		return hugetlbRule{at: size + flags, wide: true, mask: bit}
	}
	want, ok := info.Number("HUGETLB_PAGE_DTOR")
	if !ok {
		return hugetlbRule{}
	}
	if at, ok := info.Offset("folio._folio_dtor"); ok { // 6.3 to 6.5: counted from the head
		return hugetlbRule{at: at, want: byte(want)}
	}
	if at, ok := info.Offset("page.compound_dtor"); ok { // in the second struct page
		return hugetlbRule{at: size + at, want: byte(want)}
	}
	return hugetlbRule{}
}

func (h hugetlbRule) check(pageSize uint64) error {
	if h.at > 2*pageSize-8 {
		return &layoutError{"OFFSET of the hugetlb mark", h.at}
	}
	return nil
}

// match looks at a compound page's head and second struct page.
func (h hugetlbRule) match(order binary.ByteOrder, page []byte) bool {
	if h.at == 0 || h.at+8 > uint64(len(page)) {
		return false
	}
	if h.wide {
		return order.Uint64(page[h.at:])&h.mask != 0
	}
	return page[h.at] == h.want
}
