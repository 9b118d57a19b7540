package kdumpfile

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// verifyStep is how many pfns a worker of Verify takes at a time.
const verifyStep = 1 << 15

// maxVerifyErrors bounds what Verify tells one by one.
const maxVerifyErrors = 32

// Verify reads every page of the file: each has to decompress to exactly one
// page. With workers 0 it uses all CPUs. progress, if not nil, is called with
// pages done and in all, by one goroutine at a time. The error joins those of the
// first pages that are bad and says how many there are; or it is ctx's. That
// the file says to be incomplete is no error here.
func (k *Kdump) Verify(ctx context.Context, workers int, progress func(done, total uint64)) error {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	v := &verifier{k: k, progress: progress}
	v.next.Store(k.start)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { v.work(ctx) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if v.bad == 0 {
		return nil
	}
	return fmt.Errorf("verify: %d of %d pages are bad: %w", v.bad, k.Pages(), errors.Join(v.errs...))
}

type verifier struct {
	k        *Kdump
	progress func(done, total uint64)
	next     atomic.Uint64 // pfn

	mu   sync.Mutex // guards what follows, and calls of progress
	done uint64
	bad  uint64
	errs []error
}

func (v *verifier) work(ctx context.Context) {
	r := v.k.NewReader()
	defer r.Close()
	page := make([]byte, v.k.h.BlockSize)
	for ctx.Err() == nil {
		start := v.next.Add(verifyStep) - verifyStep
		if start >= v.k.end || start < v.k.start {
			return
		}
		v.step(ctx, r, page, start, min(start+verifyStep, v.k.end))
	}
}

func (v *verifier) step(ctx context.Context, r *PageReader, page []byte, start, end uint64) {
	var done, bad uint64
	var errs []error
	fail := func(err error) {
		if bad++; len(errs) < maxVerifyErrors {
			errs = append(errs, err)
		}
	}
	pfn, ok, err := r.Next(start)
	for ; ok && pfn < end && ctx.Err() == nil; pfn, ok, err = r.Next(pfn + 1) {
		if err := r.ReadPage(pfn, page); err != nil {
			fail(err)
		}
		done++
	}
	if err != nil {
		fail(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += done
	v.bad += bad
	v.errs = append(v.errs, errs[:min(len(errs), maxVerifyErrors-len(v.errs))]...)
	if v.progress != nil {
		v.progress(v.done, v.k.Pages())
	}
}
