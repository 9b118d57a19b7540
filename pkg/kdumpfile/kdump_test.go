package kdumpfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

func testHeader(block int, maxPFN uint64) Header {
	const info = "OSRELEASE=6.1.0\n"
	notes, off := notesWithInfo(info)
	return Header{Sysname: "Linux", Nodename: "host", Release: "6.1.0", Version: "#1 SMP", Machine: "x86_64", Domainname: "(none)",
		Time: time.Unix(1700000000, 0), BlockSize: block, MaxPFN: maxPFN, NumCPUs: 2, DumpLevel: 31, PhysBase: 0x1000000,
		Notes: notes, VMCoreInfoOff: off, VMCoreInfoSize: len(info)}
}

// notesWithInfo are ELF notes of two CPUs and VMCOREINFO.
func notesWithInfo(info string) (notes []byte, off int) {
	note := func(name string, typ uint32, desc []byte) {
		le := binary.LittleEndian
		notes = le.AppendUint32(notes, uint32(len(name)+1))
		notes = le.AppendUint32(notes, uint32(len(desc)))
		notes = le.AppendUint32(notes, typ)
		notes = append(notes, name...)
		notes = append(notes, make([]byte, 4-len(name)%4)...)
		off = len(notes)
		notes = append(notes, desc...)
		notes = append(notes, make([]byte, -len(desc)&3)...)
	}
	note("CORE", ntPRSTATUS, make([]byte, 336))
	note("CORE", ntPRSTATUS, make([]byte, 336))
	note("VMCOREINFO", 0, []byte(info))
	return notes, off
}

// writeDump writes the pages of kept and gives the first error.
func writeDump(t testing.TB, w io.WriterAt, h Header, codec Codec, ram, kept Bitmap) error {
	t.Helper()
	k, err := NewKdumpWriter(w, h, ram, kept.Count())
	if err != nil {
		return err
	}
	b := newBatcher(t, k, codec, h.BlockSize)
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if err := b.add(pfn); err != nil {
			return err
		}
	}
	if err := b.flush(); err != nil {
		return err
	}
	return k.Finish()
}

// checkPages reads every pfn: those of want have their page, the others are excluded.
func checkPages(t *testing.T, k *Kdump, want Bitmap, maxPFN uint64) {
	t.Helper()
	r := k.NewReader()
	defer r.Close()
	page := make([]byte, k.Header().BlockSize)
	for pfn := range maxPFN {
		err := r.ReadPage(pfn, page)
		if !want.Get(pfn) {
			if !errors.Is(err, ErrExcluded) {
				t.Fatalf("pfn %d is not in the dump, ReadPage says %v", pfn, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(page, testPage(pfn, len(page))) {
			t.Fatalf("pfn %d reads as something else", pfn)
		}
	}
	if got, want := k.Pages(), want.Count(); got != want {
		t.Fatalf("Pages() = %d, want %d", got, want)
	}
}

// Numbers of pages around a flush of descriptors and bits.
func TestKdumpRoundTrip(t *testing.T) {
	const flush = descBuffer / descSize
	for _, block := range []int{4096, 65536} {
		for _, pages := range []uint64{0, 1, 2, flush - 1, flush, flush + 1, 2*flush + 1} {
			t.Run(fmt.Sprintf("%d/%d", block, pages), func(t *testing.T) {
				maxPFN := pages*4/3 + 10
				n := uint64(0)
				kept := bitmapOf(maxPFN, func(i uint64) bool {
					take := i%4 != 1 && n < pages
					if take {
						n++
					}
					return take
				})
				if n != pages {
					t.Fatalf("the test keeps %d pages, wanted %d", n, pages)
				}
				f := newSparse()
				h := testHeader(block, maxPFN)
				if err := writeDump(t, f, h, Snappy, kept, kept); err != nil {
					t.Fatal(err)
				}
				k, err := OpenKdump(f, f.size)
				if err != nil {
					t.Fatal(err)
				}
				checkPages(t, k, kept, maxPFN)
				if k.Incomplete() {
					t.Error("finished, but incomplete")
				}
				if r, err := k.Verify(context.Background(), 2, nil); err != nil || len(r.Found) > 0 || r.Pages != pages || r.Summed != pages {
					t.Errorf("Verify: %+v, %v", r, err)
				}
			})
		}
	}
}

func TestKdumpHeader(t *testing.T) {
	f, h := newSparse(), testHeader(4096, 100)
	kept := bitmapOf(100, func(i uint64) bool { return i%2 == 1 })
	ram := bitmapOf(100, func(i uint64) bool { return i > 3 })
	if err := writeDump(t, f, h, Zstd, ram, kept); err != nil {
		t.Fatal(err)
	}
	k, err := OpenKdump(f, f.size)
	if err != nil {
		t.Fatal(err)
	}
	got := k.Header()
	h.Codec = Zstd
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", h) {
		t.Errorf("Header() = %+v, want %+v", got, h)
	}
	if s := string(k.VMCoreInfo()); s != "OSRELEASE=6.1.0\n" {
		t.Errorf("VMCoreInfo() = %q", s)
	}
	for _, c := range []struct {
		name string
		read func() (Bitmap, error)
		want Bitmap
	}{{"RAM", k.RAM, ram}, {"Dumped", k.Dumped, kept}} {
		if b, err := c.read(); err != nil || !bytes.Equal(b, c.want) {
			t.Errorf("%s() = %x, %v, want %x", c.name, b, err, c.want)
		}
	}
	if err := k.NewReader().ReadPage(100, make([]byte, 4096)); !errors.Is(err, ErrExcluded) {
		t.Errorf("page beyond the last: %v", err)
	}
}

// All pages of zeros have descriptors of one and the same page.
func TestZeroPagesAreShared(t *testing.T) {
	f := newSparse()
	kept := bitmapOf(1000, func(i uint64) bool { return i%5 == 0 || i == 1 })
	if err := writeDump(t, f, testHeader(4096, 1000), Snappy, kept, kept); err != nil {
		t.Fatal(err)
	}
	k, err := OpenKdump(f, f.size)
	if err != nil {
		t.Fatal(err)
	}
	checkPages(t, k, kept, 1000)
	offsets := map[uint64]int{}
	var d [descSize]byte
	for i := range int64(k.Pages()) {
		if err := k.readAt(d[:], k.l.descs+i*descSize); err != nil {
			t.Fatal(err)
		}
		offsets[binary.LittleEndian.Uint64(d[:])]++
	}
	if len(offsets) != 2 {
		t.Errorf("%d places of data for 200 pages of zeros and another, want 2", len(offsets))
	}
}

// recorder keeps every write, so that the file can be had as it was after each.
type recorder struct {
	offs []int64
	data [][]byte
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.offs, r.data = append(r.offs, off), append(r.data, bytes.Clone(p))
	return len(p), nil
}

// A machine that dies in mid dump leaves a file that opens for what it holds.
func TestCutOffAfterEveryWrite(t *testing.T) {
	const maxPFN = 30000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%6 != 1 })
	var rec recorder
	if err := writeDump(t, &rec, testHeader(4096, maxPFN), Snappy, kept, kept); err != nil {
		t.Fatal(err)
	}
	f, last := newSparse(), uint64(0)
	for n := range rec.offs {
		if _, err := f.WriteAt(rec.data[n], rec.offs[n]); err != nil {
			t.Fatal(err)
		}
		if n < 3 {
			continue // header, notes, 1st bitmap and the length
		}
		k, err := OpenKdump(f, f.size)
		if err != nil {
			t.Fatalf("after write %d: %v", n, err)
		}
		if done := n == len(rec.offs)-1; k.Incomplete() == done {
			t.Fatalf("after write %d of %d: Incomplete() = %v", n, len(rec.offs), !done)
		}
		there, err := k.Dumped()
		if err != nil {
			t.Fatal(err)
		}
		if there.Count() < last {
			t.Fatalf("after write %d: %d pages, before it %d", n, there.Count(), last)
		}
		last = there.Count()
		checkPages(t, k, there, maxPFN)
	}
	if last != kept.Count() {
		t.Errorf("%d pages at the end, want %d", last, kept.Count())
	}
}

// A failed write is an error of the dump and never a complete header.
func TestEveryWriteFails(t *testing.T) {
	const maxPFN = 20000
	kept := bitmapOf(maxPFN, func(uint64) bool { return true })
	good := newSparse()
	if err := writeDump(t, good, testHeader(4096, maxPFN), Snappy, kept, kept); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= good.writes; n++ {
		f := newSparse()
		f.failAt = n
		if err := writeDump(t, f, testHeader(4096, maxPFN), Snappy, kept, kept); !errors.Is(err, errInjected) {
			t.Errorf("write %d fails, the dump says %v", n, err)
		}
		var status [4]byte
		_, err := f.ReadAt(status[:], offStatus)
		if n > 1 && (err != nil || binary.LittleEndian.Uint32(status[:]) != statusIncomplete) {
			t.Errorf("write %d fails, the header's status is %x, %v", n, status, err)
		}
	}
}

// The 32 bit max_mapnr stops at its largest value.
func TestMaxPFNBeyond32Bit(t *testing.T) {
	for _, maxPFN := range []uint64{1<<32 - 1, 1 << 32, 1<<32 + 1} {
		f := newSparse()
		k, err := NewKdumpWriter(f, testHeader(4096, maxPFN), nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		b := newBatcher(t, k, None, 4096)
		if err := errors.Join(b.add(maxPFN-1), b.flush(), k.Finish()); err != nil {
			t.Fatal(err)
		}
		var small [4]byte
		if _, err := f.ReadAt(small[:], offMaxMapnr); err != nil || binary.LittleEndian.Uint32(small[:]) != 1<<32-1 {
			t.Errorf("max_mapnr of %#x is %x, %v", maxPFN, small, err)
		}
		d, err := OpenKdump(f, f.size)
		if err != nil {
			t.Fatal(err)
		}
		page := make([]byte, 4096)
		if err := d.NewReader().ReadPage(maxPFN-1, page); err != nil || !bytes.Equal(page, testPage(maxPFN-1, 4096)) {
			t.Errorf("last page of %#x: %v", maxPFN, err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	ok := testHeader(4096, 10)
	for name, change := range map[string]func(*Header){
		"page size 0":             func(h *Header) { h.BlockSize = 0 },
		"page size 2048":          func(h *Header) { h.BlockSize = 2048 },
		"page size 131072":        func(h *Header) { h.BlockSize = 131072 },
		"page size 5000":          func(h *Header) { h.BlockSize = 5000 },
		"VMCOREINFO behind notes": func(h *Header) { h.VMCoreInfoSize = len(h.Notes) },
	} {
		h := ok
		change(&h)
		if _, err := NewKdumpWriter(newSparse(), h, nil, 0); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for name, pfns := range map[string][]uint64{"beyond the last": {10}, "twice": {3, 3}, "backwards": {3, 2}, "more than announced": {1, 2, 3}} {
		k, err := NewKdumpWriter(newSparse(), ok, nil, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Batch(&Batch{PFNs: pfns, Descs: make([]Desc, len(pfns))}); err == nil {
			t.Errorf("pages %s are taken", name)
		}
	}
}
