package netcfg

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// report is what is known of one interface: a line for each step, done, failed
// or going on.
type report struct {
	who  string
	logf func(format string, a ...any)

	mu      sync.Mutex
	entries []entry
}

type entry struct {
	step  string
	text  string // {} stands for the time since
	since time.Time
	state state
}

func (e entry) String() string {
	return strings.ReplaceAll(e.text, "{}", seconds(time.Since(e.since)))
}

// state of a step.
type state int

const (
	trying state = iota
	done
	failed
)

// set says how a step ended, and logs it if that is new.
func (r *report) set(step string, s state, format string, a ...any) {
	e := entry{step: step, text: fmt.Sprintf(format, a...), state: s}
	if r.put(e) {
		r.logf("%s: %s", r.who, e.text)
	}
}

// put returns false if nothing is new.
func (r *report) put(e entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.entries, func(old entry) bool { return old.step == e.step })
	if i < 0 {
		r.entries = append(r.entries, e)
		return true
	}
	old := r.entries[i]
	r.entries[i] = e
	return old != e
}

// begin says how a step stands that is going on. One that has been done before
// stays done.
func (r *report) begin(step string, since time.Time, format string, a ...any) {
	if !r.has(done, step) {
		r.put(entry{step, fmt.Sprintf(format, a...), since, trying})
	}
}

// restart drops all but the first step, which begins anew.
func (r *report) restart(step, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = []entry{{step, text, time.Now(), trying}}
}

// forget drops a step, before it is made again.
func (r *report) forget(steps ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = slices.DeleteFunc(r.entries, func(e entry) bool { return slices.Contains(steps, e.step) })
}

func (r *report) has(s state, steps ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.entries, func(e entry) bool {
		return e.state == s && (len(steps) == 0 || slices.Contains(steps, e.step))
	})
}

// String is "eth0: carrier after 1.2 s; no DHCP offer in 15.0 s (4 discovers sent)".
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var texts []string
	for _, e := range r.entries {
		texts = append(texts, e.String())
	}
	if len(texts) == 0 {
		return r.who + ": not begun"
	}
	return r.who + ": " + strings.Join(texts, "; ")
}
