package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/ukdump/ukdump/qemu/baseline"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
)

// contender is one of the ways to save a core.
type contender struct {
	name  string
	image string
	load  string // by whom the capture kernel is loaded
	saved string // what its console says when the core is complete
}

// crashes measures whole crashes on one kernel.
type crashes struct {
	*bench
	kernel rig.Kernel
	list   []contender // the one that the others are measured against is the last
}

const (
	options = "-l -d 31" // of makedumpfile: its fastest
	conf    = "target = disk:///crash?dev=LABEL=CRASH&fstype=ext4\n"
	quick   = "compress = snappy\nchecksum = no\n" // what those options mean here
)

func newCrashes(ctx context.Context, bench *bench, kernel string) (*crashes, error) {
	b := &crashes{bench: bench}
	var err error
	if b.kernel, err = b.Kernel(kernel); err != nil {
		return nil, err
	}
	ours, fast := filepath.Join(b.dir, "ukdump.cpio.zst"), filepath.Join(b.dir, "quick.cpio.zst")
	const saved = "savecore: saved vmcore:"
	b.list = []contender{
		{"ukdump", ours, "kdumpctl", saved},
		{"ukdump, snappy, no checksum", fast, "kdumpctl", saved},
		{"makedumpfile " + options, filepath.Join(b.dir, "baseline.cpio.zst"), "self", "baseline: saved"},
	}
	if _, err := b.Capture(ctx, ours, b.kernel, conf); err != nil {
		return nil, err
	}
	if err := b.Wrap(ctx, fast, ours, nil, map[string]string{"etc/kdump.conf": conf + quick}); err != nil {
		return nil, err
	}
	a, err := baseline.Image(filepath.Join(b.Cache, "tools"), options)
	if err != nil {
		return nil, err
	}
	return b, rig.Overlay(b.list[len(b.list)-1].image, "", a)
}

// crash makes one crash; saved tells whether the core was complete.
func (b *crashes) crash(ctx context.Context, c contender, reserve string) (res *rig.Result, saved bool, err error) {
	target := filepath.Join(b.dir, "target.img")
	if err := disk.Format(ctx, target, 1<<30, disk.FS{Type: "ext4", Label: "CRASH"}); err != nil {
		return nil, false, err
	}
	res, err = b.Run(ctx, rig.Crash{
		Name: "bench", Kernel: b.kernel, Capture: c.image, Base: b.list[0].image, Load: c.load, Reserve: reserve,
		Fill: true, Target: &rig.Target{Path: target}, Limit: 3 * time.Minute,
	})
	_, saved = res.Said(c.saved)
	return res, saved, err
}

const reserveForTimes = "160M" // room enough for both

func (b *crashes) times(ctx context.Context, out io.Writer, rounds int) error {
	ends := []string{"reboot", "production back"}
	reached := make(map[string][][]rig.Mark)
	for _, e := range ends {
		reached[e] = make([][]rig.Mark, len(b.list))
	}
	for range rounds { // in turn, so that a busier minute meets both
		for i, c := range b.list {
			marks, err := b.timeline(ctx, c)
			if err != nil {
				return err
			}
			for _, e := range ends {
				m, _ := rig.Find(marks, e)
				reached[e][i] = append(reached[e][i], m)
			}
			fmt.Fprintf(out, "%-28s", c.name)
			for _, m := range marks {
				fmt.Fprintf(out, "  %s %.1f", m.Name, m.At.Seconds())
			}
			fmt.Fprintln(out)
		}
	}
	wall := func(m rig.Mark) time.Duration { return m.At }
	cpu := func(m rig.Mark) time.Duration { return m.CPU }
	for _, e := range ends {
		fmt.Fprintf(out, "\npanic to %s, Linux %s, crashkernel=%s, median of %d: wall, ratio, CPU of QEMU, ratio\n", e, b.kernel.Release, reserveForTimes, rounds)
		base := reached[e][len(b.list)-1]
		for i, c := range b.list {
			of := reached[e][i]
			fmt.Fprintf(out, "%-28s %6.1f s  %.2f   %6.1f s  %.2f\n", c.name,
				median(of, wall).Seconds(), ratio(of, base, wall), median(of, cpu).Seconds(), ratio(of, base, cpu))
		}
	}
	return nil
}

// timeline makes a crash that must succeed.
func (b *crashes) timeline(ctx context.Context, c contender) ([]rig.Mark, error) {
	res, saved, err := b.crash(ctx, c, reserveForTimes)
	if err != nil {
		return nil, err
	}
	marks := rig.Timeline(res.Lines)
	if _, back := rig.Find(marks, "production back"); !back || !saved {
		return nil, fmt.Errorf("%s: no core or no return; the console is in %s/serial.log", c.name, res.Dir)
	}
	return marks, nil
}

func median(marks []rig.Mark, of func(rig.Mark) time.Duration) time.Duration {
	d := make([]time.Duration, len(marks))
	for i, m := range marks {
		d[i] = of(m)
	}
	slices.Sort(d)
	return d[len(d)/2]
}

func ratio(a, b []rig.Mark, of func(rig.Mark) time.Duration) float64 {
	return median(a, of).Seconds() / median(b, of).Seconds()
}

// reservations finds for each the smallest crashkernel= that works, in steps of
// 4 MiB, by bisection: what works with some memory works with more.
func (b *crashes) reservations(ctx context.Context, out io.Writer) error {
	const step = 4
	fmt.Fprintf(out, "\nsmallest crashkernel= that saves a core, Linux %s\n", b.kernel.Release)
	for _, c := range b.list {
		low, high := 48/step, 160/step // fails, works
		for high-low > 1 {
			mid := (low + high) / 2
			_, saved, err := b.crash(ctx, c, fmt.Sprintf("%dM", mid*step))
			if err != nil && !errors.Is(err, context.DeadlineExceeded) && !saved {
				fmt.Fprintf(out, "  %s at %dM: %v\n", c.name, mid*step, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if saved {
				high = mid
			} else {
				low = mid
			}
			fmt.Fprintf(out, "  %s at %dM: saved %v\n", c.name, mid*step, saved)
		}
		fmt.Fprintf(out, "%-28s %dM\n", c.name, high*step)
	}
	return nil
}
