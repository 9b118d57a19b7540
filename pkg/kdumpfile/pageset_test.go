package kdumpfile

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"
)

// Every operation beside a Bitmap, around the ends of parts.
func TestPageSetAgainstBitmap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []uint64{0, 1, 63, partBits - 1, partBits, partBits + 1, 4*partBits + 17} {
		s, b := NewPageSet(n), NewBitmap(n)
		for range 60 {
			start := rng.Uint64N(n + 1)
			end := start + rng.Uint64N(n-start+1)
			switch rng.IntN(5) {
			case 0:
				s.SetRange(start, end)
				b.SetRange(start, end)
			case 1, 2:
				s.ClearRange(start, end)
				b.ClearRange(start, end)
			case 3:
				if start < n {
					s.Set(start)
					b.Set(start)
				}
			default:
				if start < n {
					s.Clear(start)
					b.Clear(start)
				}
			}
			comparePages(t, s, b, start, end)
		}
		c := s.Clone()
		c.ClearRange(0, n)
		if !bytes.Equal(s.Bitmap(), b) || c.Count() != 0 || s.Len() != n {
			t.Fatalf("%d pages: Bitmap() or Clone() differs", n)
		}
	}
}

func comparePages(t *testing.T, s *PageSet, b Bitmap, at ...uint64) {
	t.Helper()
	for _, i := range append(at, 0, partBits-1, partBits, s.Len()) {
		next, ok := s.Next(i)
		want, wantOK := b.Next(i)
		if next != want || ok != wantOK || s.NextClear(i) != min(b.NextClear(i), max(i, s.Len())) || s.Get(i) != b.Get(i) {
			t.Fatalf("at %d of %d: Next %d %v, want %d %v; NextClear %d, want %d; Get %v", i, s.Len(), next, ok, want, wantOK, s.NextClear(i), b.NextClear(i), s.Get(i))
		}
	}
	if s.Count() != b.Count() || s.CountRange(at[0], at[1]) != b.CountRange(at[0], at[1]) {
		t.Fatalf("counts %d %d, want %d %d", s.Count(), s.CountRange(at[0], at[1]), b.Count(), b.CountRange(at[0], at[1]))
	}
}

// A GiB of memory at 64 TiB takes what it takes at 0, and in the file nothing is written
// of the 2 GiB of its bitmaps that are zeros.
func TestFarMemoryIsCheap(t *testing.T) {
	const far, pages = 64 << 40 >> 12, 1 << 30 >> 12
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s := NewPageSet(far + pages)
	s.SetRange(0, pages)
	s.SetRange(far, far+pages)
	out := &counting{}
	h := testHeader(4096, far+pages)
	if _, err := NewKdumpWriter(out, h, s, s.Count()); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d bytes of memory", n)
	}
	if out.bytes > 2*mapPiece+64<<10 {
		t.Errorf("%d bytes were written", out.bytes)
	}
	if got := s.Count(); got != 2*pages {
		t.Errorf("%d pages", got)
	}
}

// counting counts the bytes that are written.
type counting struct{ bytes int }

func (c *counting) WriteAt(p []byte, _ int64) (int, error) {
	c.bytes += len(p)
	return len(p), nil
}

func BenchmarkNext(b *testing.B) {
	const n = 1 << 22
	s := NewPageSet(n)
	for i := uint64(0); i < n; i += 3 {
		s.Set(i)
	}
	for name, p := range map[string]Pages{"Bitmap": s.Bitmap(), "PageSet": s} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				for i, ok := p.Next(0); ok; i, ok = p.Next(i + 1) {
				}
			}
		})
	}
}
