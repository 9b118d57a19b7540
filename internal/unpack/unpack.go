// Package unpack reads files as the kernel's own loaders do: compressed or
// not, told apart by how they start and not by their name.
package unpack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Format is how a file is compressed.
type Format string

// The formats. Those behind Xz are known by their start, and not read.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	Zstd  Format = "zstd"
	Xz    Format = "xz"
	Bzip2 Format = "bzip2"
	Lzma  Format = "lzma"
	Lzo   Format = "lzo"
	Lz4   Format = "lz4"
)

// MagicLen is how many bytes Detect wants to see.
const MagicLen = 6

// Detect tells the format from the start of a file. The magic numbers are
// those of lib/decompress.c of Linux.
func Detect(start []byte) Format {
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case bytes.HasPrefix(start, []byte("\xfd7zXZ\x00")):
		return Xz
	case bytes.HasPrefix(start, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(start, []byte{0x5d, 0, 0}):
		return Lzma
	case bytes.HasPrefix(start, []byte{0x89, 0x4c, 0x5a}):
		return Lzo
	case bytes.HasPrefix(start, []byte{0x02, 0x21, 0x4c, 0x18}):
		return Lz4
	}
	return None
}

// maxWindow is the largest window or dictionary that is allowed for, and so
// the bound of a reader's memory: ZSTD_WINDOWSIZE_MAX of the kernel's
// lib/decompress_unzstd.c is as much.
const maxWindow = 128 << 20

// NewReader returns the plain contents of r. Close it; r stays open.
func NewReader(r io.Reader) (io.ReadCloser, Format, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	start, err := b.Peek(MagicLen)
	if err != nil && err != io.EOF {
		return nil, None, err
	}
	format := Detect(start)
	switch format {
	case None:
		return io.NopCloser(b), format, nil
	case Gzip:
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, format, fmt.Errorf("gzip: %w", err)
		}
		return z, format, nil
	case Zstd:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, format, fmt.Errorf("zstd: %w", err)
		}
		return z.IOReadCloser(), format, nil
	case Xz:
		z, err := xz.NewReader(b, maxWindow)
		if err != nil {
			return nil, format, fmt.Errorf("xz: %w", err)
		}
		return io.NopCloser(z), format, nil
	}
	return nil, format, fmt.Errorf("%s compression is not supported; want zstd, xz, gzip or none", format)
}
