package pagezstd

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// pageKinds names what fillPage can make: shapes that kernel memory takes.
func pageKinds() []string {
	return []string{"memmap", "slab", "pagetable", "pointers", "text", "code", "sparse", "bitmap", "counters", "stack", "noise"}
}

// fillPage fills p with kernel-like contents of the kind, the same for the same state of r.
func fillPage(r *rand.Rand, kind string, p []byte) {
	clear(p)
	le := binary.LittleEndian
	direct := 0xffff888000000000 | r.Uint64N(1<<33)&^0xfff
	image := 0xffffffff81000000 + r.Uint64N(1<<21)<<3
	words := func(f func(i int) uint64) {
		for i := 0; i+8 <= len(p); i += 8 {
			le.PutUint64(p[i:], f(i))
		}
	}
	switch kind {
	case "memmap": // struct page: flags, lru, mapping, index, private, counts
		flags := 0x0017ffffc0000000 | r.Uint64N(4)<<52
		words(func(i int) uint64 {
			switch i & 63 {
			case 0:
				return flags | uint64(r.IntN(3))<<2
			case 8, 16:
				return 0xffffea0000000000 + direct&0xffffff + uint64(i)*64 + 8
			case 24:
				return direct &^ 7 * uint64(r.IntN(2))
			case 32:
				return uint64(i >> 6)
			case 48:
				return 0xffffffff | 1<<32
			}
			return 0
		})
	case "slab": // objects of one size, with lists, function pointers, small numbers
		size := 32 << r.IntN(5)
		shape := make([]int, size/8)
		for i := range shape {
			shape[i] = r.IntN(7)
		}
		words(func(i int) uint64 {
			switch shape[i%size/8] {
			case 0:
				return direct + uint64(i)
			case 1:
				return image + uint64(r.IntN(3))*0x40
			case 2:
				return uint64(r.IntN(300))
			case 3:
				return direct + r.Uint64N(1<<24)&^7
			case 4:
				return 0xdead000000000100
			}
			return 0
		})
	case "pagetable":
		pfn := r.Uint64N(1 << 20)
		words(func(i int) uint64 {
			if r.IntN(8) == 0 {
				pfn = r.Uint64N(1 << 20)
				return 0
			}
			pfn++
			return pfn<<12 | 0x8000000000000067
		})
	case "pointers":
		words(func(i int) uint64 { return direct + r.Uint64N(1<<26)&^15 })
	case "text":
		for i := 0; i < len(p); {
			i += copy(p[i:], fmt.Sprintf("[%5d.%06d] %s %d: irq %d for device 0000:%02x:%02x.0\n", r.IntN(1000), r.IntN(1e6),
				[]string{"pci", "nvme", "virtio", "usb 1-1"}[r.IntN(4)], r.IntN(10), r.IntN(100), r.IntN(256), r.IntN(256)))
		}
	case "code": // opcodes of few kinds with random operands
		ops := []string{"\x48\x8b\x05", "\x48\x89\xe5", "\xe8", "\x0f\x84", "\x55\x41\x57", "\xc3\xcc\xcc\xcc", "\x48\x83\xec"}
		for i := 0; i < len(p); {
			i += copy(p[i:], ops[r.IntN(len(ops))])
			for n := r.IntN(4); n > 0 && i < len(p); n-- {
				p[i] = byte(r.IntN(1 << r.IntN(9)))
				i++
			}
		}
	case "sparse":
		for n := r.IntN(40); n > 0 && len(p) > 0; n-- {
			p[r.IntN(len(p))] = byte(r.Uint32())
		}
	case "bitmap":
		for i := range p {
			p[i] = []byte{0, 0xff, 0xff, byte(r.Uint32() & r.Uint32())}[r.IntN(4)]
		}
	case "counters":
		n := uint32(r.Uint32N(1000))
		for i := 0; i+4 <= len(p); i += 4 {
			n += r.Uint32N(17)
			le.PutUint32(p[i:], n)
		}
	case "stack": // mostly old zero, the end used
		words(func(i int) uint64 {
			if i < len(p)/2 || r.IntN(3) == 0 {
				return 0
			}
			return []uint64{direct + uint64(i), image + r.Uint64N(1<<20), uint64(r.IntN(1 << 12)), 0x246}[r.IntN(4)]
		})
	case "noise":
		words(func(int) uint64 { return r.Uint64() })
	}
}
