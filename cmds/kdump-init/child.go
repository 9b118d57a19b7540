package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		w.Close()
		return 0, err
	}
	pid, died, err := c.children.start(a.argv, &syscall.ProcAttr{
		Env:   childEnv(),
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	null.Close()
	w.Close()
	if err != nil {
		return 0, err
	}
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		c.relay(r, a)
	}()
	ws, err := c.await(pid, died, a.timeout)
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

// maxLine bounds a line that is relayed: a longer one becomes several.
const maxLine = 4096

// relay puts what an attempt says on the consoles. The kernel log of the last
// resort goes at the consoles' own pace; other lines may be lost on slow ones.
// It reads to the end whatever comes: an attempt must not wait for it.
func (c *capture) relay(r io.Reader, a attempt) {
	defer func() {
		if e := recover(); e != nil {
			c.logf("relay: panic: %v", e)
		}
	}()
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, _, err := lines.ReadLine()
		switch {
		case err != nil:
			return
		case a.console():
			c.log.plain(string(line), consolePatience)
		default:
			c.log.fromChild(string(line))
		}
	}
}

// consolePatience is how long a line may wait for a console that is behind.
const consolePatience = 10 * time.Second

// await waits for a process. After timeout it tells the process group to end,
// and after that it kills it. What a process says that ended when it was told
// to counts.
func (c *capture) await(pid int, died <-chan death, timeout time.Duration) (unix.WaitStatus, error) {
	select {
	case d := <-died:
		return d.status, d.err
	case <-time.After(timeout):
	}
	c.logf("not done after %s, told to end", timeout)
	for _, s := range []struct {
		signal unix.Signal
		grace  time.Duration
	}{{unix.SIGTERM, c.patience(endGrace)}, {unix.SIGKILL, c.patience(killGrace)}} {
		_ = unix.Kill(-pid, s.signal) // ESRCH: it has just died, and died tells
		select {
		case d := <-died:
			if d.err == nil && d.status.Exited() {
				return d.status, nil
			}
			return 0, fmt.Errorf("not done after %s, killed", timeout)
		case <-time.After(s.grace):
		}
	}
	return 0, fmt.Errorf("not done after %s and does not die, left behind", timeout)
}

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

// memAvailable is MemAvailable of /proc/meminfo in KiB, 0 if it cannot be had.
func memAvailable() int {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "MemAvailable:")
	rest, _, _ = strings.Cut(rest, "kB")
	n, _ := strconv.Atoi(strings.TrimSpace(rest))
	return n
}
