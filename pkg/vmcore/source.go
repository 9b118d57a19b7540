package vmcore

import (
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// mappedWindow is what one window of a Reader maps. Mapping /proc/vmcore
	// and /dev/mem costs 8 bytes of page table per page, and no memory else.
	mappedWindow = 4 << 20
	// readWindow is what one window of a Reader buffers of a file. Reading
	// costs half the CPU time that faults in a mapping of it do.
	readWindow = 256 << 10
	// directRead is from where on a request is not buffered.
	directRead = 64 << 10
)

// unknownSize is the size of a file that does not tell.
const unknownSize = math.MaxInt64

// source is the file that holds an ELF core.
type source struct {
	file   *os.File
	plain  io.ReaderAt // the file, or what a flattened file stands for
	size   int64
	page   int64 // page size of the running kernel
	mapped bool  // reading costs much more than mapping
	oldMem bool  // file offsets are physical addresses, and only mapping works

	mmap func(fd int, offset int64, length, prot, flags int) ([]byte, error)
}

func newSource(f *os.File) source {
	s := source{file: f, plain: f, size: unknownSize, page: int64(os.Getpagesize()), mapped: f.Name() == "/proc/vmcore", mmap: unix.Mmap}
	// Seeking, unlike stat, measures block devices too.
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > 0 {
		s.size = end
	}
	return s
}

func newOldMemSource(f *os.File) source {
	return source{file: f, plain: f, size: unknownSize, page: int64(os.Getpagesize()), mapped: true, oldMem: true, mmap: unix.Mmap}
}

// pread fills p without a mapping and says how much of it is good.
func (s *source) pread(p []byte, off int64) (int, error) {
	if s.oldMem {
		return 0, ErrFault
	}
	n, err := s.plain.ReadAt(p, off)
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
