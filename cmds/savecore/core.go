package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/targets"
)

// writeCore writes vmcore. After an error vmcore-incomplete stays on the
// target, its header marked so; but if space ran out, be it at the commit, it is
// removed, as it would stand in the way of everything after it.
func (a *attempt) writeCore(ctx context.Context, m *memmap.Map, o dump.Options) error {
	name := a.dir + "/vmcore"
	f, err := a.target.Create(ctx, name)
	if err != nil {
		return err
	}
	if err = a.fillCore(ctx, f, m, o); err != nil {
		f.Close() // or it is in the way of the unmount
	}
	if errors.Is(err, targets.ErrNoSpace) {
		err = errors.Join(err, a.target.Remove(context.WithoutCancel(ctx), targets.IncompleteName(name)))
	}
	return err
}

// fillCore writes vmcore, sums it up and commits it.
func (a *attempt) fillCore(ctx context.Context, f targets.File, m *memmap.Map, o dump.Options) error {
	guard := &spaceGuard{ctx: ctx, target: a.target, reserve: a.o.reserve}
	began := time.Now()
	stats, err := a.dumpTo(ctx, f, guard, m, o)
	switch {
	case err != nil:
		return err
	case stats.Written == 0 && m.Absent > 0:
		return fmt.Errorf("none of %d pages is in the core", m.Absent)
	case stats.Written == 0 && stats.Unreadable > 0:
		return fmt.Errorf("none of %d pages could be read, the first: %w", stats.Unreadable, stats.Errors[0])
	}
	start := time.Now()
	if err := a.sumCore(ctx, f, start.Sub(began)); err != nil {
		return err
	}
	a.patient(commitGrace + targets.SyncTime(f))
	err = f.Commit()
	a.patient(0)
	if err != nil {
		return err
	}
	a.account.file("vmcore", f.Size())
	if why := targets.Unconfirmed(f); why != "" {
		a.log.printf("vmcore is unconfirmed: %s", why)
	}
	a.log.printf("saved vmcore: %s, %d pages (%d of them zero), checksum and sync %.1f s", mib(uint64(f.Size())), stats.Written, stats.Zero, time.Since(start).Seconds())
	a.tellUnreadable(stats)
	return nil
}

// tellUnreadable says what a reader of the core finds in the place of pages that could
// not be read: an ELF file has no word for them.
func (a *attempt) tellUnreadable(stats dump.Stats) {
	if stats.Unreadable == 0 {
		return
	}
	become := "are left out"
	if a.o.format == "elf" {
		become = "read as zeros"
	}
	a.log.printf("%d pages could not be read and %s", stats.Unreadable, become)
	for _, err := range stats.Errors {
		a.log.printf("not read: %v", err)
	}
	if more := stats.Unreadable - uint64(len(stats.Errors)); more > 0 {
		a.log.printf("not read: %d more", more)
	}
	a.account.lose("%d pages that could not be read and %s, the first: %v", stats.Unreadable, become, stats.Errors[0])
}

// readBackMargin is for a reading back beyond the time that writing took.
const readBackMargin = 30 * time.Second

// sumCore adds the line of vmcore to SHA256SUMS. A server that gives the core back more
// slowly than it took it, over a line that loses packets on the way to us, is left in
// peace, and so is one that does not give it back: the core is whole, what is missing is
// the proof.
func (a *attempt) sumCore(ctx context.Context, f targets.File, wrote time.Duration) error {
	if !a.o.checksum {
		return nil
	}
	within, piece := ctx, time.Duration(0)
	if spec, err := targets.Parse(a.o.target); err == nil && spec.Network() {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(ctx, wrote+readBackMargin, errTooSlow)
		defer cancel()
		piece, _ = patience(a.o.stallTimeout)
	}
	sum, err := sumFile(within, "vmcore", f, piece, a.beat)
	switch {
	case err == nil:
		a.sums.add(sum)
	case within.Err() != nil, errors.Is(err, errTooSlow), errors.Is(err, targets.ErrReadRefused):
		a.log.printf("no checksum of vmcore: %v", err)
	default:
		return fmt.Errorf("read back vmcore: %w", err)
	}
	return nil
}

func (a *attempt) dumpTo(ctx context.Context, f targets.File, guard *spaceGuard, m *memmap.Map, o dump.Options) (dump.Stats, error) {
	defer a.patient(0)
	out, finish, err := a.output(a.moving(f), m, o.Codec)
	if err != nil {
		return dump.Stats{}, err
	}
	p := newProgress(a.log, a.o.progress, 1<<a.core.PageShift())
	o.Progress = func(at dump.Progress) { a.patient(afterBatch(at)); p.at(at); guard.at(at.Written) }
	ctx, guard.cancel = context.WithCancelCause(ctx)
	defer guard.cancel(nil)
	stats, err := dump.Write(ctx, a.core, m, out, o)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err == nil {
		err = finish()
	}
	p.done(stats)
	return stats, err
}

// afterBatch is how long the step after a batch may take: the last one syncs.
func afterBatch(at dump.Progress) time.Duration {
	if at.Done == at.Total {
		return commitGrace
	}
	return 0
}

// output makes the writer for the format asked for; flattened where the target
// cannot write at an offset.
func (a *attempt) output(f targets.File, m *memmap.Map, codec kdumpfile.Codec) (out kdumpfile.Output, finish func() error, err error) {
	noop := func() error { return nil }
	if a.o.format == "elf" {
		out, err = kdumpfile.NewELFWriter(f, dump.ELFHeader(a.core, m), m.Ram, m.Keep)
		return out, noop, err
	}
	at, ok := f.(io.WriterAt)
	if a.o.format == "flat" || !ok {
		flat := kdumpfile.NewFlattener(f)
		at, finish = flat, flat.Close
	} else {
		finish = noop
	}
	w, err := kdumpfile.NewKdumpWriter(at, dump.Header(a.core, m, a.uname, codec), m.Ram, m.Keep.Count())
	return w, finish, err
}

// guardStep is how much may be written between two looks at the free space, and
// guardStepEnd how much when there is little left.
const (
	guardStep    = 32 << 20
	guardStepEnd = 1 << 20
)

// spaceGuard stops a dump whose estimate was wrong before it eats the reserve.
type spaceGuard struct {
	ctx     context.Context
	target  targets.Target
	reserve uint64
	next    uint64
	cancel  context.CancelCauseFunc
}

func (g *spaceGuard) at(written uint64) {
	if written < g.next {
		return
	}
	g.next = written + guardStep
	free, err := g.target.Space(g.ctx)
	if err != nil {
		return
	}
	g.next = written + min(guardStep, max(guardStepEnd, (free-min(free, g.reserve))/2))
	if free < g.reserve {
		g.cancel(fmt.Errorf("%s free after %s, and %s are reserved: %w", mib(free), mib(written), mib(g.reserve), targets.ErrNoSpace))
	}
}

// progress prints percent, speed and time left every interval.
type progress struct {
	log        *logger
	interval   time.Duration
	pageSize   uint64
	start, due time.Time
}

func newProgress(log *logger, interval time.Duration, pageSize uint64) *progress {
	now := time.Now()
	return &progress{log: log, interval: interval, pageSize: pageSize, start: now, due: now.Add(interval)}
}

func (p *progress) at(d dump.Progress) {
	now := time.Now()
	if p.interval <= 0 || now.Before(p.due) || d.Done == 0 {
		return
	}
	p.due = now.Add(p.interval)
	took := now.Sub(p.start).Seconds()
	rate := float64(d.Done) / took // pages a second
	left := float64(d.Total-d.Done) / rate
	p.log.printf("core %3d%%  %s of %s  %.0f MB/s  %.0f s left", 100*d.Done/d.Total,
		mib(d.Done*p.pageSize), mib(d.Total*p.pageSize), rate*float64(p.pageSize)/1e6, left)
}

func (p *progress) done(s dump.Stats) {
	took := time.Since(p.start).Seconds()
	pages := s.Written + s.Unreadable
	p.log.printf("core: %s read, %s compressed, %.1f s, %.0f MB/s", mib(pages*p.pageSize), mib(s.Bytes), took, float64(pages*p.pageSize)/1e6/took)
}

// mib prints bytes for people.
func mib(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
