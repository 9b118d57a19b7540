package pagezstd

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// pageKinds names what fillPage can make: shapes that kernel memory takes.
func pageKinds() []string {
	return []string{"memmap", "slab", "pagetable", "pointers", "text", "code", "sparse", "bitmap", "counters", "stack",
		"noise"}
}

// fillPage fills p with kernel-like contents of the kind, the same for the same state of r.
func fillPage(r *rand.Rand, kind string, p []byte) {
	clear(p)
	le := binary.LittleEndian
	direct := 0xffff888000000000 | r.Uint64N(1<<33)&^0xfff
	image := 0xffffffff81000000 + r.Uint64N(1<<21)<<3
	words := func(f func(i int) uint64) { fillWords(p, f) }
	switch kind {
	case "memmap":
		fillMemmap(r, p, direct)
	case "slab":
		fillSlab(r, p, direct, image)
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
		fillText(r, p)
	case "code":
		fillCode(r, p)
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

// fillWords fills p with f of each offset.
func fillWords(p []byte, f func(i int) uint64) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], f(i))
	}
}

// fillMemmap is an array of struct page: flags, lru, mapping, index, private, counts.
func fillMemmap(r *rand.Rand, p []byte, direct uint64) {
	flags := 0x0017ffffc0000000 | r.Uint64N(4)<<52
	fillWords(p, func(i int) uint64 {
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
}

// fillSlab is objects of one size, with lists, function pointers, small numbers.
func fillSlab(r *rand.Rand, p []byte, direct, image uint64) {
	size := 32 << r.IntN(5)
	shape := make([]int, size/8)
	for i := range shape {
		shape[i] = r.IntN(7)
	}
	fillWords(p, func(i int) uint64 {
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
}

// fillText is a kernel log.
func fillText(r *rand.Rand, p []byte) {
	for i := 0; i < len(p); {
		i += copy(p[i:], fmt.Sprintf("[%5d.%06d] %s %d: irq %d for device 0000:%02x:%02x.0\n", r.IntN(1000), r.IntN(1e6),
			[]string{"pci", "nvme", "virtio", "usb 1-1"}[r.IntN(4)], r.IntN(10), r.IntN(100), r.IntN(256), r.IntN(256)))
	}
}

// fillCode is opcodes of few kinds with random operands.
func fillCode(r *rand.Rand, p []byte) {
	ops := []string{"\x48\x8b\x05", "\x48\x89\xe5", "\xe8", "\x0f\x84", "\x55\x41\x57", "\xc3\xcc\xcc\xcc", "\x48\x83\xec"}
	for i := 0; i < len(p); {
		i += copy(p[i:], ops[r.IntN(len(ops))])
		for n := r.IntN(4); n > 0 && i < len(p); n-- {
			p[i] = byte(r.IntN(1 << r.IntN(9)))
			i++
		}
	}
}

// corpus returns n pages of the size, all kinds in turn, always the same.
func corpus(n, size int) []byte {
	r := rand.New(rand.NewPCG(2025, 1))
	kinds := pageKinds()
	out := make([]byte, n*size)
	for i := range n {
		fillPage(r, kinds[i%len(kinds)], out[i*size:(i+1)*size])
	}
	return out
}

// mixPage fills the start of buf with one page, of one kind or of pieces of several, and returns it. Most are of 4 KiB.
func mixPage(r *rand.Rand, buf []byte) []byte {
	n := 4096
	switch r.IntN(40) {
	case 0:
		n = 1 + r.IntN(len(buf))
	case 1:
		n = 4094 + r.IntN(5)
	case 2, 3:
		n = 1 + r.IntN(600)
	}
	p := buf[:n:n]
	kinds := pageKinds()
	for at := 0; at < n; {
		k := n - at
		if r.IntN(3) > 0 {
			k = min(k, 1+r.IntN(n))
		}
		fillPage(r, kinds[r.IntN(len(kinds))], p[at:at+k])
		at += k
	}
	for range r.IntN(4) { // copies from elsewhere in the page
		from, to := r.IntN(n), r.IntN(n)
		copy(p[to:], p[from:from+r.IntN(n-from+1)/4])
	}
	return p
}
