package main

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// windowSize is the window of the compressed image. The kernel allocates as
// much while it unpacks (lib/decompress_unzstd.c, which refuses more than 8
// MiB), beside the compressed and the unpacked image. An image of 10.2 MiB
// with 6 MiB of modules has
//
//	window   128    256    512   1024   2048   8192 KiB
//	image   3034   3013   2988   2971   2967   2963 KiB
//
// so that a larger one saves less than it takes. zstd -19 reaches 2708 KiB with
// the same window.
const windowSize = 256 << 10

// compress writes one standard zstd frame, with a checksum. One goroutine, so
// that the bytes do not depend on the number of CPUs.
func compress(dst io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(dst,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(windowSize),
		// A single segment's window would be as large as its contents.
		zstd.WithSingleSegment(false))
}
