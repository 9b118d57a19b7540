package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killGrace is how long a killed attempt may take to die. One that sleeps in
// the kernel, on a disk that does not answer, never does and is left behind.
const killGrace = 5 * time.Second

// child runs one attempt to its end or its deadline and relays what it says to
// the consoles. It returns the exit status.
//
// os/exec is not used: its wait and PID 1's reaping of orphans would take each
// other's children away.
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
	pid, err := syscall.ForkExec(a.argv[0], a.argv, &syscall.ProcAttr{
		Env:   childEnv(),
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	null.Close()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", a.argv[0], err)
	}
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		c.relay(r, a)
	}()
	ws, err := waitChild(pid, a.timeout)
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

// relay puts what an attempt says on the consoles. The kernel log of the last
// resort goes at the consoles' own pace; other lines may be lost on slow ones.
func (c *capture) relay(r *os.File, a attempt) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		switch {
		case a.console():
			c.showWithin(lines.Text(), consolePatience)
		case !c.kernelShows:
			c.show("savecore: " + lines.Text())
		}
	}
}

// waitChild reaps children until pid is among them. After timeout it kills
// pid's process group.
func waitChild(pid int, timeout time.Duration) (unix.WaitStatus, error) {
	died := make(chan unix.WaitStatus, 1)
	go func() {
		for {
			var ws unix.WaitStatus
			got, err := unix.Wait4(-1, &ws, 0, nil)
			switch {
			case err == unix.EINTR:
			case err != nil:
				return
			case got == pid:
				died <- ws
				return
			}
		}
	}()
	select {
	case ws := <-died:
		return ws, nil
	case <-time.After(timeout):
	}
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill after %s: %w", timeout, err)
	}
	select {
	case <-died:
		return 0, fmt.Errorf("not done after %s, killed", timeout)
	case <-time.After(killGrace):
		return 0, fmt.Errorf("not done after %s and does not die, left behind", timeout)
	}
}

// childEnv bounds the attempt's memory: its Go heap may take half of what is
// available, so that page cache and kernel have the rest.
func childEnv() []string {
	env := append(os.Environ(), "PATH=/bbin", "GOGC=50")
	if kib := memAvailable(); kib > 0 {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%dKiB", max(kib/2, 12<<10)))
	}
	return env
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
