package vmcore

// pageFile is a dump file that holds pages, each on its own, instead of runs of
// memory. Only OpenFiles makes one: what reads such a file must not be linked
// into the commands of a capture image.
type pageFile interface {
	newReader() pageReader
	// dropAbsent clears the bits of pages that the file does not have.
	dropAbsent(pageSet) error
	incomplete() bool
}

// pageReader reads for one goroutine. The cause of an error is ErrExcluded where
// the file does not have the page.
type pageReader interface {
	ReadPage(pfn uint64, page []byte) error
	Close() error
}

// readPages is ReadPhys out of a pageFile. Whole pages go straight to p, parts
// of pages through a window of one page.
func (r *Reader) readPages(p []byte, paddr uint64) error {
	size := 1 << r.c.pageShift
	for len(p) > 0 {
		off := int(paddr & uint64(size-1))
		n := min(len(p), size-off)
		w, err := r.held(int64(paddr)), error(nil)
		switch {
		case w != nil:
			copy(p[:n], w.data[off:])
		case n == size:
			err = r.pages.ReadPage(paddr>>r.c.pageShift, p[:n])
		default:
			if w, err = r.holdPage(paddr >> r.c.pageShift); err == nil {
				copy(p[:n], w.data[off:])
			}
		}
		if err != nil {
			return r.pageError(paddr, err)
		}
		p, paddr = p[n:], paddr+uint64(n)
	}
	return nil
}

// holdPage reads a page into the window that was not used for longest.
func (r *Reader) holdPage(pfn uint64) (*window, error) {
	r.windows[0], r.windows[1] = r.windows[1], r.windows[0]
	w := &r.windows[0]
	if w.buffer == nil {
		w.buffer = make([]byte, 1<<r.c.pageShift)
	}
	w.span, w.data = span{}, w.buffer
	if err := r.pages.ReadPage(pfn, w.data); err != nil {
		return nil, err
	}
	w.span = span{int64(pfn << r.c.pageShift), int64((pfn + 1) << r.c.pageShift)}
	return w, nil
}

// pageError tells a page that was left out from one that never was.
func (r *Reader) pageError(paddr uint64, err error) error {
	if _, _, ok := r.c.ramAround(paddr); !ok {
		err = ErrNotRAM
	}
	return &ReadError{paddr, err}
}

// pageSet is a kdumpfile.PageSet, or a Bitmap.
type pageSet interface {
	Count() uint64
	ClearRange(start, end uint64)
}

// DropAbsent clears in b, one bit for each pfn, the pages that the core's file
// does not have since an earlier filter left them out, and says how many there
// were. A page of an ELF core counts if any of it is missing.
func (c *Core) DropAbsent(b pageSet) (dropped uint64, err error) {
	before := b.Count()
	if c.pages != nil {
		err = c.pages.dropAbsent(b)
		return before - b.Count(), err
	}
	for _, e := range c.extents {
		if e.offset == offsetExcluded {
			b.ClearRange(e.start>>c.pageShift, (e.end-1)>>c.pageShift+1)
		}
	}
	return before - b.Count(), nil
}
