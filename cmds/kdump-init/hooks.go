package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/ukdump/ukdump/internal/result"
)

// hooks runs programs of the image one after the other, each with a deadline. What
// one of them does wrong keeps no other from running.
func (c *capture) hooks(when string, paths []string) error {
	var errs []error
	for _, path := range paths {
		a := attempt{argv: []string{path}, timeout: c.config().HookTimeout, hook: when, env: hookEnv(when)}
		if left := c.left() - endGrace - killGrace; left < a.timeout {
			a.timeout = left
		}
		if a.timeout <= 0 {
			errs = append(errs, fmt.Errorf("%s %s: no time is left for it", when, path))
			continue
		}
		c.logf("run %s hook %s", when, path)
		start := time.Now()
		status, err := c.child(a)
		if err == nil && status != 0 {
			err = fmt.Errorf("exit status %d", status)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w (after %.1f s)", when, path, err, time.Since(start).Seconds()))
		}
	}
	return errors.Join(errs...)
}

// hookEnv tells a hook what it is for and, afterwards, how it went.
func hookEnv(when string) []string {
	env := []string{"UKDUMP_HOOK=" + when}
	if when == "pre" {
		return env
	}
	r, err := result.Load(result.RunPath)
	if err != nil { // no attempt has got as far as that
		r = &result.Result{Saved: result.SavedNothing}
	}
	return append(env, "UKDUMP_STATUS="+r.Saved, "UKDUMP_TARGET="+r.Target, "UKDUMP_DIR="+r.Directory)
}
