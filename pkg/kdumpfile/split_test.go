package kdumpfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// writeSplit writes the pages of kept for which there says so into n files.
func writeSplit(t testing.TB, files []*sparse, h Header, ram, kept Bitmap, there func(uint64) bool) error {
	t.Helper()
	var ws []io.WriterAt
	for _, f := range files {
		ws = append(ws, f)
	}
	s, err := NewSplitWriter(ws, h, ram, kept)
	if err != nil {
		return err
	}
	b := newBatcher(t, s, Snappy, h.BlockSize)
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if !there(pfn) {
			continue
		}
		if err := b.add(pfn); err != nil {
			return err
		}
	}
	if err := b.flush(); err != nil {
		return err
	}
	return s.Finish()
}

func sparseFiles(n int) (files []*sparse) {
	for range n {
		files = append(files, newSparse())
	}
	return files
}

func openParts(t testing.TB, files []*sparse) (parts []*Kdump) {
	t.Helper()
	for i, f := range files {
		k, err := OpenKdump(f, f.size)
		if err != nil {
			t.Fatalf("part %d: %v", i+1, err)
		}
		parts = append(parts, k)
	}
	return parts
}

// Parts of few pages, of none, and of more than fit between two flushes; pages
// that could not be read are in no part's bitmap.
func TestSplitRoundTrip(t *testing.T) {
	for _, maxPFN := range []uint64{1, 64, 65, 1000, 30001} {
		for _, n := range []int{1, 2, 3, 7} {
			t.Run(fmt.Sprintf("%d/%d", maxPFN, n), func(t *testing.T) {
				ram := bitmapOf(maxPFN, func(i uint64) bool { return i%10 != 3 })
				kept := bitmapOf(maxPFN, func(i uint64) bool { return ram.Get(i) && i%3 != 1 })
				there := func(pfn uint64) bool { return pfn%50 != 2 || maxPFN < 100 }
				want := bitmapOf(maxPFN, func(i uint64) bool { return kept.Get(i) && there(i) })
				files, h := sparseFiles(n), testHeader(4096, maxPFN)
				if err := writeSplit(t, files, h, ram, kept, there); err != nil {
					t.Fatal(err)
				}
				parts := openParts(t, files)
				k, err := OpenSplit(parts, false)
				if err != nil {
					t.Fatal(err)
				}
				checkPages(t, k, want, maxPFN)
				checkParts(t, files, parts, kept, want)
				if b, err := k.Dumped(); err != nil || !bytes.Equal(b, want) {
					t.Errorf("Dumped() has %d pages of %d, %v", b.Count(), want.Count(), err)
				}
				if b, err := k.RAM(); err != nil || !bytes.Equal(b, ram) {
					t.Errorf("RAM() has %d pages of %d, %v", b.Count(), ram.Count(), err)
				}
				if _, _, split := k.Split(); split || k.Incomplete() {
					t.Errorf("a dump put together is a part, or incomplete")
				}
				if got := k.Header(); got.Release != h.Release || got.MaxPFN != maxPFN || string(k.VMCoreInfo()) != "OSRELEASE=6.1.0\n" {
					t.Errorf("Header() = %+v", got)
				}
			})
		}
	}
}

// checkParts holds the files against what crash and makedumpfile --reassemble want.
func checkParts(t *testing.T, files []*sparse, parts []*Kdump, kept, want Bitmap) {
	t.Helper()
	at, most := uint64(0), want.Count()/uint64(len(parts))+64
	for i, part := range parts {
		start, end, split := part.Split()
		if !split || start != at || start%64 != 0 && start != part.h.MaxPFN {
			t.Errorf("part %d: pfns %d to %d after %d, %v", i+1, start, end, at, split)
		}
		at = end
		if n := part.Pages(); n > most {
			t.Errorf("part %d has %d pages of %d", i+1, n, want.Count())
		}
		var head [2][4096]byte
		for j, f := range []*sparse{files[0], files[i]} {
			if _, err := f.ReadAt(head[j][:], 0); err != nil {
				t.Fatal(err)
			}
		}
		if head[0] != head[1] {
			t.Errorf("part %d: block 0 is not that of part 1, crash wants it", i+1)
		}
		var sub [subHeaderSize]byte
		if err := part.readAt(sub[:], part.l.block); err != nil {
			t.Fatal(err)
		}
		for _, off := range []int{offStartPFN, offStartPFN64} {
			if s, e := binary.LittleEndian.Uint64(sub[off:]), binary.LittleEndian.Uint64(sub[off+8:]); s != start || e != end {
				t.Errorf("part %d: pfns %d to %d at %d", i+1, s, e, off)
			}
		}
		if pages := storedPages(t, fileBytes(t, files[i])); len(pages) > 0 {
			zeros := make([]byte, 4096)
			if _, err := files[i].ReadAt(zeros, part.l.descs+int64(kept.Count())*descSize); err != nil || !allZero(zeros) || pages[0].data < part.l.descs+int64(kept.Count())*descSize {
				t.Errorf("part %d: no page of zeros right behind as many descriptors as the dump has, %v", i+1, err)
			}
		}
		if b, err := part.bitmap(part.dumped); err != nil || !bytes.Equal(b, want) {
			t.Errorf("part %d: the 2nd bitmap has %d bits, want all %d, %v", i+1, b.Count(), want.Count(), err)
		}
	}
	if at != parts[0].h.MaxPFN {
		t.Errorf("the last part ends at %d", at)
	}
}

func TestOpenSplit(t *testing.T) {
	const maxPFN = 3000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i < 2500 && i%2 == 0 })
	write := func(n int, change func(*Header)) []*Kdump {
		files, h := sparseFiles(n), testHeader(4096, maxPFN)
		change(&h)
		if err := writeSplit(t, files, h, kept, kept, all); err != nil {
			t.Fatal(err)
		}
		return openParts(t, files)
	}
	same := func(*Header) {}
	p := write(3, same)
	whole := newSparse()
	if err := writeDump(t, whole, testHeader(4096, maxPFN), Zlib, kept, kept); err != nil {
		t.Fatal(err)
	}
	w := openParts(t, []*sparse{whole})[0]
	for name, order := range map[string][]*Kdump{"given": {p[0], p[1], p[2]}, "backwards": {p[2], p[1], p[0]}, "mixed": {p[1], p[2], p[0]}, "whole": {w}} {
		k, err := OpenSplit(order, false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkPages(t, k, kept, maxPFN)
	}
	for _, c := range []struct {
		parts []*Kdump
		want  error
		text  string
	}{
		{nil, ErrPartMissing, "no files"},
		{p[:2], ErrPartMissing, fmt.Sprintf("pfns %#x to %#x", p[2].start, maxPFN-1)},
		{p[1:], ErrPartMissing, fmt.Sprintf("%d pages, pfns 0x0 to %#x", p[0].Pages(), p[0].end-1)},
		{[]*Kdump{p[2], p[0]}, ErrPartMissing, fmt.Sprintf("pfns %#x to %#x", p[1].start, p[1].end-1)},
		{[]*Kdump{p[0], p[1], p[2], p[1]}, ErrOtherDump, "parts 2 and 4 of 4 both have"},
		{[]*Kdump{p[2], write(2, same)[0], p[1]}, ErrOtherDump, "parts 2 and 3 of 3 both have"},
		{[]*Kdump{p[0], w}, ErrOtherDump, "part 2 of 2: it is a whole dump"},
		{[]*Kdump{w, p[0]}, ErrOtherDump, "part 1 of 2: it is a whole dump"},
		{[]*Kdump{p[0], p[1], write(3, func(h *Header) { h.Nodename = "other" })[2]}, ErrOtherDump, "part 3 of 3: other of"},
		{[]*Kdump{p[0], write(3, func(h *Header) { h.Release = "6.2" })[1]}, ErrOtherDump, "another kernel"},
		{[]*Kdump{p[0], write(3, func(h *Header) { h.NumCPUs++ })[1]}, ErrOtherDump, "another machine"},
		{[]*Kdump{p[0], write(3, func(h *Header) { h.Notes = bytes.ReplaceAll(h.Notes, []byte("6.1"), []byte("6.2")) })[1]}, ErrOtherDump, "notes"},
		{[]*Kdump{p[0], write(3, func(h *Header) { h.DumpLevel = 1 })[1]}, ErrOtherDump, "dump level 1 instead of 31"},
	} {
		if _, err := OpenSplit(c.parts, false); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v, want %v with %q", err, c.want, c.text)
		}
	}
}

// Without one of its parts a dump opens on request for the pages of the others.
func TestOpenSplitPartial(t *testing.T) {
	const maxPFN = 3000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%2 == 0 })
	files := sparseFiles(3)
	if err := writeSplit(t, files, testHeader(4096, maxPFN), kept, kept, all); err != nil {
		t.Fatal(err)
	}
	parts := openParts(t, files)
	k, err := OpenSplit([]*Kdump{parts[2], parts[0]}, true)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(kept)
	Bitmap(want).ClearRange(parts[1].start, parts[1].end)
	checkPages(t, k, want, maxPFN)
	if b, err := k.Dumped(); err != nil || !bytes.Equal(b, want) || !k.Incomplete() {
		t.Errorf("Dumped() has %d pages, %v; incomplete: %v", b.Count(), err, k.Incomplete())
	}
	r := k.NewReader()
	defer r.Close()
	n := uint64(0)
	for pfn, ok, err := r.Next(0); ok || err != nil; pfn, ok, err = r.Next(pfn + 1) {
		if n++; err != nil || !Bitmap(want).Get(pfn) {
			t.Fatalf("Next gives %d, %v", pfn, err)
		}
	}
	if n != k.Pages() {
		t.Errorf("Next gives %d pages of %d", n, k.Pages())
	}
	if r, err := k.Verify(context.Background(), 1, nil); err != nil || len(r.Found) > 0 || r.Pages != n || !r.Incomplete {
		t.Errorf("Verify: %+v, %v", r, err)
	}
}

// Whichever write fails, no set of files says to be complete.
func TestSplitEveryWriteFails(t *testing.T) {
	const maxPFN = 20000
	kept := bitmapOf(maxPFN, all)
	good := sparseFiles(3)
	if err := writeSplit(t, good, testHeader(4096, maxPFN), kept, kept, all); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for n := 1; n <= good[i].writes; n++ {
			files := sparseFiles(3)
			files[i].failAt = n
			if err := writeSplit(t, files, testHeader(4096, maxPFN), kept, kept, all); !errors.Is(err, errInjected) {
				t.Errorf("write %d of part %d fails, the dump says %v", n, i+1, err)
			}
			for j, f := range files {
				var status [4]byte
				if _, err := f.ReadAt(status[:], offStatus); err == nil && binary.LittleEndian.Uint32(status[:]) != statusIncomplete {
					t.Errorf("write %d of part %d fails, the status of part %d is %x", n, i+1, j+1, status)
				}
			}
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	kept := bitmapOf(100, all)
	if _, err := NewSplitWriter(nil, testHeader(4096, 100), kept, kept); err == nil {
		t.Error("no files are taken")
	}
	if _, err := NewSplitWriter(make([]io.WriterAt, maxParts+1), testHeader(4096, 100), kept, kept); err == nil {
		t.Error("too many files are taken")
	}
	for name, b := range map[string]*Batch{
		"backwards":       {PFNs: []uint64{70, 3}, Descs: make([]Desc, 2)},
		"beyond the last": {PFNs: []uint64{3, 100}, Descs: make([]Desc, 2)},
		"short":           {PFNs: []uint64{3, 70}, Descs: []Desc{{Size: 5, Flags: 1}, {Size: 5, Flags: 1}}, Data: make([]byte, 9)},
	} {
		s, err := NewSplitWriter([]io.WriterAt{newSparse(), newSparse()}, testHeader(4096, 100), kept, kept)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Batch(b); err == nil || s.Finish() == nil {
			t.Errorf("pages %s are taken", name)
		}
	}
}

// Each part may be a flattened file.
func TestSplitFlattened(t *testing.T) {
	const maxPFN = 30000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%3 == 0 && i > 15000 })
	var bufs [3]bytes.Buffer
	var ws []io.WriterAt
	for i := range bufs {
		ws = append(ws, NewFlattener(&bufs[i]))
	}
	s, err := NewSplitWriter(ws, testHeader(4096, maxPFN), kept, kept)
	if err != nil {
		t.Fatal(err)
	}
	b := newBatcher(t, s, Snappy, 4096)
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if err := b.add(pfn); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.flush(), s.Finish()); err != nil {
		t.Fatal(err)
	}
	var parts []*Kdump
	for i := range ws {
		if err := ws[i].(*Flattener).Close(); err != nil {
			t.Fatal(err)
		}
		f, err := OpenFlattened(bytes.NewReader(bufs[i].Bytes()), int64(bufs[i].Len()), false)
		if err != nil {
			t.Fatal(err)
		}
		k, err := OpenKdump(f, f.Size())
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, k)
	}
	k, err := OpenSplit(parts, false)
	if err != nil {
		t.Fatal(err)
	}
	checkPages(t, k, kept, maxPFN)
}
