package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/blockdev"
	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// capture is the state of PID 1. A step that outlived its deadline may still
// touch it: what more than one goroutine uses guards itself.
type capture struct {
	start    time.Time
	log      journal
	children reaper
	machine  machine
	ending   atomic.Bool // finish was called

	cmdline    string // of findCrash, without which nothing goes on
	elfcorehdr string
	saved      string // what the last good attempt left; for the closing line
	guard      guard

	mu       sync.Mutex    // guards what follows
	cfg      config.Config // see config
	until    time.Time     // when the whole capture is over
	deadline *time.Timer   // of that; fires finish

	grace time.Duration // for tests: in place of endGrace and killGrace
}

// newCapture starts the clock.
func newCapture(m machine) *capture {
	c := &capture{start: time.Now(), machine: m, cfg: config.Default()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = c.start.Add(c.cfg.Timeout)
	c.deadline = time.AfterFunc(c.cfg.Timeout, func() { c.finish(false, "the time allowed for the whole capture is over") })
	return c
}

func (c *capture) config() config.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}

// configure takes a configuration, and its deadline: not less than a minute from now.
func (c *capture) configure(cfg config.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg = cfg
	left := max(time.Until(c.start.Add(cfg.Timeout)), time.Minute)
	c.until = time.Now().Add(left)
	c.deadline.Reset(left)
}

func (c *capture) left() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.until)
}

func (c *capture) patience(d time.Duration) time.Duration {
	if c.grace > 0 {
		return c.grace
	}
	return d
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
	c := newCapture(kernel{})
	c.heedSignals()
	defer c.finish(false, "init ended")
	defer func() {
		if r := recover(); r != nil {
			c.finish(false, fmt.Sprintf("init panicked: %v", r))
		}
	}()
	for _, s := range []step{
		{"mount kernel filesystems", 10 * time.Second, false, c.mountKernel},
		{"open consoles", 5 * time.Second, false, c.log.open},
		{"bound memory", 5 * time.Second, false, c.boundMemory},
		{"look for a crash", 10 * time.Second, true, c.findCrash},
		{"weigh the start", 5 * time.Second, false, c.weighStart},
		{"read configuration", 10 * time.Second, false, c.readConfig},
		{"arm watchdogs", watchdogTimeout, false, c.armEarly},
		{"load modules", modulesTimeout + 10*time.Second, false, c.loadModules},
		{"arm watchdogs", watchdogTimeout, false, func() error { return c.arm(true) }},
		{"pre hooks", 0, false, func() error { return c.hooks("pre", c.config().Pre) }},
		{"save the crash", 0, true, c.attemptsAndPost},
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
	c.guard.beat(s.timeout)
	defer c.guard.beat(0)
	select {
	case err := <-done:
		return err
	case <-time.After(s.timeout):
		return fmt.Errorf("not done after %s, going on without", s.timeout)
	}
}

func (c *capture) logf(format string, a ...any) { c.log.line(fmt.Sprintf(format, a...)) }

// heedSignals ends the capture in good order when PID 1 is told to end. Without
// it the Go runtime would end PID 1, and with it the kernel, for any of these.
func (c *capture) heedSignals() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	go func() {
		for s := range signals {
			if s == unix.SIGTERM || s == unix.SIGINT {
				c.finish(false, "told to end by "+unix.SignalName(s.(unix.Signal)))
			}
		}
	}()
}

func (c *capture) mountKernel() error {
	var errs []error
	for _, m := range []struct{ fs, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
		{"tmpfs", filepath.Dir(result.RunPath)}, // the root may be full of what is in the image
	} {
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
	c.configure(cfg)
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
	urls := c.config().Targets
	for _, url := range urls {
		target, err := targets.Parse(url)
		if err != nil || target.Scheme != "disk" {
			return false
		}
		spec, err := blockdev.ParseSpec(target.Device)
		if err != nil {
			return false
		}
		d, err := blockdev.Find(ctx, spec, func(string, ...any) {})
		if err != nil || !d.Complete() {
			return false
		}
	}
	return len(urls) > 0
}
