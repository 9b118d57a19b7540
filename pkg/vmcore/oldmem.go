package vmcore

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// CoreHeader says where in memory the crashed kernel left its ELF headers, as
// the capture kernel's elfcorehdr= does. Size is 0 where it was not given.
type CoreHeader struct{ Addr, Size uint64 }

// ParseElfcorehdr reads the value of elfcorehdr=, "[size[KMG]@]offset[KMG]", as
// the kernel does (setup_elfcorehdr() in kernel/crash_dump.c, memparse() in
// lib/cmdline.c): decimal, hexadecimal after 0x, octal after 0, with a suffix K,
// M, G, T, P or E. Like the kernel it does not look at what follows.
func ParseElfcorehdr(value string) (CoreHeader, error) {
	first, rest, err := memparse(value)
	if err != nil {
		return CoreHeader{}, elfcorehdrError(value, err)
	}
	if !strings.HasPrefix(rest, "@") {
		return CoreHeader{Addr: first}, nil
	}
	addr, _, err := memparse(rest[1:])
	if err != nil {
		return CoreHeader{}, elfcorehdrError(value, err)
	}
	return CoreHeader{Addr: addr, Size: first}, nil
}

func elfcorehdrError(value string, err error) error {
	return fmt.Errorf("elfcorehdr=%s: %w; want [size[KMG]@]address[KMG]", value, err)
}

// memparse reads a number with a suffix from the front of s.
func memparse(s string) (n uint64, rest string, err error) {
	base := uint64(10)
	digits := s
	switch {
	case len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' && digit(s[2]) < 16:
		base, digits = 16, s[2:]
	case strings.HasPrefix(s, "0"):
		base = 8
	}
	i := 0
	for ; i < len(digits) && digit(digits[i]) < base; i++ {
		if n > (math.MaxUint64-digit(digits[i]))/base {
			return 0, "", fmt.Errorf("%q is too large", s)
		}
		n = n*base + digit(digits[i])
	}
	if i == 0 {
		return 0, "", fmt.Errorf("%q does not begin with a number", s)
	}
	rest = digits[i:]
	if rest == "" {
		return n, rest, nil
	}
	if k := strings.IndexByte("KMGTPE", rest[0]&^0x20); k >= 0 {
		shift := 10 * (k + 1)
		if n > math.MaxUint64>>shift {
			return 0, "", fmt.Errorf("%q is too large", s)
		}
		n, rest = n<<shift, rest[1:]
	}
	return n, rest, nil
}

// digit is the value of a digit up to f, or 255.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return uint64(c|0x20-'a') + 10
	}
	return 255
}

// OpenOldMem opens the crashed kernel's memory itself, for a capture kernel
// without a usable /proc/vmcore. devmem is /dev/mem, which is mapped and not
// read: read(2) gives zeros for what is no RAM of the capture kernel. The ELF
// headers lie in memory at h.Addr; their offsets are physical addresses, also
// those of the notes, one PT_NOTE per CPU and one for VMCOREINFO
// (crash_prepare_elf64_headers() in kernel/crash_core.c).
func OpenOldMem(devmem string, h CoreHeader) (*Core, error) {
	if h.Addr > math.MaxInt64/2 {
		return nil, fmt.Errorf("open old memory: ELF headers at %#x: not a physical address", h.Addr)
	}
	f, err := os.Open(devmem)
	if err != nil {
		return nil, err
	}
	c := &Core{src: newOldMemSource(f), files: []*os.File{f}}
	if err := c.load(int64(h.Addr)); err != nil {
		c.Close()
		return nil, fmt.Errorf("open old memory, ELF headers at %#x of %s: %w", h.Addr, devmem, err)
	}
	return c, nil
}
