package vmcore

import "fmt"

// x86 translates addresses of x86_64 kernels. Documentation/arch/x86/x86_64/mm.rst
// has the layout, arch/x86/include/asm/pgtable_types.h the entries.
type x86 struct {
	physBase uint64
	image    uint64 // bytes of the kernel image's mapping
	levels   int    // 4 or 5
	pgd      uint64 // paddr of the top table
	smeMask  uint64
	loads    []Segment // their vaddrs are the direct map, where the core has them
}

const (
	x86StartKernelMap = 0xffffffff80000000
	x86ImageSize      = 512 << 20 // KERNEL_IMAGE_SIZE where the kernel does not export it
	x86Present        = 1 << 0
	x86PageSize       = 1 << 7        // _PAGE_PSE: a leaf above the last level
	x86AddressMask    = 1<<52 - 1<<12 // bits 12 to 51
	x86KernelHalf     = uint64(1) << 63
)

func newX86(c *Core) (*x86, error) {
	info := c.Info()
	if err := info.Require("SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)"); err != nil {
		return nil, err
	}
	x := &x86{physBase: c.PhysBase(), image: x86ImageSize, levels: 4, loads: c.headers.loads}
	if n, ok := info.Number("KERNEL_IMAGE_SIZE"); ok && n > 0 {
		x.image = uint64(n)
	}
	if n, _ := info.Number("pgtable_l5_enabled"); n != 0 {
		x.levels = 5
	}
	if n, ok := info.Number("sme_mask"); ok {
		x.smeMask = uint64(n)
	}
	pgd, _ := info.Symbol("swapper_pg_dir")
	if pgd-x86StartKernelMap >= x.image {
		return nil, fmt.Errorf("SYMBOL(swapper_pg_dir)=%x is not in the kernel image", pgd)
	}
	x.pgd = pgd - x86StartKernelMap + x.physBase
	return x, nil
}

func (x *x86) translate(entry func(uint64) (uint64, error), vaddr uint64) (start, size, pstart uint64, err error) {
	if vaddr-x86StartKernelMap < x.image {
		return x86StartKernelMap, x.image, x.physBase, nil
	}
	for i := range x.loads {
		if s := &x.loads[i]; s.Vaddr >= x86KernelHalf && vaddr-s.Vaddr < s.Memsz {
			return s.Vaddr, s.Memsz, s.Paddr, nil
		}
	}
	return x.walk(entry, vaddr)
}

// walk goes through the page tables.
func (x *x86) walk(entry func(uint64) (uint64, error), vaddr uint64) (start, size, pstart uint64, err error) {
	table := x.pgd
	for level := x.levels; level > 0; level-- {
		shift := uint(12 + 9*(level-1))
		e, err := entry(table + vaddr>>shift&0x1ff*8)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("page table of level %d: %w", level, err)
		}
		if e&x86Present == 0 {
			return 0, 0, 0, errNotMapped
		}
		table = e & x86AddressMask &^ x.smeMask
		if level == 1 || (level <= 3 && e&x86PageSize != 0) {
			size = 1 << shift
			return vaddr &^ (size - 1), size, table &^ (size - 1), nil
		}
	}
	return 0, 0, 0, errNotMapped
}
