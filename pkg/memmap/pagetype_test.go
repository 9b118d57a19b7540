package memmap

import (
	"encoding/binary"
	"testing"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// The words that kernels of each form write, and what they mean.
func TestPageTypes(t *testing.T) {
	flags := "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257\n"
	values := "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-251658240\n" +
		"NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=-201326592\nNUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376\nNUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)=-150994944\n"
	owned := "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-1073741825\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-536870913\n"
	for _, tt := range []struct {
		name, info string
		word       uint32
		want       Class
		typed      bool
	}{
		{"6.1 not mapped", flags, 0xffffffff, Kernel, false},
		{"6.1 mapped once", flags, 0, Kernel, false},
		{"6.1 mapped often", flags, 0x7fffffff, Kernel, false},
		{"6.1 reserve", flags, ^uint32(127), Kernel, false},
		{"6.1 buddy", flags, 0xffffff7f, Free, true},
		{"6.1 offline", flags, 0xfffffeff, Offline, true},
		{"6.1 page table", flags, 0xfffffdff, Kernel, true},
		{"6.1 two types", flags, 0xfffffe7f, Unknown, true},
		{"6.1 never seen", flags, 0xffff7fff, Unknown, true},
		{"6.11 not mapped", owned, 0xffffffff, Kernel, false},
		{"6.11 mapcount underflow", owned, 0xffff0000, Kernel, false},
		{"6.11 buddy", owned, 0xbfffffff, Free, true},
		{"6.11 offline", owned, 0xdfffffff, Offline, true},
		{"6.11 zsmalloc with owner's bits", owned, 0xfeff1234, Kernel, true},
		{"6.11 never seen", owned, 0xff7fffff, Unknown, true},
		{"6.12 not mapped", values, 0xffffffff, Kernel, false},
		{"6.12 mapcount underflow", values, 0xff000000, Kernel, false},
		{"6.12 mapped", values, 5, Kernel, false},
		{"6.12 buddy", values, 0xf0000000, Free, true},
		{"6.12 buddy with owner's bits", values, 0xf0123456, Free, true},
		{"6.12 offline", values, 0xf1000000, Offline, true},
		{"6.12 table", values, 0xf2000000, Kernel, true},
		{"6.12 hugetlb", values, 0xf4000000, User, true},
		{"6.12 slab", values, 0xf5000001, Kernel, true},
		{"6.16 unaccepted", values, 0xf7000000, Unaccepted, true},
		{"a type of the future", values, 0xe0000000, Unknown, true},
	} {
		types := newPageTypes(vmcoreinfo.Parse([]byte(tt.info)))
		if got, typed := types.class(tt.word); got != tt.want || typed != tt.typed {
			t.Errorf("%s: class(%#x) = %v, %v, want %v, %v", tt.name, tt.word, got, typed, tt.want, tt.typed)
		}
	}
}

// Fields of typed pages overlay mapping and flags: the type decides alone
// (slab looked anonymous to filters from Linux 6.2 on).
func TestTypeDecidesAlone(t *testing.T) {
	p := &pageReader{hasTypes: true, order: binary.LittleEndian, size: 64, mapping: 24, private: 40, mapcount: 48, compound: 8,
		lru: 1 << 5, hasPrivate: 1 << 14, swapcache: 1 << 10, swapbacked: 1 << 17, slab: 1 << 9,
		types: newPageTypes(vmcoreinfo.Parse([]byte("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\n")))}
	page := func(flags, mapping uint64, mapcount uint32) []byte {
		b := make([]byte, 64)
		binary.LittleEndian.PutUint64(b, flags)
		binary.LittleEndian.PutUint64(b[24:], mapping)
		binary.LittleEndian.PutUint32(b[48:], mapcount)
		return b
	}
	const none = 0xffffffff
	for _, tt := range []struct {
		name string
		page []byte
		want Class
	}{
		{"nothing set", page(0, 0, none), Kernel},
		{"typed slab with bit 0 of mapping", page(1<<5, 1, 0xf5000000), Kernel},
		{"flagged slab with bit 0 of mapping", page(1<<9, 1, none), Kernel},
		{"anonymous", page(1<<5, 0xffff888000000001, 0), User},
		{"anonymous off the lru", page(0, 1, 0), User},
		{"file page", page(1<<5, 0xffff888000000000, none), Cache},
		{"file page with buffers", page(1<<5|1<<14, 0xffff888000000000, none), CachePrivate},
		{"swap cache", page(1<<10|1<<17, 0, none), Cache},
		{"PG_swapcache's bit means another thing without PG_swapbacked", page(1<<10, 0, none), Kernel},
		{"private but not cache", page(1<<14, 0, none), Kernel},
	} {
		if got := p.classify(tt.page); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Every level against every class, as makedumpfile's man page tables them.
func TestLevelExcludes(t *testing.T) {
	for l := Level(0); l <= LevelMax; l++ {
		for c, want := range map[Class]bool{
			Kernel: false, NoStruct: false, Unknown: false,
			HWPoison: true, Offline: true, Unaccepted: true,
			Cache:        l&2 != 0 || l&4 != 0,
			CachePrivate: l&4 != 0,
			User:         l&8 != 0,
			Free:         l&16 != 0,
		} {
			if got := l.Excludes(c); got != want {
				t.Errorf("Level(%d).Excludes(%v) = %v", l, c, got)
			}
		}
	}
}

func TestHugetlbRule(t *testing.T) {
	two := make([]byte, 128)
	for _, tt := range []struct {
		name, info string
		at         int
		value      byte
	}{
		{"up to 6.2", "SIZE(page)=64\nNUMBER(HUGETLB_PAGE_DTOR)=2\nOFFSET(page.compound_dtor)=16\n", 80, 2},
		{"6.3 to 6.5", "SIZE(page)=64\nNUMBER(HUGETLB_PAGE_DTOR)=2\nOFFSET(folio._folio_dtor)=96\n", 96, 2},
		{"6.6 to 6.8", "SIZE(page)=64\nNUMBER(PG_hugetlb)=8\nOFFSET(page.flags)=0\n", 65, 1},
	} {
		h := newHugetlbRule(vmcoreinfo.Parse([]byte(tt.info)))
		clear(two)
		if h.match(binary.LittleEndian, two) {
			t.Errorf("%s: matches zeros", tt.name)
		}
		two[tt.at] = tt.value
		if !h.match(binary.LittleEndian, two) {
			t.Errorf("%s: does not match", tt.name)
		}
		if h.match(binary.LittleEndian, two[:64]) {
			t.Errorf("%s: matches without the second struct page", tt.name)
		}
	}
	if none := newHugetlbRule(vmcoreinfo.Parse(nil)); none.match(binary.LittleEndian, two) {
		t.Error("no rule matches")
	}
}
