package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// maxLoopLogs bounds the directories of a crash loop between its first and its
// newest: a machine that crashes every minute makes them for ever.
const maxLoopLogs = 64

// thinOut takes the cores out of the dumps between the first and the newest one of a
// crash loop, so that it neither fills the target nor has retention remove the
// first. Logs stay. It runs only after a success.
func (a *attempt) thinOut(ctx context.Context) {
	entries, err := a.target.List(ctx, "")
	if err != nil {
		a.log.printf("crash loop: %v", err)
		return
	}
	host, _, _ := splitName(a.dir)
	var dirs []string
	for _, e := range entries {
		if h, _, ok := splitName(e.Name); e.Dir && ok && h == host {
			dirs = append(dirs, e.Name)
		}
	}
	slices.SortFunc(dirs, crashOrder)
	between := loopOf(dirs, a.o.loop.Crashes, time.Duration(a.o.loop.Minutes)*time.Minute)
	if len(between) == 0 || dirs[len(dirs)-1] != a.dir { // the clock was set back: who knows what is first
		return
	}
	a.log.printf("crash loop: more than %d crashes of %s in %d minutes; of those before, all but the first keep their logs only", a.o.loop.Crashes, host, a.o.loop.Minutes)
	for i, dir := range between {
		a.beat.Beat(removeGrace)
		if i < len(between)-maxLoopLogs {
			err = a.target.Remove(ctx, dir)
		} else {
			err = a.removeCore(ctx, dir)
		}
		if err != nil {
			a.log.printf("crash loop: %v", err)
			return
		}
	}
}

// removeCore removes the core of a dump, whole or not.
func (a *attempt) removeCore(ctx context.Context, dir string) error {
	files, err := a.target.List(ctx, dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name != "vmcore" && f.Name != targets.IncompleteName("vmcore") {
			continue
		}
		if err := a.target.Remove(ctx, dir+"/"+f.Name); err != nil {
			return err
		}
		a.log.printf("crash loop: removed %s/%s", dir, f.Name)
	}
	return nil
}

// splitName takes the name of a dump directory apart.
func splitName(name string) (host string, at time.Time, ok bool) {
	if !isDumpDirectory(name) {
		return "", time.Time{}, false
	}
	parts := strings.Split(name, "-")
	n := len(parts)
	at, err := time.Parse(timeForm, parts[n-2])
	return strings.Join(parts[:n-2], "-"), at, err == nil
}

// loopOf is what lies between the first and the last dump of the crash loop that the
// last of dirs, in order of time, belongs to. A loop goes on for as long as each
// crash comes within the time of the one n before it.
func loopOf(dirs []string, n int, within time.Duration) (between []string) {
	if n == 0 {
		return nil
	}
	times := make([]time.Time, len(dirs))
	for i, d := range dirs {
		_, times[i], _ = splitName(d)
	}
	first := len(dirs) - 1
	for i := len(dirs) - 1; i >= n && times[i].Sub(times[i-n]) <= within; i-- {
		first = i - n
	}
	if first >= len(dirs)-1 {
		return nil
	}
	return dirs[first+1 : len(dirs)-1]
}
