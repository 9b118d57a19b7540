package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/watchdog"
	"github.com/ukdump/ukdump/pkg/config"
)

// Deadlines of the way out. Each part may hang on a dead disk or server.
const (
	sayTimeout     = 5 * time.Second
	unmountTimeout = 20 * time.Second
	syncTimeout    = 20 * time.Second
	consoleFlush   = 3 * time.Second
	rebootTimeout  = 10 * time.Second

	wayOut = sayTimeout + 2*(endGrace+killGrace) + unmountTimeout + syncTimeout + 3*consoleFlush + 2*rebootTimeout
)

// machine is what finish does to the machine.
type machine interface {
	signalAll(sig unix.Signal) error // every process but PID 1
	unmount(logf func(string, ...any)) error
	sync() error
	power(command int) error // reboot(2)
	crash()                  // what is left if that is refused, or hangs
}

// finish ends the capture: it says in one line how it went, and reboots or does
// what is configured instead. Whoever calls it: the first call does the work,
// and none returns.
func (c *capture) finish(ok bool, how string) {
	if c.ending.Swap(true) {
		select {}
	}
	cfg := c.config()
	action, word := cfg.Final, "done"
	if !ok {
		action, word = cfg.Failure, "FAILED"
	}
	limit := wayOut
	if action == config.Shell {
		limit += cfg.Timeout
	}
	// Should something here wait after all, or panic.
	time.AfterFunc(limit, c.machine.crash)
	defer c.machine.crash()
	defer func() { _ = recover() }()

	c.bounded(consoleFlush+sayTimeout, func() error {
		c.log.flush(consoleFlush, consoleFlush, nil) // the kernel log, of which this line is the end
		c.logf("%s: %s (%.1f s); next: %s", word, how, time.Since(c.start).Seconds(), action)
		return nil
	})
	if action == config.Shell {
		c.bounded(cfg.Timeout, c.shell)
		action = config.Reboot
	}
	c.bounded(endGrace+killGrace, c.endChildren)
	c.bounded(unmountTimeout, func() error { return c.machine.unmount(c.logf) })
	c.bounded(syncTimeout, c.machine.sync)
	c.bounded(2*consoleFlush, func() error { c.log.close(consoleFlush); return nil })
	c.bounded(rebootTimeout, func() error {
		if action != config.Reboot {
			c.guard.release() // it would reset a machine that is meant to stand still
		}
		return c.machine.power(rebootCommand(action))
	})
}

func (c *capture) bounded(timeout time.Duration, f func() error) {
	if err := c.do(step{timeout: timeout, run: f}); err != nil {
		// Not here: what did not come back may hold what a line needs.
		go c.logf("%v", err)
	}
}

// endChildren ends an attempt that still runs, so that its target can be
// unmounted, and whatever else there is.
func (c *capture) endChildren() error {
	var err error
	if c.children.alive() > 0 {
		err = c.machine.signalAll(unix.SIGTERM)
		c.childless(c.patience(endGrace))
	}
	if err2 := c.machine.signalAll(unix.SIGKILL); err2 != unix.ESRCH {
		err = errors.Join(err, err2)
	}
	c.childless(c.patience(killGrace))
	return err
}

// childless waits until no child is left, or for limit.
func (c *capture) childless(limit time.Duration) {
	for end := time.Now().Add(limit); c.children.alive() > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

func rebootCommand(a config.Action) int {
	switch a {
	case config.Halt:
		return unix.LINUX_REBOOT_CMD_HALT
	case config.PowerOff:
		return unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	return unix.LINUX_REBOOT_CMD_RESTART
}

// shellPath is the emergency shell.
const shellPath = "/bin/sh"

// shell runs the emergency shell on the console until it ends.
func (c *capture) shell() error {
	timeout := c.config().Timeout
	tty, err := terminal("/sys/class/tty/console/active", "/dev")
	if err != nil {
		return err
	}
	defer tty.Close()
	c.logf("emergency shell; the machine reboots when it ends, or after %s", timeout)
	attr := &syscall.ProcAttr{
		Env:   append([]string{"PATH=/bbin"}, os.Environ()...),
		Files: []uintptr{tty.Fd(), tty.Fd(), tty.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}
	argv := []string{shellPath}
	pid, died, err := c.children.start(argv, attr)
	if err != nil { // not every console can be a controlling terminal
		attr.Sys.Setctty = false
		pid, died, err = c.children.start(argv, attr)
	}
	if err != nil {
		return err
	}
	giveUp(pid, otherScore)
	_, err = c.await(pid, died, timeout, watchdog.NewPulse(timeout))
	return err
}

// terminal opens the terminal that /dev/console stands for: the last of those listed in
// the file active. /dev/console itself would do, but for job control: the kernel lets a
// process in the background read from it (job_control, drivers/tty/n_tty.c).
func terminal(active, dev string) (*os.File, error) {
	b, _ := os.ReadFile(active)
	if names := strings.Fields(string(b)); len(names) > 0 {
		tty, err := os.OpenFile(filepath.Join(dev, names[len(names)-1]), os.O_RDWR|unix.O_NOCTTY, 0)
		if err == nil {
			return tty, nil
		}
	}
	return os.OpenFile(filepath.Join(dev, "console"), os.O_RDWR|unix.O_NOCTTY, 0)
}

// kernel is the machine itself.
type kernel struct{}

func (kernel) signalAll(sig unix.Signal) error {
	if os.Getpid() != 1 { // it would be everybody's
		return errors.New("signal all processes: only PID 1 may")
	}
	return unix.Kill(-1, sig)
}

// unmount unmounts what a killed attempt left mounted.
func (kernel) unmount(logf func(string, ...any)) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, dir := range mountedBelow(string(mounts), mountDir) {
		if err := unix.Unmount(dir, 0); err != nil {
			logf("unmount %s: %v; detaching it", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	return nil
}

// mountedBelow gives the mount points at dir and below it, the last one first.
func mountedBelow(mounts, dir string) (list []string) {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && (fields[1] == dir || strings.HasPrefix(fields[1], dir+"/")) {
			list = append([]string{fields[1]}, list...)
		}
	}
	return list
}

func (kernel) sync() error {
	unix.Sync()
	return nil
}

func (kernel) power(command int) error {
	if err := unix.Reboot(command); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}

// crash does without a kernel that is in order: SysRq-b, and then, without PID 1,
// the kernel panics and panic= on its command line reboots. It does not while a thread
// of PID 1 sleeps in a driver (do_exit, kernel/exit.c), but that is a hung task then.
func (kernel) crash() {
	go func() { _ = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0) }()
	time.Sleep(rebootTimeout)
	go func() {
		const dir = "/proc/sys/kernel/"
		_ = os.WriteFile(dir+"hung_task_timeout_secs", []byte("10"), 0)
		_ = os.WriteFile(dir+"hung_task_panic", []byte("1"), 0)
	}()
	time.Sleep(time.Second)
	os.Exit(1)
}
