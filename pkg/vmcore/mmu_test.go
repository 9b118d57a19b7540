package vmcore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Every machine, with maps of every leaf size that fits: pages, and larger ones
// that are cut short by their own beginning and end.
func TestPageTables(t *testing.T) {
	const low, high = 0x40000000, 1 << 40
	for _, tt := range []struct {
		machine string // and directives that must come early
		vaddr   uint64
		paddr   uint64
	}{
		{"machine x86_64", 0xffffc90000000000, low},
		{"machine x86_64\nva 57", 0xffa0000000000000, low},
		{"machine x86_64\nva 57", 0xffa0000000000000, 1 << 51},
		{"machine x86_64\ninfo NUMBER(sme_mask)=140737488355328", 0xffffc90000000000, high},
		{"machine arm64\nva 39", 0xffffffd000000000, low},
		{"machine arm64\nva 48", 0xffff900000000000, low},
		{"machine arm64\nva 52", 0xffff900000000000, 1 << 51},
		{"machine arm64\nva 52", 0xfff8800000000000, 3 << 50},
		{"machine arm64 16K\nva 36", 0xfffffff900000000, low},
		{"machine arm64 16K\nva 47", 0xffffd00000000000, high},
		{"machine arm64 16K\nva 52", 0xfff8800000000000, 3 << 50},
		{"machine arm64 64K\nva 42", 0xffffff0000000000, low},
		{"machine arm64 64K\nva 48", 0xffff900000000000, high},
		{"machine arm64 64K\nva 48", 0xffff900000000000, 0xf << 48},
		{"machine arm64 64K\nva 52", 0xfff9000000000000, 0xf << 48},
		{"machine riscv64\nva 39", 0xffffffc800000000, low},
		{"machine riscv64\nva 48", 0xffff8f8000000000, high},
		{"machine riscv64\nva 57", 0xff20000000000000, 1 << 55},
	} {
		// The second map is contiguous with the first only in virtual memory, and
		// begins one page into a larger leaf.
		second, behind := tt.vaddr+(4<<20), tt.paddr+(1<<30)+(64<<10)
		text := fmt.Sprintf("%s\nkernel 0x1000000 32M\nload 0x1000000 32M\nload %#x 4G\n"+
			"pattern %#x 4M\npattern %#x 1M\nmap %#x 4M %#x\nmap %#x 1G %#x\n",
			tt.machine, tt.paddr, tt.paddr, behind, tt.vaddr, tt.paddr, second, behind)
		t.Run(strings.ReplaceAll(tt.machine, "\n", " "), func(t *testing.T) {
			c := open(t, vmcoretest.File(t, text))
			if c.Skipped() != nil {
				t.Error(c.Skipped())
			}
			for _, read := range []func([]byte, uint64) error{c.ReadVirt, c.NewReader().ReadVirt} {
				for _, off := range []uint64{0, 1, 4095, 65535, 65536, 2<<20 - 1, 3 << 20} {
					wantPattern(t, read, 1, tt.vaddr+off, tt.paddr+off)
					wantPattern(t, read, 70000, tt.vaddr+off, tt.paddr+off)
				}
				wantPattern(t, read, 1<<20, second, behind)
			}
			if err := c.ReadVirt(make([]byte, 1), tt.vaddr-1); !errors.Is(err, vmcore.ErrNotMapped) {
				t.Errorf("below the map: %v", err)
			}
			if _, err := c.Translate(tt.vaddr & (1<<36 - 1)); !errors.Is(err, vmcore.ErrNotMapped) {
				t.Errorf("a user's address: %v", err)
			}
		})
	}
}

// What the kernel calculates without tables, which here do not map it.
func TestLinearMaps(t *testing.T) {
	for _, tt := range []struct {
		text                 string
		image, direct, paddr uint64
	}{
		{"machine x86_64\nkernel 0x6000000 4M\nload 0x6000000 4M vaddr=0xffffffff81000000\nload 0x100000 128M vaddr=0xffff9d4180100000",
			0xffffffff81000000, 0xffff9d4180000000 + 0x2345678, 0x2345678},
		{"machine x86_64\nva 57\nkernel 0x6000000 4M\nload 0x6000000 4M vaddr=0xffffffff81000000\nload 0x100000 128M vaddr=0xff25e5adc0100000",
			0xffffffff81000000, 0xff25e5adc0000000 + 0x2345678, 0x2345678},
		{"machine arm64\nkernel 0x6000000 4M\nload 0x6000000 4M vaddr=0xffff800080000000\nload 0x100000 128M",
			0xffff800080000000, 0xffff000000000000 + 0x2345678, 0x2345678},
		{"machine arm64 64K\nva 52\nkernel 0x6000000 4M\nload 0x6000000 4M vaddr=0xffff800080000000\nload 0x100000 128M",
			0xffff800080000000, 0xfff0000000000000 + 0x2345678, 0x2345678},
		{"machine arm64\nkernel 0x86000000 4M\ninfo NUMBER(PHYS_OFFSET)=0x80000000\nload 0x86000000 4M vaddr=0xffff800080000000\nload 0x80000000 128M",
			0xffff800080000000, 0xffff000002345678, 0x82345678},
		{"machine riscv64\nkernel 0x6000000 4M\nload 0x6000000 4M\nload 0x100000 128M",
			0xffffffff80000000, 0xffffc00000000000 + 0x2345678, 0x2345678},
		{"machine riscv64\nva 39\nkernel 0x86000000 4M\ninfo NUMBER(phys_ram_base)=2147483648\nload 0x80000000 128M",
			0xffffffff80000000, 0xffffffe000000000 + 0x2345678, 0x82345678},
	} {
		image := tt.paddr&^0xffffff + 0x4000000
		c := open(t, vmcoretest.File(t, fmt.Sprintf("%s\npattern %#x 64K\npattern %#x 64K", tt.text, tt.paddr, image)))
		wantPattern(t, c.ReadVirt, 5000, tt.direct, tt.paddr)
		if got, err := c.Translate(tt.image + 0x1234); err != nil || got != image+0x1234 {
			t.Errorf("%s: image at %#x, %v, want %#x", tt.text, got, err, image+0x1234)
		}
		wantPattern(t, c.ReadVirt, 5000, tt.image+0x1234, image+0x1234)
		if _, err := c.Translate(tt.direct + 1<<30); !errors.Is(err, vmcore.ErrNotMapped) {
			t.Errorf("%s: behind the RAM: %v", tt.text, err)
		}
	}
}

// 52-bit kernels on hardware without: 64K pages keep the large top table, 4K and
// 16K pages lose a level, and bits 8 and 9 of an entry are no address.
func TestARM64Without52Bits(t *testing.T) {
	for _, tt := range []struct {
		text  string
		vaddr uint64
	}{
		{"machine arm64 64K\nva 52", 0xffff900000000000},
		{"machine arm64 16K\nva 47", 0xffffd00000000000},
		{"machine arm64 4K\nva 48", 0xffff900000000000},
	} {
		vabits := 48
		if strings.Contains(tt.text, "16K") {
			vabits = 47
		}
		c := open(t, vmcoretest.File(t, fmt.Sprintf("%s\nkernel 0x1000000 4M\nload 0x1000000 16M\npattern 0x1400000 4M\nmap %#x 4M 0x1400000\n"+
			"info NUMBER(VA_BITS)=52\ninfo NUMBER(TCR_EL1_T1SZ)=%#x", tt.text, tt.vaddr, 64-vabits)))
		wantPattern(t, c.ReadVirt, 70000, tt.vaddr+1, 0x1400001)
	}
}

func TestARM64TaggedAddress(t *testing.T) {
	c := open(t, vmcoretest.File(t, "machine arm64\nkernel 0x1000000 4M\nload 0x1000000 16M\npattern 0x1400000 4M\nmap 0xffff900000000000 4M 0x1400000"))
	wantPattern(t, c.ReadVirt, 5000, 0xf3ff000001400000, 0x1400000)
	wantPattern(t, c.ReadVirt, 5000, 0xf3ff900000000000, 0x1400000)
}

// An entry of 16 pages (Svnapot) has its size in the low bits of the page number.
func TestRISCVNapot(t *testing.T) {
	text := `
		machine riscv64
		va 39
		kernel 0x1000000 4M
		load 0x1000000 16M
		pattern 0x1410000 64K
		map 0xffffffc800000000 4K 0x1400000 leaf=4K
		`
	// Tables: 0x1200000 the root, 0x1201000 of the image, then two of the map. The
	// entry is that of the second 64 KiB.
	text += fmt.Sprintf("data %#x %#x", 0x1203000+16*8, uint64(1<<63|(0x1410+8)<<10|0xe7))
	c := open(t, vmcoretest.File(t, text))
	wantPattern(t, c.ReadVirt, 64<<10, 0xffffffc800010000, 0x1410000)
}

func TestNoTables(t *testing.T) {
	for text, want := range map[string]string{
		"kernel 0 4M\nnoinfo SYMBOL(swapper_pg_dir) SYMBOL(init_top_pgt)":           "SYMBOL(swapper_pg_dir)",
		"kernel 0 4M\nnoinfo NUMBER(phys_base)":                                     "NUMBER(phys_base)",
		"kernel 0 4M\ninfo SYMBOL(init_top_pgt)=1234":                               "not in the kernel image",
		"machine arm64\nkernel 0 4M\nnoinfo NUMBER(VA_BITS) NUMBER(kimage_voffset)": "NUMBER(VA_BITS), NUMBER(kimage_voffset)",
		"machine arm64\nkernel 0 4M\ninfo NUMBER(VA_BITS)=64":                       "is not between 36 and 52",
		"machine riscv64\nkernel 0 4M\nnoinfo NUMBER(va_kernel_pa_offset)":          "NUMBER(va_kernel_pa_offset)",
		"machine riscv64\nkernel 0 4M\nnoinfo NUMBER(VA_BITS)":                      "NUMBER(VA_BITS)",
		"kernel 0x1000000 4M\ninfo SYMBOL(init_top_pgt)=ffffffff81000000":           "page table of level 3: read paddr 0x1000000",
	} {
		c := open(t, vmcoretest.File(t, text+"\nload 0x8000000 4K"))
		_, err := c.Translate(0xffffc90000000000)
		var e *vmcore.TranslateError
		if !errors.As(err, &e) || e.Vaddr != 0xffffc90000000000 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// Without NUMBER(phys_base) the segment of the kernel's text tells.
func TestX86ImageFromSegment(t *testing.T) {
	c := open(t, vmcoretest.File(t, `
		kernel 0x3000000 4M
		load 0x3000000 4M vaddr=0xffffffff81000000
		noinfo NUMBER(phys_base)
		map 0xffffc90000000000 4K 0x3000000
		pattern 0x3000000 4K`))
	if c.PhysBase() != 0x2000000 {
		t.Errorf("phys_base %#x", c.PhysBase())
	}
	wantPattern(t, c.ReadVirt, 4096, 0xffffffff81000000, 0x3000000)
	wantPattern(t, c.ReadVirt, 4096, 0xffffc90000000000, 0x3000000)
}
