// Package dump turns one core into one dump: it takes the pages that a
// memmap.Map keeps, compresses them with several workers and hands them, in pfn
// order, to a kdumpfile.Output.
//
// [Write] is the whole of it. [Estimate] says beforehand how large the result
// will be. The package knows nothing of where the dump goes.
package dump

import (
	"bytes"
	"context"
	"runtime"
	"sync"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// batchBytes is how much memory a batch covers, 128 pages of 4 KiB, so that
// what Write needs stays bounded by 2*workers+2 batches whatever the page size.
const batchBytes = 512 << 10

// maxWorkers bounds the workers where their number is not given: a capture
// kernel on a machine with many CPUs has no more memory than on a small one.
const maxWorkers = 8

// Options says how to write a dump.
type Options struct {
	Codec   kdumpfile.Codec
	Level   int // the codec's own level, 0 for its default
	Workers int // compressing goroutines; 0: one per online CPU, at most 8

	// Progress, if not nil, is called after each batch by the goroutine that
	// called Write.
	Progress func(Progress)
}

// Progress is how far a dump is.
type Progress struct {
	Done, Total uint64 // pages of the map's Keep
	Written     uint64 // bytes of compressed pages handed to the output
}

// Stats is what became of the pages.
type Stats struct {
	Written    uint64  // pages in the dump
	Zero       uint64  // those of them that are zeros, which share one page of data
	Unreadable uint64  // pages that could not be read and were not given to the output
	Errors     []error // of the first of them
	Bytes      uint64  // of compressed pages
}

// maxErrors bounds Stats.Errors.
const maxErrors = 32

// Write writes every page that m keeps to out and finishes it. A page that
// cannot be read is counted and left out. The error is out's or ctx's; out is
// then left unfinished, so that its header still says incomplete.
func Write(ctx context.Context, core *vmcore.Core, m *memmap.Map, out kdumpfile.Output, o Options) (Stats, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	p, err := newPipeline(core, m, o)
	if err != nil {
		return Stats{}, err
	}
	defer p.wg.Wait()
	defer cancel()
	p.start(ctx)

	var stats Stats
	progress := Progress{Total: m.Keep.Count()}
	for b := range p.order {
		<-b.done
		if err := ctx.Err(); err != nil { // then b may be untouched
			return stats, err
		}
		if err := out.Batch(&b.Batch); err != nil {
			return stats, err
		}
		stats.add(b)
		progress.Done += b.taken
		progress.Written = stats.Bytes
		p.free <- b
		if o.Progress != nil {
			o.Progress(progress)
		}
	}
	if err := ctx.Err(); err != nil {
		return stats, err
	}
	return stats, out.Finish()
}

func (s *Stats) add(b *batch) {
	s.Written += uint64(len(b.PFNs))
	s.Zero += b.zero
	s.Bytes += uint64(len(b.Data))
	s.Unreadable += b.unreadable
	if room := maxErrors - len(s.Errors); room > 0 {
		s.Errors = append(s.Errors, b.errs[:min(room, len(b.errs))]...)
	}
}

// batch is a run of kept pages on its way through the pipeline. Its buffers
// are its own and are used again.
type batch struct {
	kdumpfile.Batch
	taken      uint64 // pages that the producer put in
	zero       uint64
	unreadable uint64
	errs       []error
	done       chan struct{} // one token when a worker is through with it
}

// pipeline moves batches: free -> (producer) -> work and order -> (workers) ->
// done -> (writer) -> free.
type pipeline struct {
	core  *vmcore.Core
	m     *memmap.Map
	o     Options
	pages int // in a batch

	free, work, order chan *batch
	compressors       []kdumpfile.Compressor
	wg                sync.WaitGroup
}

func newPipeline(core *vmcore.Core, m *memmap.Map, o Options) (*pipeline, error) {
	n := 2*o.Workers + 2
	p := &pipeline{core: core, m: m, o: o, pages: batchBytes >> core.PageShift(),
		free: make(chan *batch, n), work: make(chan *batch, n), order: make(chan *batch, n)}
	for range o.Workers {
		c, err := kdumpfile.NewCompressor(o.Codec, o.Level)
		if err != nil {
			return nil, err
		}
		p.compressors = append(p.compressors, c)
	}
	for range n {
		b := &batch{done: make(chan struct{}, 1)}
		b.PFNs = make([]uint64, 0, p.pages)
		b.Descs = make([]kdumpfile.Desc, 0, p.pages)
		b.Data = make([]byte, 0, batchBytes+2<<core.PageShift()) // room for a codec to fail in
		p.free <- b
	}
	return p, nil
}

func (p *pipeline) start(ctx context.Context) {
	p.wg.Go(func() { p.produce(ctx) })
	for _, c := range p.compressors {
		p.wg.Go(func() { newWorker(p, c).run(ctx) })
	}
}

// produce fills batches with the pfns to take, in order.
func (p *pipeline) produce(ctx context.Context) {
	defer close(p.order)
	defer close(p.work)
	next, more := p.m.Keep.Next(0)
	for more {
		var b *batch
		select {
		case b = <-p.free:
		case <-ctx.Done():
			return
		}
		b.reset()
		for more && len(b.PFNs) < p.pages {
			b.PFNs = append(b.PFNs, next)
			next, more = p.m.Keep.Next(next + 1)
		}
		b.taken = uint64(len(b.PFNs))
		p.work <- b // neither blocks: there are no more batches than room
		p.order <- b
	}
}

func (b *batch) reset() {
	b.PFNs, b.Descs, b.Data = b.PFNs[:0], b.Descs[:0], b.Data[:0]
	b.zero, b.unreadable, b.errs = 0, 0, nil
}

// worker reads and compresses the pages of one batch at a time.
type worker struct {
	p          *pipeline
	reader     *vmcore.Reader
	compressor kdumpfile.Compressor
	page, zero []byte // one page each
}

func newWorker(p *pipeline, c kdumpfile.Compressor) *worker {
	size := 1 << p.core.PageShift()
	return &worker{p: p, reader: p.core.NewReader(), compressor: c,
		page: make([]byte, size), zero: make([]byte, size)}
}

func (w *worker) run(ctx context.Context) {
	defer w.reader.Close()
	for b := range w.p.work {
		if ctx.Err() == nil {
			w.batch(b)
		}
		b.done <- struct{}{}
	}
}

// batch replaces the pfns of b by those that the dump gets, with their
// descriptors and data.
func (w *worker) batch(b *batch) {
	taken := b.PFNs
	b.PFNs = b.PFNs[:0] // filtered in place: it never grows past what was taken
	for _, pfn := range taken {
		if err := w.reader.ReadPhys(w.page, pfn<<w.p.core.PageShift()); err != nil {
			b.unreadable++
			if len(b.errs) < maxErrors {
				b.errs = append(b.errs, err)
			}
			continue
		}
		if bytes.Equal(w.page, w.zero) {
			b.zero++
			b.PFNs = append(b.PFNs, pfn)
			b.Descs = append(b.Descs, kdumpfile.Desc{})
			continue
		}
		b.PFNs = append(b.PFNs, pfn)
		b.Descs = append(b.Descs, w.compress(b))
	}
}

// compress appends the page to the batch's data, as it is if it does not shrink.
func (w *worker) compress(b *batch) kdumpfile.Desc {
	start := len(b.Data)
	b.Data = w.compressor.Compress(b.Data, w.page)
	if n := len(b.Data) - start; n < len(w.page) {
		return kdumpfile.Desc{Size: uint32(n), Flags: uint32(w.p.o.Codec)}
	}
	b.Data = append(b.Data[:start], w.page...)
	return kdumpfile.Desc{Size: uint32(len(w.page))}
}
