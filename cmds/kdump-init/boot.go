package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/blockdev"
	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/console"
	"github.com/ukdump/ukdump/internal/kmsg"
	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// capture is the state of PID 1. A step that outlived its deadline may still
// touch it; nothing that steps after it need is written by more than one step.
type capture struct {
	start    time.Time
	consoles *console.Set
	kmsg     *kmsg.Writer

	kernelShows bool // what goes to kmsg is on the consoles by itself
	cmdline     string
	elfcorehdr  string
	cfg         config.Config
	deadline    *time.Timer // of everything; fires finish
	ended       sync.Once

	saved string // what the last good attempt left; for the closing line
}

// step is one thing to do before or while saving.
type step struct {
	name     string
	timeout  time.Duration // 0: it bounds itself
	required bool          // nothing after it makes sense without it
	run      func() error
}

// boot is the life of PID 1. It does not return to the kernel.
func boot() {
	c := &capture{start: time.Now(), cfg: config.Default()}
	defer c.finish(false, "init ended")
	defer func() {
		if r := recover(); r != nil {
			c.finish(false, fmt.Sprintf("init panicked: %v", r))
		}
	}()
	c.deadline = time.AfterFunc(c.cfg.Timeout, func() { c.finish(false, "the time allowed for the whole capture is over") })
	for _, s := range []step{
		{"mount kernel filesystems", 10 * time.Second, false, c.mountKernel},
		{"open consoles", 5 * time.Second, false, c.openLog},
		{"look for a crash", 10 * time.Second, true, c.findCrash},
		{"read configuration", 10 * time.Second, false, c.readConfig},
		{"load modules", modulesTimeout + 10*time.Second, false, c.loadModules},
		{"save the crash", 0, true, c.attempts},
	} {
		if err := c.do(s); err != nil {
			c.logf("%s: %v", s.name, err)
			if s.required {
				c.finish(false, s.name+": "+err.Error())
			}
		}
	}
	c.finish(true, c.saved)
}

// do runs a step under its deadline. A step that does not come back, in a
// system call that hangs, is left behind.
func (c *capture) do(s step) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("panic: %v", r)
			}
		}()
		done <- s.run()
	}()
	if s.timeout == 0 {
		return <-done
	}
	select {
	case err := <-done:
		return err
	case <-time.After(s.timeout):
		return fmt.Errorf("not done after %s, going on without", s.timeout)
	}
}

func (c *capture) logf(format string, a ...any) {
	line := fmt.Sprintf(format, a...)
	if c.kmsg != nil {
		c.kmsg.Line(line)
		if c.kernelShows {
			return
		}
	}
	c.show("kdump-init: " + line)
}

// show puts a line on the consoles, with the seconds since this kernel began.
func (c *capture) show(line string) {
	if c.consoles == nil {
		fmt.Fprintln(os.Stderr, line)
		return
	}
	c.consoles.Line(fmt.Sprintf("[%8.3f] %s", uptime(), line))
}

// consolePatience is how long a line may wait for a console that is behind.
const consolePatience = 10 * time.Second

// showWithin puts a line on the consoles as it is and waits for slow ones.
func (c *capture) showWithin(line string, patience time.Duration) {
	if c.consoles != nil {
		c.consoles.LineWithin(line, patience)
	}
}

// kernelShowsDebug says whether the kernel itself puts all of its log on the
// consoles, as with "debug" or "ignore_loglevel": lines written there too would
// stand twice.
func kernelShowsDebug() bool {
	ignore, err := os.ReadFile("/sys/module/printk/parameters/ignore_loglevel")
	if err == nil && strings.HasPrefix(string(ignore), "Y") {
		return true
	}
	levels, err := os.ReadFile("/proc/sys/kernel/printk")
	if err != nil {
		return false
	}
	var console int
	_, err = fmt.Sscan(string(levels), &console)
	return err == nil && console > 7
}

// uptime is the clock of the kernel's log.
func uptime() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return float64(ts.Sec) + float64(ts.Nsec)/1e9
}

func (c *capture) mountKernel() error {
	var errs []error
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			errs = append(errs, err)
		}
		if isMounted(m.dir) { // as devtmpfs is with CONFIG_DEVTMPFS_MOUNT
			continue
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, unix.MS_NOSUID, ""); err != nil {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.dir, err))
		}
	}
	return errors.Join(errs...)
}

// isMounted says whether dir is on another filesystem than the root.
func isMounted(dir string) bool {
	var root, at unix.Stat_t
	return unix.Stat("/", &root) == nil && unix.Stat(dir, &at) == nil && root.Dev != at.Dev
}

func (c *capture) openLog() (err error) {
	c.kernelShows = kernelShowsDebug()
	c.consoles = console.Open("/sys/class/tty/console/active", "/dev")
	c.kmsg, err = kmsg.Open("kdump-init: ", kmsg.Debug)
	return err
}

// findCrash makes sure that this kernel was started by a crash: only then does
// its command line carry the address of the crashed kernel's ELF headers.
func (c *capture) findCrash() error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	c.cmdline = strings.TrimSpace(string(b))
	for _, w := range cmdline.Words(c.cmdline) {
		if w.Key == "elfcorehdr" {
			c.elfcorehdr = w.Value
		}
	}
	if c.elfcorehdr == "" {
		return errors.New("no elfcorehdr= on the command line: this is not a crash boot, there is nothing to save")
	}
	h, err := vmcore.ParseElfcorehdr(c.elfcorehdr)
	if err != nil {
		c.elfcorehdr = "" // /proc/vmcore may be right all the same
		c.logf("%v", err)
		return nil
	}
	c.logf("a kernel crashed; its ELF headers are at %#x", h.Addr)
	return nil
}

// readConfig never costs the crash: what is wrong is said, what is right counts.
func (c *capture) readConfig() error {
	cfg, problems, err := loadConfig(configPath, c.cmdline)
	c.cfg = cfg
	c.deadline.Reset(max(cfg.Timeout-time.Since(c.start), time.Minute))
	for _, p := range problems {
		c.logf("warning: %v", p)
	}
	if len(cfg.Targets) == 0 {
		c.logf("warning: no target is configured, the kernel log goes to the console")
	}
	return err
}

// modulesTimeout is for all modules together, moduleTimeout for each: a driver
// may look for its hardware before it returns.
const (
	modulesTimeout = 2 * time.Minute
	moduleTimeout  = 30 * time.Second
)

func (c *capture) loadModules() error {
	if c.targetsThere() {
		c.logf("the targets' devices are there, no modules are needed")
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), modulesTimeout)
	defer cancel()
	results, err := modules.LoadFile(ctx, modules.ListPath, modules.Options{PerModule: moduleTimeout, Cmdline: c.cmdline})
	loaded := 0
	for _, r := range results {
		switch {
		case r.Err == nil:
			loaded++
		case !r.Absent:
			c.logf("warning: %v", r.Err)
		}
	}
	if len(results) > 0 {
		c.logf("%d of %d modules loaded", loaded, len(results))
	}
	return err
}

// presence is how long the look for targets that need no modules may take.
const presence = 300 * time.Millisecond

// targetsThere says whether all targets are disks that the kernel has found
// with the drivers built into it. Drivers that are not needed cost memory, and
// some hang.
func (c *capture) targetsThere() bool {
	ctx, cancel := context.WithTimeout(context.Background(), presence)
	defer cancel()
	for _, url := range c.cfg.Targets {
		target, err := targets.Parse(url)
		if err != nil || target.Scheme != "disk" {
			return false
		}
		spec, err := blockdev.ParseSpec(target.Device)
		if err != nil {
			return false
		}
		if _, err := blockdev.Find(ctx, spec, func(string, ...any) {}); err != nil {
			return false
		}
	}
	return len(c.cfg.Targets) > 0
}

// attempts runs the plan until a target has the whole crash.
func (c *capture) attempts() error {
	best := exitNothing
	for _, a := range plan(c.cfg, c.elfcorehdr) {
		target := a.argv[len(a.argv)-1]
		if a.console() && best == exitLogOnly {
			break // the log is safe on a target already
		}
		c.logf("run %s", a)
		status, err := c.child(a)
		switch {
		case err != nil:
			c.logf("savecore: %v", err)
		case status == exitSaved && a.console():
			return errors.New("no target could be used, the kernel log is above")
		case status == exitSaved:
			c.saved = "crash saved on " + target
			return nil
		case status == exitLogOnly:
			best = status
			c.saved = "only the kernel log saved on " + target
		}
	}
	if best == exitLogOnly {
		return errors.New(c.saved)
	}
	return errors.New("nothing could be saved")
}

// Exit statuses of savecore.
const (
	exitSaved   = 0
	exitNothing = 1
	exitLogOnly = 3
)
