package vmcore_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
	"golang.org/x/sys/unix"
)

func open(t testing.TB, path string) *vmcore.Core {
	t.Helper()
	c, err := vmcore.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// readers are the ways to read the memory of one core.
func readers(t testing.TB, path string) map[string]func([]byte, uint64) error {
	t.Helper()
	c := open(t, path)
	m, err := vmcore.OpenMapped(path)
	if err != nil {
		t.Fatal(err)
	}
	buffered, mapped, refused := c.NewReader(), m.NewReader(), m.NewReader()
	refused.GiveUpMapping()
	t.Cleanup(func() {
		mapped.Close()
		m.Close()
	})
	return map[string]func([]byte, uint64) error{"Core": c.ReadPhys, "Core, mapped": m.ReadPhys,
		"buffered": buffered.ReadPhys, "mapped": mapped.ReadPhys, "mapping refused": refused.ReadPhys}
}

// wantPattern reads size bytes and compares them with vmcoretest.Pattern.
func wantPattern(t *testing.T, read func([]byte, uint64) error, size int, addr, paddr uint64) {
	t.Helper()
	got, want := make([]byte, size), make([]byte, size)
	if err := read(got, addr); err != nil {
		t.Errorf("%d bytes at %#x: %v", size, addr, err)
		return
	}
	vmcoretest.Pattern(want, paddr)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes at %#x are not those of %#x", size, addr, paddr)
	}
}

// wantReadError wants a *ReadError with this cause and this first bad address.
func wantReadError(t *testing.T, err error, cause error, paddr uint64) {
	t.Helper()
	var e *vmcore.ReadError
	if !errors.As(err, &e) || !errors.Is(err, cause) || e.Paddr != paddr {
		t.Errorf("got error %v, want %v at %#x", err, cause, paddr)
	}
}

// A machine as kexec describes it: low memory that ends within a page, a
// reserved hole, the kernel's text once more on its own.
const typical = `
	cpus 3
	kernel 0x1000000 4M
	load 0x1000000 4M vaddr=0xffffffff81000000
	load 0x1000 0x9ec00 vaddr=0xffff888000001000
	load 0x100000 31M vaddr=0xffff888000100000
	load 0x4000000 8M vaddr=0xffff888004000000
	pattern 0x1000 0x9ec00
	pattern 0x100000 15M
	pattern 0x4000000 8M
`

func TestTypicalCore(t *testing.T) {
	path := vmcoretest.File(t, typical)
	c := open(t, path)
	if c.Machine() != elf.EM_X86_64 || c.PageShift() != 12 || c.NumCPUs() != 3 || c.MaxPFN() != 0x4800 {
		t.Errorf("machine %v, page shift %d, %d CPUs, max pfn %#x", c.Machine(), c.PageShift(), c.NumCPUs(), c.MaxPFN())
	}
	if want := []vmcore.Range{{1, 0xa0}, {0x100, 0x2000}, {0x4000, 0x4800}}; !reflect.DeepEqual(c.Ranges(), want) {
		t.Errorf("ranges %x, want %x", c.Ranges(), want)
	}
	if c.Info().Release() != "6.1.0-test" || c.PhysBase() != 0 || c.Skipped() != nil || c.Incomplete() {
		t.Errorf("release %q, phys_base %#x, skipped %q", c.Info().Release(), c.PhysBase(), c.Skipped())
	}
	if want := []uint64{1, 2, 3}; !reflect.DeepEqual(c.StackPointers(), want) {
		t.Errorf("stack pointers %v, want %v", c.StackPointers(), want)
	}
	off, size := c.VMCoreInfoNote()
	if text := string(c.Notes()[off : off+size]); !strings.HasPrefix(text, "OSRELEASE=") || !strings.HasSuffix(text, "\n") {
		t.Errorf("VMCOREINFO text %q", text)
	}
	for _, read := range readers(t, path) {
		for _, size := range []int{0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 256 << 10, 256<<10 + 1, 1 << 20, 5 << 20} {
			wantPattern(t, read, size, 0x4000000, 0x4000000)
			wantPattern(t, read, size/2, 0x4123457, 0x4123457)
		}
		wantPattern(t, read, 1, 0x47fffff, 0x47fffff)
		wantPattern(t, read, 0x9ec00, 0x1000, 0x1000)
		wantReadError(t, read(make([]byte, 2), 0x47fffff), vmcore.ErrNotRAM, 0x4800000)
		wantReadError(t, read(make([]byte, 1), 0xfff), vmcore.ErrNotRAM, 0xfff)
		wantReadError(t, read(make([]byte, 1), ^uint64(0)), vmcore.ErrNotRAM, ^uint64(0))
		tail := bytes.Repeat([]byte{1}, 0x400)
		if err := read(tail, 0x9fc00); err != nil || !bytes.Equal(tail, make([]byte, 0x400)) {
			t.Errorf("rest of a page that a segment covers in part: %x, %v", tail[:8], err)
		}
	}
}

func TestNoVMCoreInfo(t *testing.T) {
	c := open(t, vmcoretest.File(t, "load 0x100000 1M\npattern 0x100000 1M"))
	if c.Info() == nil || c.Info().Len() != 0 || c.NumCPUs() != 1 || c.PageShift() != 12 {
		t.Errorf("info of %d keys, %d CPUs, page shift %d", c.Info().Len(), c.NumCPUs(), c.PageShift())
	}
	if _, size := c.VMCoreInfoNote(); size != 0 {
		t.Errorf("VMCOREINFO note of %d bytes", size)
	}
	wantPattern(t, c.ReadPhys, 4096, 0x100000, 0x100000)
	if _, err := c.Translate(0xffffffff81000000); err == nil {
		t.Error("an address was translated without VMCOREINFO")
	}
}

func TestExcludedPages(t *testing.T) {
	c := open(t, vmcoretest.File(t, "load 0x100000 1M filesz=0x80000\nload 0x200000 1M filesz=0\npattern 0x100000 2M"))
	if want := []vmcore.Range{{0x100, 0x300}}; !reflect.DeepEqual(c.Ranges(), want) {
		t.Errorf("ranges %x, want %x", c.Ranges(), want)
	}
	wantPattern(t, c.ReadPhys, 0x80000, 0x100000, 0x100000)
	wantReadError(t, c.ReadPhys(make([]byte, 2), 0x17ffff), vmcore.ErrExcluded, 0x180000)
	wantReadError(t, c.ReadPhys(make([]byte, 1), 0x2fffff), vmcore.ErrExcluded, 0x2fffff)
}

func TestUnalignedOffset(t *testing.T) {
	for _, read := range readers(t, vmcoretest.File(t, "load 0x100000 1M offset=0x2345\npattern 0x100000 1M")) {
		wantPattern(t, read, 1<<20, 0x100000, 0x100000)
		wantPattern(t, read, 4096, 0x1ff000, 0x1ff000)
	}
}

// The bytes of a page before and behind a segment are in /proc/vmcore though no
// program header says so.
func TestPartialPagesAreReadFromTheFile(t *testing.T) {
	path := vmcoretest.File(t, "load 0x100400 0x1800 offset=0x3400\npattern 0x100400 0x1800")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 0x2000)
	vmcoretest.Pattern(b, 0x100000)
	if _, err := f.WriteAt(b, 0x3000); err != nil {
		t.Fatal(err)
	}
	wantPattern(t, open(t, path).ReadPhys, 0x2000, 0x100000, 0x100000)
	if err := f.Truncate(0x4c00); err != nil { // now the end is not there
		t.Fatal(err)
	}
	c := open(t, path)
	wantPattern(t, c.ReadPhys, 0x1c00, 0x100000, 0x100000)
	tail := []byte{1}
	if err := c.ReadPhys(tail, 0x101fff); err != nil || tail[0] != 0 {
		t.Errorf("behind the end: %x, %v; want zeros", tail, err)
	}
}

func TestManySegments(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int
	}{
		{"loads 65533 0x100000 4K 8K", 65533}, // e_phnum 65534
		{"loads 65534 0x100000 4K 8K", 65534}, // PN_XNUM
		{"loads 70000 0x100000 4K 8K", 70000},
		{"xnum\nloads 3 0x100000 4K 8K", 3},
	} {
		last := uint64(0x100000 + (tt.want-1)*0x2000)
		c := open(t, vmcoretest.File(t, tt.text+fmt.Sprintf("\npattern 0x100000 4K\nfill %#x 4K 7", last)))
		if got := len(c.Ranges()); got != tt.want || c.MaxPFN() != vmcore.PFN(last>>12+1) {
			t.Errorf("%s: %d ranges up to pfn %#x", tt.text, got, c.MaxPFN())
		}
		wantPattern(t, c.ReadPhys, 4096, 0x100000, 0x100000)
		b := make([]byte, 4096)
		if err := c.ReadPhys(b, last); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{7}, 4096)) {
			t.Errorf("%s: last segment: %x, %v", tt.text, b[:8], err)
		}
	}
}

func TestNotesAmongGarbage(t *testing.T) {
	c := open(t, vmcoretest.File(t, "garbage 100\ncpus 1\ngarbage 8\ncpus 1\nnote QEMU 0 999\nload 0x100000 4K\nkernel 0 4M"))
	if c.NumCPUs() != 2 || c.Info().Release() == "" || len(c.Skipped()) != 2 {
		t.Errorf("%d CPUs, release %q, skipped %q", c.NumCPUs(), c.Info().Release(), c.Skipped())
	}
	off, size := c.VMCoreInfoNote()
	if !bytes.HasPrefix(c.Notes()[off:off+size], []byte("OSRELEASE=")) {
		t.Error("the VMCOREINFO note is not where it should be")
	}
}

// A torn p_filesz makes a segment of notes as large as the file: the search for
// more of them must end.
func TestEndlessNotes(t *testing.T) {
	start := time.Now()
	c := patched(t, "cpus 2\nkernel 0 1M\nload 0x100000 8G", 0, 32, 8<<30)
	if c.NumCPUs() != 2 || c.Info().Release() == "" {
		t.Errorf("%d CPUs, release %q", c.NumCPUs(), c.Info().Release())
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// patched writes a core and changes one 8-byte field of program header i.
func patched(t *testing.T, text string, phdr, field int, value uint64) *vmcore.Core {
	t.Helper()
	path := vmcoretest.File(t, text)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, value), int64(64+56*phdr+field)); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func TestTornProgramHeaderCostsItselfOnly(t *testing.T) {
	const text = "load 0x100000 1M\nload 0x400000 1M\nload 0x800000 1M\npattern 0x100000 1M\npattern 0x800000 1M\nkernel 0 4M"
	const offset, paddr, filesz, memsz = 8, 24, 32, 40
	others := []vmcore.Range{{0x100, 0x200}, {0x800, 0x900}}
	for name, tt := range map[string]struct {
		field int
		value uint64
		want  []vmcore.Range
	}{
		"p_paddr":          {paddr, 0xdeadbeefdeadbeef, others},
		"p_paddr+p_memsz":  {paddr, 1<<52 - 0x1000, others},
		"p_memsz":          {memsz, 1 << 60, others},
		"p_memsz plausibl": {memsz, 1 << 40, []vmcore.Range{{0x100, 0x200}, {0x400, 0x900}}},
		"p_offset":         {offset, 1 << 63, others},
		"p_filesz":         {filesz, ^uint64(0), others},
		"p_filesz+":        {filesz, 2 << 20, []vmcore.Range{{0x100, 0x200}, {0x400, 0x500}, {0x800, 0x900}}},
	} {
		c := patched(t, text, 2, tt.field, tt.value)
		if !reflect.DeepEqual(c.Ranges(), tt.want) || len(c.Skipped()) != 1 {
			t.Errorf("%s: ranges %x, want %x; skipped %q", name, c.Ranges(), tt.want, c.Skipped())
		}
		wantPattern(t, c.ReadPhys, 1<<20, 0x100000, 0x100000)
		wantPattern(t, c.ReadPhys, 1<<20, 0x800000, 0x800000)
		if c.Info().Release() == "" {
			t.Errorf("%s: no VMCOREINFO", name)
		}
	}
}

func TestTruncatedCore(t *testing.T) {
	path := vmcoretest.File(t, "load 0x100000 1M offset=0x10000\npattern 0x100000 1M\ntruncate 0x40123")
	c := open(t, path)
	if want := []vmcore.Range{{0x100, 0x200}}; !reflect.DeepEqual(c.Ranges(), want) {
		t.Errorf("ranges %x, want %x", c.Ranges(), want)
	}
	for _, read := range readers(t, path) {
		wantPattern(t, read, 0x30123, 0x100000, 0x100000)
		wantReadError(t, read(make([]byte, 4096), 0x130000), io.ErrUnexpectedEOF, 0x130123)
		wantReadError(t, read(make([]byte, 1), 0x130123), io.ErrUnexpectedEOF, 0x130123)
		wantReadError(t, read(make([]byte, 1), 0x1fffff), io.ErrUnexpectedEOF, 0x1fffff)
	}
}

func TestFileCutOffWhileMapped(t *testing.T) {
	path := vmcoretest.File(t, "load 0x100000 1M offset=0x10000\npattern 0x100000 1M")
	c, err := vmcore.OpenMapped(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := c.NewReader()
	defer r.Close()
	wantPattern(t, r.ReadPhys, 4096, 0x1ff000, 0x1ff000)
	if err := os.Truncate(path, 0x20000); err != nil {
		t.Fatal(err)
	}
	for _, read := range []func([]byte, uint64) error{r.ReadPhys, c.ReadPhys} {
		wantPattern(t, read, 0x10000, 0x100000, 0x100000)
		wantReadError(t, read(make([]byte, 0x20000), 0x100000), vmcore.ErrFault, 0x110000)
		wantReadError(t, read(make([]byte, 16), 0x1ff008), vmcore.ErrFault, 0x1ff008)
	}
	if c.Faults() == 0 {
		t.Error("no fault was counted")
	}
}

// What a mapping faults on must not be read by the kernel, which would stop where the
// architecture does not recover: neither data nor page tables. Here read(2) would work.
func TestFaultIsNotReadAgain(t *testing.T) {
	const image, offset = 0x1000000, 0x10000 // its second half has the page tables
	c, err := vmcore.OpenMapped(vmcoretest.File(t, `kernel 0x1000000 4M
		load 0 64M offset=0x10000
		pattern 0x2000000 32M
		map 0xffffea0000000000 2M 0x2000000`))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := c.NewReader()
	defer before.Close()
	wantPattern(t, before.ReadVirt, 4096, 0xffffea0000000000, 0x2000000)
	c.FaultAt(offset+image+2<<20, offset+image+4<<20)
	c.FaultAt(offset+0x2103000, offset+0x2104000)
	r := c.NewReader()
	defer r.Close()
	wantReadError(t, r.ReadPhys(make([]byte, 3*4096), 0x2102000), vmcore.ErrFault, 0x2103000)
	wantPattern(t, r.ReadPhys, 4096, 0x2104000, 0x2104000)
	if err := r.ReadVirt(make([]byte, 8), 0xffffea0000000000); !errors.Is(err, vmcore.ErrFault) {
		t.Errorf("page tables that fault: %v", err)
	}
	r.GiveUpMapping()
	wantPattern(t, r.ReadPhys, 4096, 0x3103000, 0x3103000) // the kernel said no and touched nothing
}

// The kernel refuses a whole window for one page in it.
func TestPageThatCannotBeMapped(t *testing.T) {
	const text = "load 0x1000000 16M\npattern 0x1000000 16M\nkernel 0 1M"
	c, err := vmcore.OpenMapped(vmcoretest.File(t, text))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := vmcore.OpenOldMem(vmcoretest.Memory(t, text, 0x4000000), vmcore.CoreHeader{Addr: 0x4000000})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	largest := c.RefuseMapping(0x601000 + 0x2000) // notes and headers take two pages
	m.RefuseMapping(0x1601000)
	r, old := c.NewReader(), m.NewReader()
	defer r.Close()
	defer old.Close()
	for paddr := uint64(0x1000000); paddr < 0x2000000; paddr += 4096 {
		wantPattern(t, r.ReadPhys, 4096, paddr, paddr)
		if paddr == 0x1601000 {
			wantReadError(t, old.ReadPhys(make([]byte, 4096), paddr), unix.EAGAIN, paddr)
			continue
		}
		wantPattern(t, old.ReadPhys, 4096, paddr, paddr)
	}
	if *largest < 4<<20 {
		t.Errorf("windows behind that page have at most %d bytes: they did not grow again", *largest)
	}
	wantReadError(t, old.ReadPhys(make([]byte, 8<<20), 0x1000000), unix.EAGAIN, 0x1601000)
}

func TestRefusedFiles(t *testing.T) {
	good, err := os.ReadFile(vmcoretest.File(t, "load 0x100000 4K"))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func([]byte) []byte{
		"read ELF header":         func(b []byte) []byte { return b[:63] },
		"no ELF header":           func(b []byte) []byte { b[1] = 'e'; return b },
		"ELFCLASS32":              func(b []byte) []byte { b[4] = 1; return b },
		"ELFDATA2MSB":             func(b []byte) []byte { b[5] = 2; return b },
		"want ET_CORE":            func(b []byte) []byte { b[16] = 2; return b },
		"no usable program heade": func(b []byte) []byte { b[56] = 0; return b },
	} {
		path := t.TempDir() + "/core"
		if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := vmcore.Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, %v, want an error about %s that says %q", c, err, path, want)
		}
	}
	if _, err := vmcore.Open(t.TempDir() + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestOldMemory(t *testing.T) {
	const at = 0x6000000
	file := open(t, vmcoretest.File(t, typical))
	memory, err := vmcore.OpenOldMem(vmcoretest.Memory(t, typical, at), vmcore.CoreHeader{Addr: at})
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	if !reflect.DeepEqual(memory.Ranges(), file.Ranges()) {
		t.Errorf("ranges %x, want %x", memory.Ranges(), file.Ranges())
	}
	if !bytes.Equal(memory.Notes(), file.Notes()) || memory.NumCPUs() != 3 || memory.Skipped() != nil {
		t.Errorf("%d bytes of notes, want %d; %d CPUs; skipped %q", len(memory.Notes()), len(file.Notes()), memory.NumCPUs(), memory.Skipped())
	}
	wantPattern(t, memory.ReadPhys, 8<<20, 0x4000000, 0x4000000)
	wantPattern(t, memory.ReadVirt, 0x2000, 0xffff888004000000, 0x4000000)
	if _, err := vmcore.OpenOldMem(vmcoretest.Memory(t, typical, at), vmcore.CoreHeader{Addr: at + 0x1000}); err == nil {
		t.Error("headers were found where there are none")
	}
	if _, err := vmcore.OpenOldMem(vmcoretest.Memory(t, typical, at), vmcore.CoreHeader{Addr: 1 << 40}); err == nil {
		t.Error("headers were found behind the end of memory")
	}
}

func TestParseElfcorehdr(t *testing.T) {
	for value, want := range map[string]vmcore.CoreHeader{
		"0x3ff00000":          {Addr: 0x3ff00000},
		"1048576":             {Addr: 1 << 20},
		"1024K":               {Addr: 1 << 20},
		"1M@0x7f000000":       {Size: 1 << 20, Addr: 0x7f000000},
		"512k@3g":             {Size: 512 << 10, Addr: 3 << 30},
		"010":                 {Addr: 8},
		"08":                  {}, // octal ends before the 8
		"0x1eE":               {Addr: 0x1ee},
		"0x1K":                {Addr: 1024},
		"1E":                  {Addr: 1 << 60},
		"15E":                 {Addr: 15 << 60},
		"0x":                  {},
		"64@128 rest":         {Size: 64, Addr: 128},
		"0xffffffffffffffff":  {Addr: 1<<64 - 1},
		"0X10":                {Addr: 16},
		"2P@1T":               {Size: 2 << 50, Addr: 1 << 40},
		"64M@64M@64M":         {Size: 64 << 20, Addr: 64 << 20},
		"876543210":           {Addr: 876543210},
		"0x80000000,whatever": {Addr: 0x80000000},
	} {
		if got, err := vmcore.ParseElfcorehdr(value); err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", value, got, err, want)
		}
	}
	for _, value := range []string{"", "@", "1M@", "K", "x10", "-1", " 1", "16E", "0x10000000000000000", "18446744073709551616", "1@16E"} {
		if got, err := vmcore.ParseElfcorehdr(value); err == nil {
			t.Errorf("%q: got %+v, want an error", value, got)
		}
	}
}

func TestConcurrentReads(t *testing.T) {
	c := open(t, vmcoretest.File(t, typical))
	var wg sync.WaitGroup
	for i := range uint64(4) {
		wg.Go(func() {
			r := c.NewReader()
			defer r.Close()
			for j := range uint64(50) {
				paddr := 0x4000000 + (i*50+j)*0x4321
				wantPattern(t, c.ReadPhys, 100, paddr, paddr)
				wantPattern(t, r.ReadPhys, 5000, paddr, paddr)
				wantPattern(t, c.ReadVirt, 100, 0xffff888000000000+paddr, paddr)
			}
		})
	}
	wg.Wait()
}

func TestReaderDoesNotAllocate(t *testing.T) {
	c := open(t, vmcoretest.File(t, typical+"map 0xffffc90000000000 4M 0x4000000 leaf=4K"))
	r := c.NewReader()
	defer r.Close()
	page, at := make([]byte, 4096), uint64(0)
	read := func() {
		at = (at + 0x7000) % (4 << 20)
		if err := r.ReadPhys(page, 0x4000000+at); err != nil {
			t.Fatal(err)
		}
		if err := r.ReadVirt(page, 0xffffc90000000000+at); err != nil && at < 4<<20-4096 {
			t.Fatal(err)
		}
	}
	read()
	if n := testing.AllocsPerRun(1000, read); n > 0 {
		t.Errorf("%v allocations for two reads", n)
	}
}

// Two streams and reads anywhere must not spoil each other's window.
func TestInterleavedReads(t *testing.T) {
	for _, read := range readers(t, vmcoretest.File(t, "load 0x100000 16M\npattern 0x100000 16M")) {
		for i := range uint64(700) {
			wantPattern(t, read, 4096, 0x100000+i*4096, 0x100000+i*4096)
			wantPattern(t, read, 4000, 0x900000+i*4000, 0x900000+i*4000)
			if at := 0x100000 + i*i*7919%(15<<20); i%3 == 0 {
				wantPattern(t, read, 64, at, at)
			}
		}
	}
}

// A core of a TiB costs what its contents cost, and not what its size is.
func TestTerabyte(t *testing.T) {
	c := open(t, vmcoretest.File(t, `
		kernel 0x1000000 16M
		load 0x100000 1T vaddr=0xffff888000100000
		memmap extreme 0xffffea0000000000 0x8000000 repeat=2M
		pattern 0xfffffff000 4K`))
	if c.MaxPFN() != 1<<28+0x100 || len(c.Ranges()) != 1 {
		t.Errorf("max pfn %#x, ranges %x", c.MaxPFN(), c.Ranges())
	}
	wantPattern(t, c.ReadVirt, 4096, 0xffff888000000000+0xfffffff000, 0xfffffff000)
	if paddr, err := c.Translate(0xffffea0000000000 + 1<<28*64); err != nil || paddr != 0x8000000 {
		t.Errorf("struct page of pfn 2^28 is at %#x, %v", paddr, err)
	}
}

func BenchmarkReadPhys(b *testing.B) {
	path := vmcoretest.File(b, "load 0x100000 64M\npattern 0x100000 64M")
	ways := readers(b, path)
	for _, bb := range []struct {
		name string
		span uint64
	}{{"again", 128 << 10}, {"sequential", 64 << 20}} {
		for _, way := range []string{"buffered", "mapped"} {
			b.Run(bb.name+"/"+way, func(b *testing.B) {
				page := make([]byte, 4096)
				b.SetBytes(4096)
				b.ReportAllocs()
				at := uint64(0)
				for b.Loop() {
					if err := ways[way](page, 0x100000+at); err != nil {
						b.Fatal(err)
					}
					at = (at + 4096) % bb.span
				}
			})
		}
	}
}
