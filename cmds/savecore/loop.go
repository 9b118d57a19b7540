package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// maxLogs bounds the directories without a core: a machine that crashes every minute
// makes them for ever.
const maxLogs = 64

// crashes are the dump directories of this host, in order of time. ok is false when
// this crash is not the last of them: the clock was set back, and who knows then what
// came first.
func (a *attempt) crashes(ctx context.Context) (dirs []string, ok bool, err error) {
	entries, err := a.target.List(ctx, "")
	host, _, _ := splitName(a.dir)
	for _, e := range entries {
		if h, _, ok := splitName(e.Name); e.Dir && ok && h == host {
			dirs = append(dirs, e.Name)
		}
	}
	slices.SortFunc(dirs, crashOrder)
	return dirs, err == nil && len(dirs) > 0 && dirs[len(dirs)-1] == a.dir, err
}

// loop is what lies before this crash in its crash loop, of all crashes of this host.
func (a *attempt) loop(dirs []string) []string {
	return loopOf(dirs, a.o.loop.Crashes, time.Duration(a.o.loop.Minutes)*time.Minute)
}

// thinOut takes the cores out of the dumps between the first and the newest one of a
// crash loop, so that it neither fills the target nor has retention remove the
// first. Logs stay. It runs only after a success.
func (a *attempt) thinOut(ctx context.Context) {
	dirs, ok, err := a.crashes(ctx)
	if err != nil {
		a.log.printf("crash loop: %v", err)
	}
	loop := a.loop(dirs)
	if !ok || len(loop) == 0 {
		return
	}
	host, _, _ := splitName(a.dir)
	a.log.printf("crash loop: more than %d crashes of %s in %d minutes; of those before, all but the first keep their logs only", a.o.loop.Crashes, host, a.o.loop.Minutes)
	// The first crash may have no core here.
	core := slices.IndexFunc(loop, func(dir string) bool { return a.isComplete(ctx, dir) })
	for i, dir := range loop {
		a.beat.Beat(removeGrace)
		switch {
		case i == 0 || i == core:
		case i < len(loop)-maxLogs:
			err = a.target.Remove(ctx, dir)
		default:
			err = a.removeCore(ctx, dir)
		}
		if err != nil {
			a.log.printf("crash loop: %v", err)
			return
		}
	}
}

// boundLogs removes the oldest directories without a core, after one more has come.
// The first of a crash loop stays.
func (a *attempt) boundLogs(ctx context.Context) {
	dirs, ok, err := a.crashes(ctx)
	if err != nil {
		a.log.printf("retention: %v", err)
	}
	if !ok || len(dirs) <= maxLogs {
		return
	}
	loop := a.loop(dirs)
	for _, dir := range dirs[:len(dirs)-maxLogs] {
		a.beat.Beat(removeGrace)
		if a.isComplete(ctx, dir) || len(loop) > 0 && dir == loop[0] {
			continue
		}
		if err := a.target.Remove(ctx, dir); err != nil {
			a.log.printf("retention: %v", err)
			return
		}
		a.log.printf("retention: removed %s, which has no core", dir)
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

// loopOf is what lies before the last of dirs, in order of time, in the crash loop that
// it belongs to. A loop goes on for as long as each crash comes within the time of the
// one n before it.
func loopOf(dirs []string, n int, within time.Duration) []string {
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
	if first < 0 || first == len(dirs)-1 {
		return nil
	}
	return dirs[first : len(dirs)-1]
}
