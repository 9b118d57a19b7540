package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ukdump/ukdump/pkg/config"
)

// show prints what a capture would do, as lines for a shell in the order in which
// they run; what it takes for a line to run is a comment before it.
func show(w io.Writer, cfg config.Config) {
	say := func(format string, a ...any) { fmt.Fprintf(w, format+"\n", a...) }
	hooks := func(when string, paths []string) {
		if len(paths) > 0 {
			say("# %s the attempts, at most %s each; what fails costs nothing else", when, brief(cfg.HookTimeout))
		}
		for _, p := range paths {
			say("%s", quote(p))
		}
	}
	list := plan(cfg, "")
	say("# all of it takes at most %s", brief(cfg.Timeout))
	hooks("before", cfg.Pre)
	first, local := logFirst(list)
	if local {
		say("# first, at most %s: the kernel log, on the disk behind the servers", brief(first.timeout))
		say("%s", first)
	}
	for i, a := range list {
		switch {
		case a.console():
			say("# if not even the kernel log is on a target, at most %s: on the console", brief(a.timeout))
		case i == 0:
			say("# at most %s, and %s without anything moving; a core that does not fit is tried at level 31, then only its log is saved",
				brief(a.timeout), brief(cfg.StallTimeout))
		default:
			say("# if that has not saved the core, at most %s", brief(a.timeout))
		}
		say("%s", a)
	}
	if a, ok := firstLocal(list); local && ok {
		say("# if a server has the core, at most %s: how it went, on the disk", brief(tellTimeout))
		say("%s", a.logOnly())
	}
	hooks("after", cfg.Post)
	say("# then %s, and if the core was not saved %s; a shell ends in a reboot after %s", cfg.Final, cfg.Failure, brief(cfg.Timeout))
}

// brief is a duration without what is zero: 2m0s is 2m.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
