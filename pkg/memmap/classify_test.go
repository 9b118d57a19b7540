package memmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// vmemmap is where the struct pages of the test cores are mapped.
const vmemmap = 0xffffea0000000000

// machine has sections of 16 MiB; RAM begins at pfn 1, so that no read of struct
// pages begins at a round pfn, and has a hole from 64 to 80 MiB.
func machine(model string) string {
	return `
		cpus 1
		info NUMBER(SECTION_SIZE_BITS)=24
		info NUMBER(MAX_PHYSMEM_BITS)=30
		kernel 0x1000000 4M
		load 0x1000 0x3fff000
		load 0x5000000 16M
		memmap ` + model + ` 0xffffea0000000000 0x1800000
	`
}

const machinePages = 0x3fff + 0x1000

func openCore(t testing.TB, text string) *vmcore.Core {
	t.Helper()
	core, err := vmcore.Open(vmcoretest.File(t, text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	return core
}

func classify(t testing.TB, core *vmcore.Core, o Options) *Map {
	t.Helper()
	m, err := Classify(context.Background(), core, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// flags of a 6.1 kernel, as vmcoretest has them.
const (
	pgLRU        = 1 << 4
	pgSlab       = 1 << 9
	pgSwapCache  = 1 << 10
	pgPrivate    = 1 << 13
	pgHead       = 1 << 16
	pgSwapBacked = 1 << 19
	pgHWPoison   = 1 << 22

	buddy   = -129
	offline = -257
	table   = -513
)

// run is pages that the test describes alike, and what they are.
type run struct {
	start, count uint64
	class        Class
}

// layout builds a description and what has to come of it.
type description struct {
	strings.Builder
	base uint64 // vaddr of the struct page of pfn 0
	runs []run
}

// page describes count pages from pfn on.
func (d *description) page(class Class, pfn, count uint64, members string, a ...any) {
	fmt.Fprintf(d, "page %d %d %s\n", pfn, count, fmt.Sprintf(members, a...))
	d.runs = append(d.runs, run{pfn, count, class})
}

// is says what pages are that page does not describe.
func (d *description) is(class Class, pfn, count uint64) {
	d.runs = append(d.runs, run{pfn, count, class})
}

func (d *description) free(pfn uint64, order uint) {
	d.page(Free, pfn, 1, "_mapcount=%d private=%d", buddy, order)
	d.is(Free, pfn, 1<<order)
}

func (d *description) at(pfn uint64) uint64 { return d.base + pfn*64 }

// compound describes a compound page of 1<<order pages, by pointers.
func (d *description) compound(class Class, pfn uint64, order uint, head string) {
	d.page(class, pfn, 1, "%s", head)
	d.page(class, pfn+1, 1<<order-1, "compound_head=%#x", d.at(pfn)+1)
}

// wanted gives the class of every page of RAM; what is not described is the kernel's.
func (d *description) wanted(core *vmcore.Core) map[uint64]Class {
	want := make(map[uint64]Class)
	for _, r := range core.Ranges() {
		for pfn := r.Start; pfn < r.End; pfn++ {
			want[uint64(pfn)] = Kernel
		}
	}
	for _, r := range d.runs {
		for pfn := r.start; pfn < r.start+r.count; pfn++ {
			if _, ok := want[pfn]; ok {
				want[pfn] = r.class
			}
		}
	}
	return want
}

// checkMap compares a map with the class of every page.
func checkMap(t *testing.T, core *vmcore.Core, m *Map, want map[uint64]Class) {
	t.Helper()
	var counts [NumClasses]uint64
	wrong := 0
	for _, pfn := range slices.Sorted(maps.Keys(want)) {
		c := want[pfn]
		counts[c]++
		if keep := !m.Level.Excludes(c); m.Keep.Get(pfn) != keep && wrong < 10 {
			wrong++
			t.Errorf("level %d: pfn %#x is %v: kept %v, want %v", m.Level, pfn, c, !keep, keep)
		}
	}
	if m.Counts != counts {
		t.Errorf("level %d: counts %v, want %v", m.Level, m.Counts, counts)
	}
	if n := m.Ram.Count(); n != uint64(len(want)) || m.MaxPFN != core.MaxPFN() {
		t.Errorf("%d pages of RAM, want %d", n, len(want))
	}
	keep, ram := m.Keep.Bitmap(), m.Ram.Bitmap()
	for i := range keep {
		if keep[i]&^ram[i] != 0 {
			t.Fatalf("pages near %#x are kept and no RAM", i*8)
		}
	}
}

// everyClass describes pages of all kinds, and of no kind.
func everyClass(d *description) {
	d.free(3, 0)
	d.free(8, 3)
	d.free(1024, 10) // begins with the last struct page of a read
	const mapping = "0xffff888000001000"
	d.page(Cache, 0x1810, 4, "flags=%#x mapping=%s _mapcount=-1", pgLRU, mapping)
	d.page(CachePrivate, 0x1814, 4, "flags=%#x mapping=%s _mapcount=-1", pgLRU|pgPrivate, mapping)
	d.page(Cache, 0x1818, 1, "flags=%#x", pgSwapCache|pgSwapBacked)
	d.page(CachePrivate, 0x1819, 1, "flags=%#x", pgSwapCache|pgSwapBacked|pgPrivate)
	d.page(User, 0x181a, 2, "flags=%#x mapping=0xffff888000001001", pgLRU|pgSwapBacked)
	d.page(Kernel, 0x181c, 1, "flags=%#x mapping=0xffff888000001001", pgSlab)
	d.page(Kernel, 0x181d, 1, "_mapcount=%d mapping=1 flags=%#x", table, pgLRU)
	d.page(HWPoison, 0x1820, 1, "flags=%#x", pgHWPoison|pgLRU)
	d.page(Offline, 0x1821, 3, "_mapcount=%d", offline)
	d.page(Unknown, 0x1824, 1, "_mapcount=-32769 mapping=1")
	d.free(0x1828, 3)
	d.page(HWPoison, 0x1828, 1, "flags=%#x", pgHWPoison)

	d.compound(User, 0x1a00, 9, fmt.Sprintf("flags=%#x _mapcount=-1", pgHead)) // hugetlb
	d.page(User, 0x1a01, 1, "compound_dtor=%#x", 9<<8|2)
	d.compound(User, 0x1c00, 9, fmt.Sprintf("flags=%#x mapping=1", pgHead|pgLRU))
	d.page(HWPoison, 0x1c05, 1, "flags=%#x", pgHWPoison)
	d.compound(HWPoison, 0x5400, 9, fmt.Sprintf("flags=%#x _mapcount=-1", pgHead|pgHWPoison)) // hugetlb: any page of it
	d.page(HWPoison, 0x5401, 1, "compound_dtor=%#x", 9<<8|2)
	d.compound(User, 0x5600, 9, fmt.Sprintf("flags=%#x mapping=1", pgHead|pgLRU|pgHWPoison)) // THP: the head alone
	d.is(HWPoison, 0x5600, 1)
	d.compound(Kernel, 0x1e00, 3, fmt.Sprintf("flags=%#x mapping=1", pgHead|pgSlab))
	d.compound(Cache, 0x1e08, 2, fmt.Sprintf("flags=%#x mapping=%s", pgHead|pgLRU, mapping))
	d.compound(User, 0x2000, 13, fmt.Sprintf("flags=%#x mapping=1", pgHead|pgLRU)) // two sections
	d.free(0x5c00, 10)                                                             // to the end of RAM
}

// corrupt describes entries that cannot be: each costs itself and no other.
func corrupt(d *description) {
	d.page(Unknown, 0x1000, 1, "_mapcount=%d private=11", buddy) // order too large
	d.page(Unknown, 0x1003, 1, "_mapcount=%d private=1", buddy)  // not aligned
	d.page(Unknown, 0x1008, 1, "_mapcount=%d private=0xffffffffffffffff", buddy)
	d.page(Unknown, 0x1010, 1, "compound_head=%#x", d.at(0x1020)+1) // head behind the tail
	d.page(Unknown, 0x1011, 1, "compound_head=%#x", d.at(0x1011)+1) // a loop
	d.page(Unknown, 0x1012, 1, "compound_head=%#x", d.at(0x1000)+9) // between two struct pages
	d.page(Unknown, 0x1013, 1, "compound_head=%#x", d.at(0x1012)+1) // the head is a tail
	d.page(Unknown, 0x1014, 1, "compound_head=%#x", d.at(0x1009)+1) // the head is none
	d.page(Unknown, 0x1015, 1, "compound_head=0xffffc90000000001")  // nothing there
	d.page(Unknown, 0x1016, 1, "compound_head=1")                   // a mask of nothing
	d.page(Unknown, 0x1017, 1, "compound_head=0xffffffffffffffff")  // a mask that finds itself
	d.page(User, 0x1018, 1, "mapping=1")
}

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		model string
		base  uint64
	}{{"extreme", vmemmap}, {"static", vmemmap}, {"flat", vmemmap - 64}} {
		t.Run(tt.model, func(t *testing.T) {
			d := &description{base: tt.base}
			d.WriteString(machine(tt.model))
			everyClass(d)
			corrupt(d)
			core := openCore(t, d.String())
			if core.Ranges()[0].Start != 1 {
				t.Fatalf("RAM %v", core.Ranges())
			}
			want := d.wanted(core)
			if len(want) != machinePages {
				t.Fatalf("%d pages", len(want))
			}
			for level := Level(0); level <= LevelMax; level++ {
				m := classify(t, core, Options{Level: level, Workers: 1})
				checkMap(t, core, m, want)
			}
		})
	}
}

// Levels 0 and 1 are to be had without struct pages: nothing is left out.
func TestLevelsWithoutStructPages(t *testing.T) {
	core := openCore(t, "load 0x1000 1M")
	for _, level := range []Level{0, LevelZero} {
		m := classify(t, core, Options{Level: level})
		if m.Level != level || m.Keep.Count() != 256 || m.Counts[Kernel] != 256 || len(m.Notes) != 1 {
			t.Errorf("level %d: %+v", level, m)
		}
	}
}

// Machines whose memory begins at many TiB, or has a part there, take no more for it.
func TestFarMemory(t *testing.T) {
	var before, after runtime.MemStats
	core := openCore(t, machine("flat")+"load 0x400000000000 16M\n") // 64 TiB
	runtime.ReadMemStats(&before)
	m := Everything(core)
	m.keep([]vmcore.PFN{1})
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes for a map of %d pages up to pfn %#x", n, m.Ram.Count(), m.MaxPFN)
	}
	if n := m.Keep.Count(); n != machinePages+0x1000 || m.MaxPFN != 0x400001000 {
		t.Errorf("%d pages up to pfn %#x", n, m.MaxPFN)
	}
}

func TestWorkersAgree(t *testing.T) {
	d := &description{base: vmemmap}
	d.WriteString(machine("extreme"))
	everyClass(d)
	corrupt(d)
	core := openCore(t, d.String())
	one := classify(t, core, Options{Level: LevelMax, Workers: 1})
	for _, workers := range []int{0, 2, 3, 16} {
		m := classify(t, core, Options{Level: LevelMax, Workers: workers})
		slices.Sort(m.Notes)
		slices.Sort(one.Notes)
		if !slices.Equal(m.Keep.Bitmap(), one.Keep.Bitmap()) || m.Counts != one.Counts || len(m.Notes) != len(one.Notes) {
			t.Errorf("%d workers: %v %v, want %v %v", workers, m.Counts, m.Notes, one.Counts, one.Notes)
		}
	}
}

// A page that was poisoned before it was freed is inside a free block on 5.10. A
// level that keeps free pages must not read it; one that does not need not look.
func TestPoisonedInFreeBlock(t *testing.T) {
	d := &description{base: vmemmap}
	d.WriteString(machine("extreme"))
	d.free(1024, 10) // begins with the last struct page of a read
	d.page(HWPoison, 1025, 1, "flags=%#x", pgHWPoison)
	d.page(HWPoison, 2047, 1, "flags=%#x", pgHWPoison)
	d.page(HWPoison, 2049, 1, "flags=%#x", pgHWPoison) // behind it
	core := openCore(t, d.String())
	for level := range LevelFree {
		checkMap(t, core, classify(t, core, Options{Level: level, Workers: 2}), d.wanted(core))
	}
	m := classify(t, core, Options{Level: LevelFree, Workers: 2})
	if m.Counts[HWPoison] != 1 || m.Counts[Free] != 1024 || m.Keep.Get(1025) || m.Keep.Get(2047) {
		t.Errorf("level 16: counts %v", m.Counts)
	}
}

// Only the first page of unaccepted memory (6.16) has the type: the others look as
// a page of the kernel's does, and reading them ends a confidential guest.
func TestUnaccepted(t *testing.T) {
	d := &description{base: vmemmap}
	d.WriteString(machine("extreme") + "info NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=0xf0000000\ninfo NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)=0xf7000000\n")
	for _, pfn := range []uint64{1024, 0x1800, 0x5c00} { // over two reads; within one; at the end of RAM
		d.page(Unaccepted, pfn, 1, "_mapcount=0xf7000000")
		d.is(Unaccepted, pfn, 1024)
	}
	d.page(Unknown, 0x1401, 1, "_mapcount=0xf7000000") // not aligned
	core := openCore(t, d.String())
	for level := range LevelMax + 1 {
		checkMap(t, core, classify(t, core, Options{Level: level, Workers: 2}), d.wanted(core))
	}
}

// The tails in the second section find a head that no worker has at hand. Both
// forms of the hugetlb mark: beside the head, and as a page type (6.12).
func TestPoisonedGigantic(t *testing.T) {
	for name, tt := range map[string]struct{ info, head string }{
		"dtor": {"", "_mapcount=-1"},
		"type": {"info NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=0xf0000000\ninfo NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=0xf4000000\n", "_mapcount=0xf4000000"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &description{base: vmemmap}
			d.WriteString(machine("extreme") + tt.info)
			d.compound(HWPoison, 0x2000, 13, fmt.Sprintf("flags=%#x %s", pgHead|pgHWPoison, tt.head))
			d.page(HWPoison, 0x2001, 1, "compound_dtor=%#x", 13<<8|2)
			core := openCore(t, d.String())
			for _, level := range []Level{0, LevelMax} {
				checkMap(t, core, classify(t, core, Options{Level: level, Workers: 2}), d.wanted(core))
			}
		})
	}
}

// Linux 7.1 calls the word compound_info, and it may be a mask.
func TestCompoundInfo(t *testing.T) {
	for _, tt := range []struct{ name, word string }{
		{"pointer", fmt.Sprintf("%#x", uint64(vmemmap)+0x1a00*64+1)},
		{"mask", fmt.Sprintf("%#x", ^uint64(512*64-1)|1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &description{base: vmemmap}
			d.WriteString(machine("extreme"))
			d.WriteString("noinfo OFFSET(page.compound_head)\ninfo OFFSET(page.compound_info)=8\n")
			d.page(User, 0x1a00, 1, "flags=%#x mapping=1", pgHead)
			d.page(User, 0x1a01, 511, "compound_info=%s", tt.word)
			d.page(HWPoison, 0x1a40, 1, "flags=%#x", pgHWPoison)
			core := openCore(t, d.String())
			m := classify(t, core, Options{Level: LevelMax, Workers: 2})
			checkMap(t, core, m, d.wanted(core))
		})
	}
}

// A section's flags grew to six in 6.15; none of them is part of the pointer.
func TestSectionFlags(t *testing.T) {
	text := machine("extreme")
	entry := sectionEntry(t, text, 1)
	d := &description{base: vmemmap}
	d.WriteString(text)
	d.page(User, 0x1100, 1, "mapping=1")
	fmt.Fprintf(d, "data %#x %#x\n", entry, uint64(vmemmap|0x3f))
	core := openCore(t, d.String())
	checkMap(t, core, classify(t, core, Options{Level: LevelMax}), d.wanted(core))
}

// The struct pages of memory that was added and never put to use hold anything,
// and those of memory taken out of use what it was: neither is believed.
func TestOfflineSection(t *testing.T) {
	text := machine("extreme")
	for _, tt := range []struct {
		kernel uint64 // flags of the section that the kernel is in
		class  Class
	}{{7, Offline}, {3, Kernel}} {
		d := &description{base: vmemmap}
		d.WriteString(text)
		everyClass(d)
		d.page(Kernel, 0x3000, 64, "flags=0xffffffffffffffff compound_head=0xfefefefefefefefe _mapcount=5 mapping=2")
		d.is(tt.class, 0x3000, 0x1000)
		if tt.class == Kernel { // then they are what the page array says: tails
			d.is(User, 0x3000, 0x1000)
			d.is(HWPoison, 0x3000, 64)
		}
		fmt.Fprintf(d, "data %#x %#x\n", sectionEntry(t, text, 1), uint64(vmemmap)|tt.kernel)
		fmt.Fprintf(d, "data %#x %#x\n", sectionEntry(t, text, 3), uint64(vmemmap|3))
		core := openCore(t, d.String())
		for _, level := range []Level{0, LevelMax} {
			checkMap(t, core, classify(t, core, Options{Level: level, Workers: 2}), d.wanted(core))
		}
	}
}

// sectionEntry gives the vaddr of a section's section_mem_map.
func sectionEntry(t *testing.T, text string, nr uint64) uint64 {
	t.Helper()
	core := openCore(t, text)
	model, err := newMemModel(core)
	if err != nil {
		t.Fatal(err)
	}
	return model.roots[nr/model.perRoot] + nr%model.perRoot*model.entrySize + model.mapOffset
}

// What is wrong with one section costs that section.
func TestBadSections(t *testing.T) {
	text := machine("extreme")
	for _, tt := range []struct {
		name  string
		value uint64
		class Class
		note  string
	}{
		{"not there", 0, NoStruct, ""},
		{"not present", vmemmap | 2, NoStruct, ""},
		{"no struct pages", 0xffffc90000000007, Unknown, "struct page of pfn 0x1000"},
		{"user space", 0x7f0000000005, Unknown, "struct page of pfn 0x1000"},
		{"wraps", ^uint64(0xfff) | 7, Unknown, "struct page of pfn 0x1000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &description{base: vmemmap}
			d.WriteString(text)
			everyClass(d)
			d.is(tt.class, 0x1000, 0x1000)
			fmt.Fprintf(d, "data %#x %#x\n", sectionEntry(t, text, 1), tt.value)
			core := openCore(t, d.String())
			m := classify(t, core, Options{Level: LevelMax, Workers: 2})
			checkMap(t, core, m, d.wanted(core))
			if (tt.note == "") != (len(m.Notes) == 0) || !strings.Contains(strings.Join(m.Notes, "\n"), tt.note) || len(m.Notes) > maxNotes {
				t.Errorf("notes %q, want %q", m.Notes, tt.note)
			}
		})
	}
}

func TestBadRoots(t *testing.T) {
	text := machine("extreme")
	symbol, _ := openCore(t, text).Info().Symbol("mem_section")
	for name, tt := range map[string]struct {
		root  uint64
		class Class
	}{"missing": {0, NoStruct}, "leads nowhere": {0xffffc90000000000, Unknown}} {
		t.Run(name, func(t *testing.T) {
			core := openCore(t, text+fmt.Sprintf("data %#x %#x\n", symbol, tt.root))
			m := classify(t, core, Options{Level: LevelMax})
			if m.Counts[tt.class] != machinePages || m.Keep.Count() != machinePages {
				t.Errorf("counts %v", m.Counts)
			}
		})
	}
}

// A root array that lies outside of the core is an error, and one that says why.
func TestNoRoots(t *testing.T) {
	core := openCore(t, machine("extreme")+"info SYMBOL(mem_section)=ffffc90000000000\n")
	if _, err := Classify(context.Background(), core, Options{Level: LevelMax}); err == nil || !strings.Contains(err.Error(), "mem_section roots") {
		t.Error(err)
	}
	core = openCore(t, machine("flat")+"info SYMBOL(mem_map)=ffffc90000000000\n")
	if _, err := Classify(context.Background(), core, Options{Level: LevelMax}); err == nil || !strings.Contains(err.Error(), "mem_map") {
		t.Error(err)
	}
}

// Struct pages that the core does not have cost their own pages: not a free
// block beside them.
func TestUnreadableStructPages(t *testing.T) {
	const readable = 0x2000 // as many struct pages lie before the hole in RAM
	d := &description{base: vmemmap}
	d.WriteString(strings.Replace(machine("extreme"), "0x1800000", fmt.Sprintf("%#x", 64<<20-readable*64), 1))
	d.free(0x1e00, 9)
	d.free(0x1c00, 8)
	d.page(User, 0x1d01, 3, "mapping=1")
	core := openCore(t, d.String())
	d.is(Unknown, readable, machinePages)
	m := classify(t, core, Options{Level: LevelMax, Workers: 2})
	checkMap(t, core, m, d.wanted(core))
	if len(m.Notes) != maxNotes {
		t.Errorf("%d notes, want the bound %d", len(m.Notes), maxNotes)
	}
}

// struct page of 56 bytes: some lie on two pages.
func TestOddSize(t *testing.T) {
	d := &description{base: vmemmap}
	d.WriteString("info SIZE(page)=56\n" + machine("extreme"))
	d.free(1024, 10)
	d.page(User, 0x1049, 1, "mapping=1") // 0x1049*56 is 8 bytes before a page's end
	core := openCore(t, d.String())
	checkMap(t, core, classify(t, core, Options{Level: LevelMax}), d.wanted(core))
}

func TestMissingKeys(t *testing.T) {
	for model, keys := range map[string][]string{
		"extreme": {"LENGTH(mem_section)", "SIZE(mem_section)", "OFFSET(mem_section.section_mem_map)",
			"NUMBER(SECTION_SIZE_BITS)", "NUMBER(MAX_PHYSMEM_BITS)", "SIZE(page)", "OFFSET(page.flags)",
			"OFFSET(page._mapcount)", "OFFSET(page.mapping)", "OFFSET(page.private)", "NUMBER(PG_lru)", "NUMBER(PG_private)",
			"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "LENGTH(zone.free_area)", "NUMBER(PG_head_mask)", "OFFSET(page.compound_head)",
			"SYMBOL(mem_section)"},
		"flat": {"SYMBOL(mem_map)"},
	} {
		for _, key := range keys {
			core := openCore(t, machine(model)+"noinfo "+key+"\n")
			_, err := Classify(context.Background(), core, Options{Level: LevelMax})
			var missing *vmcoreinfo.MissingError
			want := strings.Replace(key, "mem_map)", "mem_section)", 1)
			if key == "OFFSET(mem_section.section_mem_map)" {
				want = key
			}
			if !errors.As(err, &missing) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s without %s: %v", model, key, err)
			}
		}
	}
}

// Numbers that cannot be true are refused; they must not be computed with.
func TestImpossibleNumbers(t *testing.T) {
	for _, line := range []string{
		"SIZE(page)=0", "SIZE(page)=31", "SIZE(page)=4097", "OFFSET(page.flags)=57", "OFFSET(page.flags)=18446744073709551615",
		"OFFSET(page.private)=64", "LENGTH(zone.free_area)=0", "LENGTH(zone.free_area)=65", "OFFSET(page.compound_dtor)=100000",
		"NUMBER(SECTION_SIZE_BITS)=12", "NUMBER(SECTION_SIZE_BITS)=31", "NUMBER(SECTION_SIZE_BITS)=-1", "NUMBER(MAX_PHYSMEM_BITS)=64",
		"SIZE(mem_section)=0", "SIZE(mem_section)=4", "SIZE(mem_section)=8192", "OFFSET(mem_section.section_mem_map)=9",
		"LENGTH(mem_section)=5", "LENGTH(mem_section)=18446744073709551615",
	} {
		core := openCore(t, machine("extreme")+"info "+line+"\n")
		if m, err := Classify(context.Background(), core, Options{Level: LevelMax}); err == nil {
			t.Errorf("%s: accepted: %v", line, m.Counts)
		}
	}
}

func TestClassifyEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Classify(ctx, openCore(t, machine("extreme")), Options{Level: LevelMax}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSelfCheck(t *testing.T) {
	plain := machine("extreme")
	text := plain + "info SYMBOL(init_uts_ns)=ffffffff81001000\n"
	m := func(text string) error {
		core := openCore(t, text)
		return SelfCheck(core, classify(t, core, Options{Level: LevelMax}))
	}
	if err := m(text); err != nil {
		t.Errorf("a good map: %v", err)
	}
	for _, tt := range []struct{ add, want string }{
		{"page 0x1000 1 _mapcount=-129 private=0", "SYMBOL(_stext): pfn 0x1000 would be left out"},
		{"page 0x1001 1 mapping=1", "SYMBOL(init_uts_ns): pfn 0x1001 would be left out"},
		{"page 0x1000 1 _mapcount=-257", "SYMBOL(_stext)"},
		{"info SYMBOL(prb)=ffffc90000000000", "SYMBOL(prb): translate"},
		{"page 0x1000 2 flags=0x400000 mapping=1", "pfns [0x1001 0x1000] would all be broken memory"},
		{"info SYMBOL(prb)=ffffffff81002000\ndata 0x1002000 0xffffffff81003000\npage 0x1003 1 mapping=1", "*prb: pfn 0x1003 would be left out"},
		{"map 0xffffc90000000000 4K 0x4800000\ninfo SYMBOL(node_data)=ffffc90000000000", "is not RAM"},
	} {
		if err := m(text + tt.add + "\n"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.add, err, tt.want)
		}
	}
}

// What the crash did to single words and pages is no reason to doubt the page array: a
// pointer that was written over, broken memory behind a checked address.
func TestSelfCheckForgives(t *testing.T) {
	text := machine("extreme") + "info SYMBOL(prb)=ffffffff81002000\ninfo SYMBOL(log_buf)=ffffffff81002008\n"
	for _, add := range []string{
		"data 0x1002000 0xffffc90000000000 0x4141414141414141",
		"page 0x1000 1 flags=0x400000 mapping=1",
		"page 0x1000 1 flags=0x400010",
	} {
		core := openCore(t, text+add+"\n")
		m := classify(t, core, Options{Level: LevelMax})
		if err := SelfCheck(core, m); err != nil {
			t.Errorf("%s: %v", add, err)
		}
		if broken := strings.Contains(add, "flags"); m.Keep.Get(0x1000) == broken {
			t.Errorf("%s: pfn 0x1000 kept %v", add, !broken)
		}
	}
}

// withStacks makes the core's CPUs have these stack pointers.
func withStacks(t *testing.T, text string, sps ...uint64) *vmcore.Core {
	t.Helper()
	path := vmcoretest.File(t, text)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 8192) // the notes are in it
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, sp := range sps {
		at += strings.Index(string(head[at:]), "CORE\x00") + 8
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, sp), int64(at+112+8*19)); err != nil {
			t.Fatal(err)
		}
	}
	core, err := vmcore.Open(path)
	if err != nil || !slices.Equal(core.StackPointers(), sps) {
		t.Fatal(err, core.StackPointers())
	}
	t.Cleanup(func() { core.Close() })
	return core
}

// A stack that overflowed into its guard page is what a crash looks like, and no
// reason to doubt the page array; a stack among the free pages is.
func TestSelfCheckStacks(t *testing.T) {
	text := machine("extreme") + "page 0x1003 1 _mapcount=-129 private=0\n"
	for sp, want := range map[uint64]string{
		0xffffffff81002f00: "",
		0xffffffff81003f00: "stack of cpu 0: pfn 0x1003 would be left out",
		0xffffc90000000ff8: "",
		0x00007ffd00000000: "",
		0:                  "",
	} {
		core := withStacks(t, text, sp)
		err := SelfCheck(core, classify(t, core, Options{Level: LevelMax}))
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("stack %#x: %v, want %q", sp, err, want)
		}
	}
}

// One stack pointer of many is garbage, and leads to a page that is free: that page is
// kept, as long as it may be read.
func TestSelfCheckOddStack(t *testing.T) {
	text := strings.Replace(machine("extreme"), "cpus 1", "cpus 4", 1) + `
		page 0x1003 1 _mapcount=-129 private=0
		page 0x1004 1 _mapcount=-129 private=2
		page 0x1008 1 _mapcount=-257
		page 0x1009 1 flags=0x400000
	`
	const good, kernel = 0xffffffff81002f00, 0xffffffff81000000
	for name, tt := range map[string]struct {
		odd  []uint64 // pfns
		kept bool
		err  string
	}{
		"free":               {[]uint64{0x1003}, true, ""},
		"in a free block":    {[]uint64{0x1006}, true, ""},
		"ballooned":          {[]uint64{0x1008}, false, ""},
		"broken":             {[]uint64{0x1009}, false, ""},
		"half of the stacks": {[]uint64{0x1003, 0x1006}, false, "stack of cpu 1: pfn 0x1006 would be left out"},
	} {
		sps := []uint64{good, good, good, good}
		for i, pfn := range tt.odd {
			sps[i] = kernel + (pfn-0x1000)<<12 + 8
		}
		core := withStacks(t, text, sps...)
		m := classify(t, core, Options{Level: LevelMax})
		before := m.Keep.Bitmap()
		err := SelfCheck(core, m)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", name, err, tt.err)
		}
		if kept := m.Keep.Get(tt.odd[0]); kept != tt.kept {
			t.Errorf("%s: kept %v, want %v", name, kept, tt.kept)
		}
		m.Keep.Clear(tt.odd[0])
		if !slices.Equal(m.Keep.Bitmap(), before) {
			t.Errorf("%s: other pages were changed", name)
		}
	}
}

// FuzzStructPages fills the page array of 4 MiB with anything.
func FuzzStructPages(f *testing.F) {
	const offset, array = 0x10000, 0x300000
	path := vmcoretest.File(f, "kernel 0 2M\nload 0 4M offset=0x10000\nmemmap extreme 0xffffea0000000000 0x300000\n")
	f.Add([]byte(strings.Repeat("\x00", 48)+"\x7f\xff\xff\xff"), uint8(31))
	f.Add([]byte("\x01\x23"), uint8(16))
	f.Add([]byte("\x00\x00\x01\x00\x00\x00\x00\x00\x01\xc0\xff\xff\xff\xff\xff\xff"), uint8(8))
	f.Fuzz(func(t *testing.T, data []byte, level uint8) {
		pages := make([]byte, 1024*64)
		for at := 0; len(data) > 0 && at < len(pages); at += len(data) {
			copy(pages[at:], data)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.WriteAt(pages, offset+array)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		core, err := vmcore.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer core.Close()
		m := classify(t, core, Options{Level: Level(level) & LevelMax, Workers: 1})
		var sum, kept uint64
		for c := range NumClasses {
			sum += m.Counts[c]
			if !m.Level.Excludes(c) {
				kept += m.Counts[c]
			}
		}
		if sum != 1024 || kept != m.Keep.Count() {
			t.Errorf("counts %v give %d kept, the map has %d", m.Counts, kept, m.Keep.Count())
		}
	})
}
