package main

import (
	"encoding/binary"
	"fmt"

	"github.com/ukdump/ukdump/pkg/memmap"
)

// page is a struct page as it stands in the core, read here a second time and
// not through pkg/memmap: by the section table of SPARSEMEM_EXTREME on x86_64.
type page struct {
	pfn, vaddr                    uint64
	flags, compound, mapping, prv uint64
	mapcount                      uint32
	section                       uint64 // flags of section_mem_map
}

const sectionOnline = 1 << 2 // SECTION_IS_ONLINE of include/linux/mmzone.h

func (s *subject) page(pfn uint64) (p page, err error) {
	info := s.core.Info()
	value := func(v uint64, ok bool) uint64 {
		if !ok {
			err = fmt.Errorf("struct page of pfn %#x: a key is missing", pfn)
		}
		return v
	}
	u64 := func(vaddr uint64) uint64 {
		var b [8]byte
		if e := s.core.ReadVirt(b[:], vaddr); e != nil && err == nil {
			err = e
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	bits, _ := info.Number("SECTION_SIZE_BITS")
	shift := uint(bits) - s.core.PageShift()
	entry := value(info.Size("mem_section"))
	perRoot := 4096 / entry
	section := pfn >> shift
	root := u64(value(info.Symbol("mem_section")) + section/perRoot*8)
	if err != nil || root == 0 {
		return p, fmt.Errorf("struct page of pfn %#x: no section (%w)", pfn, err)
	}
	memMap := u64(root + section%perRoot*entry + value(info.Offset("mem_section.section_mem_map")))
	p = page{pfn: pfn, vaddr: memMap&^0xfff + pfn*value(info.Size("page")), section: memMap & 0xfff}
	compound, ok := info.Offset("page.compound_head")
	if !ok {
		compound = value(info.Offset("page.compound_info"))
	}
	p.flags = u64(p.vaddr + value(info.Offset("page.flags")))
	p.compound = u64(p.vaddr + compound)
	p.mapping = u64(p.vaddr + value(info.Offset("page.mapping")))
	p.prv = u64(p.vaddr + value(info.Offset("page.private")))
	p.mapcount = uint32(u64(p.vaddr + value(info.Offset("page._mapcount"))))
	return p, err
}

func (p page) String() string {
	return fmt.Sprintf("pfn %#x flags %#x compound %#x mapping %#x private %#x _mapcount %#x section %#x", p.pfn, p.flags, p.compound, p.mapping, p.prv, p.mapcount, p.section)
}

// head is the page that decides: the head of a compound page, or the page itself.
func (s *subject) head(p page) (page, error) {
	if p.compound&1 == 0 {
		return p, nil
	}
	size, _ := s.core.Info().Size("page")
	head := p.compound &^ 1
	if low := ^head; low&(low+1) == 0 { // a mask, since 7.1
		head = p.vaddr & head
	}
	return s.page(p.pfn - (p.vaddr-head)/size)
}

// class is what pkg/memmap took the page for, as far as levels tell.
func (s *subject) class(pfn uint64) string {
	for _, c := range []struct {
		level memmap.Level
		name  string
	}{{0, "never read"}, {memmap.LevelCache, "cache"}, {memmap.LevelCachePrivate, "cache-private"}, {memmap.LevelUser, "user"}, {memmap.LevelFree, "free"}} {
		if !s.maps[c.level].Keep.Get(pfn) {
			return c.name
		}
	}
	return "kept"
}
