// Package vmcore reads the memory of a crashed kernel out of a core: the ELF
// core of /proc/vmcore, a copy of it, QEMU's dump-guest-memory; where
// /proc/vmcore is missing, the old memory itself through /dev/mem; and dump
// files of any kind.
//
// In a capture kernel start with [Open], or [OpenOldMem] without /proc/vmcore:
// they link nothing but the ELF reader. [OpenFiles] opens kdump-compressed,
// flattened and split files too, and brings the decompressors with it. Every
// goroutine that reads much makes its own [Core.NewReader]; the methods of Core
// that read are for a few reads from anywhere. Physical addresses and page frame
// numbers are those of the crashed kernel, and so is the page size.
//
// Nothing in a core is trusted: what does not fit together is left out, and
// [Core.Skipped] says so. Only a file without a usable header is an error.
// The package reads 64-bit little endian cores; virtual addresses it translates
// for x86_64, arm64 and riscv64. It does not classify pages.
package vmcore

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// PFN is a page frame number: a physical address divided by the page size.
type PFN uint64

// Range is a half open range of page frames.
type Range struct {
	Start, End PFN
}

// Error is the type of this package's sentinel errors.
type Error string

func (e Error) Error() string { return string(e) }

const (
	// ErrExcluded is the cause where the file knows of a page but does not have
	// it: a filter has left it out.
	ErrExcluded Error = "page was left out of the core"
	// ErrNotRAM is the cause where the core knows of no memory at the address.
	ErrNotRAM Error = "not in any memory segment of the core"
	// ErrFault is the cause where mapped memory gave an error: there is no safe way
	// to read it.
	ErrFault Error = "memory fault"
	// ErrNotMapped is the cause where a page table has no entry for a vaddr.
	ErrNotMapped Error = "not mapped by the kernel page table"
)

// ReadError says which physical address could not be read.
type ReadError struct {
	Paddr uint64
	Err   error
}

func (e *ReadError) Error() string { return fmt.Sprintf("read paddr %#x: %v", e.Paddr, e.Err) }
func (e *ReadError) Unwrap() error { return e.Err }

// Core is an open core.
type Core struct {
	src       source   // of an ELF core
	pages     pageFile // of other files; nil: an ELF core
	torn      bool     // a flattened file without its end
	files     []*os.File
	header    header
	headerAt  int64 // of an ELF core
	notes     notes
	info      *vmcoreinfo.Info
	pageShift uint
	extents   []extent // disjoint, sorted by start; cover ranges completely
	ranges    []Range
	skipped   skipList
	faults    atomic.Uint64
	mmu       *mmu
	cpus      int // of a kdump-compressed file's header
	physBase  uint64

	mu     sync.Mutex // guards shared, the reader of the Core's own methods
	shared *Reader
}

// Open opens an ELF core: a regular file, a block device or /proc/vmcore.
func Open(path string) (*Core, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return openSource(newSource(f))
}

func openSource(src source) (*Core, error) {
	c := &Core{src: src, files: []*os.File{src.file}}
	if err := c.load(0); err != nil {
		c.Close()
		return nil, fmt.Errorf("open core %s: %w", src.file.Name(), err)
	}
	return c, nil
}

// load reads everything but the memory, from ELF headers at offset at.
func (c *Core) load(at int64) (err error) {
	c.shared = c.NewReader()
	c.headerAt = at
	if c.header, err = readHeader(c.shared, at, &c.skipped); err != nil {
		return err
	}
	h := &c.header
	c.notes = readNotes(c.shared, h, &c.skipped)
	c.info = vmcoreinfo.Parse(c.notes.vmcoreinfo())
	c.pageShift = pageShift(c.info, &c.skipped)
	loads := plausible(h, c.info, &c.skipped)
	c.src.settleSize(loads)
	used := fileSpans(h.segments, h.end)
	h.segments, loads = loads, roundToPages(loads, used, &c.src, 1<<c.pageShift)
	c.ranges = ramRanges(loads, c.pageShift)
	c.extents = buildExtents(loads, c.ranges, c.pageShift)
	c.mmu = newMMU(c)
	h.segments = nil
	return nil
}

// pageShift is what PAGESIZE says, and 12 where it says nothing sensible.
func pageShift(info *vmcoreinfo.Info, skip *skipList) uint {
	size, ok := info.PageSize()
	for shift := uint(12); shift <= 16; shift++ {
		if size == 1<<shift {
			return shift
		}
	}
	if ok {
		skip.add("vmcoreinfo PAGESIZE %d is no page size: 4096 assumed", size)
	}
	return 12
}

// Close unmaps and closes the core. Readers must be closed before.
func (c *Core) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared.Close()
	return closeAll(c.files)
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Info is the core's VMCOREINFO; without keys if the core has none, never nil.
func (c *Core) Info() *vmcoreinfo.Info { return c.info }

// Machine is e_machine of an ELF header, and of other files what their utsname
// says; EM_NONE if that is not known.
func (c *Core) Machine() elf.Machine { return c.header.machine }

// ByteOrder is the crashed machine's.
func (c *Core) ByteOrder() binary.ByteOrder { return binary.LittleEndian }

// Incomplete reports whether the file says of itself that it was not finished:
// by bit 0 of e_flags, set by makedumpfile while it writes an ELF file, by the
// status of a kdump-compressed one, by the missing end of a flattened one; or
// whether parts of a split dump are missing.
func (c *Core) Incomplete() bool {
	return c.torn || c.header.flags&1 != 0 || c.pages != nil && c.pages.incomplete()
}

// Notes is the contents of all PT_NOTE segments, one after another, as they
// stand. The caller must not change it.
func (c *Core) Notes() []byte { return c.notes.raw }

// VMCoreInfoNote says where in Notes the VMCOREINFO text lies, in bytes; size 0
// if there is none.
func (c *Core) VMCoreInfoNote() (offset, size int) { return c.notes.infoOffset, c.notes.infoSize }

// NumCPUs is the number of NT_PRSTATUS notes, or what the header of a
// kdump-compressed file says; at least 1.
func (c *Core) NumCPUs() int { return max(1, len(c.notes.stacks), c.cpus) }

// StackPointers are those of the CPUs at the crash, in the order of the notes;
// 0 where a note has none.
func (c *Core) StackPointers() []uint64 { return c.notes.stacks }

// PageShift is the page size of the crashed kernel as a power of two.
func (c *Core) PageShift() uint { return c.pageShift }

// Ranges are the page frames that the core describes, sorted, merged and
// disjoint. A page covered only in part belongs to them. Whether its contents
// are in the file shows when it is read. The caller must not change them.
func (c *Core) Ranges() []Range { return c.ranges }

// MaxPFN is one past the last page frame of Ranges.
func (c *Core) MaxPFN() PFN {
	if len(c.ranges) == 0 {
		return 0
	}
	return c.ranges[len(c.ranges)-1].End
}

// Skipped says what of the headers was left out or changed because it could
// not be right, one line each. The number of lines is bounded.
func (c *Core) Skipped() []string { return slices.Clone(c.skipped.lines) }

// Faults counts the mapped pages of which the hardware or the file system would
// give nothing (SIGBUS). They count as not readable.
func (c *Core) Faults() uint64 { return c.faults.Load() }

// ramAround gives the physical addresses of the range that holds paddr.
func (c *Core) ramAround(paddr uint64) (start, end uint64, ok bool) {
	pfn := PFN(paddr >> c.pageShift)
	i, _ := slices.BinarySearchFunc(c.ranges, pfn, func(r Range, pfn PFN) int {
		if r.End <= pfn {
			return -1
		}
		return 1
	})
	if i == len(c.ranges) || pfn < c.ranges[i].Start {
		return 0, 0, false
	}
	return uint64(c.ranges[i].Start) << c.pageShift, uint64(c.ranges[i].End) << c.pageShift, true
}

// PhysBase is phys_base of an x86_64 kernel: the physical address of what is
// linked at __START_KERNEL_map. It may be negative and then wraps. 0 on other
// machines and if the core does not tell.
func (c *Core) PhysBase() uint64 { return c.physBase }

// ReadPhys fills p from the physical address paddr. Safe for concurrent use.
// The error is a *[ReadError] that names the first address not read.
func (c *Core) ReadPhys(p []byte, paddr uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared.ReadPhys(p, paddr)
}

// ReadVirt fills p from the kernel virtual address vaddr. Safe for concurrent
// use.
func (c *Core) ReadVirt(p []byte, vaddr uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared.ReadVirt(p, vaddr)
}

// Translate gives the physical address of a kernel virtual address. That the
// core holds it is not promised.
func (c *Core) Translate(vaddr uint64) (paddr uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shared.Translate(vaddr)
}

// MachineName is what uname(2) calls an architecture.
func MachineName(m elf.Machine) string {
	for _, a := range machines() {
		if a.machine == m {
			return a.name
		}
	}
	return m.String()
}

// machineNamed is the architecture that uname(2) calls so, or EM_NONE.
func machineNamed(name string) elf.Machine {
	for _, a := range machines() {
		if a.name == name {
			return a.machine
		}
	}
	return elf.EM_NONE
}

// machineName is what uname(2) calls a 64-bit little endian machine.
type machineName struct {
	machine elf.Machine
	name    string
}

func machines() []machineName {
	return []machineName{{elf.EM_X86_64, "x86_64"}, {elf.EM_AARCH64, "aarch64"}, {elf.EM_RISCV, "riscv64"},
		{elf.EM_PPC64, "ppc64le"}, {elf.EM_LOONGARCH, "loongarch64"}}
}

// skipList collects lines for Core.Skipped.
type skipList struct {
	lines []string // at most maxSkipped+1
}

const maxSkipped = 100

func (s *skipList) add(format string, a ...any) {
	switch n := len(s.lines); {
	case n < maxSkipped:
		s.lines = append(s.lines, fmt.Sprintf(format, a...))
	case n == maxSkipped:
		s.lines = append(s.lines, "more of the same is not listed")
	}
}
