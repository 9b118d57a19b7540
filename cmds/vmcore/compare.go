package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func compareCommand() command {
	return command{
		name: "compare", args: "[flags] A B", brief: "compare the memory in two dumps",
		text: `Compares which memory there is, which pages of it the dumps have, and what is in them,
whatever their formats. What differs is listed by pfn. The parts of a split dump are named
as A,A2,A3: with commas between them. Exit status: 0 the same, 1 they differ, 2 trouble.`,
		setup: func(fs *flag.FlagSet) runner {
			var o compareOptions
			fs.BoolVar(&o.zero, "zero", false, "a page that one dump does not have is the same as a page of zeros in the other, as ELF readers take it")
			fs.BoolVar(&o.common, "common", false, "compare the contents of pages that both have, not which they have")
			fs.IntVar(&o.max, "max", 20, "list at most `N` runs of pages of each kind; 0 is all")
			fs.IntVar(&o.workers, "workers", 0, "reading `workers`; 0 is one for each CPU")
			return func(e *env, files []string) (int, error) { return compare(e, files, o) }
		},
	}
}

type compareOptions struct {
	zero, common bool
	max, workers int
}

func compare(e *env, files []string, o compareOptions) (int, error) {
	switch {
	case len(files) != 2:
		return exitUsage, usagef("want two dumps, got %d", len(files))
	case o.max < 0 || o.workers < 0:
		return exitUsage, usagef("-max and -workers want a number from 0")
	}
	c := &comparison{o: o}
	for i, name := range files {
		core, err := vmcore.OpenFiles(partNames(name)...)
		if err != nil {
			return exitUsage, err
		}
		defer core.Close()
		c.cores[i] = core
	}
	if err := c.run(e); err != nil {
		return exitUsage, err
	}
	different, err := c.print(e.stdout, files)
	switch {
	case err != nil:
		return exitUsage, err
	case c.bad.Count() > 0:
		return exitUsage, errors.New("not all pages can be read")
	case different:
		return exitFailed, nil
	}
	return exitOK, nil
}

// comparison has a bit for each pfn.
type comparison struct {
	o        compareOptions
	cores    [2]*vmcore.Core
	ram, has [2]kdumpfile.Bitmap
	looked   uint64 // pages that were compared
	only     [2]kdumpfile.Bitmap
	contents kdumpfile.Bitmap // pages that differ
	bad      kdumpfile.Bitmap // pages that cannot be read
	info     bool             // VMCOREINFO differs
}

func (c *comparison) run(e *env) error {
	a, b := c.cores[0], c.cores[1]
	if a.PageShift() != b.PageShift() {
		return fmt.Errorf("pages of %d bytes and of %d cannot be compared", 1<<a.PageShift(), 1<<b.PageShift())
	}
	n := max(uint64(a.MaxPFN()), uint64(b.MaxPFN()))
	for i, core := range c.cores {
		m := memmap.Everything(core)
		if _, err := core.DropAbsent(m.Keep); err != nil {
			return err
		}
		c.ram[i], c.has[i] = grown(m.Ram.Bitmap(), n), grown(m.Keep.Bitmap(), n)
		c.only[i] = kdumpfile.NewBitmap(n)
	}
	c.contents, c.bad = kdumpfile.NewBitmap(n), kdumpfile.NewBitmap(n)
	c.info = !slices.Equal(infoText(a), infoText(b))
	look := slices.Clone(c.has[0])
	for i := range look {
		if c.o.common {
			look[i] &= c.has[1][i]
			continue
		}
		look[i] |= c.has[1][i]
	}
	p := newProgress(e.stderr, "compare", 1<<a.PageShift())
	defer p.end()
	c.looked = look.Count()
	zero := make([]byte, 1<<a.PageShift())
	_ = eachPage(e.ctx, look, c.o.workers, len(zero), c.cores[:], p, func(r []*vmcore.Reader, page [][]byte, pfn uint64) error {
		c.page(r, page, zero, pfn)
		return nil
	})
	return e.ctx.Err()
}

func infoText(core *vmcore.Core) []byte {
	off, size := core.VMCoreInfoNote()
	return core.Notes()[off:][:size]
}

// grown makes a bitmap as long as that for n bits.
func grown(b kdumpfile.Bitmap, n uint64) kdumpfile.Bitmap {
	out := kdumpfile.NewBitmap(n)
	copy(out, b)
	return out
}

// page compares a page that one or both have.
func (c *comparison) page(r []*vmcore.Reader, page [][]byte, zero []byte, pfn uint64) {
	have := [2]bool{c.has[0].Get(pfn), c.has[1].Get(pfn)}
	if have[0] != have[1] && !c.o.zero {
		c.only[one(have)].Set(pfn)
		return
	}
	data := [2][]byte{zero, zero}
	for i := range have {
		if !have[i] {
			continue
		}
		if err := r[i].ReadPhys(page[i], pfn<<c.cores[i].PageShift()); err != nil {
			c.bad.Set(pfn)
			return
		}
		data[i] = page[i]
	}
	switch {
	case bytes.Equal(data[0], data[1]):
	case have[0] && have[1]:
		c.contents.Set(pfn)
	case have[0]:
		c.only[0].Set(pfn)
	default:
		c.only[1].Set(pfn)
	}
}

// print lists what differs and says whether anything does.
func (c *comparison) print(w io.Writer, files []string) (different bool, err error) {
	list := func(what string, b kdumpfile.Bitmap) {
		n := b.Count()
		if n == 0 || err != nil {
			return
		}
		different = true
		if _, err = fmt.Fprintf(w, "%s: %d pages\n", what, n); err == nil {
			err = c.runs(w, b)
		}
	}
	for i, name := range files {
		other := c.ram[1-i]
		list("memory only in "+name, without(c.ram[i], other))
	}
	for i, name := range files {
		list("only in "+name, c.only[i])
	}
	list("different contents", c.contents)
	list("cannot be read", c.bad)
	if c.info && err == nil {
		different = true
		_, err = fmt.Fprintln(w, "VMCOREINFO differs")
	}
	if !different && err == nil {
		_, err = fmt.Fprintf(w, "the same: %d pages of memory, %d of them compared\n", c.ram[0].Count(), c.looked)
	}
	return different, err
}

// without gives the bits of a that b has not.
func without(a, b kdumpfile.Bitmap) kdumpfile.Bitmap {
	out := slices.Clone(a)
	for i := range out {
		out[i] &^= b[i]
	}
	return out
}

// runs lists runs of pages.
func (c *comparison) runs(w io.Writer, b kdumpfile.Bitmap) error {
	more := 0
	listed := 0
	for at, ok := b.Next(0); ok; {
		end := b.NextClear(at)
		if c.o.max > 0 && listed == c.o.max {
			more++
		} else {
			listed++
			if _, err := fmt.Fprintf(w, "  pfn %#x to %#x (%d)\n", at, end-1, end-at); err != nil {
				return err
			}
		}
		at, ok = b.Next(end)
	}
	if more > 0 {
		_, err := fmt.Fprintf(w, "  and %d runs more: -max 0 lists all\n", more)
		return err
	}
	return nil
}

// one is the dump that has a page, where only one has.
func one(have [2]bool) int {
	if have[0] {
		return 0
	}
	return 1
}
