package kdumpfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func verifyFile(t *testing.T, file []byte) Report {
	t.Helper()
	k, err := OpenKdump(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := k.Verify(context.Background(), 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Each thing that can be wrong with a file is told as what it is, and nothing else.
func TestVerifyFinds(t *testing.T) {
	const block, maxPFN = 4096, 1000
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%2 == 1 })
	f := newSparse()
	if err := writeDump(t, f, testHeader(block, maxPFN), Zlib, kept, kept); err != nil {
		t.Fatal(err)
	}
	good := fileBytes(t, f)
	pages := storedPages(t, good)
	le := binary.LittleEndian
	other := func(size int64) stored { // a page with data of this size at least
		i := slices.IndexFunc(pages[5:], func(p stored) bool { return p.pfn%5 != 0 && p.size >= size })
		return pages[5+i]
	}
	compressed, raw := other(20), other(block)
	bitmap1, bitmap2 := int64(2*block), int64(3*block)
	for name, c := range map[string]struct {
		change func(p []byte) []byte
		want   map[ProblemKind]uint64
		bad    uint64
	}{
		"nothing":              {func(p []byte) []byte { return p }, nil, 0},
		"no release":           {func(p []byte) []byte { clear(p[offUtsname+2*utsLen:][:utsLen]); return p }, map[ProblemKind]uint64{ProblemHeader: 1}, 0},
		"no CPUs":              {func(p []byte) []byte { clear(p[offNrCPUs:][:4]); return p }, map[ProblemKind]uint64{ProblemHeader: 1}, 0},
		"tv_usec":              {func(p []byte) []byte { p[offTimestamp+9] = 0x10; return p }, map[ProblemKind]uint64{ProblemHeader: 1}, 0},
		"notes into the maps":  {func(p []byte) []byte { le.PutUint64(p[block+offNoteSize:], block); return p }, map[ProblemKind]uint64{ProblemNotes: 2}, 0},
		"notes end in a note":  {func(p []byte) []byte { p[block+offNoteSize] -= 8; return p }, map[ProblemKind]uint64{ProblemNotes: 1}, 0},
		"VMCOREINFO elsewhere": {func(p []byte) []byte { p[block+offVMCoreInfo]++; return p }, map[ProblemKind]uint64{ProblemNotes: 1}, 0},
		"no VMCOREINFO":        {func(p []byte) []byte { clear(p[block+offVMCoreInfoSize:][:8]); return p }, map[ProblemKind]uint64{ProblemNotes: 1}, 0},
		"page is no RAM":       {func(p []byte) []byte { p[bitmap1] &^= 0xa; return p }, map[ProblemKind]uint64{ProblemBitmap: 2}, 0},
		"RAM beyond the last":  {func(p []byte) []byte { p[bitmap1+maxPFN/8+5] = 1; return p }, map[ProblemKind]uint64{ProblemBitmap: 1}, 0},
		"page beyond the last": {func(p []byte) []byte { p[bitmap2+maxPFN/8+5] = 1; return p }, map[ProblemKind]uint64{ProblemBitmap: 1}, 0},
		"size 0":               {func(p []byte) []byte { clear(p[compressed.desc+8:][:4]); return p }, map[ProblemKind]uint64{ProblemDescriptor: 1}, 1},
		"size > page":          {func(p []byte) []byte { le.PutUint32(p[compressed.desc+8:], block+1); return p }, map[ProblemKind]uint64{ProblemDescriptor: 1}, 1},
		"raw and short":        {func(p []byte) []byte { le.PutUint32(p[raw.desc+8:], block-1); return p }, map[ProblemKind]uint64{ProblemDescriptor: 1}, 1},
		"offset 0":             {func(p []byte) []byte { clear(p[compressed.desc:][:8]); return p }, map[ProblemKind]uint64{ProblemDescriptor: 1}, 1},
		"another pfn":          {func(p []byte) []byte { p[compressed.desc+16]++; return p }, map[ProblemKind]uint64{ProblemDescriptor: 1}, 1},
		"offset beyond":        {func(p []byte) []byte { p[compressed.desc+5] = 1; return p }, map[ProblemKind]uint64{ProblemBeyond: 1}, 1},
		"overlap": {func(p []byte) []byte { le.PutUint64(p[compressed.desc:], uint64(compressed.data+1)); return p },
			map[ProblemKind]uint64{ProblemOverlap: 1, ProblemData: 1}, 1},
		"overlap before": {func(p []byte) []byte { le.PutUint64(p[compressed.desc:], uint64(compressed.data-1)); return p },
			map[ProblemKind]uint64{ProblemOverlap: 1, ProblemData: 1}, 1},
		"a bit of a compressed page": {func(p []byte) []byte { p[compressed.data+5] ^= 4; return p }, map[ProblemKind]uint64{ProblemData: 1}, 1},
		"a bit of a raw page":        {func(p []byte) []byte { p[raw.data+5] ^= 4; return p }, map[ProblemKind]uint64{ProblemData: 1}, 1},
		"a bit of all zero pages":    {func(p []byte) []byte { p[pages[2].data] ^= 4; return p }, map[ProblemKind]uint64{ProblemData: 100}, 100},
		"cut":                        {func(p []byte) []byte { return p[:pages[len(pages)-1].data] }, map[ProblemKind]uint64{ProblemBeyond: 1}, 1},
		"cut in the descriptors": {func(p []byte) []byte { return p[:pages[len(pages)-1].desc] },
			map[ProblemKind]uint64{ProblemBeyond: uint64(len(pages))}, uint64(len(pages))},
	} {
		r := verifyFile(t, c.change(bytes.Clone(good)))
		if !maps.Equal(r.Found, c.want) || r.Bad != c.bad || r.Pages != uint64(len(pages)) {
			t.Errorf("%s: found %v, %d bad of %d, want %v, %d; %v", name, r.Found, r.Bad, r.Pages, c.want, c.bad, r.Problems)
		}
	}
	r := verifyFile(t, append(bytes.Clone(good), make([]byte, 77)...))
	if r.Trailing != 77 || r.Zero != 100 || r.Shared != 99 || r.Summed != r.Pages || r.Incomplete || len(r.Found) > 0 {
		t.Errorf("%+v", r)
	}
	if want := uint64(len(good)) - uint64(pages[0].data); r.Bytes != want {
		t.Errorf("%d bytes of data, want %d", r.Bytes, want)
	}
}

// Without checksums only what does not decompress is found; that is told, too.
func TestVerifyOthers(t *testing.T) {
	file, pages := salvageFile(t, Snappy, 4096)
	r := verifyFile(t, withoutSums(file, pages, 4096))
	if r.Summed != 0 || len(r.Found) > 0 || r.Pages != uint64(len(pages)) {
		t.Errorf("%+v", r)
	}
}

// There are more problems than are told one by one.
func TestVerifyBound(t *testing.T) {
	file, pages := salvageFile(t, Zstd, 4096)
	r := verifyFile(t, file[:pages[0].data])
	if r.Bad != uint64(len(pages)) || r.Found[ProblemBeyond] != r.Bad || len(r.Problems) != maxProblems || !strings.Contains(r.Problems[0].Text, "pfn ") {
		t.Errorf("%+v", r)
	}
}

// Few extents at a time find the same as all at once.
func TestExtents(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 200 {
		var list []extent
		for range 1 + rng.IntN(100) {
			e := extent{uint64(rng.IntN(3000)), uint32(1 + rng.IntN(20)), 1}
			for range 1 + rng.IntN(3) {
				list = append(list, e)
			}
		}
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		all := extents{limit: 1 << 20, to: 3000}
		for _, e := range list {
			all.add(e)
		}
		all.compact()
		var few []extent
		for x := (extents{limit: 8 + rng.IntN(50)}); x.from < 3000; x.from = x.to {
			x.list, x.to = x.list[:0], 3000
			for _, e := range list {
				x.add(e)
			}
			x.compact()
			few = append(few, x.list...)
		}
		if !slices.Equal(few, all.list) {
			t.Fatalf("%d extents in turns, %d at once", len(few), len(all.list))
		}
	}
}
