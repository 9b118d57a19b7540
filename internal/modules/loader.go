package modules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loader is one list on its way into the kernel.
type loader struct {
	ctx     context.Context
	opts    Options
	entries []Entry
	results []Result
	done    []bool // results has what became of it
	blocked map[string]bool
	params  map[string]string
	absent  bool // some module's hardware is not there

	// What follows is for Options.Devices alone.
	infos  []info
	at     map[string]int // by name
	needed []bool         // another of the list depends on it
	ids    []string
	stale  bool // a module was loaded since ids was read
}

func newLoader(ctx context.Context, entries []Entry, opts Options) *loader {
	l := &loader{ctx: ctx, opts: opts, entries: entries, results: make([]Result, len(entries)), done: make([]bool, len(entries))}
	l.blocked, l.params = fromCmdline(opts.Cmdline)
	return l
}

// all loads them in the order of the list.
func (l *loader) all() {
	for i := range l.entries {
		l.load(i)
	}
}

// present loads what the devices that are there need: their drivers, and what
// those depend on. It looks again as long as drivers bring new devices.
func (l *loader) present() {
	l.infos, l.at, l.needed = make([]info, len(l.entries)), make(map[string]int), make([]bool, len(l.entries))
	for i, e := range l.entries {
		l.at[e.Name()] = i
		l.infos[i] = readInfo(filepath.Join(l.opts.Root, e.Path))
	}
	for _, m := range l.infos {
		for _, d := range l.indexes(m.depends) {
			l.needed[d] = true
		}
	}
	l.stale = true
	for more := true; more; {
		more = false
		for i := range l.entries {
			if !l.done[i] && l.due(i) {
				l.load(i)
				more = true
			}
		}
	}
	for i, e := range l.entries {
		if !l.done[i] {
			l.end(i, fmt.Errorf("load %s: %w", e.Name(), ErrNoDevice), 0)
			l.results[i].Absent = true
		}
	}
}

// indexes are the modules of the list that have these names.
func (l *loader) indexes(names []string) []int {
	var found []int
	for _, name := range names {
		if i, ok := l.at[name]; ok {
			found = append(found, i)
		}
	}
	return found
}

// due tells that a module is of use by itself. What only others need, a library,
// is loaded with those.
func (l *loader) due(i int) bool {
	m := l.infos[i]
	switch {
	case m.gone:
		return l.isLive(l.entries[i].Name())
	case m.hardware():
		return m.matches(l.devices())
	case len(m.aliases) == 0 && l.needed[i]:
		return false
	}
	return l.possible(i)
}

// possible tells that no driver that a module depends on lacks its device:
// mlx4_en has no devices of its own, but those of mlx4_core.
func (l *loader) possible(i int) bool {
	for _, d := range l.indexes(l.infos[i].depends) {
		m := l.infos[d]
		if m.hardware() && !m.matches(l.devices()) || !m.hardware() && !l.possible(d) {
			return false
		}
	}
	return true
}

func (l *loader) devices() []string {
	if l.stale {
		l.ids, l.stale = deviceIDs(filepath.Join(l.opts.Root, l.opts.Devices)), false
	}
	return l.ids
}

// load loads a module, and before it what it depends on of the list.
func (l *loader) load(i int) {
	l.done[i] = true // soft dependencies may go round in circles
	if l.infos != nil {
		for _, d := range l.indexes(slices.Concat(l.infos[i].before, l.infos[i].depends)) {
			if !l.done[d] {
				l.load(d)
			}
		}
	}
	e := l.entries[i]
	if l.blocked[e.Name()] {
		l.end(i, fmt.Errorf("load %s: %w", e.Name(), errBlocked), 0)
		return
	}
	if p := l.params[e.Name()]; p != "" {
		e.Params = strings.TrimSpace(e.Params + " " + p)
	}
	e.Path = filepath.Join(l.opts.Root, e.Path)
	start := time.Now()
	err := loadOne(l.ctx, e, l.opts.PerModule)
	switch {
	case err == nil:
		l.stale = true
		l.end(i, nil, time.Since(start))
	case errors.Is(err, unix.EEXIST), errors.Is(err, os.ErrNotExist) && l.isLive(e.Name()):
		l.end(i, nil, 0)
	default:
		l.end(i, fmt.Errorf("load %s: %w", e.Name(), err), time.Since(start))
		// ENOENT: it needs a module before it, which found no hardware.
		l.results[i].Absent = errors.Is(err, unix.ENODEV) || l.absent && errors.Is(err, unix.ENOENT)
		l.absent = l.absent || l.results[i].Absent
	}
}

func (l *loader) end(i int, err error, took time.Duration) {
	l.done[i] = true
	l.results[i] = Result{Entry: l.entries[i], Err: err, Took: took}
}

// isLive tells that a module is in the kernel, its file removed by who loaded it.
func (l *loader) isLive(name string) bool {
	_, err := os.Stat(filepath.Join(l.opts.Root, "/sys/module", name))
	return err == nil
}
