package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/internal/kmsg"
	"github.com/ukdump/ukdump/internal/result"
)

// The kernel takes the process with the highest oom_score_adj first, and PID 1 never.
// Before an attempt go hooks and the shell, and what they have started.
const (
	initScore    = -1000
	attemptScore = -900
	otherScore   = 0
)

// dirtyShare is the part of the memory that may wait to be written. The kernel's own
// limit, a fifth of what is available, comes with a background limit of half of
// that: too much in a system with a few MiB to spare.
const (
	dirtyShare = 16
	leastDirty = 1 << 20
	mostDirty  = 16 << 20
)

// boundMemory keeps the capture from being starved. A process inherits PID 1's score,
// so each child is given its own. Where memory is fragmented the kernel would keep 2 MiB
// more of it free (boost_watermark, mm/page_alloc.c): here that is what is missing.
func (c *capture) boundMemory() error {
	dirty := min(max(memAvailable()<<10/dirtyShare, leastDirty), mostDirty)
	var errs []error
	for _, w := range []struct {
		file  string
		value int
	}{
		{"/proc/self/oom_score_adj", initScore},
		{"/proc/sys/vm/dirty_bytes", dirty},
		{"/proc/sys/vm/dirty_background_bytes", dirty / 2},
		{"/proc/sys/vm/watermark_boost_factor", 0},
	} {
		errs = append(errs, os.WriteFile(w.file, []byte(strconv.Itoa(w.value)), 0))
	}
	return errors.Join(errs...)
}

// weighStart leaves for the attempts what the kernel's start took of the memory, as the
// beginning of the result that they add themselves to.
func (c *capture) weighStart() error {
	var log bytes.Buffer // of one boot: some 50 KiB
	if err := kmsg.Copy(&log); err != nil {
		return err
	}
	if why := notUnpacked(log.String()); why != "" {
		c.logf("warning: the image is not whole: %s; crashkernel= is too small", why)
	}
	r := &result.Result{Saved: result.SavedNothing, Memory: result.AtStart(&log)}
	return r.Store(result.RunPath)
}

// notUnpacked is what the kernel's log says of an image that it could not unpack to its
// end: it goes on with what there is.
func notUnpacked(log string) string {
	_, why, _ := strings.Cut(log, "Initramfs unpacking failed: ")
	why, _, _ = strings.Cut(why, "\n")
	return why
}

// giveUp sets how readily the kernel kills a process when memory runs out. That it
// is gone already is of no concern.
func giveUp(pid, score int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
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
