package memmap

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Options says how to classify. The zero value keeps everything that may be read.
type Options struct {
	Level   Level
	Workers int // 0: one per online CPU

	// Doubted has Plan give the map for Level though it fails the SelfCheck: for a
	// dump that has no room for more.
	Doubted bool

	// Progress, if not nil, is called by the workers after each section of
	// struct pages, 128 MiB of memory on x86_64.
	Progress func()
}

// Map is what is known of every page frame of a core.
type Map struct {
	Ram    *kdumpfile.PageSet // page is RAM, inside a PT_LOAD
	Keep   *kdumpfile.PageSet // page is RAM and Level keeps its class
	MaxPFN vmcore.PFN         // number of bits in both
	Level  Level              // what Keep was made for; weaker than asked where Notes says so
	Counts [NumClasses]uint64 // pages of RAM by class
	Absent uint64             // pages that Level keeps and the core's file lacks; set by Plan, not in Keep
	Notes  []string           // what could not be read or believed, one line each, bounded

	// Doubted: by Plan. A map for the level asked for can be made, and fails the
	// SelfCheck.
	Doubted bool
}

// maxNotes bounds Map.Notes: a mem_map destroyed by the crash must not fill
// memory with complaints about it.
const maxNotes = 32

// chunkPages is how many struct pages a worker holds at a time: 64 KiB of them.
const chunkPages = 1024

// Classify reads the struct page of every page frame of RAM once. It fails only
// if ctx ends or VMCOREINFO lacks what the level needs (the error names the
// keys): a page, or a section, that cannot be read is kept and counted as
// [Unknown]. Levels that do not filter lose no more than the knowledge which
// pages must not be read, and most keys are not needed for that.
func Classify(ctx context.Context, core *vmcore.Core, o Options) (*Map, error) {
	m := Everything(core)
	m.Level = o.Level
	s, err := newScan(core, m)
	if err == nil {
		err = s.layout.missing
	}
	switch {
	case err != nil && o.Level.Filters():
		return nil, err
	case s == nil:
		m.Notes = append(m.Notes, "broken and offline pages are not known: "+err.Error())
		return m, ctx.Err()
	case err != nil:
		m.Notes = append(m.Notes, "nothing but broken, offline and unaccepted pages is known: "+err.Error())
	}
	m.Counts = [NumClasses]uint64{}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	s.progress = o.Progress
	s.next.Store(uint64(m.firstPFN(core) >> s.model.sectionBits))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { s.work(ctx) })
	}
	wg.Wait()
	return m, ctx.Err()
}

// Everything is the map of a core of which all RAM is kept, unclassified.
func Everything(core *vmcore.Core) *Map {
	m := &Map{MaxPFN: core.MaxPFN()}
	m.Ram = kdumpfile.NewPageSet(uint64(m.MaxPFN))
	for _, r := range core.Ranges() {
		m.Ram.SetRange(uint64(r.Start), uint64(r.End))
	}
	m.Keep = m.Ram.Clone()
	m.Counts[Kernel] = m.Ram.Count()
	return m
}

func (m *Map) firstPFN(core *vmcore.Core) vmcore.PFN {
	if r := core.Ranges(); len(r) > 0 {
		return r[0].Start
	}
	return 0
}

// scan hands out sections to workers. A section is at least 4096 bytes of
// bitmap on every architecture but never shares one with another, so workers
// write to disjoint bytes.
type scan struct {
	m      *Map
	core   *vmcore.Core
	model  *memModel
	layout *pageReader
	next   atomic.Uint64 // section number

	progress func() // may be nil

	mu sync.Mutex // guards m.Counts and m.Notes
}

// newScan is for classifying the pages of m, as far as its layout has all that takes.
// Its error says what is missing for anything.
func newScan(core *vmcore.Core, m *Map) (*scan, error) {
	layout, err := newPageReader(core.Info(), core.ByteOrder())
	if err != nil {
		return nil, err
	}
	model, err := newMemModel(core)
	if err != nil {
		return nil, err
	}
	return &scan{m: m, core: core, model: model, layout: layout}, nil
}

func (s *scan) work(ctx context.Context) {
	w := newWorker(s)
	defer w.close()
	for ctx.Err() == nil {
		nr := s.next.Add(1) - 1
		pfn := vmcore.PFN(nr) << s.model.sectionBits
		if pfn >= s.m.MaxPFN {
			return
		}
		w.section(pfn)
		if s.progress != nil {
			s.progress()
		}
	}
}

func (s *scan) note(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.m.Notes) < maxNotes {
		s.m.Notes = append(s.m.Notes, fmt.Sprintf(format, a...))
	}
}

// worker classifies one section at a time.
type worker struct {
	*scan
	reader *vmcore.Reader
	buf    []byte // chunkPages struct pages and the one after them
	counts [NumClasses]uint64

	head      uint64 // vaddr of the compound head that headClass belongs to
	headClass Class
	headBuf   []byte // two struct pages

	freeEnd vmcore.PFN // end of the free block that is looked at page by page
}

func newWorker(s *scan) *worker {
	size := s.layout.size
	return &worker{scan: s, reader: s.core.NewReader(),
		buf: make([]byte, (chunkPages+1)*size), headBuf: make([]byte, 2*size)}
}

func (w *worker) close() {
	w.reader.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, n := range w.counts {
		w.m.Counts[c] += n
	}
}

// section classifies the pages of the section that starts at pfn.
func (w *worker) section(pfn vmcore.PFN) {
	if end := pfn + 1<<w.model.sectionBits; w.m.Ram.CountRange(uint64(pfn), uint64(end)) == 0 {
		return
	}
	sec, err := w.model.section(pfn, w.layout.size)
	sec.End = min(sec.End, w.m.MaxPFN)
	w.set(pfn, sec.Start, NoStruct)
	if err != nil {
		w.note("section at pfn %#x: %v", pfn, err)
		w.set(sec.Start, sec.End, Unknown)
		return
	}
	if sec.offline {
		w.set(sec.Start, sec.End, Offline)
		return
	}
	if sec.pages == 0 {
		w.set(sec.Start, sec.End, NoStruct)
		return
	}
	for at := sec.Start; at < sec.End; {
		ram, ok := w.m.Ram.Next(uint64(at))
		if !ok || vmcore.PFN(ram) >= sec.End {
			return
		}
		at = w.chunk(sec, vmcore.PFN(ram))
	}
}

// chunk classifies the pages that one read of struct pages covers, from start,
// and returns the first pfn that it did not: a free block may reach beyond.
func (w *worker) chunk(sec section, start vmcore.PFN) vmcore.PFN {
	size := w.layout.size
	n := min(uint64(sec.End-start), chunkPages)
	vaddr := sec.pages + uint64(start-sec.Start)*size
	buf := w.buf[:n*size]
	if start+vmcore.PFN(n) < sec.End { // the next struct page belongs to this section too
		buf = w.buf[:(n+1)*size]
	}
	if err := w.reader.ReadVirt(buf, vaddr); err != nil {
		return w.unreadable(sec, start, vaddr, n)
	}
	return w.pages(buf, start, start+vmcore.PFN(n), sec, vaddr)
}

// pages classifies [start, end), whose struct pages, from vaddr on, buf holds.
func (w *worker) pages(buf []byte, start, end vmcore.PFN, sec section, vaddr uint64) vmcore.PFN {
	pfn := start
	for pfn < end {
		at := uint64(pfn-start) * w.layout.size
		pfn = w.page(buf[at:], pfn, sec, vaddr+at)
	}
	return pfn
}

// unreadable deals with a chunk of which some struct page cannot be read: it
// goes on in smaller chunks, down to what one page of memory holds.
func (w *worker) unreadable(sec section, start vmcore.PFN, vaddr, n uint64) vmcore.PFN {
	size := w.layout.size
	pageSize := uint64(1) << w.core.PageShift()
	left := max((pageSize-vaddr%pageSize)/size, 1)
	left = min(left, n)
	end := start + vmcore.PFN(left)
	buf := w.buf[:left*size]
	if err := w.reader.ReadVirt(buf, vaddr); err != nil {
		w.note("struct page of pfn %#x: %v", start, err)
		w.set(start, end, Unknown)
		return end
	}
	return w.pages(buf, start, end, sec, vaddr)
}

// page classifies the page at pfn, whose struct page (at vaddr) begins buf, and
// all that go with it; it returns the next pfn to look at.
func (w *worker) page(buf []byte, pfn vmcore.PFN, sec section, vaddr uint64) vmcore.PFN {
	l := w.layout
	next := pfn + 1
	if pfn < w.freeEnd {
		w.set(pfn, next, l.unlessPoisoned(buf, Free))
		return next
	}
	if c, tail := l.tail(buf); tail {
		w.set(pfn, next, l.unlessPoisoned(buf, w.tail(c, vaddr)))
		return next
	}
	class := l.classify(buf[:min(uint64(len(buf)), 2*l.size)])
	if order, block := l.blockOrder(buf, class); block {
		if order >= l.orders || uint64(pfn)&(1<<order-1) != 0 {
			w.note("pfn %#x: %v block of order %d cannot be", pfn, class, order)
			w.set(pfn, next, Unknown)
			return next
		}
		next = min(pfn+1<<order, sec.End)
		if !w.m.Level.Excludes(class) {
			// Its pages will be read, and one of them may have been poisoned
			// before it was freed (seen on 5.10): each has its own flag.
			w.freeEnd, next = next, pfn+1
		}
	}
	if l.isHead(buf) {
		w.head, w.headClass = vaddr, l.tailClass(buf, class)
	}
	if l.poisoned(buf) {
		w.set(pfn, pfn+1, HWPoison)
		pfn++
	}
	w.set(pfn, next, class)
	return next
}

// tail gives the class of a tail page, which is its head's. The word is a
// pointer to the head plus one, or since Linux 7.1 possibly a mask to find it.
func (w *worker) tail(word, vaddr uint64) Class {
	head := word &^ 1
	if low := ^head; low&(low+1) == 0 && low < 1<<36 {
		head = vaddr & head
	}
	if head == w.head {
		return w.headClass
	}
	w.head, w.headClass = head, Unknown
	if head >= vaddr || (vaddr-head)%w.layout.size != 0 {
		w.note("struct page %#x: its compound head %#x cannot be", vaddr, head)
		return Unknown
	}
	if err := w.reader.ReadVirt(w.headBuf, head); err != nil {
		w.note("compound head %#x of struct page %#x: %v", head, vaddr, err)
		return Unknown
	}
	if _, tail := w.layout.tail(w.headBuf); tail || !w.layout.isHead(w.headBuf) {
		w.note("struct page %#x: its compound head %#x is none", vaddr, head)
		return Unknown
	}
	w.headClass = w.layout.tailClass(w.headBuf, w.layout.classify(w.headBuf))
	return w.headClass
}

// set counts pages [start, end) as class c, and drops them if the level says so.
// Pages that are not RAM do not count.
func (w *worker) set(start, end vmcore.PFN, c Class) {
	if end <= start {
		return
	}
	c = w.layout.told(c)
	if end == start+1 {
		if !w.m.Ram.Get(uint64(start)) {
			return
		}
		w.counts[c]++
	} else {
		w.counts[c] += w.m.Ram.CountRange(uint64(start), uint64(end))
	}
	if w.m.Level.Excludes(c) {
		w.m.Keep.ClearRange(uint64(start), uint64(end))
	}
}
