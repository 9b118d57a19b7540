package kdumpfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// fileBytes is a file's contents.
func fileBytes(t testing.TB, f *sparse) []byte {
	t.Helper()
	p := make([]byte, f.size)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// stored is a page of a dump, and where it is in the file.
type stored struct {
	pfn        uint64
	desc       int64 // offset of the descriptor
	data, size int64
}

// storedPages looks up all pages of a whole file.
func storedPages(t testing.TB, file []byte) (pages []stored) {
	t.Helper()
	k, err := OpenKdump(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	r := k.NewReader()
	defer r.Close()
	at := k.l.descs
	for pfn, ok, err := r.Next(0); ok || err != nil; pfn, ok, err = r.Next(pfn + 1) {
		if err != nil {
			t.Fatal(err)
		}
		d := decodeDesc(file[at:])
		pages = append(pages, stored{pfn, at, int64(d.offset), int64(d.size)})
		at += descSize
	}
	return pages
}

// withoutSums makes of a file of ours what another program would have written.
func withoutSums(file []byte, pages []stored, block int) []byte {
	file = bytes.Clone(file)
	clear(file[block-len(pageSumMark) : block])
	for _, p := range pages {
		clear(file[p.desc+16 : p.desc+descSize])
	}
	return file
}

// checkSalvage salvages file: pages that are given have their contents, and
// those of want are among them.
func checkSalvage(t *testing.T, name string, file []byte, want func(stored) bool, pages []stored) (Salvaged, bool) {
	t.Helper()
	k, out, err := Salvage(context.Background(), bytes.NewReader(file), int64(len(file)), SalvageOptions{Workers: 2})
	if err != nil {
		for _, p := range pages {
			if want(p) {
				t.Fatalf("%s: pfn %d is there: %v", name, p.pfn, err)
			}
		}
		return out, false
	}
	dumped, err := k.Dumped()
	if err != nil {
		t.Fatal(err)
	}
	if out.Pages != k.Pages() || dumped.Count() != k.Pages() {
		t.Fatalf("%s: %d pages, Pages() %d, Dumped() %d", name, out.Pages, k.Pages(), dumped.Count())
	}
	r, buf := k.NewReader(), make([]byte, k.Header().BlockSize)
	defer r.Close()
	n := uint64(0)
	for pfn, ok, err := r.Next(0); ok || err != nil; pfn, ok, err = r.Next(pfn + 1) {
		n++
		if err == nil {
			err = r.ReadPage(pfn, buf)
		}
		if err != nil || !dumped.Get(pfn) {
			t.Fatalf("%s: pfn %d was found: %v", name, pfn, err)
		}
		if !bytes.Equal(buf, testPage(pfn, len(buf))) {
			t.Fatalf("%s: pfn %d has other contents", name, pfn)
		}
	}
	if n != k.Pages() {
		t.Fatalf("%s: Next gives %d of %d pages", name, n, k.Pages())
	}
	ram, err := k.RAM()
	for _, p := range pages {
		if want(p) && !dumped.Get(p.pfn) {
			t.Fatalf("%s: pfn %d is there and was not found: %+v", name, p.pfn, out)
		}
		if err != nil || dumped.Get(p.pfn) && !ram.Get(p.pfn) {
			t.Fatalf("%s: pfn %d is no RAM, %v", name, p.pfn, err)
		}
		if err := r.ReadPage(p.pfn, buf); !dumped.Get(p.pfn) && !errors.Is(err, ErrExcluded) {
			t.Fatalf("%s: pfn %d was not found, ReadPage says %v", name, p.pfn, err)
		}
	}
	return out, true
}

// salvageFile is a dump with three blocks of each bitmap and 1500 pages.
func salvageFile(t testing.TB, codec Codec, block int) ([]byte, []stored) {
	t.Helper()
	maxPFN := uint64(block) * 8 * 5 / 2
	step := maxPFN / 1500
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%step == i/step%3 })
	f := newSparse()
	if err := writeDump(t, f, testHeader(block, maxPFN), codec, kept, kept); err != nil {
		t.Fatal(err)
	}
	file := fileBytes(t, f)
	return file, storedPages(t, file)
}

// cuts are lengths to cut a file to: around the ends of everything in it, and others.
func cuts(file []byte, block int64, pages []stored) (list []int64) {
	around := []int64{0, offStatus, headerSize, block, block + subHeaderSize, int64(len(file))}
	for at := block; at < pages[0].data; at += block {
		around = append(around, at)
	}
	for _, i := range []int{0, 1, len(pages) / 2, len(pages) - 1} {
		around = append(around, pages[i].desc, pages[i].desc+8, pages[i].desc+descSize, pages[i].data, pages[i].data+pages[i].size)
	}
	for _, at := range around {
		list = append(list, at-1, at, at+1)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		list = append(list, rng.Int64N(int64(len(file))), pages[0].data+rng.Int64N(int64(len(file))-pages[0].data))
	}
	return slices.DeleteFunc(list, func(n int64) bool { return n < 0 || n > int64(len(file)) })
}

// A file cut off anywhere gives the pages that it holds, ours and others', and none else.
func TestSalvageCut(t *testing.T) {
	for _, codec := range []Codec{None, Zlib, Snappy, Zstd} {
		file, pages := salvageFile(t, codec, 4096)
		for name, file := range map[string][]byte{"ours": file, "others": withoutSums(file, pages, 4096)} {
			for _, n := range cuts(file, 4096, pages) {
				zeros := name == "others" // in blocks of their own, which may be lost ones
				there := func(p stored) bool {
					return p.desc+descSize <= n && p.data+p.size <= n && !(zeros && p.pfn%5 == 0)
				}
				out, ok := checkSalvage(t, fmt.Sprintf("%s, %s, cut to %d of %d", codec, name, n, len(file)), file[:n], there, pages)
				if whole := n == int64(len(file)); ok && !zeros && whole != (out.Pages == uint64(len(pages)) && out.Bad+out.Beyond+out.Undescribed+out.Doubtful+out.Misplaced == 0) {
					t.Errorf("%s, %s, cut to %d of %d: %+v", codec, name, n, len(file), out)
				}
			}
		}
	}
}

// Pages of 64 KiB, and a header that says incomplete.
func TestSalvageLargePages(t *testing.T) {
	const block = 65536
	file, pages := salvageFile(t, Zstd, block)
	binary.LittleEndian.PutUint32(file[offStatus:], statusIncomplete)
	for _, n := range []int64{pages[0].data, pages[700].data + pages[700].size, int64(len(file))} {
		there := func(p stored) bool { return p.data+p.size <= n }
		checkSalvage(t, fmt.Sprintf("cut to %d of %d", n, len(file)), file[:n], there, pages)
	}
	if _, out, err := Salvage(context.Background(), bytes.NewReader(file[:pages[3].data+1]), pages[3].data+1, SalvageOptions{}); err != nil || out.Promised != uint64(len(pages)) || out.Beyond == 0 {
		t.Errorf("%+v, %v", out, err)
	}
}

// The machine dies between any two writes.
func TestSalvageUnfinished(t *testing.T) {
	const maxPFN = 70000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%4 == 1 })
	var rec recorder
	if err := writeDump(t, &rec, testHeader(4096, maxPFN), Snappy, kept, kept); err != nil {
		t.Fatal(err)
	}
	f, whole := newSparse(), newSparse()
	for n := range rec.offs {
		if _, err := whole.WriteAt(rec.data[n], rec.offs[n]); err != nil {
			t.Fatal(err)
		}
	}
	pages := storedPages(t, fileBytes(t, whole))
	descs := pages[0].desc
	for n := range rec.offs {
		if _, err := f.WriteAt(rec.data[n], rec.offs[n]); err != nil {
			t.Fatal(err)
		}
		if rec.offs[n] < descs || rec.offs[n] >= pages[0].data {
			continue // only a write of descriptors changes anything
		}
		file := fileBytes(t, f)
		there := func(p stored) bool {
			return p.data+p.size <= int64(len(file)) && decodeDesc(file[p.desc:]) != (pageDesc{})
		}
		checkSalvage(t, fmt.Sprintf("after write %d", n), file, there, pages)
	}
}

// Blocks that were not on the disk when the power went read as zeros. In a file
// of ours only the pages that were in them are lost. In others' no page may be
// taken that is not right, whatever else is lost.
func TestSalvageLostBlocks(t *testing.T) {
	const fsBlock = 4096
	for _, codec := range []Codec{None, Zlib, Snappy, Zstd} {
		file, pages := salvageFile(t, codec, 4096)
		first := binary.LittleEndian.Uint32(file[offSubHdrSize:]) + 1 // block of the bitmaps
		rng := rand.New(rand.NewPCG(5, uint64(codec)))
		for round := range 15 {
			ours, lost := bytes.Clone(file), map[int64]bool{}
			for range 1 + rng.IntN(6) {
				n := int64(first) + rng.Int64N(int64(len(file))/fsBlock-int64(first))
				if round%3 == 0 { // among bitmaps and descriptors
					n = int64(first) + rng.Int64N((pages[0].data-1)/fsBlock+1-int64(first))
				}
				lost[n] = true
				clear(ours[n*fsBlock : (n+1)*fsBlock])
			}
			intact := func(from, size int64) bool {
				for n := from / fsBlock; n <= (from+size-1)/fsBlock; n++ {
					if lost[n] && !bytes.Equal(file[max(from, n*fsBlock):min(from+size, (n+1)*fsBlock)], ours[max(from, n*fsBlock):min(from+size, (n+1)*fsBlock)]) {
						return false
					}
				}
				return true
			}
			there := func(p stored) bool { return intact(p.desc, descSize) && intact(p.data, p.size) }
			checkSalvage(t, fmt.Sprintf("%s, round %d, ours, lost %v", codec, round, lost), ours, there, pages)
			nothing := func(stored) bool { return false }
			checkSalvage(t, fmt.Sprintf("%s, round %d, others', lost %v", codec, round, lost), withoutSums(ours, nil, 4096), nothing, pages)
			others := withoutSums(file, pages, 4096)
			for n := range lost {
				clear(others[n*fsBlock : (n+1)*fsBlock])
			}
			checkSalvage(t, fmt.Sprintf("%s, round %d, others, lost %v", codec, round, lost), others, nothing, pages)
		}
	}
}

// Block 0 can be made again from VMCOREINFO.
func TestSalvageWithoutHeader(t *testing.T) {
	for _, block := range []int{4096, 65536} {
		const maxPFN = 1000
		info := fmt.Sprintf("OSRELEASE=6.1.0-rebuilt\nPAGESIZE=%d\nSYMBOL(init_top_pgt)=ffffffff82a0a000\nCRASHTIME=1700000000\n", block)
		h := testHeader(block, maxPFN)
		h.Notes, h.VMCoreInfoOff = notesWithInfo(info)
		h.VMCoreInfoSize = len(info)
		kept := bitmapOf(maxPFN, func(i uint64) bool { return i%4 == 1 })
		f := newSparse()
		if err := writeDump(t, f, h, Zstd, kept, kept); err != nil {
			t.Fatal(err)
		}
		file := fileBytes(t, f)
		pages := storedPages(t, file)
		whole := bytes.Clone(file)
		clear(file[:4096])
		clear(file[block-4096 : block])
		for name, file := range map[string][]byte{"ours": file, "others": withoutSums(file, pages, block)} {
			out, ok := checkSalvage(t, name, file, func(p stored) bool { return name == "ours" || p.pfn%5 != 0 }, pages)
			if !ok || !out.Rebuilt || out.Pages+out.Doubtful != kept.Count() || name == "ours" && out.Doubtful > 0 {
				t.Errorf("%s: %v, %+v", name, ok, out)
			}
			k, _, err := Salvage(context.Background(), bytes.NewReader(file), int64(len(file)), SalvageOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := k.Header()
			if got.Release != "6.1.0-rebuilt" || got.Machine != "x86_64" || got.NumCPUs != 2 || !got.Time.Equal(h.Time) || got.MaxPFN != maxPFN || got.BlockSize != block ||
				string(k.VMCoreInfo()) != info || !k.Incomplete() {
				t.Errorf("%s: %+v", name, got)
			}
		}
		clear(whole[block : block+subHeaderSize])
		if block == 4096 { // its notes are lost, its pages are not
			checkSalvage(t, "sub header", whole, func(stored) bool { return true }, pages)
		}
	}
}

// From a flattened file that was cut off come the pages whose descriptors it has.
func TestSalvageFlattened(t *testing.T) {
	const maxPFN = 24000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%3 != 0 })
	plain := newSparse()
	if err := writeDump(t, plain, testHeader(4096, maxPFN), Snappy, kept, kept); err != nil {
		t.Fatal(err)
	}
	pages := storedPages(t, fileBytes(t, plain))
	file := flatFile(t, maxPFN)
	found := map[bool]int{}
	for cut := len(file) - 1; cut > flatHeaderSize; cut -= 1 + cut/4 {
		f, err := OpenFlattened(bytes.NewReader(file[:cut]), int64(cut), true)
		if err != nil {
			t.Fatal(err)
		}
		rest := make([]byte, f.Size())
		if _, err := f.ReadAt(rest, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		there := func(p stored) bool {
			return p.data+p.size <= int64(len(rest)) && p.desc+descSize <= int64(len(rest)) && decodeDesc(rest[p.desc:]) != (pageDesc{})
		}
		out, _ := checkSalvage(t, fmt.Sprintf("cut to %d of %d", cut, len(file)), rest, there, pages)
		found[out.Pages > 0]++
	}
	if found[true] == 0 || found[false] == 0 {
		t.Errorf("the test cuts before all pages only, or after all of them: %v", found)
	}
}

// A part of a split dump is salvaged as a part, and put together with the others.
func TestSalvageSplit(t *testing.T) {
	const maxPFN = 3000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%2 == 0 })
	files := sparseFiles(3)
	if err := writeSplit(t, files, testHeader(4096, maxPFN), kept, kept, all); err != nil {
		t.Fatal(err)
	}
	parts := openParts(t, files)
	file := fileBytes(t, files[1])
	pages := storedPages(t, file)
	n := pages[100].data + pages[100].size
	torn, out, err := Salvage(context.Background(), bytes.NewReader(file[:n]), n, SalvageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := OpenSplit([]*Kdump{parts[0], parts[2], torn}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(kept)
	for _, p := range pages {
		if p.data+p.size > n {
			Bitmap(want).Clear(p.pfn)
		}
	}
	checkPages(t, k, want, maxPFN)
	if out.Beyond == 0 || out.Pages+out.Beyond != uint64(len(pages)) {
		t.Errorf("%+v of %d", out, len(pages))
	}
}

// badSectors cannot be read where bad says so.
type badSectors struct {
	io.ReaderAt
	bad map[int64]bool // by 512 bytes
}

func (b badSectors) ReadAt(p []byte, off int64) (int, error) {
	for at := off &^ 511; at < off+int64(len(p)); at += 512 {
		if b.bad[at/512] {
			n, _ := b.ReaderAt.ReadAt(p[:max(0, at-off)], off)
			return n, errInjected
		}
	}
	return b.ReaderAt.ReadAt(p, off)
}

// A bad sector costs the pages that are in its block, at most.
func TestSalvageBadSectors(t *testing.T) {
	file, pages := salvageFile(t, Snappy, 4096)
	rng := rand.New(rand.NewPCG(7, 8))
	for round := range 10 {
		b := badSectors{bytes.NewReader(file), map[int64]bool{}}
		for range 5 {
			b.bad[pages[rng.IntN(len(pages))].desc/512] = true
			b.bad[pages[rng.IntN(len(pages))].data/512] = true
		}
		k, out, err := Salvage(context.Background(), b, int64(len(file)), SalvageOptions{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		dumped, err := k.Dumped()
		if err != nil {
			t.Fatal(err)
		}
		intact := func(at, size int64) bool {
			for n := range b.bad {
				if n/8 >= at/lostSize && n/8 <= (at+size-1)/lostSize {
					return false
				}
			}
			return true
		}
		for _, p := range pages {
			if got, want := dumped.Get(p.pfn), intact(p.desc, descSize) && intact(p.data, p.size); want && !got {
				t.Fatalf("round %d: pfn %d is not found; %+v", round, p.pfn, out)
			}
		}
	}
}

func TestSalvageStops(t *testing.T) {
	file, _ := salvageFile(t, None, 4096)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Salvage(ctx, bytes.NewReader(file), int64(len(file)), SalvageOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"nothing":      {nil, ErrFormat},
		"zeros":        {make([]byte, 100000), ErrFormat},
		"text":         {bytes.Repeat([]byte("text"), 1000), ErrFormat},
		"only headers": {file[:3*4096], io.ErrUnexpectedEOF},
	} {
		if _, _, err := Salvage(context.Background(), bytes.NewReader(c.file), int64(len(c.file)), SalvageOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
