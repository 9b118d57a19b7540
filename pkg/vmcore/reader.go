package vmcore

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Reader reads a core's memory for one goroutine. It maps the file in windows
// and copies out of them; what cannot be mapped it reads. It does not allocate
// except for errors.
type Reader struct {
	c       *Core
	windows [2]window // the first was used last
	refused span      // what the kernel would not map, page by page
	inARow  int       // refusals of whole windows down to the page
	extent  int       // index of the one used last

	translations [8]mapping // recent ones
	nextSlot     int
	tables       tableCache
}

// span is a half open range of file offsets.
type span struct{ start, end int64 }

func (s span) holds(off int64) bool { return off >= s.start && off < s.end }

// window is a mapped span.
type window struct {
	span
	data []byte
}

// maxRefused is after how many refusals in a row mapping is given up: a kernel
// may not offer it at all.
const maxRefused = 16

// NewReader makes a Reader. Close it when done, and before the Core.
func (c *Core) NewReader() *Reader { return &Reader{c: c} }

// Close unmaps the windows.
func (r *Reader) Close() error {
	var first error
	for i := range r.windows {
		if err := r.windows[i].unmap(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// ReadPhys fills p from the physical address paddr. The error is a
// *[ReadError] that names the first address not read.
func (r *Reader) ReadPhys(p []byte, paddr uint64) error { return r.readPhys(p, paddr, true) }

// readPhys reads through a window, or with pread if not mapped and possible.
func (r *Reader) readPhys(p []byte, paddr uint64, mapped bool) error {
	for len(p) > 0 {
		e := r.find(paddr)
		if e == nil {
			return &ReadError{paddr, ErrNotRAM}
		}
		n := int(min(uint64(len(p)), e.end-paddr))
		switch e.offset {
		case offsetExcluded:
			return &ReadError{paddr, ErrExcluded}
		case offsetZero:
			clear(p[:n])
		default:
			limit := span{e.offset, e.offset + int64(e.end-e.start)}
			good, err := r.readFile(p[:n], e.offset+int64(paddr-e.start), limit, mapped)
			if err != nil {
				return &ReadError{paddr + uint64(good), err}
			}
		}
		p, paddr = p[n:], paddr+uint64(n)
	}
	return nil
}

// find gives the extent that holds paddr, or nil.
func (r *Reader) find(paddr uint64) *extent {
	list := r.c.extents
	if i := r.extent; i < len(list) && paddr >= list[i].start && paddr < list[i].end {
		return &list[i]
	}
	low, high := 0, len(list)
	for low < high {
		mid := (low + high) / 2
		if list[mid].end <= paddr {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(list) || paddr < list[low].start {
		return nil
	}
	r.extent = low
	return &list[low]
}

// readFull reads all of p at a file offset, for the headers.
func (r *Reader) readFull(p []byte, off int64) error {
	if off < 0 || int64(len(p)) > unknownSize-off {
		return fmt.Errorf("offset %#x is outside of any file", off)
	}
	page := r.c.src.page // of old memory only these bytes are known to be there
	_, err := r.readFile(p, off, span{off &^ (page - 1), off + int64(len(p))}, r.c.src.oldMem)
	return err
}

// readFile fills p from the file and says how much of it is good. limit is
// what there is of the extent.
func (r *Reader) readFile(p []byte, off int64, limit span, mapped bool) (int, error) {
	if !mapped && !r.c.src.oldMem {
		return r.c.src.pread(p, off)
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		if at >= r.c.src.size {
			return done, io.ErrUnexpectedEOF
		}
		w := r.at(at, limit)
		if w == nil {
			n, err := r.c.src.pread(p[done:min(len(p), done+int(r.c.src.page-at%r.c.src.page))], at)
			if done += n; err != nil {
				return done, err
			}
			continue
		}
		from := w.data[at-w.start:]
		n := min(len(p)-done, len(from))
		if !copyMapped(p[done:done+n], from) {
			if good, err := r.copyPages(p[done:done+n], from, at); err != nil {
				return done + good, err
			}
		}
		done += n
	}
	return len(p), nil
}

// copyPages copies page by page, so that a bad one does not cost the others.
func (r *Reader) copyPages(p, from []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := min(len(p)-done, int(r.c.src.page-at%r.c.src.page))
		if !copyMapped(p[done:done+n], from[done:]) {
			r.c.faults.Add(1)
			if good, err := r.c.src.pread(p[done:done+n], at); err != nil {
				return done + good, err
			}
		}
		done += n
	}
	return len(p), nil
}

// copyMapped copies len(dst) bytes out of a mapping and says whether that
// worked. Broken memory and a file that was cut off meanwhile raise SIGBUS.
func copyMapped(dst, src []byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if e := recover(); e != nil {
			if _, fault := e.(interface {
				runtime.Error
				Addr() uintptr
			}); !fault {
				panic(e)
			}
			ok = false
		}
	}()
	copy(dst, src)
	return true
}

// at gives the window that holds off, mapping it if need be; nil if the kernel
// maps none there.
func (r *Reader) at(off int64, limit span) *window {
	if r.windows[0].holds(off) {
		return &r.windows[0]
	}
	r.windows[0], r.windows[1] = r.windows[1], r.windows[0]
	if r.windows[0].holds(off) {
		return &r.windows[0]
	}
	if r.inARow >= maxRefused || r.refused.holds(off) {
		return nil
	}
	return r.remap(&r.windows[0], off, limit)
}

// remap moves w to off. Beside a page that is not there /proc/vmcore and
// /dev/mem refuse the whole window, so it tries smaller ones.
func (r *Reader) remap(w *window, off int64, limit span) *window {
	w.unmap()
	src := &r.c.src
	for size := src.window; size >= src.page; size /= 2 {
		s := span{off &^ (size - 1), off&^(size-1) + size}
		if s.end < s.start || s.end > src.size {
			s.end = src.size
		}
		if src.oldMem {
			s.start = max(s.start, limit.start&^(src.page-1))
			s.end = min(s.end, (limit.end+src.page-1)&^(src.page-1))
		}
		data, err := unix.Mmap(int(src.file.Fd()), s.start, int(s.end-s.start), unix.PROT_READ, unix.MAP_SHARED)
		if err == nil {
			*w, r.inARow = window{s, data}, 0
			return w
		}
		r.refused = s
	}
	r.inARow++
	return nil
}

func (w *window) unmap() error {
	data := w.data
	*w = window{}
	if data == nil {
		return nil
	}
	return unix.Munmap(data)
}
