package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// stepPages is what a worker takes at a time: a multiple of 8, so that bits of
// different steps are in different bytes.
const stepPages = 1 << 12

// eachPage calls f for every set bit of pages, in several goroutines that have a
// Reader of each core and a page of memory for it. Bits that f sets in bitmaps of
// its own are safe if they are those of the pfn. Errors of f do not end it: the
// one of the lowest pfn is returned.
func eachPage(ctx context.Context, pages kdumpfile.Bitmap, workers, pageSize int, cores []*vmcore.Core, p *progress,
	f func(r []*vmcore.Reader, page [][]byte, pfn uint64) error) error {
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	s := &steps{ctx: ctx, pages: pages, total: pages.Count(), p: p, f: f}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var readers []*vmcore.Reader
			var memory [][]byte
			for _, c := range cores {
				r := c.NewReader()
				defer r.Close()
				readers, memory = append(readers, r), append(memory, make([]byte, pageSize))
			}
			s.work(readers, memory)
		})
	}
	wg.Wait()
	return s.err
}

// steps hands out pages to workers.
type steps struct {
	ctx   context.Context
	pages kdumpfile.Bitmap
	total uint64
	p     *progress
	f     func(r []*vmcore.Reader, page [][]byte, pfn uint64) error
	next  atomic.Uint64 // pfn
	done  atomic.Uint64

	mu    sync.Mutex // guards what follows
	err   error
	errAt uint64
}

func (s *steps) work(r []*vmcore.Reader, page [][]byte) {
	for s.ctx.Err() == nil {
		start := s.next.Add(stepPages) - stepPages
		if start >= uint64(len(s.pages))*8 {
			return
		}
		end, n := start+stepPages, uint64(0)
		for pfn, ok := s.pages.Next(start); ok && pfn < end; pfn, ok = s.pages.Next(pfn + 1) {
			n++
			if err := s.f(r, page, pfn); err != nil {
				s.fail(pfn, err)
			}
		}
		s.p.at(s.done.Add(n), s.total)
	}
}

func (s *steps) fail(pfn uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || pfn < s.errAt {
		s.err, s.errAt = err, pfn
	}
}
