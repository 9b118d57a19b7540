package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/console"
	"github.com/ukdump/ukdump/internal/kmsg"
)

// journal says what happens on all consoles and in the kernel's log. Every
// goroutine may use it, before it is open and after it is closed: what a step
// that was left behind has to say must not stop anything.
type journal struct {
	mu          sync.RWMutex // held for reading while a line is on its way
	consoles    *console.Set // nil: not open
	kmsg        *kmsg.Writer // nil: not open
	kernelShows bool         // what goes to kmsg is on the consoles by itself
	closed      bool         // nothing goes to the consoles any more
}

func (j *journal) open() error {
	shows := kernelShowsDebug()
	consoles := console.Open("/sys/class/tty/console/active", "/dev")
	w, err := kmsg.Open("kdump-init: ", kmsg.Debug)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kernelShows, j.kmsg = shows, w
	if !j.closed {
		j.consoles = consoles
	}
	return err
}

// close waits until the consoles have all lines, or for timeout.
func (j *journal) close(timeout time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.consoles != nil {
		j.consoles.Close(timeout)
	}
	j.consoles, j.closed = nil, true
}

// flush waits as console.Set.Flush does. Meanwhile the journal may be closed.
func (j *journal) flush(limit, patience time.Duration, moved func()) (whole bool) {
	j.mu.RLock()
	consoles := j.consoles
	j.mu.RUnlock()
	return consoles == nil || consoles.Flush(limit, patience, moved)
}

func (j *journal) line(line string) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.kmsg != nil {
		j.kmsg.Line(line)
		if j.kernelShows {
			return
		}
	}
	j.show("kdump-init: " + line)
}

// fromChild shows what an attempt says, unless the kernel does.
func (j *journal) fromChild(line string) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if !j.kernelShows {
		j.show("savecore: " + line)
	}
}

// show puts a line on the consoles, with the seconds since this kernel began.
func (j *journal) show(line string) {
	switch {
	case j.consoles != nil:
		j.consoles.Line(fmt.Sprintf("[%8.3f] %s", uptime(), line))
	case !j.closed:
		printWithin(line, time.Second)
	}
}

// printWithin prints on standard error, which is a console too and may hang.
func printWithin(line string, patience time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fmt.Fprintln(os.Stderr, line)
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
}

// plain puts a line on the consoles as it is, and waits for slow ones.
func (j *journal) plain(line string, patience time.Duration) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	switch {
	case j.consoles != nil:
		j.consoles.LineWithin(line, patience)
	case !j.closed:
		printWithin(line, patience)
	}
}

// kernelShowsDebug says whether the kernel itself puts all of its log on the
// consoles, as with "debug" or "ignore_loglevel": lines written there too would
// stand twice.
func kernelShowsDebug() bool {
	ignore, err := os.ReadFile("/sys/module/printk/parameters/ignore_loglevel")
	if err != nil {
		ignore = nil
	}
	levels, err := os.ReadFile("/proc/sys/kernel/printk")
	if err != nil {
		levels = nil
	}
	return showsDebug(string(ignore), string(levels))
}

// showsDebug takes the contents of ignore_loglevel and of /proc/sys/kernel/printk,
// whose first number is the console's level.
func showsDebug(ignore, levels string) bool {
	if strings.HasPrefix(ignore, "Y") {
		return true
	}
	var console int
	_, err := fmt.Sscan(levels, &console)
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
