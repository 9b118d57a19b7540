package blockdev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// atOnce bounds the devices that are read at the same time: each one has
	// a buffer of 8 KiB and, while it does not answer, a thread.
	atOnce = 16

	// slow is when a device that does not answer counts as one of them no more:
	// all disks of a dead controller must not keep others from being asked.
	slow = 300 * time.Millisecond

	// most bounds all that are asked and have not answered.
	most = 128

	// patience is how long a look at all devices waits for those that do not
	// answer, before what the others said counts.
	patience = 2 * time.Second

	// again is when to look without an event having come.
	again = time.Second

	// calm is the least time between two looks.
	calm = 50 * time.Millisecond

	// grace is how long devices may still answer that were asked when the one that
	// is looked for has answered, or when the time ran out.
	grace = 200 * time.Millisecond

	// mostShown bounds the devices in an error message.
	mostShown = 32
)

// ErrNotFound is in the error of a Find whose time ran out.
const ErrNotFound notFound = "no such block device"

type notFound string

func (e notFound) Error() string { return string(e) }

type notFoundError string

func (e notFoundError) Error() string        { return string(e) }
func (e notFoundError) Is(target error) bool { return target == ErrNotFound }

// Find waits until the device is there and can be read, or ctx ends: without a
// deadline that may be never. Of several that match, the first by name is
// taken, and logf (may be nil) is told. A device that does not answer holds up
// nothing but itself; the goroutine that reads it stays behind until it does.
func Find(ctx context.Context, spec Spec, logf func(format string, a ...any)) (Device, error) {
	return find(ctx, thisSystem(), spec, logf)
}

// List looks once, and waits for no device longer than ctx or two seconds.
func List(ctx context.Context) ([]Device, error) {
	s := newSearch(thisSystem(), Spec{}, nil)
	defer close(s.done)
	s.look(ctx)
	return s.sorted(), s.listErr
}

func find(ctx context.Context, sys system, spec Spec, logf func(string, ...any)) (Device, error) {
	start := time.Now()
	s := newSearch(sys, spec, logf)
	defer close(s.done)
	var wake <-chan struct{}
	if u, err := listen(); err == nil { // before the first look, so that nothing falls between
		defer u.Close()
		wake = u.wake
	} else {
		s.logf("no device events (%v): looking every second", err)
	}
	for first := true; ; first = false {
		s.look(ctx)
		if d, ok := s.choose(false); ok {
			return d, nil
		}
		if first {
			s.logf("waiting for %s", spec)
		}
		if s.wait(ctx, wake) {
			continue
		}
		if d, ok := s.choose(true); ok {
			return d, nil
		}
		return Device{}, s.notFound(time.Since(start))
	}
}

// wait returns true when it is time to look again, and false when ctx ends.
func (s *search) wait(ctx context.Context, wake <-chan struct{}) bool {
	select {
	case <-ctx.Done():
	case a := <-s.answers:
		s.take(a)
	case <-wake:
	case <-time.After(again):
	}
	select {
	case <-ctx.Done():
	case <-time.After(calm):
	}
	return ctx.Err() == nil
}

// answer is what a device said; key is its kernel name, or the path by which it
// was asked.
type answer struct {
	key string
	dev Device
}

// search is one wait for one device.
type search struct {
	sys  system
	spec Spec
	logf func(format string, a ...any)

	seen    map[string]Device // what each device last answered, by key
	busy    map[string]bool   // those that have not answered yet
	slots   chan struct{}
	answers chan answer
	done    chan struct{} // closed at the end, for those that answer later
	listErr error
}

func newSearch(sys system, spec Spec, logf func(string, ...any)) *search {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	return &search{
		sys: sys, spec: spec, logf: logf,
		seen: make(map[string]Device), busy: make(map[string]bool),
		slots: make(chan struct{}, atOnce), answers: make(chan answer), done: make(chan struct{}),
	}
}

// look asks every device once, and returns when all have answered, after
// patience, or soon after the one that is looked for has answered, or ctx ends.
func (s *search) look(ctx context.Context) {
	names, err := s.sys.names()
	s.listErr = err
	for name := range s.seen {
		if !slices.Contains(names, name) {
			delete(s.seen, name)
		}
	}
	for _, name := range names {
		s.ask(name, "")
	}
	if s.spec.Tag == Path {
		// By its path too: it may be a link, or not listed, or /sys missing.
		s.ask(s.spec.Value, s.spec.Value)
	}
	enough, ended := time.After(patience), ctx.Done()
	for found := false; len(s.busy) > 0; {
		select {
		case a := <-s.answers:
			s.take(a)
			if _, _, ok := s.match(false); ok && !found {
				found, enough = true, time.After(grace)
			}
		case <-enough:
			return
		case <-ended:
			enough, ended = time.After(grace), nil
		}
	}
}

// ask has the device read, unless it still is.
func (s *search) ask(name, path string) {
	if s.busy[name] {
		return
	}
	if len(s.busy) >= most {
		return // the next look may have room
	}
	s.busy[name] = true
	go func() {
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			return
		}
		free := sync.OnceFunc(func() { <-s.slots })
		late := time.AfterFunc(slow, free)
		d := s.sys.probe(name, path)
		late.Stop()
		free()
		select {
		case s.answers <- answer{name, d}:
		case <-s.done:
		}
	}()
}

func (s *search) take(a answer) {
	delete(s.busy, a.key)
	s.seen[a.key] = a.dev
}

func (s *search) sorted() []Device {
	all := make([]Device, 0, len(s.seen))
	for _, d := range s.seen {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b Device) bool { return a.Name == b.Name && a.Path == b.Path })
}

// choose is match, and tells of the others that match.
func (s *search) choose(last bool) (Device, bool) {
	d, others, ok := s.match(last)
	if len(others) > 0 {
		s.logf("%s is on %s and on %s: taking %s", s.spec, d.Name, strings.Join(others, ", "), d.Name)
	}
	return d, ok
}

// match takes the first device that matches. The devices of one btrfs are one match,
// and all of them are waited for until the last moment.
func (s *search) match(last bool) (d Device, others []string, ok bool) {
	var matches []Device
	for _, d := range s.sorted() {
		if s.spec.matches(d) {
			matches = append(matches, d)
		}
	}
	if len(matches) == 0 {
		return Device{}, nil, false
	}
	d = matches[0]
	d.Members = s.members(d)
	if !d.Complete() && !last {
		return Device{}, nil, false
	}
	for _, o := range matches[1:] {
		if o.Path != d.Path && !slices.Contains(d.Members, o.Path) {
			others = append(others, o.Name)
		}
	}
	return d, others, true
}

// Complete tells whether all devices of a btrfs were found.
func (d Device) Complete() bool { return d.Devices <= uint64(max(1, len(d.Members))) }

// members are the devices that the kernel has to be told of to mount d.
func (s *search) members(d Device) []string {
	if d.Type != "btrfs" || d.Devices < 2 {
		return nil
	}
	var paths []string
	for _, o := range s.sorted() {
		if o.Type == "btrfs" && o.UUID == d.UUID && o.Holder == "" && !slices.Contains(paths, o.Path) {
			paths = append(paths, o.Path)
		}
	}
	return paths
}

func (s *search) notFound(after time.Duration) error {
	unit := time.Second
	if after < time.Second {
		unit = 10 * time.Millisecond
	}
	with := "with "
	if s.spec.Tag == Path {
		with = ""
	}
	return notFoundError(fmt.Sprintf("no block device %s%s within %v; seen: %s", with, s.spec, after.Round(unit), s.summary()))
}

// summary is what a person needs to find the mistake.
func (s *search) summary() string {
	if s.listErr != nil {
		return fmt.Sprintf("nothing, because of %v", s.listErr)
	}
	var seen []string
	for _, d := range s.sorted() {
		asked := s.spec.Tag == Path && d.Path == s.spec.Value
		absent := errors.Is(d.Err, syscall.ENOENT)
		unused := d.Err == errNoMedium // loop0 to loop7
		if !(asked && absent) && (asked || !unused) {
			seen = append(seen, d.show(s.spec.Tag))
		}
	}
	for name := range s.busy {
		if _, ok := s.seen[name]; !ok {
			seen = append(seen, name+" (does not answer)")
		}
	}
	slices.Sort(seen)
	switch {
	case len(seen) == 0:
		return "none at all"
	case len(seen) > mostShown:
		return fmt.Sprintf("%s and %d more", strings.Join(seen[:mostShown], ", "), len(seen)-mostShown)
	}
	return strings.Join(seen, ", ")
}
