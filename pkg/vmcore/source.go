package vmcore

import (
	"io"
	"math"
	"os"
)

// Bytes that a window maps. A Reader has two windows. Of a file, what was
// touched counts as resident memory; of /proc/vmcore and /dev/mem a window
// costs 8 bytes of page table per page.
const (
	fileWindow   = 1 << 20
	oldMemWindow = 4 << 20
)

// unknownSize is the size of a file that does not tell.
const unknownSize = math.MaxInt64

// source is the file that holds the core.
type source struct {
	file   *os.File
	size   int64
	window int64 // bytes to map at once: a power of two, at least a page
	oldMem bool  // file offsets are physical addresses, and only mmap works
	page   int64 // page size of the running kernel
}

func newSource(f *os.File) source {
	s := source{file: f, size: unknownSize, window: fileWindow, page: int64(os.Getpagesize())}
	if f.Name() == "/proc/vmcore" {
		s.window = oldMemWindow
	}
	// Seeking, unlike stat, measures block devices too.
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > 0 {
		s.size = end
	}
	return s
}

func newOldMemSource(f *os.File) source {
	return source{file: f, size: unknownSize, window: oldMemWindow, oldMem: true, page: int64(os.Getpagesize())}
}

// pread fills p without a mapping and says how much of it is good.
func (s *source) pread(p []byte, off int64) (int, error) {
	if s.oldMem {
		return 0, ErrFault
	}
	n, err := s.file.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// settleSize takes the end of the last segment for the size of a file that
// does not tell.
func (s *source) settleSize(loads []segment) {
	if s.size != unknownSize || s.oldMem {
		return
	}
	var end int64
	for _, l := range loads {
		end = max(end, l.offset+int64(l.filesz))
	}
	s.size = end
}
