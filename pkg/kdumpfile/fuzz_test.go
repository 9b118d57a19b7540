package kdumpfile

import (
	"bytes"
	"context"
	"testing"
)

// fuzzFile puts blocks of a small file together: the fuzzer gets what is in them
// without the zeros behind it.
func fuzzFile(parts ...[]byte) (file []byte) {
	for _, part := range parts {
		file = append(file, part...)
		file = append(file, make([]byte, -len(file)&4095)...)
	}
	return file
}

// fuzzSeeds gives the parts of small dumps: header, its last bytes, sub header,
// bits, descriptors and data.
func fuzzSeeds(f *testing.F, add func(head, mark, sub, bits, descs, data []byte)) {
	f.Helper()
	page := testPage(1, 4096)
	for _, codec := range []Codec{Zlib, Snappy, Zstd} {
		s := compressedPages(f, 4096, codec, compressed(f, codec, page), compressed(f, codec, page))
		file := fileBytes(f, s)
		mark := file[4096-len(pageSumMark) : 4096]
		add(file[:headerSize], mark, file[4096:4096+600], file[8192:8193], file[4*4096:4*4096+48], file[5*4096:])
		add(file[:headerSize], nil, file[4096:4096+600], file[8192:8193], withoutSums(file, storedPages(f, file), 4096)[4*4096:4*4096+48], file[5*4096:])
		add(nil, nil, file[4096:4096+600], file[8192:8193], file[4*4096:4*4096+48], file[5*4096:])
	}
}

func fuzzHead(head, mark []byte) []byte {
	p := make([]byte, 4096)
	copy(p, head)
	copy(p[4096-len(pageSumMark):], mark)
	return p
}

// Whatever the file holds, Salvage gives pages that read, and as many as it says.
func FuzzSalvage(f *testing.F) {
	fuzzSeeds(f, func(head, mark, sub, bits, descs, data []byte) { f.Add(head, mark, sub, bits, bits, descs, data) })
	f.Fuzz(func(t *testing.T, head, mark, sub, ram, bits, descs, data []byte) {
		file := fuzzFile(fuzzHead(head, mark), sub, ram, bits, descs, data)
		k, out, err := Salvage(context.Background(), bytes.NewReader(file), int64(len(file)), SalvageOptions{Workers: 1})
		if err != nil {
			return
		}
		r, buf := k.NewReader(), make([]byte, k.Header().BlockSize)
		defer r.Close()
		n := uint64(0)
		for pfn, ok, err := r.Next(0); ok || err != nil; pfn, ok, err = r.Next(pfn + 1) {
			if err == nil {
				err = r.ReadPage(pfn, buf)
			}
			if err != nil {
				t.Fatalf("pfn %#x was found: %v; %+v", pfn, err, out)
			}
			n++
		}
		if n != out.Pages || n != k.Pages() || out.Promised > uint64(len(file))*8 {
			t.Fatalf("%d pages read, %d of them are told, Pages() %d; %+v", n, out.Pages, k.Pages(), out)
		}
		if report, err := k.Verify(context.Background(), 1, nil); err != nil || report.Bad > 0 || report.Pages != n {
			t.Fatalf("Verify: %+v, %v", report, err)
		}
	})
}

// Verify ends, and counts every page as good or bad.
func FuzzVerify(f *testing.F) {
	fuzzSeeds(f, func(head, mark, sub, bits, descs, data []byte) { f.Add(head, mark, sub, bits, bits, descs, data) })
	f.Fuzz(func(t *testing.T, head, mark, sub, ram, bits, descs, data []byte) {
		file := fuzzFile(fuzzHead(head, mark), sub, ram, bits, descs, data)
		k, err := OpenKdump(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		report, err := k.Verify(context.Background(), 1, nil)
		var all uint64
		for _, n := range report.Found {
			all += n
		}
		if err != nil || report.Pages != k.Pages() || report.Bad > report.Pages || report.Bad > all || len(report.Problems) > maxProblems ||
			report.Zero+report.Bad > report.Pages || report.Shared > report.Pages {
			t.Fatalf("%+v, %v, %d pages", report, err, k.Pages())
		}
	})
}

// Parts that go together read as one dump, whatever their sub headers say.
func FuzzOpenSplit(f *testing.F) {
	const maxPFN = 200
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%5 == 1 })
	files := sparseFiles(2)
	if err := writeSplit(f, files, testHeader(4096, maxPFN), kept, kept, all); err != nil {
		f.Fatal(err)
	}
	a, b := fileBytes(f, files[0]), fileBytes(f, files[1])
	f.Add(a[4096:4096+subHeaderSize], b[4096:4096+subHeaderSize], false)
	f.Add(b[4096:4096+subHeaderSize], a[4096:4096+subHeaderSize], true)
	f.Fuzz(func(t *testing.T, subA, subB []byte, partial bool) {
		var parts []*Kdump
		for i, sub := range [][]byte{subA, subB} {
			file := bytes.Clone([][]byte{a, b}[i])
			copy(file[4096:4096+subHeaderSize], sub)
			k, err := OpenKdump(bytes.NewReader(file), int64(len(file)))
			if err != nil {
				return
			}
			parts = append(parts, k)
		}
		k, err := OpenSplit(parts, partial)
		if err != nil {
			return
		}
		if n := parts[0].Pages() + parts[1].Pages(); k.Pages() != n {
			t.Fatalf("%d pages of %d", k.Pages(), n)
		}
		dumped, err := k.Dumped()
		if err != nil || dumped.Count() != k.Pages() {
			t.Fatalf("%d pages of %d, %v", dumped.Count(), k.Pages(), err)
		}
		r, buf := k.NewReader(), make([]byte, 4096)
		defer r.Close()
		n := uint64(0)
		for pfn, ok, err := r.Next(0); ok; pfn, ok, err = r.Next(pfn + 1) {
			if err != nil || !dumped.Get(pfn) {
				t.Fatalf("Next gives %#x, %v", pfn, err)
			}
			_ = r.ReadPage(pfn, buf) // of descriptors that may be another page's
			n++
		}
		if n != k.Pages() {
			t.Fatalf("Next gives %d of %d pages", n, k.Pages())
		}
	})
}
