package main

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// dedupMemory is what the table of -dedup takes: 200 thousand pages of data are remembered.
const dedupMemory = 8 << 20

func convertCommand() command {
	return command{
		name: "convert", args: "[flags] IN... OUT", brief: "filter a dump, or write it in another format",
		text: `Reads a core of any kind and writes what -level keeps of it. Several IN are the parts of
one split dump. IN may be "-", standard input. OUT has the name OUT-incomplete until it is
complete, and keeps it after a failure. "-" as OUT is standard output, flattened.

Pages that IN does not have stay left out: at level 0, the default, OUT has all that IN has.
Pages of zeros share one page of data at every level. If a level cannot be had, because a
VMCOREINFO key is missing or the page array cannot be believed, all pages are kept, and the
reason is told.

A table of pages by class goes to standard output, or to standard error if OUT is "-".
Exit status: 0; 1 nothing was written; 2 usage; 3 written, but pages that could not be read
are left out.`,
		setup: setupConvert,
	}
}

// convertOptions say what to write.
type convertOptions struct {
	level        int
	compress     string
	codec        kdumpfile.Codec
	codecLevel   int
	format       string
	split        int
	workers      int
	dedup, force bool
	dry, json    bool

	compressGiven, formatGiven bool

	incomplete bool // IN may be incomplete
	whole      bool // all that IN has, without a look at what it is
	sameCodec  bool // that of IN if it is compressed
}

func setupConvert(fs *flag.FlagSet) runner {
	var o convertOptions
	fs.IntVar(&o.level, "level", 0, "dump `level` 0-31: sum of 1 zero, 2 cache, 4 private cache, 8 user, 16 free pages to leave out")
	o.flags(fs)
	fs.BoolVar(&o.dry, "n", false, "write nothing: IN... without OUT; print the table and an estimate of the size")
	return func(e *env, files []string) (int, error) {
		o.given(fs)
		return o.run(e, files)
	}
}

// given notes which flags were.
func (o *convertOptions) given(fs *flag.FlagSet) {
	fs.Visit(func(f *flag.Flag) {
		o.compressGiven = o.compressGiven || f.Name == "compress"
		o.formatGiven = o.formatGiven || f.Name == "format"
	})
}

func (o *convertOptions) run(e *env, files []string) (int, error) {
	ins, out, err := o.files(files)
	if err == nil {
		err = o.check(out)
	}
	if err != nil {
		return exitUsage, err
	}
	return convert(e, *o, ins, out)
}

// flags are those that all commands share which write a dump.
func (o *convertOptions) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.compress, "compress", "zstd", "`codec` of the pages: zstd, snappy, zlib or none, or CODEC:LEVEL")
	fs.StringVar(&o.format, "format", "kdump", "`format` of OUT: kdump, elf or flat, which is kdump for what cannot seek")
	fs.IntVar(&o.split, "split", 1, "write `N` files OUT.1 to OUT.N, with about as many pages each")
	fs.IntVar(&o.workers, "workers", 0, "compressing `workers`; 0 is one for each CPU, at most 8")
	fs.BoolVar(&o.dedup, "dedup", false, "pages with the same contents share one page of data")
	fs.BoolVar(&o.force, "f", false, "replace OUT")
	fs.BoolVar(&o.json, "json", false, "print JSON instead of the table")
}

// files tells IN from OUT.
func (o *convertOptions) files(files []string) (ins []string, out string, err error) {
	switch {
	case o.dry && len(files) < 1:
		return nil, "", usagef("no file is named")
	case o.dry:
		return files, "", nil
	case len(files) < 2:
		return nil, "", usagef("want IN and OUT, got %d names", len(files))
	}
	last := len(files) - 1
	return files[:last], files[last], nil
}

// check refuses what does not go together.
func (o *convertOptions) check(out string) (err error) {
	if o.level < 0 || o.level > int(memmap.LevelMax) {
		return usagef("-level %d: want 0 to 31", o.level)
	}
	if o.codec, o.codecLevel, err = dump.ParseCompress(o.compress); err != nil {
		return usagef("-%v", err)
	}
	if out == "-" && !o.formatGiven {
		o.format = "flat"
	}
	switch {
	case !slices.Contains([]string{"kdump", "elf", "flat"}, o.format):
		return usagef("-format %s: want kdump, elf or flat", o.format)
	case out == "-" && o.format == "kdump":
		return usagef("-format kdump: standard output cannot seek, want flat or elf")
	case o.format == "elf" && o.compressGiven && o.codec != kdumpfile.None:
		return usagef("-compress %s: an ELF core has no compressed pages", o.compress)
	case o.format == "elf" && o.dedup:
		return usagef("-dedup: in an ELF core pages cannot share data")
	case o.split < 1 || o.split > 256:
		return usagef("-split %d: want 1 to 256 files", o.split)
	case o.split > 1 && (o.format != "kdump" || out == "-"):
		return usagef("-split %d: only -format kdump in files can be split", o.split)
	case o.workers < 0:
		return usagef("-workers %d: want a number from 0", o.workers)
	}
	if o.format == "elf" {
		o.codec = kdumpfile.None
	}
	return nil
}

// conversion is a convert at work.
type conversion struct {
	e    *env
	o    convertOptions
	core *vmcore.Core
	m    *memmap.Map
	r    report
}

func convert(e *env, o convertOptions, ins []string, out string) (int, error) {
	ins, opened, err := e.named(ins, filepath.Dir(out))
	if err != nil {
		return exitFailed, err
	}
	var core *vmcore.Core
	var lost uint64
	if o.incomplete {
		core, lost, err = openTorn(e, o, ins)
	} else {
		core, err = vmcore.OpenFiles(ins...)
	}
	opened()
	if err != nil {
		return exitFailed, err
	}
	defer core.Close()
	status, err := convertCore(e, o, core, ins, out)
	if status == exitOK && (lost > 0 || core.Incomplete()) {
		status = exitPartial
	}
	return status, err
}

// convertCore converts an open core, whose files ins are.
func convertCore(e *env, o convertOptions, core *vmcore.Core, ins []string, out string) (int, error) {
	c := &conversion{e: e, o: o, core: core}
	for _, s := range core.Skipped() {
		e.warn("%s", s)
	}
	if len(core.Ranges()) == 0 {
		return exitFailed, fmt.Errorf("%s describes no memory", ins[0])
	}
	if core.Incomplete() && !o.incomplete {
		return exitFailed, fmt.Errorf("%s is incomplete: vmcore salvage takes what it has", ins[0])
	}
	if o.sameCodec && o.format != "elf" {
		c.o.codec = codecOf(core, o.codec)
	}
	start := time.Now()
	if err := c.plan(); err != nil {
		return exitFailed, err
	}
	if o.dry {
		return exitOK, c.estimate()
	}
	err := c.write(ins, out)
	if err != nil {
		return exitFailed, err
	}
	c.r.Seconds = time.Since(start).Seconds()
	status := exitOK
	if c.r.Unreadable > 0 {
		e.warn("%d pages could not be read and are left out, the first: %s", c.r.Unreadable, c.r.Errors[0])
		status = exitPartial
	}
	w := e.stdout
	if out == "-" {
		w = e.stderr
	}
	return status, c.r.print(w, o.json)
}

// plan decides which pages are kept.
func (c *conversion) plan() (err error) {
	level := memmap.Level(c.o.level)
	if c.o.whole {
		c.m = memmap.Everything(c.core)
		c.m.Counts = [memmap.NumClasses]uint64{}
		c.m.Absent, err = c.core.DropAbsent(c.m.Keep)
	} else {
		c.m, err = memmap.Plan(c.e.ctx, c.core, memmap.Options{Level: level, Workers: c.o.workers})
		if ctxErr := c.e.ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		for _, n := range c.m.Notes {
			c.e.warn("memory map: %s", n)
		}
		if err != nil {
			c.e.warn("%v", err)
			c.r.Degraded, err = err.Error(), nil
		}
	}
	c.r.take(c.core, c.m, level)
	if err == nil && c.r.Kept == 0 {
		err = fmt.Errorf("of %d pages of memory there is none to write", c.r.RAM)
	}
	return err
}

func (c *conversion) options() dump.Options {
	return dump.Options{Codec: c.o.codec, Level: c.o.codecLevel, Workers: c.o.workers}
}

// estimate is all that -n does.
func (c *conversion) estimate() error {
	n, err := dump.Estimate(c.core, c.m, c.options())
	if err != nil {
		return err
	}
	c.r.Estimate = n
	return c.r.print(c.e.stdout, c.o.json)
}

// write makes the dump; after an error the incomplete files stay.
func (c *conversion) write(ins []string, name string) error {
	out, err := c.e.open(name, c.o.split, c.o.force, ins)
	if err != nil {
		return err
	}
	if err := c.writeTo(out); err != nil {
		out.abandon(c.e)
		return err
	}
	if c.r.Size, err = out.commit(); err != nil {
		return err
	}
	c.r.output(c.o, name, out)
	return nil
}

func (c *conversion) writeTo(out *output) error {
	w, finish, err := c.writer(out)
	if err != nil {
		return err
	}
	p := newProgress(c.e.stderr, "convert", 1<<c.core.PageShift())
	defer p.end()
	o := c.options()
	o.Progress = func(at dump.Progress) { p.at(at.Done, at.Total) }
	stats, err := dump.Write(c.e.ctx, c.core, c.m, w, o)
	if err == nil {
		err = finish()
	}
	c.r.add(stats, w)
	return err
}

// writer makes the writer for the format; finish is what is to be done after its
// own Finish.
func (c *conversion) writer(out *output) (w kdumpfile.Output, finish func() error, err error) {
	finish = func() error { return nil }
	to := out.writer()
	if c.o.format == "elf" {
		w, err = kdumpfile.NewELFWriter(to, dump.ELFHeader(c.core, c.m), c.m.Ram, c.m.Keep)
		return w, finish, err
	}
	h := dump.Header(c.core, c.m, uname(c.core), c.o.codec)
	h.DumpLevel = c.r.Level
	kept := c.m.Keep.Count()
	var k deduplicator
	switch {
	case len(out.files) > 1:
		k, err = kdumpfile.NewSplitWriter(out.writersAt(), h, c.m.Ram, c.m.Keep)
	case c.o.format == "flat":
		flat := kdumpfile.NewFlattener(to)
		finish = flat.Close
		k, err = kdumpfile.NewKdumpWriter(flat, h, c.m.Ram, kept)
	default:
		k, err = kdumpfile.NewKdumpWriter(out.files[0].f, h, c.m.Ram, kept)
	}
	if err == nil && c.o.dedup {
		k.Deduplicate(dedupMemory)
	}
	return k, finish, err
}

// deduplicator is a kdumpfile.Output whose pages can share data.
type deduplicator interface {
	kdumpfile.Output
	Deduplicate(memory int)
	Shared() (pages, bytes uint64)
}
