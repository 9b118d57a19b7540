package main

import (
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/pkg/config"
)

// Deadlines of the way out. Each part may hang on a dead disk or server.
const (
	unmountTimeout = 20 * time.Second
	syncTimeout    = 20 * time.Second
	consoleFlush   = 3 * time.Second
	rebootTimeout  = 10 * time.Second
)

// finish ends the capture: it says in one line how it went, and reboots or does
// what is configured instead. Only the first call does anything; it does not
// return.
func (c *capture) finish(ok bool, how string) {
	c.ended.Do(func() {
		action := c.cfg.Final
		if !ok {
			action = c.cfg.Failure
		}
		word := "done"
		if !ok {
			word = "FAILED"
		}
		c.logf("%s: %s (%.1f s); next: %s", word, how, time.Since(c.start).Seconds(), action)
		if action == config.Shell {
			c.bounded(c.cfg.Timeout, c.shell)
			action = config.Reboot
		}
		c.bounded(unmountTimeout, c.unmountTargets)
		c.bounded(syncTimeout, func() error { unix.Sync(); return nil })
		if c.consoles != nil {
			c.consoles.Close(consoleFlush)
			c.consoles = nil
		}
		c.bounded(rebootTimeout, func() error { return unix.Reboot(rebootCommand(action)) })
		// Still here: reboot(2) refused or hangs in a driver's shutdown.
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0)
	})
	select {} // the call that does the work never returns; others must not go on either
}

func (c *capture) bounded(timeout time.Duration, f func() error) {
	if err := c.do(step{timeout: timeout, run: f}); err != nil {
		c.logf("%v", err)
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

// unmountTargets unmounts what a killed attempt left mounted.
func (c *capture) unmountTargets() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || (fields[1] != mountDir && !strings.HasPrefix(fields[1], mountDir+"/")) {
			continue
		}
		if err := unix.Unmount(fields[1], 0); err != nil {
			c.logf("unmount %s: %v; detaching it", fields[1], err)
			_ = unix.Unmount(fields[1], unix.MNT_DETACH)
		}
	}
	return nil
}

// shell runs the emergency shell on the console until it ends.
func (c *capture) shell() error {
	tty, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	c.logf("emergency shell; the machine reboots when it ends, or after %s", c.cfg.Timeout)
	pid, err := syscall.ForkExec("/bbin/gosh", []string{"gosh"}, &syscall.ProcAttr{
		Env:   append(os.Environ(), "PATH=/bbin"),
		Files: []uintptr{tty.Fd(), tty.Fd(), tty.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		return err
	}
	_, err = waitChild(pid, c.cfg.Timeout)
	return err
}
