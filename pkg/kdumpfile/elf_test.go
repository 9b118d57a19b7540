package kdumpfile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
)

// writeELF writes the pages of kept for which there says so.
func writeELF(t testing.TB, w io.Writer, h ELFHeader, ram, kept Bitmap, there func(pfn uint64) bool, limit int) error {
	t.Helper()
	e, err := newELFWriter(w, h, ram, kept, limit)
	if err != nil {
		return err
	}
	b := newBatcher(t, e, None, h.BlockSize)
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if !there(pfn) {
			continue
		}
		if err := b.add(pfn); err != nil {
			return err
		}
	}
	return errors.Join(b.flush(), e.Finish())
}

func all(uint64) bool { return true }

// checkELF reads every page through every segment that has it.
func checkELF(t *testing.T, r io.ReaderAt, h ELFHeader, ram, kept Bitmap, there func(uint64) bool) []elf.Prog64 {
	t.Helper()
	progs := elfProgs(t, r)
	seen := NewBitmap(h.MaxPFN)
	page, block := make([]byte, h.BlockSize), uint64(h.BlockSize)
	notes := make([]byte, progs[0].Filesz)
	if _, err := r.ReadAt(notes, int64(progs[0].Off)); err != nil || !bytes.Equal(notes, h.Notes) {
		t.Fatalf("notes %q, %v", notes, err)
	}
	for _, p := range progs[1:] {
		if p.Off%block == 0 || p.Align != 0 {
			t.Errorf("PT_LOAD %+v is aligned: makedumpfile would map it beyond p_filesz", p)
		}
		for at := p.Paddr; at+block <= p.Paddr+p.Memsz; at += block {
			pfn := at / block
			if !ram.Get(pfn) {
				t.Fatalf("pfn %d is in a segment and is no RAM", pfn)
			}
			seen.Set(pfn)
			clear(page)
			if at-p.Paddr < p.Filesz {
				if _, err := r.ReadAt(page, int64(p.Off+at-p.Paddr)); err != nil {
					t.Fatalf("pfn %d: %v", pfn, err)
				}
			} else if kept.Get(pfn) {
				t.Fatalf("pfn %d is kept and not in the file", pfn)
			}
			want := make([]byte, block)
			if kept.Get(pfn) && there(pfn) {
				want = testPage(pfn, h.BlockSize)
			}
			if !bytes.Equal(page, want) {
				t.Fatalf("pfn %d reads as something else", pfn)
			}
		}
	}
	if !bytes.Equal(seen, ram) {
		t.Errorf("segments have %d of %d pages of RAM", seen.Count(), ram.Count())
	}
	return progs
}

func elfHeader(maxPFN uint64, segments ...ELFSegment) ELFHeader {
	return ELFHeader{Machine: elf.EM_X86_64, BlockSize: 4096, MaxPFN: maxPFN, Notes: []byte("the notes"), Segments: segments}
}

// Runs of excluded pages around the length from which they are left out.
func TestELFGaps(t *testing.T) {
	for gap, loads := range map[uint64]int{1: 1, minGap - 1: 1, minGap: 2, minGap + 1: 2} {
		const maxPFN = 100
		ram := bitmapOf(maxPFN, func(i uint64) bool { return i >= 10 })
		kept := bitmapOf(maxPFN, func(i uint64) bool { return i >= 10 && i < 20 || i >= 20+gap && i < 60 })
		h := elfHeader(maxPFN)
		f := newSparse()
		there := func(pfn uint64) bool { return pfn%9 != 0 } // the others could not be read
		if err := writeELF(t, f, h, ram, kept, there, maxChunks); err != nil {
			t.Fatal(err)
		}
		file := checkELF(t, f, h, ram, kept, there)
		if got := len(file) - 1; got != loads {
			t.Errorf("a gap of %d pages makes %d segments, want %d", gap, got, loads)
		}
	}
}

// The kernel's text has a segment of its own over the direct map's; ends are not
// page aligned; what no segment has comes with address 0.
func TestELFSegments(t *testing.T) {
	const maxPFN, direct, text = 400, 0xffff888000000000, 0xffffffff81000000
	h := elfHeader(maxPFN,
		ELFSegment{100 << 12, text, 50 << 12},
		ELFSegment{1 << 12, direct + 1<<12, 98<<12 + 0xc00},
		ELFSegment{100 << 12, direct + 100<<12, 200 << 12})
	ram := bitmapOf(maxPFN, func(i uint64) bool { return i >= 1 && i < 320 })
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i >= 40 && i < 60 || i >= 99 && i < 120 || i >= 145 && i < 180 || i == 310 })
	f := newSparse()
	if err := writeELF(t, f, h, ram, kept, all, maxChunks); err != nil {
		t.Fatal(err)
	}
	file := elfProgs(t, f)
	covered := map[uint64]uint64{} // p_memsz by base of the addresses
	for _, p := range file[1:] {
		covered[p.Vaddr-p.Paddr] += p.Memsz
	}
	const unmapped = 300 << 12
	for base, n := range map[uint64]uint64{text - 100<<12: 50 << 12, direct: 298<<12 + 0xc00, ^uint64(unmapped) + 1: 20 << 12} {
		if covered[base] != n {
			t.Errorf("%#x bytes of segments at base %#x, want %#x", covered[base], base, n)
		}
	}
	last := file[len(file)-1]
	if last.Vaddr == 0 || last.Paddr != 310<<12 || last.Filesz != 1<<12 || last.Memsz != 10<<12 {
		t.Errorf("last segment %+v", last)
	}
	h.Segments[1].Memsz &^= 0xfff // whole pages for the check
	ram.Clear(99)
	kept.Clear(99)
	f = newSparse()
	if err := writeELF(t, f, h, ram, kept, all, maxChunks); err != nil {
		t.Fatal(err)
	}
	checkELF(t, f, h, ram, kept, all)
	if size := int64(kept.Count()) << 12; f.size > size+20<<12 {
		t.Errorf("file of %d bytes for %d of pages: some are in it twice", f.size, size)
	}
}

// elfProgs reads the program headers; debug/elf does not know PN_XNUM.
func elfProgs(t *testing.T, r io.ReaderAt) []elf.Prog64 {
	t.Helper()
	var h elf.Header64
	decodeAt(t, r, 0, &h)
	n := uint32(h.Phnum)
	if n == pnXNUM {
		var s elf.Section64
		decodeAt(t, r, int64(h.Shoff), &s)
		if n = s.Info; n < pnXNUM || h.Shnum != 1 || h.Shentsize != shdrSize {
			t.Fatalf("%d program headers with PN_XNUM, %d sections", n, h.Shnum)
		}
	} else if f, err := elf.NewFile(r); err != nil || len(f.Progs) != int(n) {
		t.Fatalf("debug/elf: %v", err)
	}
	progs := make([]elf.Prog64, n)
	decodeAt(t, r, int64(h.Phoff), progs)
	if elf.ProgType(progs[0].Type) != elf.PT_NOTE || h.Phoff != ehdrSize {
		t.Fatal("PT_NOTE does not come first")
	}
	return progs
}

func decodeAt(t *testing.T, r io.ReaderAt, at int64, v any) {
	t.Helper()
	if err := binary.Read(io.NewSectionReader(r, at, 1<<40), binary.LittleEndian, v); err != nil {
		t.Fatal(err)
	}
}

// Around PN_XNUM the number of program headers moves to a section header.
func TestELFManySegments(t *testing.T) {
	for _, loads := range []uint64{0, 1, pnXNUM - 3, pnXNUM - 2, pnXNUM - 1, pnXNUM, pnXNUM + 1} {
		maxPFN := loads * (minGap + 1)
		ram := NewBitmap(maxPFN)
		ram.SetRange(0, maxPFN)
		kept := bitmapOf(maxPFN, func(i uint64) bool { return i%(minGap+1) == 0 })
		f := newSparse()
		there := func(pfn uint64) bool { return pfn > maxPFN-100 }
		if err := writeELF(t, f, elfHeader(maxPFN), ram, kept, there, 1<<20); err != nil {
			t.Fatal(err)
		}
		if got := uint64(len(elfProgs(t, f))); got != loads+1 {
			t.Errorf("%d program headers, want %d", got, loads+1)
		}
		if loads == pnXNUM+1 {
			checkELF(t, f, elfHeader(maxPFN), ram, kept, there)
		}
	}
}

// More runs than the limit: the shortest gaps become zeros.
func TestELFLimit(t *testing.T) {
	const maxPFN = 10000
	ram := bitmapOf(maxPFN, func(i uint64) bool { return i != 5000 })
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%20 == 0 && i < 4000 || i%500 == 1 })
	for _, limit := range []int{10, 50, 1000} {
		f := newSparse()
		if err := writeELF(t, f, elfHeader(maxPFN), ram, kept, all, limit); err != nil {
			t.Fatal(err)
		}
		file := checkELF(t, f, elfHeader(maxPFN), ram, kept, all)
		if n := len(file) - 1; n > limit+2 {
			t.Errorf("limit %d: %d segments", limit, n)
		}
	}
}

// stream is a writer and nothing else.
type stream struct{ bytes.Buffer }

func TestELFStream(t *testing.T) {
	const maxPFN = 2000
	ram := bitmapOf(maxPFN, all)
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%100 < 60 })
	var s stream
	if err := writeELF(t, struct{ io.Writer }{&s}, elfHeader(maxPFN), ram, kept, all, maxChunks); err != nil {
		t.Fatal(err)
	}
	checkELF(t, bytes.NewReader(s.Bytes()), elfHeader(maxPFN), ram, kept, all)

	// A pipe has WriteAt and refuses it.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(writeELF(t, w, elfHeader(maxPFN), ram, kept, all, maxChunks), w.Close())
	}()
	got, err := io.ReadAll(r)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, s.Bytes()) {
		t.Error("a pipe gets something else than a stream")
	}
	f := newSparse()
	if err := writeELF(t, f, elfHeader(maxPFN), ram, kept, all, maxChunks); err != nil {
		t.Fatal(err)
	}
	file := make([]byte, f.size)
	if _, err := f.ReadAt(file, 0); err != nil || !bytes.Equal(file, s.Bytes()) {
		t.Errorf("a file gets something else than a stream: %v", err)
	}
}

// The mark goes with the last write, and stays when any fails.
func TestELFIncomplete(t *testing.T) {
	const maxPFN = 3000
	ram := bitmapOf(maxPFN, all)
	good := newSparse()
	if err := writeELF(t, good, elfHeader(maxPFN), ram, ram, all, maxChunks); err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= good.writes; n++ {
		f := newSparse()
		f.failAt = n
		if err := writeELF(t, f, elfHeader(maxPFN), ram, ram, all, maxChunks); !errors.Is(err, errInjected) {
			t.Errorf("write %d fails, the dump says %v", n, err)
		}
		var flags [1]byte
		if _, err := f.ReadAt(flags[:], offEFlags); err != nil || flags[0] != elfIncomplete {
			t.Errorf("write %d fails, e_flags is %x, %v", n, flags, err)
		}
	}
	var flags [1]byte
	if _, err := good.ReadAt(flags[:], offEFlags); err != nil || flags[0] != 0 {
		t.Errorf("complete, e_flags is %x, %v", flags, err)
	}
}

func TestELFRefuses(t *testing.T) {
	ram := bitmapOf(100, all)
	kept := bitmapOf(100, func(i uint64) bool { return i < 50 })
	page := make([]byte, 4096)
	for name, b := range map[string]*Batch{
		"compressed": {PFNs: []uint64{1}, Descs: []Desc{{Size: 4096, Flags: uint32(Zlib)}}, Data: page},
		"short":      {PFNs: []uint64{1}, Descs: []Desc{{Size: 4095}}, Data: page},
		"no data":    {PFNs: []uint64{1}, Descs: []Desc{{Size: 4096}}},
		"excluded":   {PFNs: []uint64{50}, Descs: []Desc{{}}},
		"backwards":  {PFNs: []uint64{2, 1}, Descs: []Desc{{}, {}}},
	} {
		e, err := NewELFWriter(newSparse(), elfHeader(100), ram, kept)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Batch(b); err == nil || e.Finish() == nil {
			t.Errorf("%s page is taken", name)
		}
	}
	if _, err := NewELFWriter(newSparse(), elfHeader(100, ELFSegment{Paddr: 1 << 63, Memsz: 1 << 63}), ram, kept); err == nil {
		t.Error("a segment around the address space is taken")
	}
}
