package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
)

// spent is what one run of a program took.
type spent struct {
	wall, cpu time.Duration
	peak      int64 // resident bytes
	size      int64 // of what it wrote
}

// entrant is one command that is measured. Out stands for the file it writes.
type entrant struct {
	name    string
	command func(ctx context.Context, out string) (*exec.Cmd, error)
}

// contest runs all in turn, rounds times, and prints medians and their ratios to
// the first one's. The files go to memory, so that no disk is measured.
func contest(ctx context.Context, w io.Writer, rounds int, list []entrant) error {
	dir, err := os.MkdirTemp("/dev/shm", "ukdump-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	runs := make([][]spent, len(list))
	for range rounds {
		for i, e := range list {
			s, err := e.run(ctx, filepath.Join(dir, "out"))
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			runs[i] = append(runs[i], s)
		}
	}
	fmt.Fprintf(w, "  %-34s %9s %6s %9s %6s %9s %6s %9s %6s\n", "", "wall", "ratio", "CPU", "ratio", "size", "ratio", "memory", "ratio")
	for i, e := range list {
		fmt.Fprintf(w, "  %-34s", e.name)
		for _, column := range []struct {
			of   func(spent) float64
			form string
		}{
			{func(s spent) float64 { return s.wall.Seconds() }, "%7.2f s"},
			{func(s spent) float64 { return s.cpu.Seconds() }, "%7.2f s"},
			{func(s spent) float64 { return float64(s.size) / 1e6 }, "%6.1f MB"},
			{func(s spent) float64 { return float64(s.peak) / 1e6 }, "%6.1f MB"},
		} {
			v, first := medianOf(runs[i], column.of), medianOf(runs[0], column.of)
			ratio := "-"
			if first > 0 {
				ratio = fmt.Sprintf("%.2f", v/first)
			}
			fmt.Fprintf(w, " "+column.form+" %6s", v, ratio)
		}
		fmt.Fprintln(w)
	}
	return nil
}

func medianOf(runs []spent, of func(spent) float64) float64 {
	var v []float64
	for _, s := range runs {
		v = append(v, of(s))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func (e entrant) run(ctx context.Context, out string) (spent, error) {
	if err := os.Remove(out); err != nil && !errors.Is(err, os.ErrNotExist) {
		return spent{}, err
	}
	cmd, err := e.command(ctx, out)
	if err != nil {
		return spent{}, err
	}
	start := time.Now()
	if _, err := rig.Output(cmd); err != nil {
		return spent{}, err
	}
	s := spent{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.peak = u.Maxrss << 10
	}
	if st, err := os.Stat(out); err == nil {
		s.size = st.Size()
	}
	return s, nil
}
