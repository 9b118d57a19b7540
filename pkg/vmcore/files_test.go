package vmcore_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// tables is a machine whose kernel address space is read through page tables.
const tables = `
	cpus 2
	info CRASHTIME=1763697600
	info PAGESIZE=4096
	kernel 0x1000000 4M
	load 0x1000 0x1ff000
	load 0x1000000 4M
	pattern 0x1000 0x1ff000
	map 0xffff888000000000 2M 0 leaf=2M
	map 0xffff888001000000 4M 0x1000000 leaf=2M
	map 0xffffc90000000000 12K 0x5000
`

// writeKdump writes the pages of core that keep says, as kdump-compressed files.
func writeKdump(t testing.TB, core *vmcore.Core, out []io.WriterAt, keep func(pfn uint64) bool, change func(*kdumpfile.Header)) {
	t.Helper()
	n := uint64(core.MaxPFN())
	ram, kept := kdumpfile.NewBitmap(n), kdumpfile.NewBitmap(n)
	var b kdumpfile.Batch
	for _, r := range core.Ranges() {
		ram.SetRange(uint64(r.Start), uint64(r.End))
		for pfn := uint64(r.Start); pfn < uint64(r.End); pfn++ {
			if !keep(pfn) {
				continue
			}
			page := make([]byte, 1<<core.PageShift())
			if err := core.ReadPhys(page, pfn<<core.PageShift()); err != nil {
				t.Fatal(err)
			}
			kept.Set(pfn)
			b.PFNs, b.Descs, b.Data = append(b.PFNs, pfn), append(b.Descs, kdumpfile.Desc{Size: uint32(len(page))}), append(b.Data, page...)
		}
	}
	off, size := core.VMCoreInfoNote()
	h := kdumpfile.Header{Sysname: "Linux", Release: "6", Version: "#1", Machine: vmcore.MachineName(core.Machine()), BlockSize: 1 << core.PageShift(),
		MaxPFN: n, NumCPUs: 3, PhysBase: core.PhysBase(), Notes: core.Notes(), VMCoreInfoOff: off, VMCoreInfoSize: size}
	if change != nil {
		change(&h)
	}
	w, err := kdumpfile.NewSplitWriter(out, h, ram, kept)
	var o kdumpfile.Output = w
	if len(out) == 1 {
		o, err = kdumpfile.NewKdumpWriter(out[0], h, ram, kept.Count())
	}
	if err = errors.Join(err, o.Batch(&b), o.Finish()); err != nil {
		t.Fatal(err)
	}
}

func kdumpOf(t testing.TB, core *vmcore.Core, keep func(pfn uint64) bool, change func(*kdumpfile.Header)) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "kdump"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	writeKdump(t, core, []io.WriterAt{f}, keep, change)
	return f.Name()
}

func flatten(t testing.TB, plain string, complete bool) string {
	t.Helper()
	b, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	f := kdumpfile.NewFlattener(&buf)
	for at := 0; at < len(b); at += 100000 {
		if _, err := f.WriteAt(b[at:min(len(b), at+100000)], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if complete {
		f.Close()
	}
	name := filepath.Join(t.TempDir(), "flat")
	if err := os.WriteFile(name, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func openFiles(t testing.TB, paths ...string) *vmcore.Core {
	t.Helper()
	c, err := vmcore.OpenFiles(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func all(uint64) bool { return true }

// Whatever the file, the machine is the same, and so is every byte of memory, at
// any address and of any length.
func TestOpenFiles(t *testing.T) {
	raw := vmcoretest.File(t, tables)
	want := openFiles(t, raw)
	kdump := kdumpOf(t, want, all, nil)
	for name, path := range map[string]string{
		"ELF": raw, "kdump": kdump, "flattened ELF": flatten(t, raw, true), "flattened kdump": flatten(t, kdump, true),
	} {
		c := openFiles(t, path)
		files := c.Files()
		if files.Flattened != strings.HasPrefix(name, "flattened") || (files.Dump != nil) != strings.HasSuffix(name, "kdump") || files.Torn || c.Incomplete() {
			t.Errorf("%s: %+v", name, files)
		}
		if c.Machine() != elf.EM_X86_64 || !slices.Equal(c.Ranges(), want.Ranges()) || !bytes.Equal(c.Notes(), want.Notes()) || c.PageShift() != 12 ||
			c.PhysBase() != want.PhysBase() || !slices.Equal(c.StackPointers(), want.StackPointers()) || c.Info().Len() != want.Info().Len() || len(c.Skipped()) > 0 {
			t.Errorf("%s: %v %v %x %v", name, c.Machine(), c.Ranges(), c.PhysBase(), c.Skipped())
		}
		for _, at := range []uint64{0x1000, 0x1001, 0x1fff, 0x2fff, 0x3456} {
			for _, size := range []int{0, 1, 2, 4095, 4096, 4097, 8192, 12289} {
				got, expect := make([]byte, size), make([]byte, size)
				vmcoretest.Pattern(expect, at)
				if err := c.ReadPhys(got, at); err != nil || !bytes.Equal(got, expect) {
					t.Fatalf("%s: %d bytes at %#x: %v", name, size, at, err)
				}
			}
		}
		got, expect := make([]byte, 9000), make([]byte, 9000)
		vmcoretest.Pattern(expect, 0x5123)
		if err := c.ReadVirt(got, 0xffffc90000000123); err != nil || !bytes.Equal(got, expect) {
			t.Errorf("%s: virtual memory: %v", name, err)
		}
		var none *vmcore.ReadError
		if err := c.ReadPhys(got, 0x1fe000); !errors.As(err, &none) || none.Paddr != 0x200000 || none.Err != vmcore.ErrNotRAM {
			t.Errorf("%s: over the end of memory: %v", name, err)
		}
	}
}

// Of a kdump-compressed file the direct map is found in the page tables.
func TestDirectMapOfKdump(t *testing.T) {
	raw := openFiles(t, vmcoretest.File(t, tables))
	c := openFiles(t, kdumpOf(t, raw, all, nil))
	want := []kdumpfile.ELFSegment{
		{Paddr: 0x1000000, Vaddr: 0xffffffff81000000, Memsz: 4 << 20},
		{Paddr: 0x1000, Vaddr: 0xffff888000001000, Memsz: 0x1ff000},
		{Paddr: 0x1000000, Vaddr: 0xffff888001000000, Memsz: 4 << 20},
	}
	got := slices.DeleteFunc(c.Segments(), func(s kdumpfile.ELFSegment) bool { return s.Vaddr>>32 == 0xffffffff && s.Paddr < 0x1000000 })
	if !slices.Equal(got, want) {
		t.Errorf("%#x", got)
	}
	if paddr, err := c.Translate(0xffff888001234567); err != nil || paddr != 0x1234567 {
		t.Errorf("%#x, %v", paddr, err)
	}
	// A file without the page tables has none, and still opens.
	c = openFiles(t, kdumpOf(t, raw, func(pfn uint64) bool { return pfn < 0x1000 }, nil))
	if _, err := c.Translate(0xffff888001234567); err == nil {
		t.Error("translated without page tables")
	}
}

// The segments of an ELF core are those of its headers.
func TestSegments(t *testing.T) {
	c := openFiles(t, vmcoretest.File(t, "load 0x1000 8K vaddr=0xffff888000001000\nload 0x100000 4K vaddr=0xffffffff81000000 filesz=0"))
	want := []kdumpfile.ELFSegment{{Paddr: 0x1000, Vaddr: 0xffff888000001000, Memsz: 8192}, {Paddr: 0x100000, Vaddr: 0xffffffff81000000, Memsz: 4096}}
	if got := c.Segments(); !slices.Equal(got, want) {
		t.Errorf("%#x", got)
	}
}

// Pages that a filter left out are not errors of reading, and DropAbsent knows them.
func TestAbsent(t *testing.T) {
	raw := openFiles(t, vmcoretest.File(t, tables))
	keep := func(pfn uint64) bool { return pfn%3 == 0 }
	filtered := kdumpOf(t, raw, keep, nil)
	for _, path := range []string{filtered, flatten(t, filtered, true)} {
		c := openFiles(t, path)
		b := kdumpfile.NewBitmap(uint64(c.MaxPFN()))
		var expect uint64
		for _, r := range c.Ranges() {
			b.SetRange(uint64(r.Start), uint64(r.End))
		}
		page := make([]byte, 4096)
		for pfn := range uint64(c.MaxPFN()) {
			if !b.Get(pfn) {
				continue
			}
			err := c.ReadPhys(page, pfn<<12)
			if keep(pfn) != (err == nil) || err != nil && !errors.Is(err, vmcore.ErrExcluded) {
				t.Fatalf("pfn %#x: %v", pfn, err)
			}
			if !keep(pfn) {
				expect++
			}
		}
		if n, err := c.DropAbsent(b); n != expect || err != nil {
			t.Errorf("%d dropped, want %d: %v", n, expect, err)
		}
		for pfn := range uint64(len(b)) * 8 {
			if b.Get(pfn) && !keep(pfn) {
				t.Fatalf("pfn %#x is left", pfn)
			}
		}
	}
	c := openFiles(t, vmcoretest.File(t, "load 0x1000 20K filesz=0x2800\nload 0x100000 8K"))
	b := kdumpfile.NewBitmap(uint64(c.MaxPFN()) + 100)
	b.SetRange(1, 6)
	b.SetRange(0x100, 0x102)
	if n, err := c.DropAbsent(b); n != 3 || err != nil || !b.Get(2) || b.Get(3) || !b.Get(0x101) {
		t.Errorf("%d dropped of an ELF core: %v", n, err)
	}
}

func TestSplitFiles(t *testing.T) {
	raw := openFiles(t, vmcoretest.File(t, tables))
	dir := t.TempDir()
	var files []io.WriterAt
	var names []string
	for _, n := range []string{"1", "2", "3"} {
		f, err := os.Create(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, names = append(files, f), append(names, f.Name())
	}
	writeKdump(t, raw, files, all, nil)
	names[1] = flatten(t, names[1], true)
	c := openFiles(t, names[2], names[0], names[1])
	if c.Incomplete() || len(c.Files().Parts) != 3 || !c.Files().Flattened {
		t.Errorf("%+v", c.Files())
	}
	r := c.NewReader()
	defer r.Close()
	got, want := make([]byte, 4096), make([]byte, 4096)
	for _, rng := range c.Ranges() {
		for pfn := uint64(rng.Start); pfn < uint64(rng.End); pfn++ {
			if err := errors.Join(r.ReadPhys(got, pfn<<12), raw.ReadPhys(want, pfn<<12)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("pfn %#x: %v", pfn, err)
			}
		}
	}
	c = openFiles(t, names[2], names[0])
	if !c.Incomplete() || len(c.Skipped()) != 1 || !strings.Contains(c.Skipped()[0], "part of the split dump is missing") {
		t.Errorf("without a part: %v, %v", c.Incomplete(), c.Skipped())
	}
	other := kdumpOf(t, raw, all, nil)
	for want, paths := range map[string][]string{
		"not parts of the same":      {names[0], names[0]},
		"it is a whole dump":         {names[0], other},
		"those come in one file":     {names[0], vmcoretest.File(t, tables)},
		"no file is named":           nil,
		"no such file":               {names[0], "/nonexistent"},
		"is empty":                   {empty(t)},
		"it begins with 6e 6f":       {textFile(t, "no")},
		"neither ELF nor kdump":      {textFile(t, "KDUMP  and not with a third blank")},
		"open flattened dump: not a": {textFile(t, "makedumpfile\x00\x00\x00\x00")},
	} {
		if _, err := vmcore.OpenFiles(paths...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", paths, err, want)
		}
	}
}

func empty(t *testing.T) string { return textFile(t, "") }

func textFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// What the header of a kdump-compressed file says counts where VMCOREINFO and
// notes do not.
func TestKdumpHeaderOnly(t *testing.T) {
	raw := openFiles(t, vmcoretest.File(t, "load 0x1000 64K\npattern 0x1000 64K"))
	c := openFiles(t, kdumpOf(t, raw, all, func(h *kdumpfile.Header) {
		h.Machine, h.PhysBase, h.NumCPUs, h.Notes, h.VMCoreInfoSize = "riscv64", 0x80000000, 7, nil, 0
	}))
	if c.Machine() != elf.EM_RISCV || c.PhysBase() != 0x80000000 || c.NumCPUs() != 7 || c.Info().Len() != 0 {
		t.Errorf("%v %#x %d %d", c.Machine(), c.PhysBase(), c.NumCPUs(), c.Info().Len())
	}
	c = openFiles(t, kdumpOf(t, raw, all, func(h *kdumpfile.Header) { h.Machine, h.NumCPUs = "vax", -1 }))
	if c.Machine() != elf.EM_NONE || c.NumCPUs() != 1 {
		t.Errorf("%v, %d CPUs", c.Machine(), c.NumCPUs())
	}
}

// Header version 3 has no notes but the text of VMCOREINFO, of which one is made.
func TestKdumpBeforeNotes(t *testing.T) {
	raw := openFiles(t, vmcoretest.File(t, tables))
	path := kdumpOf(t, raw, all, nil)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b[8:], 3)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c := openFiles(t, path)
	if c.Info().Len() != raw.Info().Len() || c.NumCPUs() != 3 || !bytes.HasPrefix(c.Notes()[12:], []byte("VMCOREINFO\x00\x00")) {
		t.Errorf("%d keys, %d CPUs, notes %.40q", c.Info().Len(), c.NumCPUs(), c.Notes())
	}
}

// A flattened file without its end opens for what it holds.
func TestTorn(t *testing.T) {
	raw := vmcoretest.File(t, tables)
	c := openFiles(t, flatten(t, raw, false))
	if !c.Incomplete() || !c.Files().Torn || len(c.Skipped()) != 1 {
		t.Errorf("%v %+v %v", c.Incomplete(), c.Files(), c.Skipped())
	}
	if err := c.ReadPhys(make([]byte, 4096), 0x1000); err != nil {
		t.Error(err)
	}
	kdump := kdumpOf(t, openFiles(t, raw), all, nil)
	if err := os.Truncate(kdump, 3<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := vmcore.OpenFiles(kdump); err != nil {
		t.Error(err)
	}
	s, found, err := vmcore.SalvageFiles(context.Background(), kdumpfile.SalvageOptions{}, kdump)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(found) != 1 || found[0].Pages == 0 || found[0].Pages >= found[0].Promised || s.Files().Dump.Pages() != found[0].Pages {
		t.Errorf("%+v", found)
	}
	if e, found, err := vmcore.SalvageFiles(context.Background(), kdumpfile.SalvageOptions{}, raw); err != nil || found != nil {
		t.Errorf("an ELF core: %v, %v", found, err)
	} else {
		e.Close()
	}
}

// FuzzOpenFiles: no file makes opening or reading panic. It is that of a seed, cut
// off or lengthened, and changed in one place.
func FuzzOpenFiles(f *testing.F) {
	raw := vmcoretest.File(f, "cpus 1\ninfo PAGESIZE=4096\nkernel 0x1000 64K\nload 0x1000 64K\nmap 0xffff888000000000 64K 0")
	core, err := vmcore.Open(raw)
	if err != nil {
		f.Fatal(err)
	}
	kdump := kdumpOf(f, core, all, nil)
	core.Close()
	var files [][]byte
	for i, path := range []string{kdump, flatten(f, kdump, true), flatten(f, raw, true)} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		files = append(files, b)
		for _, at := range []int{0, 4096, 4096 + 16, 2 * 4096, len(b) - 200} {
			f.Add(uint8(i), uint32(len(b)), uint32(at), b[at:min(len(b), at+150)])
		}
	}
	name := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, seed uint8, size, at uint32, patch []byte) {
		file := make([]byte, size%(1<<19))
		copy(file, files[int(seed)%len(files)])
		copy(file[min(int(at), len(file)):], patch)
		if err := os.WriteFile(name, file, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := vmcore.OpenFiles(name)
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 5000)
		for i, r := range c.Ranges() {
			if r.Start >= r.End || i > 0 && r.Start < c.Ranges()[i-1].End {
				t.Fatalf("ranges %v", c.Ranges())
			}
			if i < 10 {
				c.ReadPhys(buf, uint64(r.Start)<<c.PageShift()+3)
			}
		}
		c.Segments()
		keep := kdumpfile.NewBitmap(min(uint64(c.MaxPFN()), 1<<20))
		c.DropAbsent(keep)
		for _, vaddr := range []uint64{0xffff888000001000, 0xffffffff81000000, 1 << 63, ^uint64(0) - 100} {
			c.ReadVirt(buf[:100], vaddr)
		}
	})
}
