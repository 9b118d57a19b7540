// Package vmcoretest makes ELF cores for tests out of short descriptions. Files
// are sparse: a core of a terabyte takes what its contents take.
//
// [File] writes a core as /proc/vmcore looks, [Memory] the same machine as its
// physical memory, with the ELF headers inside, as /dev/mem would show it.
//
// A description has one directive per line; "#" begins a comment. Numbers are
// decimal or hexadecimal (0x), with K, M, G or T behind for bytes.
//
//	machine NAME [PAGESIZE]  x86_64, arm64 or riscv64; 4K. First, if at all.
//	va BITS                  bits of a kernel address: x86_64 48 or 57; arm64 39 to
//	                         52 (52 with 4K or 16K pages means LPA2); riscv64 39, 48, 57
//	kernel PADDR SIZE        where the kernel image lies, and its mapping. Gives
//	                         VMCOREINFO the usual lines; page tables and mem_section are
//	                         made in its second half. It is in the core only by a load.
//	load PADDR SIZE [vaddr=V] [filesz=N] [offset=N]   one PT_LOAD
//	loads COUNT PADDR SIZE STRIDE                     many
//	xnum                     count program headers in section 0 though they are few
//	cpus N                   N notes NT_PRSTATUS; CPU n has stack pointer n+1
//	note NAME TYPE SIZE      another note, its descriptor is a pattern
//	garbage SIZE             bytes 0xff among the notes
//	info KEY=VALUE           a line of VMCOREINFO, in place of an earlier one
//	noinfo [KEY]             takes a line away, or all
//	data ADDR VALUE...       8-byte numbers or "strings" (without blanks)
//	fill ADDR SIZE BYTE
//	pattern ADDR SIZE        see [Pattern]; what data and fill do goes on top
//	map VADDR SIZE PADDR [leaf=SIZE] [repeat=SIZE]
//	                         page tables; repeat maps the same memory again and again
//	memmap MODEL VADDR PADDR [repeat=SIZE]
//	                         struct pages of all loads so far, at VADDR as vmemmap, in memory
//	                         from PADDR; MODEL is extreme, static or flat. VMCOREINFO gets
//	                         the lines of a 6.1 kernel, which later info lines replace
//	page PFN COUNT NAME=N... members of struct page, as in OFFSET(page.NAME)
//	truncate SIZE            cuts the file off
//
// ADDR is physical, or a virtual one (bit 63 set) in the kernel image, in a map or
// in the memmap. Maps must not overlap.
package vmcoretest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// File writes the described core into a temporary directory of the test.
func File(t testing.TB, text string) string {
	t.Helper()
	return write(t, text, func(c *core, f *os.File) error { return c.writeELF(f) })
}

// Memory writes the described machine's physical memory, with ELF headers and
// notes from physical address elfcorehdr on.
func Memory(t testing.TB, text string, elfcorehdr uint64) string {
	t.Helper()
	return write(t, text, func(c *core, f *os.File) error { return c.writeMemory(f, int64(elfcorehdr)) })
}

// Write writes the described core as /proc/vmcore looks to a new file.
func Write(name, text string) error {
	return create(name, text, func(c *core, f *os.File) error { return c.writeELF(f) })
}

func write(t testing.TB, text string, to func(*core, *os.File) error) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "core")
	if err := create(name, text, to); err != nil {
		t.Fatal(err)
	}
	return name
}

func create(name, text string, to func(*core, *os.File) error) error {
	c, err := parse(text)
	if err != nil {
		return fmt.Errorf("core description: %w", err)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := to(c, f); err != nil {
		f.Close()
		return fmt.Errorf("write core: %w", err)
	}
	return f.Close()
}

// core is a described machine.
type core struct {
	arch     arch
	pageSize uint64
	loads    []load
	notes    []note // VMCOREINFO is not among them
	info     []string
	xnum     bool
	truncate int64 // -1: not

	memory   map[uint64][]byte // blocks of blockSize by paddr
	patterns []region
	linear   []region          // virtual regions whose memory is known
	image    region            // the kernel's
	next     uint64            // where in the image the next table goes
	root     uint64            // paddr of the top table
	tables   map[uint64]uint64 // paddr of an entry to that of its table
	pages    pageArray
}

type load struct {
	paddr, size, vaddr, filesz uint64
	offset                     int64 // -1: where it fits
}

type note struct {
	name string
	kind uint32
	desc []byte
	raw  []byte // instead of all that: garbage
}

// region is size bytes at vaddr that lie at paddr, or, without vaddr, at paddr.
// Every repeat bytes the memory begins anew.
type region struct{ vaddr, paddr, size, repeat uint64 }

const blockSize = 4096

// parse reads a description.
func parse(text string) (*core, error) {
	c := &core{pageSize: 4096, truncate: -1, memory: make(map[uint64][]byte), tables: make(map[uint64]uint64)}
	c.arch = archs("x86_64")
	for i, line := range strings.Split(text, "\n") {
		if at := strings.Index(line, "#"); at >= 0 {
			line = line[:at]
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := c.directive(words[0], &args{words: words[1:]}); err != nil {
			return nil, fmt.Errorf("line %d, %s: %w", i+1, strings.TrimSpace(line), err)
		}
	}
	return c, nil
}

func (c *core) directive(name string, a *args) error {
	switch name {
	case "machine":
		return c.machine(a)
	case "va":
		return a.done(func() { c.arch.vaBits = uint(a.number()) })
	case "kernel":
		return c.kernel(a)
	case "load":
		l := load{paddr: a.number(), size: a.number(), vaddr: a.option("vaddr", 0)}
		l.filesz, l.offset = a.option("filesz", l.size), int64(a.option("offset", ^uint64(0)))
		return a.done(func() { c.loads = append(c.loads, l) })
	case "loads":
		count, l, stride := a.number(), load{paddr: a.number(), filesz: a.number(), offset: -1}, a.number()
		for l.size = l.filesz; count > 0; count-- {
			c.loads = append(c.loads, l)
			l.paddr += stride
		}
		return a.done(nil)
	case "map":
		r, leaf := region{vaddr: a.number(), size: a.number(), paddr: a.number()}, a.option("leaf", 0)
		r.repeat = a.option("repeat", r.size)
		if a.err != nil {
			return a.err
		}
		return c.mapRegion(r, leaf)
	case "memmap":
		return c.memmap(a)
	case "page":
		return c.page(a)
	case "data", "fill", "pattern":
		return c.contents(name, a)
	}
	return c.header(name, a)
}

// header does the directives about what is beside the memory.
func (c *core) header(name string, a *args) error {
	switch name {
	case "xnum":
		return a.done(func() { c.xnum = true })
	case "truncate":
		return a.done(func() { c.truncate = int64(a.number()) })
	case "cpus":
		for n := range a.number() {
			c.notes = append(c.notes, prstatus(n, c.arch))
		}
		return a.done(nil)
	case "note":
		n := note{name: a.word(), kind: uint32(a.number()), desc: make([]byte, a.number())}
		Pattern(n.desc, 0)
		return a.done(func() { c.notes = append(c.notes, n) })
	case "garbage":
		raw := []byte(strings.Repeat("\xff", int(a.number())))
		return a.done(func() { c.notes = append(c.notes, note{raw: raw}) })
	case "info":
		c.setInfo(strings.Join(a.words, " "))
		return nil
	case "noinfo":
		if len(a.words) == 0 {
			c.info = nil
		}
		for _, key := range a.words {
			c.dropInfo(key)
		}
		return nil
	}
	return fmt.Errorf("no such directive")
}

func (c *core) machine(a *args) error {
	name := a.word()
	if len(a.words) > 0 {
		c.pageSize = a.number()
	}
	if c.arch = archs(name); c.arch.machine == 0 {
		return fmt.Errorf("no such machine")
	}
	return a.done(nil)
}

func (c *core) kernel(a *args) error {
	c.image = region{vaddr: c.imageVaddr(), paddr: a.number(), size: a.number()}
	if a.err != nil {
		return a.err
	}
	c.next = c.image.paddr + c.image.size/2
	var err error
	if c.root, err = c.alloc(c.pageSize); err != nil {
		return err
	}
	c.setInfo("OSRELEASE=6.1.0-test")
	c.setInfo(fmt.Sprintf("PAGESIZE=%d", c.pageSize))
	c.setInfo(fmt.Sprintf("SYMBOL(_stext)=%x", c.image.vaddr))
	c.setInfo(fmt.Sprintf("SYMBOL(swapper_pg_dir)=%x", c.root-c.image.paddr+c.image.vaddr))
	for _, line := range c.arch.info(c) {
		c.setInfo(line)
	}
	c.image.repeat = c.image.size
	return c.mapRegion(c.image, 0)
}

// alloc takes zeroed whole pages from the second half of the kernel image.
func (c *core) alloc(size uint64) (paddr uint64, err error) {
	paddr = c.next
	c.next += (size + c.pageSize - 1) &^ (c.pageSize - 1)
	if c.next > c.image.paddr+c.image.size {
		return 0, fmt.Errorf("the kernel image is too small: directive kernel")
	}
	c.put(paddr, make([]byte, size)) // on top of any pattern
	return paddr, nil
}

func (c *core) contents(name string, a *args) error {
	addr := a.number()
	paddr, err := c.physical(addr)
	if err != nil {
		return err
	}
	switch name {
	case "fill":
		size, value := a.number(), a.number()
		return a.done(func() { c.put(paddr, []byte(strings.Repeat(string([]byte{byte(value)}), int(size)))) })
	case "pattern":
		return a.done(func() { c.patterns = append(c.patterns, region{paddr: paddr, size: a.number()}) })
	}
	for len(a.words) > 0 {
		var b []byte
		if strings.HasPrefix(a.words[0], `"`) {
			s, err := strconv.Unquote(a.word())
			if err != nil {
				return err
			}
			b = []byte(s)
		} else {
			b = le64(a.number())
		}
		c.put(paddr, b)
		paddr += uint64(len(b))
	}
	return a.done(nil)
}

// physical gives the paddr of a paddr or of a known vaddr.
func (c *core) physical(addr uint64) (uint64, error) {
	if addr < 1<<63 {
		return addr, nil
	}
	for _, r := range c.linear {
		if off := addr - r.vaddr; off < r.size {
			if r.repeat > 0 {
				off %= r.repeat
			}
			return r.paddr + off, nil
		}
	}
	return 0, fmt.Errorf("%#x is not in the kernel image, a map or the memmap", addr)
}

// put stores bytes at a physical address.
func (c *core) put(paddr uint64, b []byte) {
	for len(b) > 0 {
		at := paddr % blockSize
		n := copy(c.block(paddr - at)[at:], b)
		b, paddr = b[n:], paddr+uint64(n)
	}
}

// block gives the stored block at paddr, made from the patterns when new.
func (c *core) block(paddr uint64) []byte {
	if b := c.memory[paddr]; b != nil {
		return b
	}
	b := make([]byte, blockSize)
	c.patterned(b, paddr)
	c.memory[paddr] = b
	return b
}

// patterned fills what of b, which lies at paddr, is in a pattern.
func (c *core) patterned(b []byte, paddr uint64) {
	for _, r := range c.patterns {
		start, end := max(paddr, r.paddr), min(paddr+uint64(len(b)), r.paddr+r.size)
		if start < end {
			Pattern(b[start-paddr:end-paddr], start)
		}
	}
}

// Pattern fills p with what directive pattern puts at paddr: every byte depends
// on its address, and no two pages are alike.
func Pattern(p []byte, paddr uint64) {
	for i := range p {
		at := paddr + uint64(i)
		word := (at>>3 + 1) * 0x9e3779b97f4a7c15
		p[i] = byte(word >> (8 * (at & 7)))
	}
}

func (c *core) setInfo(line string) {
	key, _, _ := strings.Cut(line, "=")
	for i, old := range c.info {
		if strings.HasPrefix(old, key+"=") {
			c.info[i] = line
			return
		}
	}
	c.info = append(c.info, line)
}

func (c *core) dropInfo(key string) {
	for i, old := range c.info {
		if strings.HasPrefix(old, key+"=") {
			c.info = append(c.info[:i], c.info[i+1:]...)
			return
		}
	}
}

// infoNumber gives the number of a VMCOREINFO line, decimal or with 0x.
func (c *core) infoNumber(key string) (uint64, error) {
	for _, line := range c.info {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			return strconv.ParseUint(value, 0, 64)
		}
	}
	return 0, fmt.Errorf("info %s is needed", key)
}
