package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func verifyCommand() command {
	return command{
		name: "verify", args: "[-workers N] FILE...", brief: "check that dump files are whole and can be read",
		text: `Reads every page of each dump: all decompress, to one page each, and have the checksum
that the file has of them. Headers, notes and bitmaps fit together; the file is complete, and
where a SHA256SUMS beside it names it, it has that sum. The parts of a split dump are taken
together. Exit status: 0 all is well, 1 a dump is bad, 2 a file is no dump or cannot be read.`,
		setup: func(fs *flag.FlagSet) runner {
			workers := fs.Int("workers", 0, "reading `workers`; 0 is one for each CPU")
			return func(e *env, files []string) (int, error) { return verify(e, files, *workers) }
		},
	}
}

func verify(e *env, files []string, workers int) (int, error) {
	switch {
	case len(files) == 0:
		return exitUsage, usagef("no file is named")
	case workers < 0:
		return exitUsage, usagef("-workers %d: want a number from 0", workers)
	}
	status := exitOK
	for _, d := range openEach(files) {
		name := strings.Join(d.paths, " ")
		if d.err != nil {
			e.warn("%v", d.err)
			status = exitUsage
			continue
		}
		v := &verification{e: e, workers: workers, dump: d}
		v.run()
		d.core.Close()
		if e.ctx.Err() != nil {
			return exitUsage, e.ctx.Err()
		}
		for _, bad := range v.bad {
			fmt.Fprintf(e.stdout, "%s: %v\n", name, bad)
		}
		if len(v.bad) > 0 {
			status = max(status, exitFailed)
			continue
		}
		fmt.Fprintf(e.stdout, "%s: good, %d pages\n", name, v.pages)
	}
	return status, nil
}

// verification collects what is bad in one dump.
type verification struct {
	e       *env
	workers int
	dump    dumpFiles
	pages   uint64
	bad     []error
}

func (v *verification) fail(err error) {
	if err != nil {
		v.bad = append(v.bad, err)
	}
}

func (v *verification) run() {
	core := v.dump.core
	for _, s := range core.Skipped() {
		v.fail(errors.New(s))
	}
	if core.Incomplete() {
		v.fail(errors.New("it is incomplete"))
	}
	if core.Info().Len() == 0 {
		v.fail(errors.New("it has no VMCOREINFO"))
	}
	has := memmap.Everything(core)
	if _, err := core.DropAbsent(has.Keep); err != nil {
		v.fail(err)
		return
	}
	v.pages = has.Keep.Count()
	p := newProgress(v.e.stderr, "verify", 1<<core.PageShift())
	defer p.end()
	if k := core.Files().Dump; k != nil {
		v.kdump(k, p)
	} else {
		v.fail(v.readAll(has.Keep.Bitmap(), p))
	}
	for _, path := range v.dump.paths {
		v.fail(checkSum(v.e.ctx, path))
	}
}

// kdump checks a kdump-compressed dump.
func (v *verification) kdump(k *kdumpfile.Kdump, p *progress) {
	r, err := k.Verify(v.e.ctx, v.workers, p.at)
	v.fail(err)
	for _, problem := range r.Problems {
		v.fail(fmt.Errorf("%s: %s", problem.Kind, problem.Text))
	}
	var all uint64
	for _, n := range r.Found {
		all += n
	}
	if listed := uint64(len(r.Problems)); all > listed {
		v.fail(fmt.Errorf("and %d problems more", all-listed))
	}
	if r.Bad > 0 {
		v.fail(fmt.Errorf("%d of %d pages cannot be had", r.Bad, r.Pages))
	}
}

// readAll reads every page that an ELF core says to have.
func (v *verification) readAll(has kdumpfile.Bitmap, p *progress) error {
	core := v.dump.core
	bad := kdumpfile.NewBitmap(uint64(core.MaxPFN()))
	err := eachPage(v.e.ctx, has, v.workers, 1<<core.PageShift(), []*vmcore.Core{core}, p, func(r []*vmcore.Reader, page [][]byte, pfn uint64) error {
		if err := r[0].ReadPhys(page[0], pfn<<core.PageShift()); err != nil {
			bad.Set(pfn)
			return err
		}
		return nil
	})
	if n := bad.Count(); n > 0 {
		return fmt.Errorf("%d pages cannot be read, the first: %w", n, err)
	}
	return nil
}

// checkSum compares a file with the line that a SHA256SUMS beside it has of it.
func checkSum(ctx context.Context, path string) error {
	want, err := listedSum(path)
	if want == "" || err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("SHA256SUMS says %s, but it is %s", want, got)
	}
	return nil
}

// listedSum is what SHA256SUMS says, "" where it does not.
func listedSum(path string) (string, error) {
	f, err := os.Open(filepath.Join(filepath.Dir(path), "SHA256SUMS"))
	if err != nil {
		return "", nil // there need be none
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if sum, name, ok := strings.Cut(lines.Text(), "  "); ok && name == filepath.Base(path) {
			return sum, nil
		}
	}
	return "", lines.Err()
}
