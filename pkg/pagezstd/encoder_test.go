package pagezstd

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func newDecoder(tb testing.TB) *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Close)
	return d
}

func TestKindsAndSizes(t *testing.T) {
	e, d := New(1), newDecoder(t)
	sizes := []int{0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 255, 256, 257, 1023, 1024, 1025, 2048, 4095, 4096, 4097,
		8192, 16383, 16384, 16385, 32768, 65535, 65536}
	r := rand.New(rand.NewPCG(1, 2))
	for _, kind := range pageKinds() {
		for _, n := range sizes {
			for range 4 {
				p := make([]byte, n)
				fillPage(r, kind, p)
				check(t, e, d, p)
			}
		}
	}
}

// check encodes p behind some bytes of dst and decodes it again.
func check(t *testing.T, e *Encoder, d *zstd.Decoder, p []byte) {
	t.Helper()
	out, ok := e.Encode([]byte("head"), p)
	if !ok {
		if string(out) != "head" {
			t.Fatalf("%d bytes: dst changed without ok", len(p))
		}
		return
	}
	frame := out[4:]
	if len(frame) >= len(p) {
		t.Fatalf("%d bytes became %d", len(p), len(frame))
	}
	back, err := d.DecodeAll(frame, nil)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(p), err)
	}
	if !bytes.Equal(back, p) {
		t.Fatalf("%d bytes: decoded to something else", len(p))
	}
}
