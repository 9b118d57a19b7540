package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/targets"
)

// account is what became of this attempt, for result.json.
type account struct {
	start   time.Time
	path    string         // where attempts tell each other; "": nowhere
	meter   *result.Meter  // nil: not in a capture kernel
	before  *result.Result // by earlier attempts
	attempt result.Attempt
	files   []result.File
	lost    []string
}

func newAccount(o options, log *logger) *account {
	c := &account{start: time.Now(), path: os.Getenv(result.PathVariable), before: &result.Result{Saved: result.SavedNothing}}
	c.attempt = result.Attempt{Target: targets.Redacted(o.target), Saved: result.SavedNothing}
	if o.kmsg {
		c.meter = result.NewMeter()
	}
	if c.path == "" {
		return c
	}
	before, err := result.Load(c.path)
	switch {
	case err == nil:
		c.before = before
	case !errors.Is(err, fs.ErrNotExist):
		log.printf("earlier attempts are not known: %v", err)
	}
	return c
}

// step does a part of the attempt and notes how long it took.
func (c *account) step(name string, run func() error) error {
	start := time.Now()
	err := run()
	s := result.Step{Name: name, Seconds: seconds(time.Since(start))}
	if err != nil {
		s.Error = err.Error()
	}
	c.attempt.Steps = append(c.attempt.Steps, s)
	return err
}

func (c *account) lose(format string, a ...any) {
	c.lost = append(c.lost, fmt.Sprintf(format, a...))
}

// fail notes what kept the attempt from saving all, nil if nothing did.
func (c *account) fail(err error) {
	if err != nil {
		c.attempt.Error = err.Error()
	}
}

func (c *account) file(name string, size int64) {
	c.files = append(c.files, result.File{Name: name, Bytes: size})
}

func (c *account) has(name string) bool {
	return slices.ContainsFunc(c.files, func(f result.File) bool { return f.Name == name })
}

// seconds are precise enough to milliseconds, and shorter.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// since is the time of the whole capture, where this is one.
func (c *account) since(capture bool) float64 {
	var ts unix.Timespec
	if capture && unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) == nil {
		return seconds(time.Duration(ts.Nano()))
	}
	return seconds(time.Since(c.start))
}

// outcome is what an exit status has saved.
func (a *attempt) outcome(status int) string {
	switch {
	case status == exitSaved && !a.o.logOnly:
		return result.SavedAll
	case status == exitSaved || status == exitLogOnly:
		return result.SavedLog
	}
	return result.SavedNothing
}

// result is the capture so far, with this attempt. What an earlier one saved and
// this one did not stays what was saved.
func (a *attempt) result(status int) *result.Result {
	c := a.account
	c.attempt.Saved, c.attempt.Seconds = a.outcome(status), seconds(time.Since(c.start))
	r := *c.before
	r.Attempts = append(slices.Clone(r.Attempts), c.attempt)
	r.Seconds = c.since(a.o.kmsg)
	r.Host, r.Kernel, r.CrashTime = a.uname.Nodename, a.uname.Release, crashTime(a.core).UTC()
	worth := []string{result.SavedNothing, result.SavedLog, result.SavedAll}
	more := slices.Index(worth, c.attempt.Saved) - slices.Index(worth, r.Saved)
	if more > 0 || more == 0 && status == exitLogOnly { // as much, and it knows why not the core
		r.Saved, r.Target, r.Directory, r.Files, r.Lost = c.attempt.Saved, c.attempt.Target, a.dir, c.files, c.lost
	}
	if r.Saved == result.SavedNothing {
		r.Lost = c.lost
	}
	if c.meter != nil {
		r.Memory = c.meter.Memory(r.Memory)
	}
	return &r
}

// logMemory tells what the capture took, for the choice of crashkernel=.
func (a *attempt) logMemory() {
	c := a.account
	if c.meter == nil {
		return
	}
	m := c.meter.Memory(c.before.Memory)
	text := fmt.Sprintf("memory: savecore took %s at most; of %s, %s were free at the least", kib(m.PeakKiB), kib(m.SystemKiB), kib(m.LeastAvailableKiB))
	if m.UnpackKiB > 0 {
		text += fmt.Sprintf("; the image needs %s to be unpacked", kib(m.UnpackKiB))
	}
	if m.CrashkernelMiB > 0 {
		text += fmt.Sprintf("; crashkernel=%dM would do", m.CrashkernelMiB)
	}
	a.log.printf("%s", text)
}

func kib(n int) string { return mib(uint64(n) << 10) }

// saveResult writes result.json beside the dump. status is what the attempt would
// end with now.
func (a *attempt) saveResult(ctx context.Context, status int) error {
	return a.writeAgain(ctx, result.Name, func(w io.Writer) error { return a.result(status).Write(w) })
}

// storeUnfinished tells of the log that is safe, in case that nothing else is told.
func (a *attempt) storeUnfinished() {
	if a.account.path == "" {
		return
	}
	r := a.result(exitLogOnly)
	r.Attempts[len(r.Attempts)-1].Error = result.Unfinished
	if r.Directory == a.dir && !a.o.logOnly {
		r.Lost = append(slices.Clone(r.Lost), "the core: the attempt did not end")
	}
	if err := r.Store(a.account.path); err != nil {
		a.log.printf("result: %v", err)
	}
}

// closeAccount leaves the result to the next attempt and to PID 1.
func (a *attempt) closeAccount(status int, err error) {
	c := a.account
	c.fail(err)
	if c.path != "" {
		if err := a.result(status).Store(c.path); err != nil {
			a.log.printf("result: %v", err)
		}
	}
	if c.meter != nil {
		c.meter.Stop()
	}
}
