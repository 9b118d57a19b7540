package memmap

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

func plan(t *testing.T, text string, level Level) (*Map, error) {
	t.Helper()
	m, err := Plan(context.Background(), openCore(t, text), Options{Level: level, Workers: 2})
	if m == nil {
		t.Fatal("no map")
	}
	return m, err
}

// checkEverything wants a map that keeps every page and says it did not filter.
func checkEverything(t *testing.T, name string, m *Map) {
	t.Helper()
	if n := m.Keep.Count(); n != machinePages || m.Ram.Count() != machinePages {
		t.Errorf("%s: %d of %d pages are kept", name, n, machinePages)
	}
	if m.Level.Filters() {
		t.Errorf("%s: level %d", name, m.Level)
	}
}

// neverRead are pages of each kind that must not be read, and processes' pages.
const neverRead = `
	page 0x1900 16 mapping=1
	page 0x1a00 2 flags=0x400000 mapping=1
	page 0x1a02 3 _mapcount=-257
`

// Without a key that a level needs the dump has every page, and the reason names the
// key. But what must not be read is known by few keys, at level 1 too: of what they
// do not tell, all is kept.
func TestPlanWithoutKey(t *testing.T) {
	for _, tt := range []struct {
		known uint64 // pages that must not be read
		keys  []string
	}{
		{0, []string{"SYMBOL(mem_section)", "LENGTH(mem_section)", "SIZE(mem_section)", "OFFSET(mem_section.section_mem_map)",
			"NUMBER(SECTION_SIZE_BITS)", "NUMBER(MAX_PHYSMEM_BITS)", "SIZE(page)", "OFFSET(page.flags)"}},
		{2, []string{"OFFSET(page._mapcount)"}},
		{5, []string{"OFFSET(page.mapping)", "OFFSET(page.private)", "OFFSET(page.compound_head)", "NUMBER(PG_lru)", "NUMBER(PG_private)",
			"NUMBER(PG_head_mask)", "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "LENGTH(zone.free_area)"}},
	} {
		for _, key := range tt.keys {
			text := machine("extreme") + neverRead + "noinfo " + key + "\n"
			for _, level := range []Level{LevelZero, LevelCache, LevelCachePrivate, LevelUser, LevelFree, LevelMax} {
				m, err := plan(t, text, level)
				var missing *vmcoreinfo.MissingError
				if named := errors.As(err, &missing) && strings.Contains(err.Error(), key); named != level.Filters() {
					t.Errorf("level %d without %s: %v", level, key, err)
				}
				if said := strings.Join(m.Notes, "\n"); !strings.Contains(said, key) {
					t.Errorf("level %d without %s: notes %q", level, key, said)
				}
				if n := machinePages - m.Keep.Count(); n != tt.known || m.Counts[HWPoison]+m.Counts[Offline] != n {
					t.Errorf("level %d without %s: %d pages are not kept, want %d: %s", level, key, n, tt.known, m.CountsLine())
				}
				if want := level & LevelZero; m.Level != want {
					t.Errorf("level %d without %s: level %d, want %d", level, key, m.Level, want)
				}
			}
		}
	}
}

// Blocks of unaccepted memory and poisoned huge pages are known by their first struct
// page, without the keys of other classes too.
func TestNeverReadWithoutKeys(t *testing.T) {
	const types = "info NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=0xf0000000\ninfo NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=0xf1000000\n" +
		"info NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)=0xf7000000\ninfo NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)=0xf4000000\n"
	d := &description{base: vmemmap}
	d.WriteString(machine("extreme") + types)
	d.page(Unaccepted, 0x1800, 1, "_mapcount=0xf7000000")
	d.is(Unaccepted, 0x1800, 1024)
	d.page(Offline, 0x1c00, 1, "_mapcount=0xf1000000")
	d.compound(HWPoison, 0x2000, 9, "flags=0x410000 _mapcount=0xf4000000")
	d.page(Unknown, 0x2400, 1, "_mapcount=0xf0000000 private=3")
	d.page(HWPoison, 0x2401, 1, "flags=0x400000")
	d.WriteString("noinfo NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)\nnoinfo LENGTH(zone.free_area)\nnoinfo OFFSET(page.mapping)\nnoinfo OFFSET(page.private)\n")
	core := openCore(t, d.String())
	want := d.wanted(core)
	for pfn, c := range want {
		if c == Kernel {
			want[pfn] = Unknown
		}
	}
	checkMap(t, core, classify(t, core, Options{Level: 0, Workers: 2}), want)
}

// Numbers that cannot be true cost what they are needed for, no more, and are not
// computed with.
func TestNeverReadWithImpossibleNumbers(t *testing.T) {
	for _, line := range []string{"OFFSET(page.mapping)=60", "OFFSET(page.private)=18446744073709551615", "OFFSET(page.compound_head)=64",
		"LENGTH(zone.free_area)=65", "OFFSET(page.compound_dtor)=100000"} {
		m, err := plan(t, machine("extreme")+neverRead+"info "+line+"\n", LevelMax)
		if err == nil || m.Keep.Count() != machinePages-5 {
			t.Errorf("%s: %v, %d pages", line, err, m.Keep.Count())
		}
	}
}

// A key that only some kernels have: without it the pages it tells of are kept.
func TestPlanWithoutOptionalKey(t *testing.T) {
	text := machine("extreme") + `
		page 0x1a00 1 flags=0x10000 _mapcount=-1
		page 0x1a01 511 compound_head=0xffffea0000068001
		page 0x1a01 1 compound_dtor=0x902
		page 0x1900 16 mapping=1
	`
	for _, tt := range []struct {
		line string
		kept bool
	}{{"", false}, {"noinfo NUMBER(HUGETLB_PAGE_DTOR)", true}, {"noinfo OFFSET(page.compound_dtor)", true}} {
		m, err := plan(t, text+tt.line+"\n", LevelUser)
		if err != nil || m.Keep.Get(0x1a00) != tt.kept || m.Keep.Get(0x1bff) != tt.kept || m.Keep.Get(0x1900) {
			t.Errorf("%q: %v, hugetlb kept %v %v, want %v; anonymous kept %v", tt.line, err, m.Keep.Get(0x1a00), m.Keep.Get(0x1bff), tt.kept, m.Keep.Get(0x1900))
		}
	}
}

// One page that no debugger can do without, put among those left out by what its
// struct page says, makes the whole map unbelievable.
func TestPlanSelfCheck(t *testing.T) {
	good := machine("extreme") + "page 0x1900 16 mapping=1\n"
	m, err := plan(t, good, LevelMax)
	if err != nil || m.Level != LevelMax || m.Keep.Get(0x1900) {
		t.Fatalf("a good core: %v, level %d", err, m.Level)
	}
	for _, members := range []string{"mapping=1", "_mapcount=-129 private=0", "_mapcount=-257", "flags=0x10 mapping=0xffff888000001000"} {
		m, err := plan(t, good+"page 0x1000 1 "+members+"\n", LevelMax)
		if err == nil || !strings.Contains(err.Error(), "SYMBOL(_stext)") {
			t.Errorf("%s: %v", members, err)
		}
		checkEverything(t, members, m)
		if m.Level != LevelZero {
			t.Errorf("%s: level %d", members, m.Level)
		}
	}
}

// Where the page array is doubted for one page, what it says of broken and ballooned
// ones still counts: reading them may stop the machine. Unless it says so of everything.
func TestPlanDoubted(t *testing.T) {
	text := machine("extreme") + `
		page 0x1900 16 mapping=1
		page 0x1a00 2 flags=0x400000 mapping=1
		page 0x1a02 3 _mapcount=-257
		page 0x1000 1 mapping=1
	`
	m, err := plan(t, text, LevelMax)
	if err == nil || !m.Doubted || m.Level != LevelZero || m.Keep.Count() != machinePages-5 {
		t.Errorf("%v, doubted %v, level %d, %d pages", err, m.Doubted, m.Level, m.Keep.Count())
	}
	for pfn := uint64(0x1a00); pfn < 0x1a05; pfn++ {
		if m.Keep.Get(pfn) {
			t.Errorf("pfn %#x would be read", pfn)
		}
	}
	m, err = Plan(context.Background(), openCore(t, text), Options{Level: LevelMax, Doubted: true})
	if err == nil || !m.Doubted || m.Level != LevelMax || m.Keep.Count() != machinePages-5-16 || !m.Keep.Get(0x1000) {
		t.Errorf("believed all the same: %v, doubted %v, level %d, %d pages", err, m.Doubted, m.Level, m.Keep.Count())
	}
	for name, lies := range map[string]string{
		"much is broken":          "page 0x2000 0x1800 flags=0x400000\n",
		"all of them are broken":  "page 0x1001 1 flags=0x400000\npage 0x1002 1 flags=0x400000\ninfo SYMBOL(prb)=ffffffff81001000\ninfo SYMBOL(log_buf)=ffffffff81002000\n",
		"the kernel is ballooned": "page 0x1000 2 _mapcount=-257\ninfo SYMBOL(prb)=ffffffff81001000\n",
	} {
		m, err := plan(t, text+lies, LevelMax)
		if err == nil || !strings.Contains(strings.Join(m.Notes, "\n"), "cannot be believed either") {
			t.Errorf("%s: %v, %q", name, err, m.Notes)
		}
		checkEverything(t, name, m)
	}
}

// A type that nobody knew when this was written.
func TestPlanUnknownType(t *testing.T) {
	const types = "info NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=0xf0000000\n"
	m, err := plan(t, machine("extreme")+types+"page 0x1900 16 _mapcount=0xfc000000 mapping=1 flags=0x10\n", LevelMax)
	if err != nil || m.Counts[Unknown] != 16 || !m.Keep.Get(0x1900) || !m.Keep.Get(0x190f) {
		t.Errorf("%v, counts %v", err, m.Counts)
	}
	if line := m.CountsLine(); !strings.Contains(line, "unknown 16") {
		t.Errorf("the report says %q", line)
	}
}
