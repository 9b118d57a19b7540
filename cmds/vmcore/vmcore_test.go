package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// machine is 40 MiB of memory with a kernel in it that wrote one line. From
// 32 MiB on all is noise: processes' pages, a free block, page cache with and
// without private data, then the kernel's again.
const machine = `
	cpus 2
	info OSRELEASE=6.1.0-test
	info CRASHTIME=1763697600
	info SYMBOL(init_uts_ns)=ffffffff81003000
	info OFFSET(uts_namespace.name)=0
	kernel 0x1000000 4M
	load 0 40M
	memmap extreme 0xffffea0000000000 0x1800000
	pattern 0x2000000 8M
	page 0x2000 512 mapping=1
	page 0x2200 1 _mapcount=-129 private=9
	page 0x2400 256 flags=0x10
	page 0x2500 256 flags=0x2010
	data 0x1003000 "Linux"
	data 0x1003041 "router-7"
	data 0x1003082 "6.1.0-test"
` + vmcoretest.OneRecord

const (
	panicLine    = "[    1.000000] panic\n"
	machinePages = 10240
)

// leaves says whether a dump of machine at that level has a page.
func leaves(level int, pfn uint64) bool {
	bit := 0
	switch {
	case pfn >= 0x2000 && pfn < 0x2200:
		bit = 8
	case pfn >= 0x2200 && pfn < 0x2400:
		bit = 16
	case pfn >= 0x2400 && pfn < 0x2500:
		bit = 2 | 4
	case pfn >= 0x2500 && pfn < 0x2600:
		bit = 4
	}
	return level&bit == 0
}

func keptAt(level int) (n int) {
	for pfn := range uint64(machinePages) {
		if leaves(level, pfn) {
			n++
		}
	}
	return n
}

// result is what one run left.
type result struct {
	status    int
	out, errs string
}

func vmcoreRun(args ...string) result { return vmcoreIn(strings.NewReader(""), args...) }

func vmcoreIn(stdin io.Reader, args ...string) result {
	var out, errs bytes.Buffer
	status := run(args, stdin, &out, &errs)
	return result{status, out.String(), errs.String()}
}

func (r result) want(t *testing.T, status int, said ...string) result {
	t.Helper()
	if r.status != status {
		t.Fatalf("exit status %d, want %d:\n%s%s", r.status, status, r.out, r.errs)
	}
	for _, s := range said {
		if !strings.Contains(r.out+r.errs, s) {
			t.Errorf("it does not say %q:\n%s%s", s, r.out, r.errs)
		}
	}
	return r
}

func open(t *testing.T, paths ...string) *vmcore.Core {
	t.Helper()
	c, err := vmcore.OpenFiles(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// checkPages compares each page of a dump with the raw core. gapless says that
// what was left out may be there as zeros, as in an ELF core.
func checkPages(t *testing.T, raw *vmcore.Core, level int, gapless bool, paths ...string) {
	t.Helper()
	c := open(t, paths...)
	if c.Incomplete() || c.Machine() != raw.Machine() || !slices.Equal(c.Ranges(), raw.Ranges()) || !bytes.Equal(c.Notes(), raw.Notes()) || c.PhysBase() != raw.PhysBase() {
		t.Fatalf("%v: incomplete %v, machine %v, ranges %v, %d bytes of notes, phys_base %#x", paths, c.Incomplete(), c.Machine(), c.Ranges(), len(c.Notes()), c.PhysBase())
	}
	got, want := make([]byte, 4096), make([]byte, 4096)
	for pfn := range uint64(machinePages) {
		err := c.ReadPhys(got, pfn<<12)
		if !leaves(level, pfn) {
			if !errors.Is(err, vmcore.ErrExcluded) && !(gapless && err == nil && !slices.ContainsFunc(got, func(b byte) bool { return b != 0 })) {
				t.Fatalf("%v: pfn %#x was to be left out: %v", paths, pfn, err)
			}
			continue
		}
		if err2 := raw.ReadPhys(want, pfn<<12); err != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v: pfn %#x: %v, %v", paths, pfn, err, err2)
		}
	}
	if r := vmcoreRun(append([]string{"dmesg"}, paths...)...); r.out != panicLine || r.status != 0 {
		t.Errorf("%v: log %q, %d, %s", paths, r.out, r.status, r.errs)
	}
}

func partsOf(name string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("%s.%d", name, i+1))
	}
	return all
}

// Every page of every format, codec and level is that of the core.
func TestConvert(t *testing.T) {
	core := vmcoretest.File(t, machine)
	raw := open(t, core)
	dir := t.TempDir()
	for _, level := range []int{0, 1, 16, 31} {
		for i, flags := range [][]string{
			{"-compress", "zstd"}, {"-compress", "snappy"}, {"-compress", "zlib:6"}, {"-compress", "none"},
			{"-format", "flat"}, {"-format", "elf"}, {"-split", "3"}, {"-dedup", "-workers", "3"}, {"-split", "2", "-dedup"},
		} {
			out := filepath.Join(dir, fmt.Sprintf("%d.%d", level, i))
			args := append([]string{"convert", core, out, "-level", fmt.Sprint(level)}, flags...)
			r := vmcoreRun(args...).want(t, exitOK, fmt.Sprintf("level %d", level))
			if strings.Contains(r.errs, "vmcore") { // and not progress
				t.Errorf("%v: complaints %s", args, r.errs)
			}
			paths := []string{out}
			if flags[0] == "-split" {
				paths = partsOf(out, int(flags[1][0]-'0'))
			}
			checkPages(t, raw, level, flags[1] == "elf", paths...)
			vmcoreRun(append([]string{"verify"}, paths...)...).want(t, exitOK, "good")
			vmcoreRun("compare", "-common", core, strings.Join(paths, ",")).want(t, exitOK, "the same")
		}
	}
}

// Standard output is flattened, and so is what is read from standard input, be it
// a file or a pipe.
func TestStreams(t *testing.T) {
	core := vmcoretest.File(t, machine)
	raw := open(t, core)
	dir := t.TempDir()
	for _, format := range []string{"flat", "elf"} {
		r := vmcoreRun("convert", "-level", "31", "-format", format, core, "-").want(t, exitOK)
		if !strings.Contains(r.errs, "left out") {
			t.Errorf("no table: %s", r.errs)
		}
		stream := filepath.Join(dir, format)
		if err := os.WriteFile(stream, []byte(r.out), 0o600); err != nil {
			t.Fatal(err)
		}
		checkPages(t, raw, 31, format == "elf", stream)
		vmcoreIn(strings.NewReader(r.out), "convert", "-", filepath.Join(dir, format+".pipe")).want(t, exitOK)
		checkPages(t, raw, 31, format == "elf", filepath.Join(dir, format+".pipe"))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".vmcore*")); len(left) > 0 {
		t.Errorf("%v stay", left)
	}
	if r := vmcoreIn(bytes.NewReader(nil), "dmesg", "-"); r.status != exitFailed {
		t.Errorf("an empty standard input: %+v", r)
	}
}

// A dump that was filtered before is filtered again; what it lacks is counted and
// is no error.
func TestConvertAgain(t *testing.T) {
	core := vmcoretest.File(t, machine)
	raw := open(t, core)
	dir := t.TempDir()
	first := map[string][]string{}
	for _, format := range []string{"kdump", "flat", "elf"} {
		name := filepath.Join(dir, format)
		vmcoreRun("convert", "-format", format, "-level", "17", core, name).want(t, exitOK)
		first[format] = []string{name}
	}
	vmcoreRun("convert", "-split", "3", "-level", "17", core, filepath.Join(dir, "split")).want(t, exitOK)
	first["split"] = []string{filepath.Join(dir, "split.2"), filepath.Join(dir, "split.3"), filepath.Join(dir, "split.1")}
	for format, in := range first {
		out := filepath.Join(dir, format+".31")
		r := vmcoreRun(append(append([]string{"convert", "-json", "-level", "31"}, in...), out)...).want(t, exitOK)
		checkPages(t, raw, 31, format == "elf", out)
		var rep report
		if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
			t.Fatal(err)
		}
		counts := map[string]uint64{}
		for _, c := range rep.Classes {
			counts[c.Class] = c.Pages
			if c.Kept != (c.Class == "kernel") {
				t.Errorf("%s: %+v", format, c)
			}
		}
		if counts["user"] != 512 || counts["free"] != 512 || counts["cache"] != 256 || counts["cache-private"] != 256 ||
			rep.Absent != 0 || rep.Unreadable != 0 || rep.Kept != uint64(keptAt(31)) || rep.Level != 31 || rep.Degraded != "" {
			t.Errorf("%s: %+v", format, rep)
		}
		// At level 0 all that is there stays, and the header goes on to say how it was filtered.
		out += ".0"
		r = vmcoreRun(append(append([]string{"convert", "-json"}, in...), out)...).want(t, exitOK)
		rep = report{}
		if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 0, false: 17}[format == "elf"]; rep.Absent != 512 || rep.Kept != uint64(keptAt(16)) || rep.Level != want || rep.Unreadable != 0 {
			t.Errorf("%s: %+v", format, rep)
		}
		checkPages(t, raw, 16, format == "elf", out)
	}
}

// A level that cannot be had names the key and keeps everything.
func TestConvertWithoutKey(t *testing.T) {
	core := vmcoretest.File(t, machine+"\nnoinfo OFFSET(page.mapping)")
	out := filepath.Join(t.TempDir(), "out")
	r := vmcoreRun("convert", "-level", "31", core, out).want(t, exitOK, "dump level 31 cannot be had, every page is kept", "OFFSET(page.mapping)")
	if !strings.Contains(r.out, "10240") {
		t.Error(r.out)
	}
	if c := open(t, out); c.Files().Dump.Pages() != machinePages || c.Files().Dump.Header().DumpLevel != 1 {
		t.Errorf("%d pages, level %d", c.Files().Dump.Pages(), c.Files().Dump.Header().DumpLevel)
	}
}

func TestDryRun(t *testing.T) {
	core := vmcoretest.File(t, machine)
	before, _ := os.ReadDir(filepath.Dir(core))
	vmcoreRun("convert", "-n", "-level", "31", core).want(t, exitOK, "about ", "cache-private    256   1.0 MiB    left out")
	if after, _ := os.ReadDir(filepath.Dir(core)); len(after) != len(before) {
		t.Error("it wrote something")
	}
}

// What is there is not replaced, and what is not complete has another name.
func TestOutputNames(t *testing.T) {
	core := vmcoretest.File(t, machine)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	if err := os.WriteFile(out, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	vmcoreRun("convert", core, out).want(t, exitFailed, "is there already: -f replaces it")
	vmcoreRun("convert", core, dir).want(t, exitFailed, "no regular file")
	if b, _ := os.ReadFile(out); string(b) != "old" {
		t.Fatal("it was replaced")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := open(t, core)
	var said bytes.Buffer
	o := convertOptions{compress: "none", format: "kdump", split: 1, force: true, whole: true}
	if err := o.check(out); err != nil {
		t.Fatal(err)
	}
	status, err := convertCore(&env{ctx: ctx, stdout: io.Discard, stderr: &said}, o, c, []string{core}, out)
	if status != exitFailed || !errors.Is(err, context.Canceled) || !strings.Contains(said.String(), out+"-incomplete stays") {
		t.Errorf("%d, %v, %s", status, err, &said)
	}
	if b, _ := os.ReadFile(out); string(b) != "old" {
		t.Fatal("a dump that failed replaced the old file")
	}
	if k := open(t, out+"-incomplete"); !k.Incomplete() {
		t.Error("the incomplete file says complete")
	}
	// The incomplete file as IN must not be overwritten by itself.
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(core, out+"-incomplete"); err != nil {
		t.Fatal(err)
	}
	vmcoreRun("convert", out+"-incomplete", out).want(t, exitOK)
	if k := open(t, out).Files().Dump; k.Pages() != machinePages {
		t.Errorf("%d pages", k.Pages())
	}
	vmcoreRun("convert", "-f", out+"-incomplete", out).want(t, exitOK)
}

func TestReassemble(t *testing.T) {
	core := vmcoretest.File(t, machine)
	raw := open(t, core)
	dir := t.TempDir()
	split, out := filepath.Join(dir, "split"), filepath.Join(dir, "out")
	vmcoreRun("convert", "-level", "31", "-compress", "snappy", "-split", "3", core, split).want(t, exitOK)
	p := partsOf(split, 3)
	vmcoreRun("info", p[2], p[0], p[1]).want(t, exitOK, "split into 3 files", "complete     yes")
	vmcoreRun("info", p[1]).want(t, exitOK, "a part of a split dump: pfns 0x")
	vmcoreRun("reassemble", p[2], p[0], p[1], out).want(t, exitOK, "kdump snappy")
	checkPages(t, raw, 31, false, out)
	vmcoreRun("reassemble", p[2], p[0], out+".2").want(t, exitFailed, "incomplete: vmcore salvage takes what it has")
	vmcoreRun("verify", p[2], p[0]).want(t, exitFailed, "it is incomplete")
	vmcoreRun("salvage", p[2], p[0], out+".2").want(t, exitPartial, "not in IN")
	if n := open(t, out+".2").Files().Dump.Pages(); n == 0 || n >= uint64(keptAt(31)) {
		t.Errorf("%d pages of two parts", n)
	}
	vmcoreRun("convert", p[0], p[0], out+".3").want(t, exitFailed, "not parts of the same split dump")
	vmcoreRun("convert", p[0], core, out+".3").want(t, exitFailed, "ELF core, and those come in one file")
}

// A dump cut off at any byte gives the pages it holds and no other.
func TestSalvage(t *testing.T) {
	core := vmcoretest.File(t, machine)
	raw := open(t, core)
	dir := t.TempDir()
	for _, format := range []string{"kdump", "flat"} {
		whole := filepath.Join(dir, format)
		vmcoreRun("convert", "-compress", "none", "-format", format, core, whole).want(t, exitOK)
		all, err := os.ReadFile(whole)
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		for _, size := range []int{0, 1, 4096, 20000, 1 << 20, 1<<20 + 1, 5 << 20, len(all) - 4097, len(all) - 4096, len(all) - 1} {
			torn := filepath.Join(dir, "torn-incomplete")
			if err := os.WriteFile(torn, all[:size], 0o600); err != nil {
				t.Fatal(err)
			}
			vmcoreRun("verify", torn) // must only not panic
			r := vmcoreRun("salvage", "-f", torn, filepath.Join(dir, "torn"))
			if r.status == exitFailed {
				if size > 5<<20 {
					t.Fatalf("%s of %d bytes: %s", format, size, r.errs)
				}
				continue
			}
			n := salvaged(t, raw, filepath.Join(dir, "torn"))
			if n < last {
				t.Errorf("%s: %d pages of %d bytes, %d of fewer", format, n, size, last)
			}
			if last = n; n != uint64(keptAt(0)) && r.status != exitPartial {
				t.Errorf("%s of %d bytes: %d pages, status %d", format, size, n, r.status)
			}
		}
		if least := uint64(keptAt(0)) - 2; last < least {
			t.Errorf("%s: %d pages of all but a byte, want %d", format, last, least)
		}
	}
}

// salvaged counts the pages of a dump, which have to be the core's.
func salvaged(t *testing.T, raw *vmcore.Core, path string) (n uint64) {
	t.Helper()
	c := open(t, path)
	got, want := make([]byte, 4096), make([]byte, 4096)
	for pfn := range uint64(machinePages) {
		switch err := c.ReadPhys(got, pfn<<12); {
		case errors.Is(err, vmcore.ErrExcluded):
		case err != nil:
			t.Fatal(err)
		default:
			n++
			if err := raw.ReadPhys(want, pfn<<12); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("pfn %#x is not the core's: %v", pfn, err)
			}
		}
	}
	return n
}

// A core with pages that cannot be read is written without them, and that shows.
func TestUnreadable(t *testing.T) {
	core := vmcoretest.File(t, machine+"\ntruncate 38M")
	out := filepath.Join(t.TempDir(), "out")
	vmcoreRun("convert", core, out).want(t, exitPartial, "could not be read and are left out, the first: read paddr")
	vmcoreRun("verify", core).want(t, exitFailed, "pages cannot be read, the first: read paddr")
	vmcoreRun("verify", out).want(t, exitOK)
}
