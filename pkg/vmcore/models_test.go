package vmcore_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// The struct page array that vmcoretest makes is found in the way in which the
// kernel's own is, in every model.
func TestStructPages(t *testing.T) {
	for _, tt := range []struct {
		machine, model string
		vmemmap        uint64
		shift          uint
	}{
		{"machine x86_64", "extreme", 0xffffea0000000000, 12},
		{"machine x86_64\ninfo NUMBER(MAX_PHYSMEM_BITS)=36", "static", 0xffffea0000000000, 12},
		{"machine x86_64\nva 57", "extreme", 0xffd4000000000000, 12},
		{"machine arm64 64K\ninfo NUMBER(SECTION_SIZE_BITS)=29", "extreme", 0xffffc00000000000, 16},
		{"machine arm64 16K\ninfo NUMBER(MAX_PHYSMEM_BITS)=36", "static", 0xffffc00000000000, 14},
		{"machine riscv64\nva 39", "flat", 0xffffffc700000000, 12},
	} {
		pfn := uint64(0xc1230000) >> tt.shift
		c := open(t, vmcoretest.File(t, fmt.Sprintf(`%s
			kernel 0x88000000 16M
			load 0x80000000 256M
			load 0xc0000000 128M
			memmap %s %#x 0xc0000000
			page %d 3 _mapcount=0xffffff7f private=5 flags=0x10`, tt.machine, tt.model, tt.vmemmap, pfn)))
		page := structPage(t, c, tt.model, pfn)
		for i := range uint64(4) {
			private, mapcount := u64(t, c, page+i*64+40), uint32(u64(t, c, page+i*64+48))
			if i < 3 && (private != 5 || mapcount != 0xffffff7f) || i == 3 && (private != 0 || mapcount != 0) {
				t.Errorf("%s %s: struct page %d has private %d, _mapcount %#x", tt.machine, tt.model, i, private, mapcount)
			}
		}
	}
}

// structPage gives the vaddr of a struct page.
func structPage(t *testing.T, c *vmcore.Core, model string, pfn uint64) uint64 {
	t.Helper()
	if model == "flat" {
		symbol, _ := c.Info().Symbol("mem_map")
		return u64(t, c, symbol) + (pfn-uint64(c.Ranges()[0].Start))*64
	}
	array, _ := c.Info().Symbol("mem_section")
	bits, _ := c.Info().Number("SECTION_SIZE_BITS")
	section := pfn << c.PageShift() >> uint(bits)
	if model == "extreme" {
		perRoot := uint64(1) << c.PageShift() / 16
		array, section = u64(t, c, array+8*(section/perRoot)), section%perRoot
	}
	base := u64(t, c, array+16*section)
	if base&1 == 0 {
		t.Errorf("section of pfn %#x is not present", pfn)
	}
	return base&^0x1f + pfn*64
}

func u64(t *testing.T, c *vmcore.Core, vaddr uint64) uint64 {
	t.Helper()
	var b [8]byte
	if err := c.ReadVirt(b[:], vaddr); err != nil {
		t.Error(err)
	}
	return binary.LittleEndian.Uint64(b[:])
}
