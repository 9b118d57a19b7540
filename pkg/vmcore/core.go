// Package vmcore reads the memory of a crashed kernel: from /proc/vmcore in a
// capture kernel, from an ELF core file, or, where there is neither, from old
// memory itself through /dev/mem.
//
// Start with [Open]. [Core.ReadPhys] and [Core.ReadVirt] are for single reads
// by anybody; a goroutine that reads much takes its own [Core.NewReader], which
// maps the core in windows and copies out of them.
//
// The package does not know what is in the memory; packages memmap and triage do.
package vmcore

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sort"
	"sync"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// PFN is a page frame number: a physical address shifted by the page size.
type PFN uint64

// Range is the pfns from Start to before End.
type Range struct{ Start, End PFN }

// Error is a sentinel of this package.
type Error string

func (e Error) Error() string { return string(e) }

const (
	// ErrNotRAM is the cause of a read outside all segments.
	ErrNotRAM Error = "not in the core's memory ranges"
	// ErrExcluded is the cause of a read of memory that the core says was there
	// but does not hold.
	ErrExcluded Error = "left out of this core"
	// ErrFault is the cause of a read that the memory itself refused.
	ErrFault Error = "memory fault"
)

// ReadError is a read of physical memory that did not work.
type ReadError struct {
	Paddr uint64
	Err   error
}

func (e *ReadError) Error() string { return fmt.Sprintf("read %#x: %v", e.Paddr, e.Err) }
func (e *ReadError) Unwrap() error { return e.Err }

// Core is an opened core. Its methods may be called concurrently.
type Core struct {
	file    *os.File
	size    int64 // of file, or huge where the file has no end
	devmem  bool  // file offsets are physical addresses
	window  int   // bytes a Reader maps at once
	headers *headers
	notes   notes
	info    *vmcoreinfo.Info
	shift   uint
	ranges  []Range
	trans   translator

	mu     sync.Mutex // guards shared
	shared *Reader
}

// Windows of Readers. In a capture kernel a window costs page tables (8 bytes
// a page) and the time to fill them.
const (
	vmcoreWindow = 4 << 20
	fileWindow   = 16 << 20
	tableWindow  = 64 << 10 // for page tables, which lie scattered
)

// Open opens an ELF core.
func Open(path string) (*Core, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	c := &Core{file: f, size: st.Size(), window: fileWindow}
	if path == "/proc/vmcore" {
		c.window = vmcoreWindow
	}
	if err := c.load(f, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// load reads the ELF headers, and then the notes where they say, and sets up
// everything else.
func (c *Core) load(header, memory io.ReaderAt) (err error) {
	if c.headers, err = readHeaders(header); err != nil {
		return err
	}
	c.headers.sortLoads()
	c.notes = readNotes(memory, c.headers)
	c.info = vmcoreinfo.Parse(c.notes.vmcoreinfo())
	c.shift = 12
	if size, ok := c.info.PageSize(); ok && size >= 4096 && size <= 65536 && bits.OnesCount64(size) == 1 {
		c.shift = uint(bits.TrailingZeros64(size))
	}
	c.ranges = pageRanges(c.headers.loads, c.shift)
	if c.trans, err = newTranslator(c); err != nil {
		c.headers.skip("virtual addresses: %v", err)
	}
	c.shared = c.NewReader()
	return nil
}

// Close closes the core. Its Readers are closed by their owners.
func (c *Core) Close() error {
	c.shared.Close()
	return c.file.Close()
}

// Info is the core's VMCOREINFO, empty if it has none.
func (c *Core) Info() *vmcoreinfo.Info { return c.info }

// Machine is the architecture.
func (c *Core) Machine() elf.Machine { return c.headers.machine }

// ByteOrder is that of the crashed machine.
func (c *Core) ByteOrder() binary.ByteOrder { return c.headers.order }

// Notes is the content of all note segments, one behind the other.
func (c *Core) Notes() []byte { return c.notes.raw }

// VMCoreInfoNote says where in Notes the VMCOREINFO descriptor is; its size is
// 0 if there is none.
func (c *Core) VMCoreInfoNote() (offset, size int) { return c.notes.infoOff, c.notes.infoSize }

// NumCPUs is the number of CPUs that left their registers, at least 1.
func (c *Core) NumCPUs() int { return max(len(c.notes.stacks), 1) }

// StackPointers are those of the CPUs at the crash, in the order of the notes.
func (c *Core) StackPointers() []uint64 { return c.notes.stacks }

// PageShift is the page size as a power of two.
func (c *Core) PageShift() uint { return c.shift }

// Ranges is the RAM: sorted, disjoint, whole pages.
func (c *Core) Ranges() []Range { return c.ranges }

// Segments are the PT_LOADs, sorted by physical address.
func (c *Core) Segments() []Segment { return c.headers.loads }

// MaxPFN is one more than the last pfn of RAM.
func (c *Core) MaxPFN() PFN {
	if len(c.ranges) == 0 {
		return 0
	}
	return c.ranges[len(c.ranges)-1].End
}

// Skipped tells what in the headers could not be believed and was left out,
// one line each.
func (c *Core) Skipped() []string { return c.headers.skipped }

// PhysBase is where an x86_64 kernel image was moved to, 0 elsewhere.
func (c *Core) PhysBase() uint64 {
	n, _ := c.info.Number("phys_base")
	return uint64(n)
}

// ReadPhys reads len(p) bytes of physical memory. The error is a *ReadError.
func (c *Core) ReadPhys(p []byte, paddr uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared.ReadPhys(p, paddr)
}

// ReadVirt reads len(p) bytes at a virtual address of the crashed kernel.
func (c *Core) ReadVirt(p []byte, vaddr uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared.ReadVirt(p, vaddr)
}

// Translate gives the physical address of a virtual address of the crashed kernel.
func (c *Core) Translate(vaddr uint64) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	paddr, _, err := c.shared.translate(vaddr)
	return paddr, err
}

// segment finds the segment that holds paddr, or failing that the next one.
func (c *Core) segment(paddr uint64) (s *Segment, holds bool) {
	loads := c.headers.loads
	i := sort.Search(len(loads), func(i int) bool { return loads[i].Paddr+loads[i].Memsz > paddr })
	if i == len(loads) {
		return nil, false
	}
	return &loads[i], loads[i].Paddr <= paddr
}

// isRAM says whether any byte of paddr's page is in a segment.
func (c *Core) isRAM(paddr uint64) bool {
	pfn := PFN(paddr >> c.shift)
	i := sort.Search(len(c.ranges), func(i int) bool { return c.ranges[i].End > pfn })
	return i < len(c.ranges) && c.ranges[i].Start <= pfn
}

// pageRanges rounds segments outwards to whole pages and merges those that touch.
func pageRanges(loads []Segment, shift uint) []Range {
	var ranges []Range
	for _, s := range loads {
		r := Range{PFN(s.Paddr >> shift), PFN((s.Paddr + s.Memsz + 1<<shift - 1) >> shift)}
		if n := len(ranges); n > 0 && r.Start <= ranges[n-1].End {
			ranges[n-1].End = max(ranges[n-1].End, r.End)
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// MachineName is the name that uname(2) gives an architecture.
func MachineName(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "x86_64"
	case elf.EM_AARCH64:
		return "aarch64"
	case elf.EM_RISCV:
		return "riscv64"
	}
	return m.String()
}
