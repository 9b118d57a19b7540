package kdumpfile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sort"
	"sync"
)

// skip says that from pfn on, up to the next skip, n descriptors stand before a
// page's besides those of the pages before it.
type skip struct{ pfn, n uint64 }

func (k *Kdump) skipped(pfn uint64) uint64 {
	i := sort.Search(len(k.skips), func(i int) bool { return k.skips[i].pfn > pfn })
	if i == 0 {
		return 0
	}
	return k.skips[i-1].n
}

// SalvageOptions says how to look for pages.
type SalvageOptions struct {
	Workers int // 0: all CPUs

	// Progress, if not nil, is called with descriptors looked at, and about how
	// many there are in all.
	Progress func(done, total uint64)
}

// Salvaged is what became of the pages of a torn dump.
type Salvaged struct {
	Pages    uint64 // that can be read
	Promised uint64 // bits of the 2nd bitmap

	Undescribed uint64 // descriptors that are zeros, or cannot be right
	Beyond      uint64 // pages whose data are beyond the end of the file
	Bad         uint64 // pages whose data are not right
	Doubtful    uint64 // pages left out because a block of their data is zeros, so it may be a lost one
	Misplaced   uint64 // pages left out because bits of the 2nd bitmap before theirs are lost

	Rebuilt  bool    // block 0 was lost; what could be was made from VMCOREINFO
	Problems []error // the first of them
}

// maxProblems bounds what Salvage and Verify tell one by one.
const maxProblems = 32

// Salvage opens a dump that was cut off, or that lost blocks when the machine
// lost its power, which then read as zeros, or whose disk has bad sectors: for the
// pages that it holds, each of which was read once. A flattened file needs
// OpenFlattened first, with torn. The result reads as any other dump; it is
// Incomplete if the file says so.
//
// In a file of this package each page is known by the pfn and the checksum in
// its page_flags, so the 2nd bitmap is not needed, and no page is taken that is
// not right. In others a page has its descriptor by the rank of its bit, and its
// contents only have to decompress to one page: pages of which a whole block of
// the file is zeros, and those behind lost bits, are left out.
//
// The error is ErrFormat where the file does not begin as a dump, and
// io.ErrUnexpectedEOF where it ends before its first page.
func Salvage(ctx context.Context, r io.ReaderAt, size int64, o SalvageOptions) (*Kdump, Salvaged, error) {
	s := &salvager{k: newKdump(lenient{r, size}, size), progress: o.Progress}
	if err := s.open(); err != nil {
		return nil, Salvaged{}, fmt.Errorf("salvage dump: %w", err)
	}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	for range workers {
		s.readers = append(s.readers, s.k.NewReader())
	}
	defer func() {
		for _, r := range s.readers {
			r.Close()
		}
	}()
	if err := s.search(ctx); err != nil {
		return nil, Salvaged{}, fmt.Errorf("salvage dump: %w", err)
	}
	if err := s.finish(); err != nil {
		return nil, Salvaged{}, fmt.Errorf("salvage dump: %w", err)
	}
	return s.k, s.out, nil
}

// How many descriptors are looked at at once, 100 bytes each: few at first, which
// then tell where they end.
const (
	salvageFirst = 1 << 10
	salvageStep  = 32 << 10
)

// salvager looks at one descriptor after another. Its memory is two or three
// bitmaps and a skip for each run of lost descriptors.
type salvager struct {
	k        *Kdump
	out      Salvaged
	progress func(done, total uint64)
	readers  []*PageReader

	bits  window // on the 2nd bitmap of the file
	next  uint64 // pfn to go on at, where bits count
	end   uint64 // pfn from which on ranks cannot be believed
	index uint64 // of the next descriptor
	limit int64  // offset at which the descriptors end at the latest
	batch []candidate
	descs []byte

	held  Bitmap
	last  uint64 // one past the last pfn that was held
	blank uint64 // descriptors of zeros behind the last one that is not
}

// candidate is a descriptor, and what came of it.
type candidate struct {
	pfn     uint64 // where bits count
	desc    pageDesc
	verdict verdict
	err     error
}

type verdict uint8

const (
	held verdict = iota
	doubtful
	undescribed
	beyond
	bad
)

// search looks at all descriptors.
func (s *salvager) search(ctx context.Context) error {
	for step := salvageFirst; ; step = min(2*step, salvageStep) {
		if cap(s.batch) < step {
			s.batch, s.descs = make([]candidate, 0, step), make([]byte, step*descSize)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.fill(); err != nil {
			return err
		}
		if len(s.batch) == 0 {
			return nil
		}
		s.check()
		s.takeAll()
		s.index += uint64(len(s.batch))
		if s.progress != nil {
			s.progress(s.index, max(s.index, s.out.Promised))
		}
	}
}

// fill makes the next batch.
func (s *salvager) fill() error {
	s.batch = s.batch[:0]
	k := s.k
	if k.summed {
		n := (s.limit - k.l.descs) / descSize
		n = min(n-int64(s.index), int64(cap(s.batch)))
		s.batch = s.batch[:max(n, 0)]
		clear(s.batch)
	} else {
		for len(s.batch) < cap(s.batch) {
			pfn, ok, err := s.fileBits().next(&s.bits, s.next, s.end)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			s.batch = append(s.batch, candidate{pfn: pfn})
			s.next = pfn + 1
		}
	}
	p := s.descs[:len(s.batch)*descSize]
	n, err := k.r.ReadAt(p, k.l.descs+int64(s.index)*descSize)
	if err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	for i := range s.batch {
		s.batch[i].desc = decodeDesc(p[i*descSize:])
	}
	return nil
}

func (s *salvager) fileBits() mapSource { return mapSource{s.k.r, s.k.l.bitmap2, s.k.size} }

// check reads the pages of the batch, each worker a part of them.
func (s *salvager) check() {
	var wg sync.WaitGroup
	each := (len(s.batch) + len(s.readers) - 1) / len(s.readers)
	for i, r := range s.readers {
		part := s.batch[min(i*each, len(s.batch)):min((i+1)*each, len(s.batch))]
		wg.Go(func() {
			page := make([]byte, s.k.h.BlockSize)
			for i := range part {
				part[i].verdict, part[i].err = r.judge(&part[i], page, s.out.Promised)
			}
		})
	}
	wg.Wait()
}

// judge tells whether a descriptor and its data make a page.
func (r *PageReader) judge(c *candidate, page []byte, promised uint64) (verdict, error) {
	pfn := c.pfn
	if r.k.summed {
		pfn = c.desc.pageFlags // of which check takes the lower half
	}
	if err := c.desc.check(r.k, pfn); err != nil {
		if c.desc == (pageDesc{}) {
			err = nil // nothing to tell of each
		}
		return undescribed, err
	}
	err := r.readData(c.desc, page)
	switch {
	case err == nil && !r.k.summed && r.lostBlock(c.desc, promised):
		return doubtful, nil
	case err == nil:
		return held, nil
	case c.desc.offset >= uint64(r.k.size) || uint64(c.desc.size) > uint64(r.k.size)-c.desc.offset:
		return beyond, nil
	}
	return bad, err
}

// lostSize is that of the blocks of most file systems.
const lostSize = 4096

// lenient reads as zeros the blocks that cannot be read.
type lenient struct {
	r    io.ReaderAt
	size int64
}

func (l lenient) ReadAt(p []byte, off int64) (n int, err error) {
	if n, err = l.r.ReadAt(p, off); n == len(p) || err == io.EOF {
		return n, err
	}
	want := int(min(int64(len(p)), max(0, l.size-off)))
	var block [lostSize]byte
	for n < want {
		at := (off + int64(n)) &^ (lostSize - 1)
		b := block[:min(lostSize, l.size-at)]
		if m, err := l.r.ReadAt(b, at); m < len(b) && err != nil {
			clear(b)
		}
		n += copy(p[n:want], b[off+int64(n)-at:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// lostBlock tells whether a block of the file that the data are in is all zeros.
// The page of zeros that makedumpfile and QEMU share may be one.
func (r *PageReader) lostBlock(d pageDesc, promised uint64) bool {
	const block = lostSize
	if r.k.h.DumpLevel&1 != 0 && d.codec == None && d.offset == uint64(r.k.l.descs)+promised*descSize {
		return false
	}
	for at, end := int64(d.offset), int64(d.offset)+int64(d.size); at < end; {
		to := min(at&^(block-1)+block, end)
		p, err := r.data.get(at, int(to-at))
		if err == nil && allZero(p) {
			from := at &^ (block - 1)
			p, err = r.data.get(from, int(min(block, r.k.size-from)))
			if err != nil || allZero(p) {
				return true
			}
		}
		at = to
	}
	return false
}

func allZero(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }

// takeAll takes the batch, up to where the descriptors end.
func (s *salvager) takeAll() {
	if s.k.summed {
		for _, c := range s.batch {
			if c.verdict == held {
				s.limit = min(s.limit, int64(c.desc.offset))
			}
		}
		end := max(0, (s.limit-s.k.l.descs)/descSize-int64(s.index))
		s.batch = s.batch[:min(int64(len(s.batch)), end)]
	}
	for i := range s.batch {
		s.take(&s.batch[i], s.index+uint64(i))
	}
}

// take counts what came of the descriptor with this index.
func (s *salvager) take(c *candidate, index uint64) {
	pfn, ok := c.pfn, true
	if c.verdict == held && s.k.summed {
		if pfn, ok = s.resolve(uint32(c.desc.pageFlags)); !ok {
			c.verdict, c.err = undescribed, fmt.Errorf("it says to be of a pfn ending in %#x, behind %#x: %w", uint32(c.desc.pageFlags), s.last, ErrCorrupt)
		}
	}
	if c.err != nil {
		s.problem(fmt.Errorf("page descriptor %d: %w", index, c.err))
	}
	if c.desc == (pageDesc{}) {
		s.blank++
		return
	}
	s.out.Undescribed += s.blank
	s.blank = 0
	switch c.verdict {
	case held:
		s.hold(pfn, index)
	case doubtful:
		s.out.Doubtful++
	case undescribed:
		s.out.Undescribed++
	case beyond:
		s.out.Beyond++
	case bad:
		s.out.Bad++
	}
}

// resolve gives the pfn of which low is the lower half.
func (s *salvager) resolve(low uint32) (uint64, bool) {
	pfn := s.last&^0xffffffff | uint64(low)
	if pfn < s.last {
		pfn += 1 << 32
	}
	if s.k.h.MaxPFN <= 1<<32 {
		return pfn, pfn < s.k.end
	}
	for ; pfn < s.k.end; pfn += 1 << 32 { // only the 2nd bitmap knows which
		if next, ok, err := s.fileBits().next(&s.bits, pfn, pfn+1); ok && err == nil && next == pfn {
			return pfn, true
		}
	}
	return 0, false
}

func (s *salvager) hold(pfn, index uint64) {
	s.held.Set(pfn)
	s.last = pfn + 1
	s.out.Pages++
	if !s.k.summed {
		return // finish makes the skips
	}
	s.skip(pfn, index-(s.out.Pages-1))
}

// skip notes that n descriptors besides those of held pages come before pfn's.
func (s *salvager) skip(pfn, n uint64) {
	if before := s.k.skipped(pfn); before != n {
		s.k.skips = append(s.k.skips, skip{pfn, n})
	}
}

// finish makes s.k the dump of the held pages.
func (s *salvager) finish() error {
	k, o := s.k, &s.out
	// Room for more descriptors than pages is no loss, a promise is.
	told := o.Pages + o.Undescribed + o.Beyond + o.Bad + o.Doubtful + o.Misplaced
	o.Undescribed += min(s.blank, o.Promised-min(o.Promised, told))
	ram, err := k.bitmap(k.ram)
	if err != nil {
		return err
	}
	for i := range ram {
		ram[i] |= s.held[i]
	}
	if !k.summed {
		if err := s.makeSkips(); err != nil {
			return err
		}
	}
	k.salvaged = true
	k.ram = mapSource{bytes.NewReader(ram), 0, int64(len(ram))}
	k.dumped = mapSource{bytes.NewReader(s.held), 0, int64(len(s.held))}
	return k.buildIndex()
}

// makeSkips compares the file's 2nd bitmap with the held pages.
func (s *salvager) makeSkips() error {
	bits, n := s.fileBits(), uint64(0)
	for pfn, rank := s.k.start, uint64(0); ; rank++ {
		next, ok, err := bits.next(&s.bits, pfn, s.end)
		if err != nil || !ok {
			return err
		}
		if s.held.Get(next) {
			s.skip(next, rank-n)
			n++
		}
		pfn = next + 1
	}
}
