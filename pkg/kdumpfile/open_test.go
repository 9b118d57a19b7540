package kdumpfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// lzoLiteral is a page as one LZO1X run of literals, and the end mark.
func lzoLiteral(page []byte) []byte {
	n := len(page) - 18
	out := []byte{0}
	for ; n > 255; n -= 255 {
		out = append(out, 0)
	}
	return append(append(append(out, byte(n)), page...), 0x11, 0, 0)
}

// compressedPages is a dump whose pages are compressed as given.
func compressedPages(t testing.TB, block int, codec Codec, data ...[]byte) *sparse {
	t.Helper()
	f := newSparse()
	k, err := NewKdumpWriter(f, testHeader(block, uint64(len(data))), bitmapOf(uint64(len(data)), all), uint64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var b Batch
	for i, d := range data {
		b.PFNs = append(b.PFNs, uint64(i))
		b.Descs = append(b.Descs, Desc{Size: uint32(len(d)), Flags: uint32(codec)})
		b.Data = append(b.Data, d...)
	}
	if err := errors.Join(k.Batch(&b), k.Finish()); err != nil {
		t.Fatal(err)
	}
	return f
}

func compressed(t testing.TB, codec Codec, page []byte) []byte {
	t.Helper()
	c, err := NewCompressor(codec, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c.Compress(nil, page)
}

// Every codec that we write, with one page too long, one too short and one of garbage between
// two good ones: a bad page costs itself only.
func TestReadCodecs(t *testing.T) {
	const block = 4096
	page := testPage(1, 2*block)
	for _, codec := range []Codec{Zlib, Snappy, Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			good := compressed(t, codec, page[:block])
			f := compressedPages(t, block, codec, good, compressed(t, codec, page[:block+1]), compressed(t, codec, page[:block-1]), []byte("garbage"), good[:len(good)/2], good)
			k, err := OpenKdump(f, f.size)
			if err != nil {
				t.Fatal(err)
			}
			r, buf := k.NewReader(), make([]byte, block)
			defer r.Close()
			for pfn, ok := range []bool{true, false, false, false, false, true} {
				if err := r.ReadPage(uint64(pfn), buf); (err == nil) != ok {
					t.Errorf("page %d: %v", pfn, err)
				} else if ok && !bytes.Equal(buf, page[:block]) {
					t.Errorf("page %d reads as something else", pfn)
				}
			}
			var done, total uint64
			report, err := k.Verify(context.Background(), 1, func(d, n uint64) { done, total = d, n })
			if err != nil || report.Bad != 4 || report.Found[ProblemData] != 4 || len(report.Problems) != 4 || done != 6 || total != 6 {
				t.Errorf("Verify: %+v, %v, %d of %d", report, err, done, total)
			}
		})
	}
}

// A descriptor may say at most a page: literals alone are longer, so this goes
// around the descriptor.
func TestReadLZO(t *testing.T) {
	var r PageReader
	page := testPage(7, 4096)
	buf := make([]byte, 4096)
	if n, err := r.decompress(LZO, lzoLiteral(page), buf); err != nil || n != len(page) || !bytes.Equal(buf, page) {
		t.Errorf("%d bytes, %v", n, err)
	}
	for _, bad := range [][]byte{nil, {0}, {0x11}, lzoLiteral(testPage(7, 4097)), lzoLiteral(page)[:4000], bytes.Repeat([]byte{0xff}, 100)} {
		if n, err := r.decompress(LZO, bad, buf); err == nil && n == len(page) {
			t.Errorf("%d bytes of garbage are a page", len(bad))
		}
	}
}

func TestVerifyStops(t *testing.T) {
	f := compressedPages(t, 4096, None, testPage(1, 4096))
	k, err := OpenKdump(f, f.size)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := k.Verify(ctx, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v", err)
	}
}

// Fields count from the header version on that has them; one map serves for both.
func TestOldVersions(t *testing.T) {
	const maxPFN = 40000 // two blocks of bits
	le := binary.LittleEndian
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%100 == 1 })
	for version := uint32(1); version <= 7; version++ {
		f := newSparse()
		if err := writeDump(t, f, testHeader(4096, maxPFN), Zlib, kept, kept); err != nil {
			t.Fatal(err)
		}
		put := func(at int64, v []byte) {
			if _, err := f.WriteAt(v, at); err != nil {
				t.Fatal(err)
			}
		}
		put(offVersion, le.AppendUint32(nil, version))
		if version < 6 {
			put(4096+offMaxMapnr64, le.AppendUint64(nil, 1<<50))
		}
		if version < 2 {
			put(4096+offSplit, le.AppendUint32(nil, 1))
		}
		k, err := OpenKdump(f, f.size)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(k.VMCoreInfo()) > 0; got != (version >= 3) {
			t.Errorf("version %d has VMCOREINFO: %v", version, got)
		}
		if got := len(k.Notes()) > 0; got != (version >= 4) {
			t.Errorf("version %d has notes: %v", version, got)
		}
		checkPages(t, k, kept, maxPFN)
	}
}

func TestOneBitmap(t *testing.T) {
	const maxPFN = 4096*8 + 1
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%100 == 0 })
	f := newSparse()
	if err := writeDump(t, f, testHeader(4096, maxPFN), Zlib, kept, kept); err != nil {
		t.Fatal(err)
	}
	// The sub header takes the 1st map in, and what was the 2nd is the only one.
	put := func(at int64, n uint32) {
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint32(nil, n), at); err != nil {
			t.Fatal(err)
		}
	}
	put(offSubHdrSize, 3)
	put(offBitmapBlocks, 2)
	k, err := OpenKdump(f, f.size)
	if err != nil {
		t.Fatal(err)
	}
	checkPages(t, k, kept, maxPFN)
}

// A part of a split dump has the bitmaps of the whole and descriptors of its own pfns.
func TestSplit(t *testing.T) {
	const maxPFN = 30000
	le := binary.LittleEndian
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%3 != 1 })
	for _, part := range [][2]uint64{{0, maxPFN}, {0, 10000}, {4097, 20001}, {20001, maxPFN}, {5, 5}} {
		mine := bitmapOf(maxPFN, func(i uint64) bool { return kept.Get(i) && i >= part[0] && i < part[1] })
		f := newSparse()
		h := testHeader(4096, maxPFN)
		if err := writeDump(t, f, h, Zlib, kept, mine); err != nil {
			t.Fatal(err)
		}
		l := newLayout(&h, 0)
		sub := le.AppendUint64(le.AppendUint64(nil, part[0]), part[1])
		for at, p := range map[int64][]byte{4096 + offSplit: {1}, 4096 + offStartPFN64: sub, l.bitmap2: kept} {
			if _, err := f.WriteAt(p, at); err != nil {
				t.Fatal(err)
			}
		}
		k, err := OpenKdump(f, f.size)
		if err != nil {
			t.Fatal(err)
		}
		if start, end, ok := k.Split(); !ok || start != part[0] || end != part[1] {
			t.Errorf("Split() = %d, %d, %v", start, end, ok)
		}
		checkPages(t, k, mine, maxPFN)
	}
}

func TestOpenRefuses(t *testing.T) {
	le := binary.LittleEndian
	split := make([]byte, offEndPFN64+8-offSplit)
	split[0], split[offStartPFN64-offSplit] = 1, 9
	for name, c := range map[string]struct {
		at   int64
		data []byte
		want error
	}{
		"signature":         {0, []byte("DISKDUMP"), ErrFormat},
		"version 0":         {offVersion, le.AppendUint32(nil, 0), ErrFormat},
		"page size 0":       {offBlockSize, le.AppendUint32(nil, 0), ErrFormat},
		"page size 3":       {offBlockSize, le.AppendUint32(nil, 3), ErrFormat},
		"bitmaps beyond":    {offSubHdrSize, le.AppendUint32(nil, 1<<31), io.ErrUnexpectedEOF},
		"bitmaps too large": {4096 + offMaxMapnr64, le.AppendUint64(nil, 1<<40), ErrCorrupt},
		"max_mapnr absurd":  {4096 + offMaxMapnr64, le.AppendUint64(nil, 1<<63), ErrCorrupt},
		"notes too large":   {4096 + offNoteSize, le.AppendUint64(nil, 1<<40), ErrCorrupt},
		"notes beyond":      {4096 + offNote, le.AppendUint64(nil, 1<<40), nil},
		"start above end":   {4096 + offSplit, split, ErrCorrupt},
	} {
		f := compressedPages(t, 4096, None, testPage(1, 4096))
		if _, err := f.WriteAt(c.data, c.at); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKdump(f, f.size); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, size := range []int64{0, 1, headerSize - 1, headerSize, 4096, 4096 + subHeaderSize, 8192, 12288} {
		f := compressedPages(t, 4096, None, testPage(1, 4096))
		if _, err := OpenKdump(f, size); err == nil {
			t.Errorf("a file of %d bytes opens", size)
		}
	}
}

func FuzzOpenKdump(f *testing.F) {
	// Blocks of a small dump without their zeros: header, sub header and the rest.
	page := testPage(1, 4096)
	for _, codec := range []Codec{Zlib, Snappy, Zstd} {
		s := compressedPages(f, 4096, codec, compressed(f, codec, page), compressed(f, codec, page))
		file := make([]byte, s.size)
		if _, err := s.ReadAt(file, 0); err != nil {
			f.Fatal(err)
		}
		f.Add(file[:headerSize], file[4096:4096+200], file[8192:8193], file[4*4096:4*4096+48], file[5*4096:], uint32(codec))
	}
	f.Fuzz(func(t *testing.T, head, sub, bits, descs, data []byte, codec uint32) {
		var file []byte
		for _, part := range [][]byte{head, sub, bits, bits, descs, data} {
			file = append(file, part...)
			file = append(file, make([]byte, -len(file)&4095)...)
		}
		k, err := OpenKdump(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		if len(k.ranks) > len(file)/8+2 || len(k.Notes())+len(k.VMCoreInfo()) > 2*len(file) {
			t.Fatalf("%d ranks and %d bytes of notes of a file of %d bytes", len(k.ranks), len(k.Notes()), len(file))
		}
		r, buf := k.NewReader(), make([]byte, k.Header().BlockSize)
		defer r.Close()
		pfn, n := uint64(0), uint64(0)
		for ; n < 1000; n++ {
			next, ok, err := r.Next(pfn)
			if err != nil {
				t.Fatal(err) // the map was read once
			}
			if !ok {
				break
			}
			if err := r.ReadPage(next, buf); errors.Is(err, ErrExcluded) {
				t.Fatalf("Next gives %#x: %v", next, err)
			}
			pfn = next + 1
		}
		if n < 1000 && n != k.Pages() {
			t.Fatalf("Next gives %d pages, Pages() %d", n, k.Pages())
		}
		if _, err := r.decompress(Codec(codec), data, buf); err == nil && len(data) == 0 && codec != 0 {
			t.Fatal("nothing decompresses")
		}
	})
}
