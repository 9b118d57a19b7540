package kdumpfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// flatFile makes a flattened file of a dump.
func flatFile(t testing.TB, maxPFN uint64) []byte {
	t.Helper()
	var buf bytes.Buffer
	f := NewFlattener(&buf)
	kept := bitmapOf(maxPFN, func(i uint64) bool { return i%3 != 0 })
	if err := writeDump(t, f, testHeader(4096, maxPFN), Snappy, kept, kept); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestFlattenedDump(t *testing.T) {
	const maxPFN = 30000
	file := flatFile(t, maxPFN)
	if !IsFlattened(file[:16]) || IsFlattened([]byte("KDUMP   ")) || IsFlattened(nil) {
		t.Error("IsFlattened is wrong")
	}
	f, err := OpenFlattened(bytes.NewReader(file), int64(len(file)), false)
	if err != nil {
		t.Fatal(err)
	}
	k, err := OpenKdump(f, f.Size())
	if err != nil {
		t.Fatal(err)
	}
	checkPages(t, k, bitmapOf(maxPFN, func(i uint64) bool { return i%3 != 0 }), maxPFN)
	if k.Incomplete() || f.Torn() {
		t.Error("a whole file is incomplete or torn")
	}
}

// Cut anywhere it is refused, or on request taken for what it has.
func TestFlattenedTorn(t *testing.T) {
	file := flatFile(t, 20000)
	for cut := len(file) - 1; cut > flatHeaderSize; cut -= 1 + cut/7 {
		r := bytes.NewReader(file[:cut])
		if _, err := OpenFlattened(r, int64(cut), false); !errors.Is(err, ErrTorn) {
			t.Fatalf("cut to %d bytes: %v", cut, err)
		}
		f, err := OpenFlattened(r, int64(cut), true)
		if err != nil || !f.Torn() {
			t.Fatalf("cut to %d bytes, taken as torn: %v", cut, err)
		}
		k, err := OpenKdump(f, f.Size())
		if err != nil {
			continue // not even the bitmaps
		}
		there, err := k.Dumped()
		if err != nil {
			t.Fatal(err)
		}
		checkPages(t, k, there, 20000)
	}
}

// Segments in any order, over each other, against a plain file.
func TestFlattenedOverwrites(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var buf bytes.Buffer
		f, plain := NewFlattener(&buf), newSparse()
		for range 1 + rng.IntN(40) {
			p := make([]byte, rng.IntN(300))
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			off := rng.Int64N(3000)
			for _, w := range []io.WriterAt{f, plain} {
				if _, err := w.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := OpenFlattened(bytes.NewReader(buf.Bytes()), int64(buf.Len()), false)
		if err != nil {
			t.Fatal(err)
		}
		got, want := make([]byte, r.Size()), make([]byte, r.Size())
		if _, err := r.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		_, _ = plain.ReadAt(want, 0)
		if !bytes.Equal(got, want) {
			t.Fatal("the flattened file reads as something else")
		}
		if n, err := r.ReadAt(make([]byte, 10), r.Size()-4); r.Size() >= 4 && (n != 4 || err != io.EOF) {
			t.Fatalf("read over the end: %d, %v", n, err)
		}
	}
}

// failingStream fails at the n-th write, and what comes behind it does not count.
type failingStream struct {
	bytes.Buffer
	n int
}

func (f *failingStream) Write(p []byte) (int, error) {
	if f.n--; f.n == 0 {
		n, _ := f.Buffer.Write(p[:len(p)/2])
		return n, errInjected
	}
	return f.Buffer.Write(p)
}

// Whichever write of the stream fails, the file has no end marker.
func TestFlattenedEveryWriteFails(t *testing.T) {
	const maxPFN = 20000
	kept := bitmapOf(maxPFN, all)
	write := func(w io.Writer) error {
		f := NewFlattener(w)
		err := writeDump(t, f, testHeader(4096, maxPFN), Snappy, kept, kept)
		return errors.Join(err, f.Close())
	}
	good := &failingStream{}
	if err := write(good); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= -good.n; n++ {
		f := &failingStream{n: n}
		if err := write(f); !errors.Is(err, errInjected) {
			t.Fatalf("write %d fails, the dump says %v", n, err)
		}
		r := bytes.NewReader(f.Bytes())
		if _, err := OpenFlattened(r, r.Size(), false); err == nil {
			t.Fatalf("write %d fails, the file has an end marker", n)
		}
	}
}

// Garbage in place of a segment's header ends what a torn file has.
func TestFlattenedGarbage(t *testing.T) {
	var buf bytes.Buffer
	f := NewFlattener(&buf)
	if _, err := f.WriteAt([]byte("0123456789"), 5); err != nil {
		t.Fatal(err)
	}
	buf.Write(bytes.Repeat([]byte{0x80}, 100))
	r := bytes.NewReader(buf.Bytes())
	if _, err := OpenFlattened(r, r.Size(), false); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	plain, err := OpenFlattened(r, r.Size(), true)
	if err != nil || plain.Size() != 15 || !plain.Torn() {
		t.Errorf("%v, %+v", err, plain)
	}
}

func TestFlattenedRefuses(t *testing.T) {
	head := make([]byte, flatHeaderSize)
	copy(head, flatSignature)
	head[23], head[31] = flatType, flatVersion
	segment := func(off, size int64) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(bytes.Clone(head), uint64(off)), uint64(size))
	}
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"empty":         {nil, ErrNotFlattened},
		"no header":     {head[:20], ErrNotFlattened},
		"only a header": {head, ErrTorn},
		"negative size": {segment(0, -2), ErrCorrupt},
		"negative off":  {segment(-2, 1), ErrCorrupt},
		"overflow":      {segment(1<<62, 1<<62), ErrCorrupt},
		"data missing":  {segment(0, 1), ErrTorn},
	} {
		if _, err := OpenFlattened(bytes.NewReader(c.file), int64(len(c.file)), false); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzOpenFlattened(f *testing.F) {
	var buf bytes.Buffer
	w := NewFlattener(&buf)
	for _, off := range []int64{0, 100, 50, 1 << 40, 0} {
		if _, err := w.WriteAt([]byte("0123456789abcdef"), off); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	// The header is always the same: the fuzzer gets what follows.
	head, rest := buf.Bytes()[:flatHeaderSize], buf.Bytes()[flatHeaderSize:]
	f.Add(rest, false)
	f.Add(rest[:50], true)
	f.Fuzz(func(t *testing.T, rest []byte, torn bool) {
		file := append(bytes.Clone(head), rest...)
		r, err := OpenFlattened(bytes.NewReader(file), int64(len(file)), torn)
		if err != nil {
			return
		}
		last := int64(0)
		for _, e := range r.extents {
			if e.start < last || e.end <= e.start || e.pos < flatHeaderSize || e.pos+e.end-e.start > int64(len(file)) {
				t.Fatalf("extent %+v after %d", e, last)
			}
			last = e.end
		}
		p := make([]byte, 100)
		for _, off := range []int64{0, 1, r.Size() - 50, r.Size()} {
			if off >= 0 {
				_, _ = r.ReadAt(p, off)
			}
		}
	})
}
