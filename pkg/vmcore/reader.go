package vmcore

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Reader reads a core's memory for one goroutine. It does not allocate once its
// two windows are in use, except for errors.
type Reader struct {
	c       *Core
	pages   pageReader // nil: an ELF core
	windows [2]window  // the first was used last; of paddrs where there is a pageReader
	extent  int        // index of the one used last

	refused span  // a page that the kernel would not map
	refusal error // why
	noMmap  bool  // the file cannot be mapped at all

	translations [8]mapping // recent ones
	nextSlot     int
	tables       tableCache
}

// span is a half open range of file offsets.
type span struct{ start, end int64 }

func (s span) holds(off int64) bool { return off >= s.start && off < s.end }

// window is a part of the file in memory: data is mapped, or lies in buffer.
type window struct {
	span
	data   []byte
	buffer []byte // readWindow bytes, or nil
}

// NewReader makes a Reader. Close it when done, and before the Core.
func (c *Core) NewReader() *Reader {
	r := &Reader{c: c}
	if c.pages != nil {
		r.pages = c.pages.newReader()
	}
	return r
}

// Close unmaps the windows.
func (r *Reader) Close() error {
	var first error
	if r.pages != nil {
		first = r.pages.Close()
	}
	for i := range r.windows {
		if err := r.windows[i].unmap(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// ReadPhys fills p from the physical address paddr. The error is a
// *[ReadError] that names the first address not read.
func (r *Reader) ReadPhys(p []byte, paddr uint64) error { return r.readPhys(p, paddr, false) }

// readPhys reads through a window, or, if direct and the file is not one to map, past it.
func (r *Reader) readPhys(p []byte, paddr uint64, direct bool) error {
	if r.pages != nil {
		return r.readPages(p, paddr)
	}
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
			good, err := r.readFile(p[:n], e.offset+int64(paddr-e.start), limit, direct)
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
	_, err := r.readFile(p, off, span{off &^ (page - 1), off + int64(len(p))}, false)
	return err
}

// readFile fills p from the file and says how much of it is good. limit is
// what there is of the extent.
func (r *Reader) readFile(p []byte, off int64, limit span, direct bool) (int, error) {
	if direct && !r.c.src.mapped {
		return r.c.src.pread(p, off)
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		n, err := r.readSome(p[done:], at, limit)
		if done += n; err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// readSome reads at least a byte and at most up to the end of a window.
func (r *Reader) readSome(p []byte, off int64, limit span) (int, error) {
	src := &r.c.src
	if off >= src.size {
		return 0, io.ErrUnexpectedEOF
	}
	w, err := r.held(off), error(nil)
	switch {
	case w != nil:
	case !src.mapped && len(p) >= directRead:
		return src.pread(p, off)
	case !src.mapped:
		if w, err = r.refill(len(p), off); err != nil {
			return 0, err
		}
	default:
		if w = r.remap(off, limit); w == nil && src.oldMem {
			return 0, r.refusal
		}
		if w == nil {
			return src.pread(p[:min(len(p), int(src.page-off%src.page))], off)
		}
	}
	from := w.data[off-w.start:]
	n := min(len(p), len(from))
	if !src.mapped {
		return copy(p, from), nil
	}
	if !copyMapped(p[:n], from) {
		return r.copyPages(p[:n], from, off)
	}
	return n, nil
}

// copyPages copies page by page, so that a bad one does not cost the others. It is not
// read another way: in read(2) of /proc/vmcore the kernel itself touches it, and not
// every architecture recovers from that (copy_oldmem_page() in
// arch/arm64/kernel/crash_dump.c).
func (r *Reader) copyPages(p, from []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := min(len(p)-done, int(r.c.src.page-at%r.c.src.page))
		if !copyMapped(p[done:done+n], from[done:]) {
			r.c.faults.Add(1)
			return done, ErrFault
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

// held gives the window that holds off, or nil.
func (r *Reader) held(off int64) *window {
	w := &r.windows
	if w[0].holds(off) {
		return &w[0]
	}
	if w[1].holds(off) {
		w[0], w[1] = w[1], w[0]
		return &w[0]
	}
	return nil
}

// refill reads at least want bytes from off on into the window that was not
// used for longest, and more the longer the requests follow one another.
func (r *Reader) refill(want int, off int64) (*window, error) {
	start := off &^ (r.c.src.page - 1)
	size := roundUp(off-start+int64(want), r.c.src.page)
	for _, w := range r.windows {
		if w.holds(start - 1) {
			size = max(size, 2*(w.end-w.start))
		}
	}
	r.windows[0], r.windows[1] = r.windows[1], r.windows[0]
	w := &r.windows[0]
	if w.buffer == nil {
		w.buffer = make([]byte, readWindow)
	}
	n, err := r.c.src.pread(w.buffer[:min(size, readWindow)], start)
	w.span, w.data = span{start, start + int64(n)}, w.buffer[:n]
	if w.holds(off) {
		return w, nil
	}
	return nil, err
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// remap moves the window that was not used for longest to off; nil if the
// kernel maps nothing there. Beside a page that is not there /proc/vmcore and
// /dev/mem refuse the whole window, so it tries smaller ones.
func (r *Reader) remap(off int64, limit span) *window {
	if r.noMmap || r.refused.holds(off) {
		return nil
	}
	r.windows[0], r.windows[1] = r.windows[1], r.windows[0]
	w, src := &r.windows[0], &r.c.src
	w.unmap()
	var s span
	var err error
	for size := int64(mappedWindow); size >= src.page; size /= 2 {
		s = span{off &^ (size - 1), off&^(size-1) + size}
		if s.end < s.start || s.end > src.size {
			s.end = src.size
		}
		if src.oldMem {
			s.start = max(s.start, limit.start&^(src.page-1))
			s.end = min(s.end, roundUp(limit.end, src.page))
		}
		var data []byte
		if data, err = src.mmap(int(src.file.Fd()), s.start, int(s.end-s.start), unix.PROT_READ, unix.MAP_SHARED); err == nil {
			w.span, w.data = s, data
			return w
		}
		if err == unix.ENODEV || err == unix.ENOSYS {
			r.noMmap = true
			break
		}
	}
	r.refused, r.refusal = s, fmt.Errorf("map: %w", err)
	return nil
}

// unmap empties a window.
func (w *window) unmap() error {
	data := w.data
	w.span, w.data = span{}, nil
	if data == nil || w.buffer != nil {
		return nil
	}
	return unix.Munmap(data)
}
