package vmcore

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

// CoreHeader is where the crashed kernel left its ELF headers in memory. Size
// is 0 where it was not given.
type CoreHeader struct{ Addr, Size uint64 }

// ParseElfcorehdr reads the value of elfcorehdr=, "[size[KMG]@]offset[KMG]",
// numbers as the kernel's memparse() takes them (lib/cmdline.c): decimal, hexadecimal
// with 0x or octal with 0, and a suffix K, M, G, T, P or E.
func ParseElfcorehdr(s string) (h CoreHeader, err error) {
	size, addr, both := strings.Cut(s, "@")
	if !both {
		size, addr = "0", s
	}
	if h.Size, err = memparse(size); err == nil {
		h.Addr, err = memparse(addr)
	}
	if err == nil && h.Addr == 0 {
		err = fmt.Errorf("the address is 0")
	}
	if err != nil {
		return CoreHeader{}, fmt.Errorf("elfcorehdr=%s: %w; want [size[KMG]@]address[KMG]", s, err)
	}
	return h, nil
}

func memparse(s string) (uint64, error) {
	number, shift := s, 0
	if s != "" {
		if i := strings.IndexByte("KMGTPE", s[len(s)-1]&^0x20); i >= 0 && !isHexE(s) {
			number, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	base := 10
	switch {
	case strings.HasPrefix(number, "0x"), strings.HasPrefix(number, "0X"):
		number, base = number[2:], 16
	case len(number) > 1 && number[0] == '0':
		base = 8
	}
	n, err := strconv.ParseUint(number, base, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	if n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n << shift, nil
}

// isHexE: the E that ends a hexadecimal number is a digit, as strtoull has it.
func isHexE(s string) bool {
	return len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X") && s[len(s)-1]&^0x20 == 'E'
}

// OpenOldMem reads the ELF headers at h.Addr and all memory through devmem
// (/dev/mem), for a capture kernel without /proc/vmcore. In these headers file
// offsets are physical addresses (crash_prepare_elf64_headers(), kernel/crash_core.c).
func OpenOldMem(devmem string, h CoreHeader) (*Core, error) {
	f, err := os.Open(devmem)
	if err != nil {
		return nil, err
	}
	c := &Core{file: f, size: math.MaxInt64, devmem: true, window: vmcoreWindow}
	w := window{file: f, want: tableWindow}
	err = c.load(&physicalMemory{base: h.Addr, w: &w}, &physicalMemory{w: &w})
	w.unmap()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("ELF headers at %#x of %s: %w", h.Addr, devmem, err)
	}
	return c, nil
}

// physicalMemory reads physical memory from base on as a file.
type physicalMemory struct {
	base uint64
	w    *window
}

func (m *physicalMemory) ReadAt(p []byte, off int64) (int, error) {
	page := uint64(os.Getpagesize())
	for done := 0; done < len(p); {
		// Page by page: what lies beside may not be mappable.
		at := m.base + uint64(off) + uint64(done)
		first := at &^ (page - 1)
		n, err := m.w.read(p[done:], at, first, first+page)
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}
