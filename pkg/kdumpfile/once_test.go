package kdumpfile

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// crash takes any segment of a flattened file that holds a byte, not the last
// one: a header or a byte of the bitmap that is written twice made it see an
// incomplete dump, or the wrong pages.
func TestFlattenedWritesNothingTwice(t *testing.T) {
	for _, pages := range []uint64{0, 1, descBuffer/descSize - 1, descBuffer / descSize, descBuffer/descSize + 1, 30000} {
		for _, gap := range []uint64{1, 3, 129} { // 129: more than a window of the 2nd bitmap
			t.Run(fmt.Sprint(pages, "x", gap), func(t *testing.T) { testWrittenOnce(t, pages, gap) })
		}
	}
}

func testWrittenOnce(t *testing.T, pages, gap uint64) {
	maxPFN := pages*gap + 5
	kept := bitmapOf(maxPFN, func(pfn uint64) bool { return pfn%gap == 0 && pfn/gap < pages })
	var buf bytes.Buffer
	f := NewFlattener(&buf)
	k, err := NewKdumpWriter(f, Header{BlockSize: 4096, MaxPFN: maxPFN, Codec: Snappy, Machine: "x86_64"}, kept, kept.Count())
	if err != nil {
		t.Fatal(err)
	}
	b := newBatcher(t, k, Snappy, 4096)
	for pfn, ok := kept.Next(0); ok; pfn, ok = kept.Next(pfn + 1) {
		if err := b.add(pfn); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.flush(); err != nil {
		t.Fatal(err)
	}
	if err := k.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r := &FlattenedReader{r: bytes.NewReader(buf.Bytes())}
	list, err := r.scan(int64(buf.Len()), false)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b flatExtent) int { return int(a.start - b.start) })
	for i := 1; i < len(list); i++ {
		if list[i].start < list[i-1].end {
			t.Fatalf("bytes from %#x are in the segments at %#x and %#x", list[i].start, list[i-1].pos, list[i].pos)
		}
	}
	plain, err := OpenFlattened(bytes.NewReader(buf.Bytes()), int64(buf.Len()), false)
	if err != nil {
		t.Fatal(err)
	}
	back, err := OpenKdump(plain, plain.Size())
	if err != nil {
		t.Fatal(err)
	}
	if back.Incomplete() || back.Header().Codec != Snappy || back.Pages() != pages {
		t.Errorf("incomplete %v, codec %v, %d pages", back.Incomplete(), back.Header().Codec, back.Pages())
	}
	checkPages(t, back, kept, maxPFN)
}
