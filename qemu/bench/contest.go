package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
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
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return spent{}, err
	}
	watch := watchPeak(cmd.Process.Pid)
	err = cmd.Wait()
	s := spent{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), peak: watch()}
	if err != nil {
		return spent{}, fmt.Errorf("%w: %s", err, complaint.String())
	}
	if st, err := os.Stat(out); err == nil {
		s.size = st.Size()
	}
	return s, nil
}

// watchPeak follows the peak of a process's resident memory until the returned
// function is called. The rusage of a child does not tell it: that is never less
// than what its parent had.
func watchPeak(pid int) (peak func() int64) {
	last, stop, done := int64(0), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if n := peakOf(pid); n > 0 {
				last = n
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-done
		return last
	}
}

func peakOf(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // none: it has ended
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
