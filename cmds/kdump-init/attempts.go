package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/result"
)

// attemptsAndPost has the post hooks run whatever became of the attempts.
func (c *capture) attemptsAndPost() error {
	err := c.attempts()
	if hookErr := c.hooks("post", c.config().Post); hookErr != nil {
		c.logf("%v", hookErr)
	}
	return err
}

// attempts runs the plan until a target has the whole crash.
func (c *capture) attempts() error {
	best := exitNothing
	list := plan(c.config(), c.elfcorehdr)
	if a, ok := logFirst(list); ok {
		if _, err := c.try(a); err != nil {
			c.logf("%v", err)
		}
		best = c.safe(best)
	}
	untold := false // an attempt died, and nobody was told how
	for i, a := range list {
		if a.console() && untold {
			c.tell(witness(list, c.result()))
			best = c.safe(best)
		}
		if a.console() && best == exitLogOnly {
			break // the log is safe on a target already
		}
		status, err := c.try(a)
		switch {
		case err != nil:
			c.logf("%v", err)
			best = c.safe(best)
			untold = untold || !errors.Is(err, errLeftBehind)
		case status == exitSaved && a.console():
			c.tellAll()
			return errors.New("no target could be used, the kernel log is above")
		case status == exitSaved:
			c.saved = "crash saved on " + a.target()
			c.tell(behind(list, i, c.result()))
			return nil
		case status == exitLogOnly:
			best, untold = status, false
			c.saved = "only the kernel log saved on " + a.target()
			c.logf("%s: %s", c.saved, whyNot(c.result(), a, status))
		default:
			c.logf("nothing saved on %s: %s", a.target(), whyNot(c.result(), a, status))
		}
	}
	c.tellAll()
	if best == exitLogOnly {
		return errors.New(c.saved)
	}
	return errors.New("nothing could be saved")
}

// result is what the attempts have told by now.
func (c *capture) result() *result.Result {
	r, err := result.Load(result.RunPath)
	if err != nil { // none has
		return &result.Result{Saved: result.SavedNothing}
	}
	return r
}

// safe is what the best attempt by now has saved, with those that could not tell by
// their exit status.
func (c *capture) safe(best int) int {
	r := c.result()
	if r.Saved != result.SavedLog {
		return best
	}
	c.saved = "only the kernel log saved on " + r.Target
	return exitLogOnly
}

// tellAll says in one line what became of all attempts.
func (c *capture) tellAll() {
	if r := c.result(); len(r.Attempts) > 0 {
		c.logf("%s", r)
	}
}

// try makes an attempt, if there is time for it, and sees to it that the result
// tells of it.
func (c *capture) try(a attempt) (status int, err error) {
	if c.ending.Load() {
		select {} // finish has ended the attempt before, and unmounts now
	}
	if a.timeout = c.allot(a); a.timeout < shortest {
		return exitNothing, fmt.Errorf("no time is left for %s", a.target())
	}
	c.logf("run %s", a.redacted())
	start := time.Now()
	status, err = c.child(a)
	if err == nil && status != exitSaved && status != exitNothing && status != exitLogOnly { // a panic, for instance
		err = fmt.Errorf("exit status %d", status)
	}
	if err != nil && !a.console() {
		c.note(a, err, time.Since(start))
		// It left its mount behind, in the way of the next one's.
		unmount := func() error { return c.machine.unmount(c.logf) }
		if err := c.do(step{timeout: unmountTimeout, run: unmount}); err != nil {
			c.logf("unmount: %v", err)
		}
	}
	if err != nil {
		err = fmt.Errorf("savecore: %w", err)
	}
	return status, err
}

// whyNot is the reason that an attempt has told of, in one line that names its target
// already.
func whyNot(r *result.Result, a attempt, status int) string {
	if len(r.Attempts) > 0 {
		if last := r.Attempts[len(r.Attempts)-1]; last.Target == a.target() && last.Error != "" {
			return strings.NewReplacer("\n", "; ", a.target(), "it").Replace(last.Error)
		}
	}
	return fmt.Sprintf("savecore: exit status %d", status)
}

// note writes down an attempt that could not do it itself.
func (c *capture) note(a attempt, why error, took time.Duration) {
	r := c.result()
	r.Died(a.target(), why, took)
	if err := r.Store(result.RunPath); err != nil {
		c.logf("result: %v", err)
	}
}

// tellTimeout bounds what is done for a crash that is safe already, or lost.
const tellTimeout = time.Minute

// tell leaves the kernel log, the log of the capture and the result so far on a
// target, where the production system can read them.
func (c *capture) tell(a attempt, ok bool) {
	if !ok {
		return
	}
	a = a.logOnly()
	a.timeout = tellTimeout
	if _, err := c.try(a); err != nil {
		c.logf("%v", err)
	}
}

// witness is whom to tell that an attempt died on the way: the target that has the
// kernel log, else the first one on this machine.
func witness(list []attempt, r *result.Result) (a attempt, ok bool) {
	if r.Saved == result.SavedLog {
		if i := slices.IndexFunc(list, func(a attempt) bool { return a.target() == r.Target }); i >= 0 {
			return list[i], true
		}
	}
	return firstLocal(list)
}

// behind is whom to tell that attempt i has saved everything: a disk that has only the
// kernel log, since it came before; or, of a server, the first one behind it.
func behind(list []attempt, i int, r *result.Result) (a attempt, ok bool) {
	for _, a := range list[:i] {
		if a.local() && slices.ContainsFunc(r.Attempts, func(done result.Attempt) bool {
			return done.Target == a.target() && done.Saved == result.SavedLog
		}) {
			return a, true
		}
	}
	if !list[i].network() {
		return a, false
	}
	return firstLocal(list[i+1:])
}

// shortest is the shortest time that is worth an attempt.
const shortest = 5 * time.Second

// allot gives the time that an attempt may take: its own deadline, but so that it
// can be ended before the deadline of everything, and that the last resort has
// some of it too.
func (c *capture) allot(a attempt) time.Duration {
	left := c.left() - endGrace - killGrace
	if !a.console() {
		left -= min(consoleReserve, c.config().Timeout/10)
	}
	return min(a.timeout, left)
}

// Exit statuses of savecore.
const (
	exitSaved   = 0
	exitNothing = 1
	exitLogOnly = 3
)
