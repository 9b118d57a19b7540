package vmcore

import (
	"errors"
	"io"
	"math/bits"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Reader reads a core's memory for one goroutine. It owns two mapped windows:
// one for data, one for the page tables that translate virtual addresses.
type Reader struct {
	c      *Core
	data   window
	tables window

	// The last translation: a run of virtual memory and where it is.
	vstart, vsize, pstart uint64
}

// NewReader makes a Reader. Close it when done.
func (c *Core) NewReader() *Reader {
	return &Reader{c: c,
		data:   window{file: c.file, want: c.window},
		tables: window{file: c.file, want: min(tableWindow, c.window)}}
}

// Close unmaps the windows.
func (r *Reader) Close() error { return errors.Join(r.data.unmap(), r.tables.unmap()) }

// ReadPhys reads len(p) bytes of physical memory. The error is a *ReadError.
func (r *Reader) ReadPhys(p []byte, paddr uint64) error { return r.readPhys(&r.data, p, paddr) }

func (r *Reader) readPhys(w *window, p []byte, paddr uint64) error {
	for len(p) > 0 {
		n, err := r.readSome(w, p, paddr)
		if err != nil {
			return &ReadError{Paddr: paddr, Err: err}
		}
		p, paddr = p[n:], paddr+uint64(n)
	}
	return nil
}

// readSome reads as much of p as one segment or one window has.
func (r *Reader) readSome(w *window, p []byte, paddr uint64) (int, error) {
	s, holds := r.c.segment(paddr)
	if !holds {
		return r.readGap(p, paddr, s)
	}
	at := paddr - s.Paddr
	if at >= s.Filesz {
		return 0, ErrExcluded
	}
	n := min(uint64(len(p)), s.Filesz-at)
	// A window stays inside the segment: beside it /dev/mem may refuse to map.
	first, last := s.Offset, min(s.Offset+s.Filesz, uint64(r.c.size))
	if s.Offset+at >= last {
		return 0, io.ErrUnexpectedEOF
	}
	return w.read(p[:n], s.Offset+at, first, last)
}

// readGap gives zeros for the part of a page beside the segment that holds the
// rest of it: firmware tables do not always end at page boundaries.
func (r *Reader) readGap(p []byte, paddr uint64, next *Segment) (int, error) {
	if !r.c.isRAM(paddr) {
		return 0, ErrNotRAM
	}
	end := (paddr>>r.c.shift + 1) << r.c.shift
	if next != nil {
		end = min(end, next.Paddr)
	}
	n := min(uint64(len(p)), end-paddr)
	clear(p[:n])
	return int(n), nil
}

// ReadVirt reads len(p) bytes at a virtual address of the crashed kernel.
func (r *Reader) ReadVirt(p []byte, vaddr uint64) error {
	for len(p) > 0 {
		paddr, left, err := r.translate(vaddr)
		if err != nil {
			return err
		}
		n := min(uint64(len(p)), left)
		if err := r.ReadPhys(p[:n], paddr); err != nil {
			return err
		}
		p, vaddr = p[n:], vaddr+n
	}
	return nil
}

// translate gives the physical address of vaddr, and how many bytes from there
// on are contiguous in both.
func (r *Reader) translate(vaddr uint64) (paddr, left uint64, err error) {
	if off := vaddr - r.vstart; off < r.vsize {
		return r.pstart + off, r.vsize - off, nil
	}
	if r.c.trans == nil {
		return 0, 0, &TranslateError{Vaddr: vaddr, Err: errNoTranslator}
	}
	start, size, pstart, err := r.c.trans.translate(r.readEntry, vaddr)
	if err != nil {
		return 0, 0, &TranslateError{Vaddr: vaddr, Err: err}
	}
	r.vstart, r.vsize, r.pstart = start, size, pstart
	off := vaddr - start
	return pstart + off, size - off, nil
}

// readEntry reads one page table entry.
func (r *Reader) readEntry(paddr uint64) (uint64, error) {
	var b [8]byte
	if err := r.readPhys(&r.tables, b[:], paddr); err != nil {
		return 0, err
	}
	return r.c.headers.order.Uint64(b[:]), nil
}

// window is a mapped part of a file.
type window struct {
	file *os.File
	want int    // bytes to map at once, 0: mapping does not work here
	off  uint64 // in the file
	data []byte
}

// minWindow is the smallest window worth trying before reading page by page.
const minWindow = 64 << 10

// read fills p, or as much of it as the window has, from off, which lies in
// [first, last), the part of the file that may be mapped.
func (w *window) read(p []byte, off, first, last uint64) (int, error) {
	if off < w.off || off >= w.off+uint64(len(w.data)) {
		w.move(off, first, last)
	}
	if w.data == nil {
		return w.pread(p, off)
	}
	src := w.data[off-w.off:]
	n := min(len(p), len(src))
	if copyMapped(p[:n], src[:n]) {
		return n, nil
	}
	// One bad page must not cost its neighbours.
	page := uint64(os.Getpagesize())
	return w.pread(p[:min(uint64(n), page-off%page)], off)
}

// move maps the window that holds off. Where the kernel refuses, it tries
// smaller ones, and at last leaves the window empty.
func (w *window) move(off, first, last uint64) {
	w.unmap()
	page := uint64(os.Getpagesize())
	for w.want >= minWindow {
		size := uint64(1) << (bits.Len(uint(w.want)) - 1)
		start := max(off&^(size-1), first&^(page-1))
		end := min(off&^(size-1)+size, (last+page-1)&^(page-1))
		data, err := unix.Mmap(int(w.file.Fd()), int64(start), int(end-start), unix.PROT_READ, unix.MAP_SHARED)
		if err == nil {
			w.off, w.data = start, data
			return
		}
		w.want /= 4
	}
	w.want = 0
}

func (w *window) unmap() error {
	if w.data == nil {
		return nil
	}
	data := w.data
	w.data, w.off = nil, 0
	return unix.Munmap(data)
}

func (w *window) pread(p []byte, off uint64) (int, error) {
	n, err := w.file.ReadAt(p, int64(off))
	if n > 0 {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// copyMapped copies out of a mapping and says whether that worked: memory that
// is broken, or a file cut off meanwhile, raises SIGBUS.
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
