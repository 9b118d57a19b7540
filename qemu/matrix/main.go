// Matrix crashes every kernel on every shape of machine and holds what ukdump
// makes of the cores against makedumpfile, drgn, gdb and crash.
//
// Each crash leaves its raw /proc/vmcore. On that, on this machine: all 32 levels
// are classified; makedumpfile filters the same core, and each page that only one
// side keeps needs a rule of explain.go; every kept page of the dumps is read back
// by foreign readers and compared with the raw core; and crash says of the dumps
// what it says of the raw core.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/qemu/rig"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("matrix", flag.ContinueOnError)
	fs.SetOutput(stderr)
	m := &matrix{out: stdout}
	only := fs.String("kernels", strings.Join(kernels(), ","), "comma separated `list` of kernels that qemu/fetch got")
	machines := fs.String("shapes", "", "comma separated `list` of machines; none: all")
	fs.BoolVar(&m.again, "again", false, "take the raw cores of the last run, crash nothing")
	fs.StringVar(&m.checks, "checks", "levels,pages,crash", "comma separated `list` of what to check")
	limit := fs.Duration("limit", 4*time.Hour, "`time` for all of it")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	if err := m.run(ctx, strings.Split(*only, ","), *machines); err != nil {
		fmt.Fprintf(stderr, "matrix: %v\n", err)
		return 1
	}
	return 0
}

type matrix struct {
	*rig.Rig
	out    io.Writer
	dir    string
	vmcore string // the program, built
	again  bool
	checks string
}

func (m *matrix) run(ctx context.Context, names []string, only string) (err error) {
	if m.Rig, err = rig.Open(ctx); err != nil {
		return err
	}
	m.dir = filepath.Join(m.Out, "matrix")
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	m.vmcore = filepath.Join(m.dir, "vmcore")
	build := exec.CommandContext(ctx, "go", "build", "-o", m.vmcore, "./cmds/vmcore")
	build.Dir = m.Root
	if _, err := rig.Output(build); err != nil {
		return err
	}
	start := time.Now()
	var errs []error
	for _, name := range names {
		k, err := m.Kernel(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(m.out, "\nLinux %s\n", k.Release)
		for _, s := range shapes() {
			if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
				continue
			}
			if err := m.cell(ctx, k, s); err != nil {
				fmt.Fprintf(m.out, "  FAILED: %v\n", err)
				errs = append(errs, fmt.Errorf("%s on %s: %w", k.Release, s.name, err))
			}
		}
	}
	fmt.Fprintf(m.out, "\n%d failed, %s\n", len(errs), time.Since(start).Round(time.Second))
	return errors.Join(errs...)
}

// cell is one kernel on one machine.
func (m *matrix) cell(ctx context.Context, k rig.Kernel, s shape) error {
	fmt.Fprintf(m.out, "\n  %s: %s\n", s.name, s.about)
	raw := filepath.Join(m.Out, coreName(k.Name, s.name), "raw.elf")
	if !m.again {
		if err := m.makeCore(ctx, k, s); err != nil {
			return err
		}
	}
	core, err := newSubject(ctx, m.Rig, raw)
	if err != nil {
		return err
	}
	defer core.core.Close()
	errs := []error{s.check(core, k)}
	for _, check := range strings.Split(m.checks, ",") {
		start := time.Now()
		switch check {
		case "levels":
			err = m.levels(ctx, core, s)
		case "pages":
			err = m.pages(ctx, core, s)
		case "crash":
			err = m.crash(ctx, core, k, s)
		default:
			err = fmt.Errorf("-checks %s: want levels, pages or crash", check)
		}
		fmt.Fprintf(m.out, "    %s: %.0f s\n", check, time.Since(start).Seconds())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (m *matrix) makeCore(ctx context.Context, k rig.Kernel, s shape) error {
	base, capture, err := images(ctx, m.Rig, k, m.dir)
	if err != nil {
		return err
	}
	start := time.Now()
	res, err := m.Run(ctx, s.crash(k, base, capture))
	if err != nil {
		return err
	}
	fmt.Fprintf(m.out, "    crash: %.0f s\n", time.Since(start).Seconds())
	for _, text := range append(s.want, "fill hugetlb: ", "fill thp: ", "fill hwpoison: ") {
		if _, ok := res.Said(text); !ok {
			return fmt.Errorf("production did not say %q; the console is in %s/serial.log", text, res.Dir)
		}
	}
	for _, l := range res.Lines {
		for _, what := range []string{"appliance: fill ", "appliance: grow", "appliance: shrink", "appliance: offline"} {
			if _, text, ok := strings.Cut(l.Text, what); ok {
				fmt.Fprintf(m.out, "      %s%s\n", strings.TrimPrefix(strings.TrimPrefix(what, "appliance: "), "fill "), text)
			}
		}
	}
	return nil
}

// someLevels are those at which makedumpfile is asked where not all are.
func someLevels() []memmap.Level { return []memmap.Level{0, 1, 2, 4, 8, 16, 31} }

// levels compares the classification with makedumpfile's.
func (m *matrix) levels(ctx context.Context, c *subject, s shape) error {
	levels := someLevels()
	if s.all {
		levels = nil
		for l := memmap.Level(0); l <= memmap.LevelMax; l++ {
			levels = append(levels, l)
		}
	}
	found := &explanation{byRule: map[string]int{}, more: map[counted]int{}}
	counts := reports{}
	for _, l := range levels {
		t, err := makedumpfile(ctx, m.Rig, c.raw, filepath.Join(c.dir, "theirs.kdump"), l)
		if err != nil {
			return err
		}
		c.explain(found, differences(l, c.maps[l].Keep.Bitmap(), t.keep))
		counts[l] = t.counts
	}
	fmt.Fprintf(m.out, "    pages, ours/makedumpfile's: RAM %d, %s\n", c.maps[0].Ram.Count(), c.countsLine(counts))
	errs := c.checkCounts(counts, found)
	fmt.Fprintf(m.out, "    differing pages, %d levels: %v\n", len(levels), found)
	if found.failed > 0 {
		errs = append(errs, fmt.Errorf("%d pages differ and no rule explains them:\n%s", found.failed, strings.Join(found.unknown, "\n")))
	}
	return errors.Join(errs...)
}
