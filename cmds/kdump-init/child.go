package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/internal/watchdog"
)

const (
	// endGrace is how long an attempt may take to end that was told to: it
	// writes how it went beside the dump.
	endGrace = 10 * time.Second
	// killGrace is how long a killed attempt may take to die. One that sleeps in
	// the kernel, on a disk that does not answer, never does and is left behind.
	killGrace = 5 * time.Second
)

// child runs one attempt to its end or its deadline and relays what it says to
// the consoles. It returns the exit status.
func (c *capture) child(a attempt) (status int, err error) {
	p, err := newPipes()
	if err != nil {
		return 0, err
	}
	defer p.closeReaders()
	complaints := p.complaint.w
	if a.hook != "" || a.console() { // in order with the rest of what it says
		complaints = p.said.w
	}
	pid, died, err := c.children.start(a.argv, &syscall.ProcAttr{
		Env:   append(append(a.env, watchdog.FDVariable+"=3", result.PathVariable+"="+result.RunPath), childEnv()...),
		Files: []uintptr{p.null.Fd(), p.said.w.Fd(), complaints.Fd(), p.beats.w.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	p.closeWriters()
	if err != nil {
		return 0, err
	}
	pulse := c.watch(pid, a)
	go c.guard.follow(p.beats.r, pulse)
	var relays sync.WaitGroup
	relays.Go(func() { c.relay(p.said.r, a, pulse) })
	relays.Go(func() { c.lastWords(p.complaint.r) })
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		relays.Wait()
	}()
	end := time.Now().Add(a.timeout)
	ws, err := c.await(pid, died, a.timeout, pulse)
	if a.console() && err == nil {
		err = c.letOut(relayed, pulse, end)
	}
	select { // its last words; a grandchild may hold the pipe open for ever
	case <-relayed:
	case <-time.After(time.Second):
	}
	if err != nil {
		return 0, err
	}
	if ws.Signaled() {
		return 0, fmt.Errorf("killed by %s", unix.SignalName(ws.Signal()))
	}
	return ws.ExitStatus(), nil
}

// letOut waits until the last resort has left the pipe, and then the consoles'
// queues: the end of a kernel log is the panic. A console that goes on writing has
// until end.
func (c *capture) letOut(relayed <-chan struct{}, pulse *watchdog.Pulse, end time.Time) error {
	start := time.Now()
	for waiting := true; waiting && pulse.Alive() && time.Now().Before(end); {
		select {
		case <-relayed:
			waiting = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	moved := func() { c.guard.beat(consolePatience) }
	if c.log.flush(time.Until(end), consolePatience, moved) {
		return nil
	}
	return fmt.Errorf("a part of the kernel log is above, no console took all of it (waited %s after the end of it)", time.Since(start).Round(time.Second))
}

// watch says what to expect of a process: a hook knows nothing of beats.
func (c *capture) watch(pid int, a attempt) *watchdog.Pulse {
	if a.hook != "" {
		giveUp(pid, otherScore)
		c.guard.beat(a.timeout)
		return watchdog.NewPulse(a.timeout + time.Second)
	}
	giveUp(pid, attemptScore)
	c.guard.beat(0)
	return watchdog.NewPulse(c.config().StallTimeout)
}

// maxLine bounds a line that is relayed: a longer one becomes several.
const maxLine = 4096

// relay puts what an attempt says on the consoles. The kernel log of the last
// resort goes at the consoles' own pace; other lines may be lost on slow ones.
// It reads to the end whatever comes: an attempt must not wait for it.
func (c *capture) relay(r io.Reader, a attempt, pulse *watchdog.Pulse) {
	defer func() {
		if e := recover(); e != nil {
			c.logf("relay: panic: %v", e)
		}
	}()
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, _, err := lines.ReadLine()
		if a.console() { // a line is all the progress that there is
			pulse.Beat(consolePatience)
			c.guard.beat(consolePatience)
		}
		switch {
		case err != nil:
			return
		case a.hook != "":
			c.logf("%s %s: %s", a.hook, a.argv[0], line)
		case a.console():
			c.log.plain(string(line), consolePatience)
		default:
			c.log.fromChild(string(line))
		}
	}
}

// maxLastWords bounds the lines of a dying attempt that are taken down: the trace of
// a panic has the goroutine that counts first.
const maxLastWords = 60

// lastWords takes down what an attempt says on standard error: nothing, unless the Go
// runtime ends it. Its log does not have that, so it goes to the capture's.
func (c *capture) lastWords(r io.Reader) {
	defer func() {
		if e := recover(); e != nil {
			c.logf("last words: panic: %v", e)
		}
	}()
	lines := bufio.NewReaderSize(r, maxLine)
	for n := 0; ; n++ {
		line, _, err := lines.ReadLine()
		switch {
		case err != nil:
			return
		case n < maxLastWords:
			c.logf("savecore: %s", line)
		case n == maxLastWords:
			c.logf("savecore: and so on")
		}
	}
}

// consolePatience is how long a line may wait for a console that is behind.
const consolePatience = 10 * time.Second

// await waits for a process. When it has outlived timeout, or its pulse, it tells the
// process group to end, and after that it kills it. What a process says that ended
// when it was told to counts.
func (c *capture) await(pid int, died <-chan death, timeout time.Duration, pulse *watchdog.Pulse) (unix.WaitStatus, error) {
	why := fmt.Sprintf("not done after %s", timeout)
	end := time.After(timeout)
	for waiting := true; waiting; {
		select {
		case d := <-died:
			return d.status, d.err
		case <-end:
			waiting = false
		case <-time.After(max(pulse.Left(), time.Millisecond)):
			if waiting = pulse.Alive(); !waiting {
				why = fmt.Sprintf("nothing moved for %s", pulse.Since().Round(time.Second))
			}
		}
	}
	c.logf("%s, told to end", why)
	for _, s := range []struct {
		signal unix.Signal
		grace  time.Duration
	}{{unix.SIGTERM, c.patience(endGrace)}, {unix.SIGKILL, c.patience(killGrace)}} {
		c.guard.beat(s.grace)
		_ = unix.Kill(-pid, s.signal) // ESRCH: it has just died, and died tells
		select {
		case d := <-died:
			if d.err == nil && d.status.Exited() {
				return d.status, nil
			}
			return 0, fmt.Errorf("%s, killed", why)
		case <-time.After(s.grace):
		}
	}
	return 0, fmt.Errorf("%s and %w", why, errLeftBehind)
}

// errLeftBehind is an attempt that sleeps in the kernel, most likely for its target.
const errLeftBehind attemptError = "does not die, left behind"

type attemptError string

func (e attemptError) Error() string { return string(e) }

// childEnv bounds the attempt's memory: its Go heap may take half of what is
// available, so that page cache and kernel have the rest. The first of two
// equal names counts, and the kernel makes variables of unknown words of its
// command line.
func childEnv() []string {
	env := []string{"PATH=/bbin", "GOGC=50"}
	if kib := memAvailable(); kib > 0 {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%dKiB", max(kib/2, 12<<10)))
	}
	return append(env, os.Environ()...)
}
