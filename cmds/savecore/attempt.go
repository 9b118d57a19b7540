package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/watchdog"
	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/triage"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// attempt is one core on its way to one target.
type attempt struct {
	o   options
	log *logger
	out io.Writer

	core    *vmcore.Core
	uname   triage.Uname
	network *netcfg.Network // nil: it was not brought up here
	target  targets.Target
	dir     string // of this crash, on the target
	sums    sums

	account *account
	beat    *watchdog.Beater // tells PID 1 that this attempt moves; nil: nobody asks
	grace   atomic.Int64     // that beats of moved ask for
}

func newAttempt(o options, log *logger, out io.Writer) *attempt {
	return &attempt{o: o, log: log, out: out, account: newAccount(o, log)}
}

// What may take longer than PID 1's patience although nothing is wrong. Everything
// else moves in small steps.
const (
	commitGrace = 2 * time.Minute // what a disk or server still has to write
	closeGrace  = time.Minute     // unmounting, and what is not safe before it
	removeGrace = time.Minute     // of a large file
)

// run is the attempt, and its account.
func (a *attempt) run(ctx context.Context) int {
	if a.o.target == "-" {
		return a.printLog()
	}
	status, err := a.toTarget(ctx)
	a.closeAccount(status, err)
	return status
}

// toTarget saves the core on the target. The error is what kept it from saving all.
func (a *attempt) toTarget(ctx context.Context) (status int, err error) {
	defer a.leaveNetwork()
	if err := a.account.step("open core", a.openCore); err != nil {
		a.log.printf("no core: %v", err)
		err = fmt.Errorf("no core: %w", err)
		if a.account.path != "" { // a capture, whose own log is all that there is
			err = errors.Join(err, a.saveWhy(ctx, err))
		}
		return exitNothing, err
	}
	defer a.core.Close()
	if err := a.openTarget(ctx); err != nil {
		a.log.printf("target: %v", err)
		return exitNothing, err
	}
	status, err = a.save(ctx)
	a.patient(closeGrace)
	if closeErr := a.account.step("close target", a.target.Close); closeErr != nil {
		a.log.printf("close target: %v", closeErr)
		err = errors.Join(err, closeErr)
		if status == exitSaved {
			status = exitLogOnly
		}
	}
	return status, err
}

// saveWhy leaves on the target how it went, and why nothing else is there.
func (a *attempt) saveWhy(ctx context.Context, why error) error {
	a.account.lose("everything: %v", why)
	if err := a.openTarget(ctx); err != nil {
		a.log.printf("target: %v", err)
		return err
	}
	a.saveAccount(ctx, exitNothing)
	a.log.printf("saved only the log of the capture in %s on %s", a.dir, targets.Redacted(a.o.target))
	a.patient(closeGrace)
	return a.account.step("close target", a.target.Close)
}

// save saves in the order of worth: the kernel log, then the core, then how it
// went. What fails does not touch what was saved before it.
func (a *attempt) save(ctx context.Context) (status int, err error) {
	logErr := a.account.step("kernel log", func() error { return a.saveLog(ctx) })
	if logErr != nil {
		a.log.printf("kernel log not saved: %v", logErr)
		a.account.lose("the kernel log: %v", logErr)
	} else {
		a.storeUnfinished()
	}
	coreErr := a.saveCoreIfAsked(ctx)
	status = exitNothing
	switch {
	case coreErr == nil && (logErr == nil || !a.o.logOnly):
		status = exitSaved
	case logErr == nil:
		status = exitLogOnly
	}
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.tellingTime(errors.Join(logErr, coreErr)))
	defer cancel()
	a.account.fail(errors.Join(logErr, coreErr))
	a.saveAccount(telling, status)
	switch {
	case status == exitSaved && !a.o.logOnly:
		a.thinOut(ctx)
		a.prune(ctx)
	case logErr == nil:
		a.boundLogs(telling)
	}
	switch status {
	case exitSaved:
		a.log.printf("saved %s on %s", a.dir, targets.Redacted(a.o.target))
	case exitLogOnly:
		a.log.printf("saved only the kernel log in %s on %s", a.dir, targets.Redacted(a.o.target))
	}
	return status, errors.Join(logErr, coreErr)
}

// tellingTime is for how it went. Where it went wrong the server may be gone, and the
// next target waits; and it is less than the 10 s that PID 1 gives an attempt that it
// has told to end.
func (a *attempt) tellingTime(err error) time.Duration {
	if err != nil {
		return min(8*time.Second, a.o.stallTimeout)
	}
	return a.o.stallTimeout
}

func (a *attempt) saveCoreIfAsked(ctx context.Context) error {
	if a.o.logOnly {
		a.account.lose("the core: it was left to other targets")
		return nil
	}
	err := a.account.step("core", func() error { return a.saveCore(ctx) })
	if err != nil {
		a.log.printf("core not saved: %v", err)
		a.account.lose("the core: %v", err)
	}
	return err
}

// saveAccount tells how it went, even if the time is over: what kills this process
// after SIGTERM bounds it.
func (a *attempt) saveAccount(ctx context.Context, status int) {
	a.logMemory()
	for _, f := range []struct {
		name string
		save func() error
	}{
		{"capture.log", func() error { return a.saveCaptureLog(ctx) }},
		{"result.json", func() error { return a.saveResult(ctx, status) }},
		{"SHA256SUMS", func() error { return a.sums.save(ctx, a) }}, // the files that it sums up are safe
	} {
		err := f.save()
		if err != nil {
			a.log.printf("%s not saved: %v", f.name, err)
		}
		var told *targets.Error
		if errors.As(err, &told) && told.Temporary {
			return // a server that does not answer: each file would wait for it as long
		}
	}
}

// openCore opens the core, or old memory itself where the kernel offers none. a.core
// is nil after an error.
func (a *attempt) openCore() (err error) {
	defer func() {
		if err != nil {
			a.core = nil
		}
	}()
	st, statErr := os.Stat(a.o.core)
	if statErr == nil && (st.Size() > 0 || !st.Mode().IsRegular()) {
		a.core, err = vmcore.Open(a.o.core)
		if err == nil && len(a.core.Ranges()) == 0 {
			a.core.Close()
			err = fmt.Errorf("%s describes no memory", a.o.core)
		}
		if err == nil {
			a.describe(a.o.core)
			return nil
		}
	} else if err = statErr; err == nil {
		err = fmt.Errorf("%s is empty", a.o.core)
	}
	if a.o.elfcorehdr == "" {
		return err
	}
	a.log.printf("%v; reading old memory through %s", err, a.o.devmem)
	header, err := vmcore.ParseElfcorehdr(a.o.elfcorehdr)
	if err != nil {
		return err
	}
	if a.core, err = vmcore.OpenOldMem(a.o.devmem, header); err != nil {
		return err
	}
	a.describe(a.o.devmem)
	return nil
}

func (a *attempt) describe(path string) {
	var err error
	if a.uname, err = triage.ReadUname(a.core); err != nil {
		a.log.printf("%v", err)
	}
	var pages uint64
	for _, r := range a.core.Ranges() {
		pages += uint64(r.End - r.Start)
	}
	a.log.printf("core %s: Linux %s on %s, %s of memory", path, a.uname.Release, a.uname.Machine, mib(pages<<a.core.PageShift()))
	for _, s := range a.core.Skipped() {
		a.log.printf("core header: %s", s)
	}
}

func (a *attempt) printLog() int {
	if err := a.openCore(); err != nil {
		a.log.printf("no core: %v", err)
		return exitNothing
	}
	defer a.core.Close()
	if _, err := triage.Log(a.core, a.out, triage.LogOptions{}); err != nil {
		a.log.printf("%v", err)
		return exitNothing
	}
	return exitSaved
}

func (a *attempt) openTarget(ctx context.Context) error {
	start := time.Now()
	o := a.targetOptions()
	if a.needsNetwork() {
		if err := a.reach(ctx, "network", a.o.targetTimeout, func(ctx context.Context) error { return a.bringNetwork(ctx, &o) }); err != nil {
			return err
		}
	}
	left := max(a.o.targetTimeout-time.Since(start), min(leastOpen, a.o.targetTimeout))
	err := a.reach(ctx, "open target", left, func(ctx context.Context) (err error) {
		a.target, err = targets.Open(ctx, a.o.target, o)
		return err
	})
	if err != nil {
		return err
	}
	a.log.printf("target %s ready after %.1f s", targets.Redacted(a.o.target), time.Since(start).Seconds())
	a.dir = directoryName(a.core, a.uname)
	return nil
}

func (a *attempt) targetOptions() targets.Options {
	o := targets.Options{Log: a.log.printf, MountDir: a.o.mountDir, Driver: loadDriver, Moved: a.moved}
	o.Stall, o.Reconnect = patience(a.o.stallTimeout)
	return o
}

// leastOpen is what is left for a server that answers, when its network has taken
// nearly all the time that there was.
const leastOpen = 30 * time.Second

// patience shares out the time that a server may do nothing: until its connection is
// given up, and for getting another one. An eighth is left for telling of it before
// PID 1 ends the attempt.
func patience(all time.Duration) (stall, reconnect time.Duration) {
	const most = 30 * time.Second // a server that says nothing for longer is gone
	stall = min(all/4, most)
	return stall, all - all/8 - stall
}

// reach is a step on the way to the target.
func (a *attempt) reach(ctx context.Context, name string, within time.Duration, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	a.beat.Beat(within)
	defer a.beat.Beat(0)
	return a.account.step(name, func() error { return step(ctx) })
}

// moduleTimeout is how long a driver may look for its hardware.
const moduleTimeout = 30 * time.Second

// loadDriver loads the modules that a capture image has for a file system, or for
// the network. Elsewhere there is no list, and the kernel gets its modules by itself.
func loadDriver(ctx context.Context, fstype string) error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	o := modules.Options{Cmdline: string(line)}
	if until, ok := ctx.Deadline(); ok { // a driver that hangs leaves time for the others
		o.PerModule = min(moduleTimeout, time.Until(until)/4)
	}
	if fstype == modules.NetList {
		o.Devices = "/sys"
	}
	results, err := modules.LoadFile(ctx, modules.FSListPath(fstype), o)
	for _, r := range results {
		if !r.Absent {
			err = errors.Join(err, r.Err)
		}
	}
	return err
}

// saveLog writes vmcore-dmesg.txt. It is safe on the target before the core is begun.
func (a *attempt) saveLog(ctx context.Context) error {
	var records int
	size, err := a.writeFile(ctx, "vmcore-dmesg.txt", func(w io.Writer) (err error) {
		records, err = triage.Log(a.core, w, triage.LogOptions{})
		return err
	})
	if errors.Is(err, fs.ErrExist) {
		a.log.printf("vmcore-dmesg.txt is there already, from an earlier attempt")
		return a.sumLog()
	}
	if err != nil {
		return err
	}
	a.log.printf("saved vmcore-dmesg.txt: %d records, %s", records, mib(uint64(size)))
	return nil
}

// sumLog adds the kernel log that an earlier attempt saved to what this one sums up.
func (a *attempt) sumLog() error {
	var size counter
	s := newSum("vmcore-dmesg.txt", &size)
	if _, err := triage.Log(a.core, s, triage.LogOptions{}); err != nil {
		return err
	}
	a.sums.add(s)
	a.account.file(s.name, int64(size))
	return nil
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func (a *attempt) saveCaptureLog(ctx context.Context) error {
	return a.writeAgain(ctx, "capture.log", a.log.save)
}

// writeAgain is writeFile for what tells how it went: what an earlier attempt has
// told is known to this one. But the account of a core stays with it.
func (a *attempt) writeAgain(ctx context.Context, name string, write func(io.Writer) error) error {
	_, err := a.writeFile(ctx, name, write)
	if errors.Is(err, fs.ErrExist) && (a.account.has("vmcore") || !a.isComplete(ctx, a.dir)) {
		if err = a.target.Remove(ctx, a.dir+"/"+name); err == nil {
			_, err = a.writeFile(ctx, name, write)
		}
	}
	return err
}

// writeFile writes one small file of the dump directory and commits it.
func (a *attempt) writeFile(ctx context.Context, name string, write func(io.Writer) error) (int64, error) {
	a.beat.Beat(0)
	f, err := a.target.Create(ctx, a.dir+"/"+name)
	if err != nil {
		return 0, err
	}
	sum := newSum(name, a.moving(f))
	if err := write(sum); err != nil {
		f.Close() // leaves NAME-incomplete
		if f.Size() == 0 {
			err = errors.Join(err, a.target.Remove(ctx, targets.IncompleteName(a.dir+"/"+name)))
		}
		return 0, err
	}
	if err := f.Commit(); err != nil {
		f.Close()
		return 0, err
	}
	a.sums.add(sum)
	a.account.file(name, f.Size())
	return f.Size(), nil
}

// saveCore writes vmcore, at a stricter level if it does not fit at the one asked
// for. Readers of the kdump format begin with VMCOREINFO: without it the core is an
// ELF file, as far as that fits.
func (a *attempt) saveCore(ctx context.Context) error {
	if asked := a.o; a.core.Info().Len() == 0 && asked.format != "elf" {
		a.log.printf("degraded: the crashed kernel left no VMCOREINFO: every page, in an ELF core")
		a.account.lose("nothing, but without VMCOREINFO the core is an unfiltered ELF file")
		a.o.format, a.o.compress = "elf", kdumpfile.None.String()
		_, err := a.saveCoreAt(ctx, a.o.level, false)
		if a.o = asked; !errors.Is(err, targets.ErrNoSpace) {
			return err
		}
		a.log.printf("degraded: %v; compressed instead", err)
	}
	used, err := a.saveCoreAt(ctx, a.o.level, false)
	if used.level == a.o.level && (used.level|memmap.LevelZero) != memmap.LevelMax && errors.Is(err, targets.ErrNoSpace) {
		a.log.printf("degraded: dump level %d does not fit (%v); trying level %d", used.level, err, memmap.LevelMax)
		a.account.lose("what dump level %d leaves out: level %d does not fit", memmap.LevelMax, used.level)
		used, err = a.saveCoreAt(ctx, memmap.LevelMax, false)
	}
	if !used.doubted || !errors.Is(err, targets.ErrNoSpace) {
		return err
	}
	a.log.printf("degraded: every page does not fit (%v); trying level %d by the page array that is in doubt", err, memmap.LevelMax)
	a.account.lose("pages that level %d keeps, perhaps: the page array is in doubt, and every page does not fit", memmap.LevelMax)
	_, err = a.saveCoreAt(ctx, memmap.LevelMax, true)
	return err
}

// filter is what a map left out in truth.
type filter struct {
	level   memmap.Level // weaker than asked for if the kernel's own page array cannot be read or believed
	doubted bool         // the page array can be read, and is not believed
}

// saveCoreAt makes one try and gives the filter really used. doubted believes the page
// array whatever it says.
func (a *attempt) saveCoreAt(ctx context.Context, level memmap.Level, doubted bool) (used filter, err error) {
	start := time.Now()
	m := a.classify(ctx, level, doubted)
	used = filter{m.Level, m.Doubted}
	if err := ctx.Err(); err != nil {
		return used, err
	}
	a.log.printf("classified %d pages in %.1f s: level %d keeps %d", m.Ram.Count(), time.Since(start).Seconds(), m.Level, m.Keep.Count())
	a.log.printf("pages: %s", m.CountsLine())
	codec, codecLevel, err := dump.ParseCompress(a.o.compress)
	if err != nil {
		return used, err
	}
	do := dump.Options{Codec: codec, Level: codecLevel, Workers: a.o.workers}
	if err := a.checkSpace(ctx, m, do); err != nil {
		return used, err
	}
	return used, a.writeCore(ctx, m, do)
}

// classify makes the map for level; where the kernel's data does not allow it,
// for the weaker level that always works.
func (a *attempt) classify(ctx context.Context, level memmap.Level, doubted bool) *memmap.Map {
	m, err := memmap.Plan(ctx, a.core, memmap.Options{Level: level, Doubted: doubted, Workers: a.o.workers, Progress: func() { a.beat.Beat(0) }})
	for _, n := range m.Notes {
		a.log.printf("memory map: %s", n)
	}
	if err != nil && ctx.Err() == nil {
		a.log.printf("degraded: %v", err)
		if !doubted { // else it is told already what that costs
			a.account.lose("nothing, but %v", err)
		}
	}
	if m.Absent > 0 {
		a.log.printf("%d pages were left out of the core before", m.Absent)
	}
	return m
}

// checkSpace refuses a dump that would leave less than reserve free, or that
// the target's file system has no files for.
func (a *attempt) checkSpace(ctx context.Context, m *memmap.Map, o dump.Options) error {
	free, err := a.target.Space(ctx)
	if errors.Is(err, targets.ErrSpaceUnknown) {
		a.log.printf("free space on the target is not known")
		return nil
	}
	if err != nil {
		return err
	}
	room := min(free-min(free, a.o.reserve), uint64(targets.MaxFileSize(a.target)))
	if most := dump.Most(a.core, m); most <= room {
		a.log.printf("at most %s, free %s, reserve %s", mib(most), mib(free), mib(a.o.reserve))
		return nil
	}
	need, err := dump.Estimate(a.core, m, o)
	if err != nil {
		return err
	}
	a.log.printf("estimate %s, free %s, reserve %s", mib(need), mib(free), mib(a.o.reserve))
	if need > room {
		return fmt.Errorf("about %s needed, %s free, %s reserved, room for a file of %s: %w", mib(need), mib(free), mib(a.o.reserve), mib(room), targets.ErrNoSpace)
	}
	return nil
}
