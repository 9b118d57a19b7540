package vmcore

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenMapped opens a file as if it were /proc/vmcore: through mappings.
func OpenMapped(path string) (*Core, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	src := newSource(f)
	src.mapped = true
	return openSource(src)
}

// GiveUpMapping makes a Reader do as if the file could not be mapped.
func (r *Reader) GiveUpMapping() { r.noMmap = true }

// RefuseMapping makes mappings fail that include this byte of the file, and
// says how large the largest was since the last refusal.
func (c *Core) RefuseMapping(off int64) (largest *int) {
	largest = new(int)
	c.src.mmap = func(fd int, offset int64, length, prot, flags int) ([]byte, error) {
		if offset <= off && off < offset+int64(length) {
			*largest = 0
			return nil, unix.EAGAIN
		}
		*largest = max(*largest, length)
		return unix.Mmap(fd, offset, length, prot, flags)
	}
	return largest
}

// FaultAt makes later mappings fault in [start, end) of the file, each time one more range.
func (c *Core) FaultAt(start, end int64) {
	mmap := c.src.mmap
	c.src.mmap = func(fd int, offset int64, length, prot, flags int) ([]byte, error) {
		data, err := mmap(fd, offset, length, prot, flags)
		from, to := max(start-offset, 0), min(end-offset, int64(len(data)))
		if err == nil && from < to {
			err = unix.Mprotect(data[from:to], unix.PROT_NONE)
		}
		return data, err
	}
}
