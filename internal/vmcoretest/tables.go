package vmcoretest

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// arch is how a machine lays out addresses and page tables.
type arch struct {
	machine       elf.Machine
	vaBits        uint
	stackRegister int
	// encode makes a page table entry: of memory, or of the next table.
	encode func(c *core, paddr uint64, level int, leaf bool) uint64
	info   func(c *core) []string
}

func archs(name string) arch {
	switch name {
	case "x86_64":
		return arch{elf.EM_X86_64, 48, 19, encodeX86, infoX86}
	case "arm64":
		return arch{elf.EM_AARCH64, 48, 31, encodeARM64, infoARM64}
	case "riscv64":
		return arch{elf.EM_RISCV, 48, 2, encodeRISCV, infoRISCV}
	}
	return arch{}
}

// imageVaddr is where the kernel image is linked. That of arm64 is in the upper
// half of what the smallest VA_BITS of its configuration can address.
func (c *core) imageVaddr() uint64 {
	switch c.arch.machine {
	case elf.EM_X86_64:
		return 0xffffffff81000000
	case elf.EM_RISCV:
		return 0xffffffff80000000
	}
	least := min(c.arch.vaBits, 48)
	if c.arch.vaBits > 48 && c.pageSize == 16<<10 {
		least = 47
	}
	return -(uint64(1) << (least - 1)) + 2<<30
}

func infoX86(c *core) []string {
	five := 0
	if c.arch.vaBits == 57 {
		five = 1
	}
	return []string{
		fmt.Sprintf("NUMBER(phys_base)=%d", int64(c.image.paddr-(c.image.vaddr-0xffffffff80000000))),
		fmt.Sprintf("SYMBOL(init_top_pgt)=%x", c.root-c.image.paddr+c.image.vaddr),
		fmt.Sprintf("NUMBER(pgtable_l5_enabled)=%d", five),
		"NUMBER(KERNEL_IMAGE_SIZE)=1073741824",
		"NUMBER(sme_mask)=0",
	}
}

// The linear map of arm64 begins at PAGE_OFFSET = -(1<<VA_BITS), here with the
// memory from PHYS_OFFSET 0.
func infoARM64(c *core) []string {
	return []string{
		fmt.Sprintf("NUMBER(VA_BITS)=%d", c.arch.vaBits),
		fmt.Sprintf("NUMBER(kimage_voffset)=%#x", c.image.vaddr-c.image.paddr),
		"NUMBER(PHYS_OFFSET)=0x0",
		fmt.Sprintf("NUMBER(TCR_EL1_T1SZ)=%#x", 64-c.arch.vaBits),
	}
}

// The direct map of riscv64 has its base in the kernel half's second quarter.
func infoRISCV(c *core) []string {
	return []string{
		fmt.Sprintf("NUMBER(VA_BITS)=%d", c.arch.vaBits),
		"NUMBER(phys_ram_base)=0",
		fmt.Sprintf("NUMBER(PAGE_OFFSET)=%#x", -(uint64(1) << (c.arch.vaBits - 2))),
		"NUMBER(KERNEL_LINK_ADDR)=0xffffffff80000000",
		fmt.Sprintf("NUMBER(va_kernel_pa_offset)=%#x", c.image.vaddr-c.image.paddr),
		fmt.Sprintf("NUMBER(satp)=%#x", uint64(8+(c.arch.vaBits-39)/9)<<60|c.root>>12),
	}
}

func encodeX86(c *core, paddr uint64, level int, leaf bool) uint64 {
	sme, _ := c.infoNumber("NUMBER(sme_mask)")
	entry := paddr | sme | 0x63 // present, writable, accessed, dirty
	if leaf && level > 0 {
		entry |= 1 << 7
	}
	return entry
}

func encodeARM64(c *core, paddr uint64, level int, leaf bool) uint64 {
	entry := uint64(0x401) // valid, accessed
	switch {
	case c.pageSize == 64<<10:
		entry |= paddr&(1<<48-1) | paddr>>48<<12
	case c.arch.vaBits == 52:
		entry |= paddr&(1<<50-1) | paddr>>50<<8
	default:
		entry |= paddr | 3<<8 // inner shareable: no address bits
	}
	if !leaf || level == 0 {
		entry |= 2
	}
	if leaf {
		entry |= 3 << 53 // never executable
	}
	return entry
}

func encodeRISCV(_ *core, paddr uint64, _ int, leaf bool) uint64 {
	entry := paddr>>12<<10 | 1
	if leaf {
		entry |= 0xe6 // readable, writable, global, accessed, dirty
	}
	return entry
}

// shift is the number of address bits below the index of a level.
func (c *core) shift(level int) uint {
	page := uint(bits.TrailingZeros64(c.pageSize))
	return page + uint(level)*(page-3)
}

// levels is how many the tables have.
func (c *core) levels() int {
	n := 1
	for c.shift(n) < c.arch.vaBits && c.shift(n) < 64 {
		n++
	}
	return n
}

// mapRegion makes page tables for r with leaves of the given size, or, with 0,
// as large as fit.
func (c *core) mapRegion(r region, leaf uint64) error {
	if c.image.size == 0 {
		return fmt.Errorf("page tables need a kernel: directive kernel")
	}
	if (r.vaddr|r.paddr|r.size|r.repeat)%c.pageSize != 0 || r.vaddr < 1<<63 {
		return fmt.Errorf("not whole pages of kernel addresses")
	}
	c.linear = append(c.linear, r)
	for done := uint64(0); done < r.size; {
		off := done % r.repeat
		level := 0
		for l := 1; l < min(3, c.levels()); l++ {
			size := uint64(1) << c.shift(l)
			if (r.vaddr+done|r.paddr+off)%size == 0 && size <= r.repeat-off && size <= r.size-done && (leaf == 0 || size <= leaf) {
				level = l
			}
		}
		if err := c.mapLeaf(r.vaddr+done, r.paddr+off, level); err != nil {
			return err
		}
		done += 1 << c.shift(level)
	}
	return nil
}

// mapLeaf makes one leaf and the tables above it.
func (c *core) mapLeaf(vaddr, paddr uint64, leaf int) error {
	table := c.root
	for level := c.levels() - 1; ; level-- {
		index := vaddr >> c.shift(level) & (c.pageSize/8 - 1)
		if level == c.levels()-1 {
			index &= 1<<(c.arch.vaBits-c.shift(level)) - 1
		}
		at := table + 8*index
		entry := binary.LittleEndian.Uint64(c.block(at &^ (blockSize - 1))[at%blockSize:])
		switch {
		case level == leaf && entry != 0:
			return fmt.Errorf("%#x is mapped already", vaddr)
		case level == leaf:
			c.put(at, le64(c.arch.encode(c, paddr, level, true)))
			return nil
		case entry == 0:
			next, err := c.alloc(c.pageSize)
			if err != nil {
				return err
			}
			entry = c.arch.encode(c, next, level, false)
			c.put(at, le64(entry))
			c.tables[at] = next
		}
		table = c.tables[at]
	}
}
