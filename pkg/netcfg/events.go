package netcfg

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// events wakes everybody who waits for something when the kernel's network
// changes. Who wakes looks at the kernel's state anew: an event that is lost, or
// one too many, does no harm.
type events struct {
	mu   sync.Mutex
	next chan struct{} // closed, and made anew, at each change
}

func (e *events) changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next == nil {
		e.next = make(chan struct{})
	}
	return e.next
}

func (e *events) fire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next != nil {
		close(e.next)
		e.next = nil
	}
}

// glance is how often those who wait look without an event.
const glance = time.Second

// wait returns nil once done is true, or the error of ctx.
func (e *events) wait(ctx context.Context, done func() bool) error {
	for {
		changed := e.changed()
		if done() {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		t := time.NewTimer(glance)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// listen starts to fire for links, addresses, routes and neighbours, until ctx
// is over.
func (e *events) listen(ctx context.Context, wg *sync.WaitGroup) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEIGH)
	if err != nil {
		return err
	}
	if err := s.SetReceiveTimeout(&unix.Timeval{Usec: 250_000}); err != nil {
		s.Close()
		return err
	}
	wg.Go(func() {
		defer s.Close()
		for ctx.Err() == nil {
			_, _, err := s.Receive()
			switch {
			case err == nil, errors.Is(err, unix.ENOBUFS):
				e.fire()
			case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
				sleep(ctx, glance)
			}
		}
	})
	return nil
}

// sleep ends early, with false, when ctx does.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
