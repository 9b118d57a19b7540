package kdumpfile

import (
	"math/rand/v2"
	"testing"
)

// Every operation against a plain slice of bools, at lengths around bytes and words.
func TestBitmapAgainstBools(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []uint64{1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 1000} {
		b, want := NewBitmap(n), make([]bool, n)
		for range 200 {
			start := rng.Uint64N(n + 1)
			end := start + rng.Uint64N(n-start+1)
			set := rng.IntN(2) == 0
			if set {
				b.SetRange(start, end)
			} else {
				b.ClearRange(start, end)
			}
			for i := start; i < end; i++ {
				want[i] = set
			}
			compareBitmap(t, b, want, start, end)
		}
	}
}

func compareBitmap(t *testing.T, b Bitmap, want []bool, start, end uint64) {
	t.Helper()
	var all, part uint64
	next, found := uint64(0), false
	for i, w := range want {
		if b.Get(uint64(i)) != w {
			t.Fatalf("bit %d of %d is %v, want %v", i, len(want), !w, w)
		}
		if w {
			all++
			if uint64(i) >= start && uint64(i) < end {
				part++
			}
			if uint64(i) >= start && !found {
				next, found = uint64(i), true
			}
		}
	}
	if got := b.Count(); got != all {
		t.Fatalf("Count() = %d, want %d", got, all)
	}
	if got := b.CountRange(start, end); got != part {
		t.Fatalf("CountRange(%d, %d) = %d, want %d", start, end, got, part)
	}
	if got, ok := b.Next(start); ok != found || got != next {
		t.Fatalf("Next(%d) = %d, %v, want %d, %v", start, got, ok, next, found)
	}
}

func TestBitmapEnds(t *testing.T) {
	b := NewBitmap(0)
	if _, ok := b.Next(0); ok || b.Get(5) || b.Count() != 0 {
		t.Error("an empty bitmap has bits")
	}
	b = NewBitmap(64)
	b.SetRange(60, 1000) // clipped
	if b.Count() != 4 || b.Get(64) {
		t.Errorf("SetRange beyond the end: %d bits", b.Count())
	}
}
