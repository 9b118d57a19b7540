package kdumpfile

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"syscall"
	"testing"
)

// copiesPage gives pages of which every 13th pfn is of one of 20 contents, compressed or
// not, and the others are their own.
func copiesPage(pfn uint64, block int) []byte {
	if pfn%13 == 0 {
		return testPage(1+pfn/13%20*5, block)
	}
	return testPage(pfn, block)
}

// writeCopies writes the pages of kept with their contents of copiesPage.
func writeCopies(t testing.TB, out Output, block int, kept Bitmap) {
	t.Helper()
	b := newBatcher(t, out, Snappy, block)
	b.page = copiesPage
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if err := b.add(pfn); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.flush(); err != nil {
		t.Fatal(err)
	}
	if err := out.Finish(); err != nil {
		t.Fatal(err)
	}
}

func checkCopies(t *testing.T, k *Kdump, kept Bitmap) {
	t.Helper()
	r := k.NewReader()
	defer r.Close()
	page := make([]byte, k.Header().BlockSize)
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if err := r.ReadPage(pfn, page); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(page, copiesPage(pfn, len(page))) {
			t.Fatalf("pfn %d has other contents", pfn)
		}
	}
}

// Equal pages share their data as far as the table remembers them, and read as
// what they are; the largest page's size does not run into the flags.
func TestDeduplicate(t *testing.T) {
	for _, block := range []int{4096, 65536} {
		for _, memory := range []int{0, 1, 4 * dedupEntrySize, 1 << 20} {
			t.Run(fmt.Sprintf("%d/%d", block, memory), func(t *testing.T) {
				const maxPFN = 4000
				kept := bitmapOf(maxPFN, func(i uint64) bool { return i%4 != 2 })
				f := newSparse()
				k, err := NewKdumpWriter(f, testHeader(block, maxPFN), kept, kept.Count())
				if err != nil {
					t.Fatal(err)
				}
				k.Deduplicate(memory)
				writeCopies(t, k, block, kept)
				d, err := OpenKdump(f, f.size)
				if err != nil {
					t.Fatal(err)
				}
				checkCopies(t, d, kept)
				r := verifyFile(t, fileBytes(t, f))
				pages, saved := k.Shared()
				if zeros := r.Zero - 1; len(r.Found) > 0 || r.Shared != zeros+pages {
					t.Errorf("%d pages share data, %d of them zeros, the writer says %d; %v", r.Shared, zeros, pages, r.Problems)
				}
				if most := uint64(maxPFN/13*3/4 - 20); memory == 1<<20 && (pages < most || saved < pages*100) {
					t.Errorf("%d pages and %d bytes saved, want %d pages at least", pages, saved, most)
				}
			})
		}
	}
}

// Without being asked nothing is shared but zeros.
func TestDeduplicateOff(t *testing.T) {
	const maxPFN = 1000
	kept := bitmapOf(maxPFN, all)
	f := newSparse()
	k, err := NewKdumpWriter(f, testHeader(4096, maxPFN), kept, maxPFN)
	if err != nil {
		t.Fatal(err)
	}
	writeCopies(t, k, 4096, kept)
	pages, saved := k.Shared()
	if r := verifyFile(t, fileBytes(t, f)); pages+saved != 0 || r.Shared != r.Zero-1 {
		t.Errorf("%d pages, %d bytes, %+v", pages, saved, r)
	}
}

// Each file of a split dump has its own pages' data.
func TestDeduplicateSplit(t *testing.T) {
	const maxPFN = 4000
	kept := bitmapOf(maxPFN, all)
	files := sparseFiles(3)
	s, err := NewSplitWriter([]io.WriterAt{files[0], files[1], files[2]}, testHeader(4096, maxPFN), kept, kept)
	if err != nil {
		t.Fatal(err)
	}
	s.Deduplicate(1 << 20)
	writeCopies(t, s, 4096, kept)
	k, err := OpenSplit(openParts(t, files), false)
	if err != nil {
		t.Fatal(err)
	}
	checkCopies(t, k, kept)
	var shared uint64
	for _, f := range files {
		r := verifyFile(t, fileBytes(t, f))
		shared += r.Shared - (r.Zero - 1)
		if len(r.Found) > 0 {
			t.Error(r.Problems)
		}
	}
	if pages, _ := s.Shared(); pages != shared || pages < 200 {
		t.Errorf("%d pages share data, the writer says %d", shared, pages)
	}
}

// A table that is full forgets what was not seen for longest.
func TestDeduplicateForgets(t *testing.T) {
	d := newDedup(1)
	k := &KdumpWriter{pageBuffers: newPageBuffers(), dataAt: 4096, dedup: d, crc: crc32.MakeTable(crc32.Castagnoli)}
	page := func(n byte) []byte { return bytes.Repeat([]byte{n}, 100) }
	put := func(n byte) int64 { return d.place(k, page(n), 0).offset }
	places := map[byte]int64{}
	for _, n := range []byte{1, 2, 3, 4} {
		places[n] = put(n)
	}
	if put(1) != places[1] { // and is the newest again
		t.Error("page 1 was forgotten")
	}
	put(5) // in the place of 2
	for n, known := range map[byte]bool{1: true, 3: true, 4: true} {
		if (put(n) == places[n]) != known {
			t.Errorf("page %d is known: %v", n, !known)
		}
	}
	if put(2) == places[2] {
		t.Error("page 2 is known, of five with room for four")
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// BenchmarkBatch is the writer's own work for pages of about 1 KiB of data.
func BenchmarkBatch(b *testing.B) {
	const pages = 128
	for name, memory := range map[string]int{"plain": 0, "dedup": 16 << 20} {
		b.Run(name, func(b *testing.B) {
			var batch Batch
			for i := range uint64(pages) {
				d := testPage(7*(i+1)*6+7, 4096)[:800+i*4]
				batch.PFNs = append(batch.PFNs, i)
				batch.Descs = append(batch.Descs, Desc{Size: uint32(len(d)), Flags: uint32(Zstd)})
				batch.Data = append(batch.Data, d...)
			}
			k, err := NewKdumpWriter(discard{}, testHeader(4096, 1<<40), nil, 1<<40)
			if err != nil {
				b.Fatal(err)
			}
			if memory > 0 {
				k.Deduplicate(memory)
			}
			b.SetBytes(pages * 4096)
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				if err := k.Batch(&batch); err != nil {
					b.Fatal(err)
				}
				for i := range batch.PFNs {
					batch.PFNs[i] += pages
				}
				batch.Data[0]++
			}
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N)/pages, "cpu-ns/page")
		})
	}
}

// cpuTime is that of the process, in nanoseconds: on a busy machine the clock on
// the wall says little.
func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
