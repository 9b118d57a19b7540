package pagezstd

import (
	"fmt"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// benchmark runs f over the pages of a corpus and reports the ratio; f returns the size of what it made.
func benchmark(b *testing.B, size int, f func(page []byte) int) {
	pages := corpus(4<<20/size, size)
	b.SetBytes(int64(len(pages)))
	total := 0
	for b.Loop() {
		total = 0
		for i := 0; i < len(pages); i += size {
			total += min(f(pages[i:i+size]), size)
		}
	}
	b.ReportMetric(float64(total)/float64(len(pages)), "ratio")
}

// BenchmarkEncode is on made-up pages: for telling two versions apart, not for what a kernel's memory gives.
func BenchmarkEncode(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, level := range levels() {
			b.Run(fmt.Sprintf("%dK/level%d", size>>10, level), func(b *testing.B) {
				e := New(level)
				dst := make([]byte, 0, size)
				benchmark(b, size, func(p []byte) int {
					out, ok := e.Encode(dst, p)
					if !ok {
						return size
					}
					return len(out)
				})
			})
		}
	}
}

func BenchmarkOthers(b *testing.B) {
	const size = 4 << 10
	b.Run("klauspost-fastest", func(b *testing.B) {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
		if err != nil {
			b.Fatal(err)
		}
		dst := make([]byte, 0, 2*size)
		benchmark(b, size, func(p []byte) int { return len(e.EncodeAll(p, dst)) })
	})
	b.Run("s2-snappy", func(b *testing.B) {
		dst := make([]byte, s2.MaxEncodedLen(size))
		benchmark(b, size, func(p []byte) int { return len(s2.EncodeSnappy(dst, p)) })
	})
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		New(LevelDefault)
	}
}

// BenchmarkNoise is how soon a page that cannot shrink is given up.
func BenchmarkNoise(b *testing.B) {
	e := New(LevelDefault)
	p := corpus(len(pageKinds()), 4096)[len(pageKinds())*4096-4096:] // the last kind is noise
	b.SetBytes(int64(len(p)))
	dst := make([]byte, 0, 4096)
	for b.Loop() {
		e.Encode(dst, p)
	}
}
