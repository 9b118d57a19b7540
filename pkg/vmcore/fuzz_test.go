package vmcore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"golang.org/x/sys/unix"
)

// seeds are small cores of all kinds.
func seeds(t testing.TB) [][]byte {
	var all [][]byte
	for _, text := range []string{
		"load 0x1000 8K\npattern 0x1000 8K",
		"cpus 2\ngarbage 12\nnote LINUX 1792 20\nkernel 0x1000 64K\nload 0x1000 20K vaddr=0xffffffff81000000",
		"xnum\nloads 5 0x100400 0x1800 8K",
		"load 0x100400 0x1800 offset=0x400 filesz=0x1000\nload 0x100000 16K\nload 0x101000 4K",
		"machine arm64\nva 39\nkernel 0x1000 64K\nload 0x1000 64K\nmap 0xffffffd000000000 4K 0x1000",
		"machine riscv64\nva 39\nkernel 0x1000 64K\nload 0x1000 64K\nmap 0xffffffc800000000 4K 0x1000",
		"kernel 0x1000 64K\nload 0x1000 64K\nmap 0xffffc90000000000 4K 0x1000\ntruncate 40000",
	} {
		b, err := os.ReadFile(vmcoretest.File(t, text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// FuzzOpen: no headers make Open or a read panic, and what it says fits
// together. The rest of the file is that of a seed, cut off or lengthened.
func FuzzOpen(f *testing.F) {
	files := seeds(f)
	for i, seed := range files {
		f.Add(uint8(i), uint32(len(seed)), seed[:min(len(seed), 400)])
	}
	f.Fuzz(func(t *testing.T, seed uint8, size uint32, head []byte) {
		file := make([]byte, size%(1<<20))
		copy(file, files[int(seed)%len(files)])
		copy(file, head)
		fd, err := unix.MemfdCreate("core", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		m := os.NewFile(uintptr(fd), "core")
		if _, err := m.Write(file); err != nil {
			t.Fatal(err)
		}
		src := newSource(m)
		src.mapped = seed >= 128
		c, err := openSource(src)
		if err != nil {
			return
		}
		defer c.Close()
		checkExtents(t, c)
		checkNotes(t, &c.notes)
		page := make([]byte, 1<<c.PageShift())
		for i, e := range c.extents {
			if i == 20 {
				break
			}
			for _, at := range []uint64{e.start, e.end - 1, e.end - min(e.end, 4097)} {
				err1, err2 := c.ReadPhys(page, at), c.shared.readPhys(page, at, true)
				if (err1 == nil) != (err2 == nil) {
					t.Fatalf("paddr %#x: %v through the window, %v past it", at, err1, err2)
				}
			}
		}
		for _, vaddr := range []uint64{0, 0xffffffff81000000, 0xffffc90000000000, 0xffffffd000000000, 0xffffffc800000000, math.MaxUint64 - 1} {
			c.ReadVirt(page[:16], vaddr)
		}
	})
}

// checkExtents wants disjoint extents that cover the ranges and no more.
func checkExtents(t *testing.T, c *Core) {
	i := 0
	for n, r := range c.ranges {
		if r.Start >= r.End || n > 0 && r.Start <= c.ranges[n-1].End {
			t.Fatalf("range %d is %x after %x", n, r, c.ranges[max(n-1, 0)])
		}
		at := uint64(r.Start) << c.pageShift
		for ; i < len(c.extents) && at < uint64(r.End)<<c.pageShift; i++ {
			if e := c.extents[i]; e.start != at || e.end <= at {
				t.Fatalf("extent %d is %#x to %#x, want one from %#x", i, e.start, e.end, at)
			}
			at = c.extents[i].end
		}
		if at != uint64(r.End)<<c.pageShift {
			t.Fatalf("extents end at %#x in range %x", at, r)
		}
	}
	if i != len(c.extents) {
		t.Fatalf("%d extents outside of the ranges", len(c.extents)-i)
	}
}

func checkNotes(t *testing.T, n *notes) {
	if n.infoOffset < 0 || n.infoSize < 0 || n.infoOffset+n.infoSize > len(n.raw) || len(n.raw)%4 != 0 || len(n.raw) > maxNotes {
		t.Fatalf("VMCOREINFO of %d bytes at %d of %d", n.infoSize, n.infoOffset, len(n.raw))
	}
}

// byteFile is a file in memory.
type byteFile []byte

func (b byteFile) readFull(p []byte, off int64) error {
	_, err := io.ReadFull(io.NewSectionReader(bytes.NewReader(b), off, int64(len(p))), p)
	return err
}

// FuzzNotes: what is read from notes is the same when read again.
func FuzzNotes(f *testing.F) {
	for _, seed := range seeds(f) {
		size := binary.LittleEndian.Uint64(seed[64+32:]) // p_filesz of the first program header
		f.Add(seed[4096:][:size])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		read := func(b []byte) notes {
			h := header{machine: 62, segments: []segment{{note: true, filesz: uint64(len(b))}}}
			n := readNotes(byteFile(b), &h, &skipList{})
			checkNotes(t, &n)
			return n
		}
		first := read(raw)
		if again := read(first.raw); !bytes.Equal(again.vmcoreinfo(), first.vmcoreinfo()) || len(again.stacks) != len(first.stacks) {
			t.Fatalf("%d CPUs and %q, read again %d and %q", len(first.stacks), first.vmcoreinfo(), len(again.stacks), again.vmcoreinfo())
		}
	})
}

func FuzzParseElfcorehdr(f *testing.F) {
	for _, seed := range []string{"0x3ff00000", "1M@0x7f000000", "010", "0x1eE", "16E", "@", "-1", "0x", "64@128 rest"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		h, err := ParseElfcorehdr(value)
		if err != nil {
			if h != (CoreHeader{}) {
				t.Fatalf("%+v beside an error", h)
			}
			return
		}
		if n, err := strconv.ParseUint(value, 0, 64); err == nil && n != h.Addr && value[0] != '0' && !strings.Contains(value, "_") {
			t.Fatalf("%q: %#x, want %#x", value, h.Addr, n)
		}
		again, err := ParseElfcorehdr(fmt.Sprintf("%#x@%d", h.Size, h.Addr))
		if err != nil || again != h {
			t.Fatalf("%+v written out gives %+v, %v", h, again, err)
		}
	})
}
