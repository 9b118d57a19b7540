// Package watchdog arms the machine's watchdogs and feeds them while a job moves.
//
// Start with Open and a Pulse: the job calls Beat when it gets on, and Guard feeds
// the dogs for as long as the Pulse is alive. What a watchdog does when nobody feeds
// it, a reset as a rule, is its driver's business.
//
// A dog that was armed before, by the production system for instance, is taken
// over: until its device is opened the kernel feeds it (CONFIG_WATCHDOG_HANDLE_BOOT_ENABLED,
// drivers/watchdog/watchdog_dev.c), and from then on only Feed does.
package watchdog

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

// Error is an error that callers may test for.
type Error string

func (e Error) Error() string { return string(e) }

// ErrNone: there is no watchdog device.
const ErrNone Error = "no watchdog"

// maxDogs bounds how many watchdogs are opened; real machines have up to three.
const maxDogs = 8

// device is what a watchdog's driver answers to; tests have one without a driver.
type device interface {
	setTimeout(seconds int) error
	timeout() (seconds int, err error)
	feed() error
	identity() string
	disarm() error // and close
}

// Pack is all watchdogs of the machine. They are fed together; any of them bites.
// Its methods are for one goroutine at a time.
type Pack struct{ dogs []device }

// Open opens, and so arms, the watchdogs in dir, which is /dev, and sets each one's
// timeout to the nearest to the one asked for that its driver takes. The error is
// ErrNone, or what is wrong with some of them: a Pack that is not nil has the others.
func Open(dir string, timeout time.Duration) (*Pack, error) {
	names, _ := filepath.Glob(filepath.Join(dir, "watchdog[0-9]*")) // its one error is a bad pattern
	if len(names) == 0 {
		names = []string{filepath.Join(dir, "watchdog")} // of a driver older than the watchdog core
	}
	p := &Pack{}
	var errs []error
	for _, name := range names[:min(len(names), maxDogs)] {
		f, err := os.OpenFile(name, os.O_WRONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		dog := &driver{f: f}
		p.dogs = append(p.dogs, dog)
		if err := settle(dog, timeout); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(p.dogs) == 0 && len(errs) == 0 {
		return nil, ErrNone
	}
	if len(p.dogs) == 0 {
		return nil, errors.Join(errs...)
	}
	return p, errors.Join(append(errs, p.Feed())...)
}

// leastTimeout is the shortest timeout that is tried; bcm2835_wdt's longest is 15 s.
const leastTimeout = 4 * time.Second

// settle asks for a timeout, and for half of it as long as that is too long for
// the driver.
func settle(d device, timeout time.Duration) error {
	for t := timeout; ; t /= 2 {
		err := d.setTimeout(int((t + time.Second - 1) / time.Second))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINVAL) || t/2 < leastTimeout {
			return fmt.Errorf("set timeout %s: %w", timeout, err)
		}
	}
}

// Timeout is the shortest timeout of all, 0 if no driver tells.
func (p *Pack) Timeout() time.Duration {
	var least time.Duration
	for _, d := range p.dogs {
		if n, err := d.timeout(); err == nil && n > 0 && (least == 0 || time.Duration(n)*time.Second < least) {
			least = time.Duration(n) * time.Second
		}
	}
	return least
}

// String names the drivers.
func (p *Pack) String() string {
	var names []string
	for _, d := range p.dogs {
		names = append(names, d.identity())
	}
	return strings.Join(names, ", ")
}

// Feed puts the bite off by a timeout.
func (p *Pack) Feed() error {
	var errs []error
	for _, d := range p.dogs {
		errs = append(errs, d.feed())
	}
	return errors.Join(errs...)
}

// Disarm stops the watchdogs, with the magic close. A driver that was told
// nowayout, or hardware that cannot stop, goes on, and the error says so.
func (p *Pack) Disarm() error {
	var errs []error
	for _, d := range slices.Backward(p.dogs) {
		errs = append(errs, d.disarm())
	}
	p.dogs = nil
	return errors.Join(errs...)
}

// Guard feeds the watchdogs for as long as the pulse is alive, until ctx ends; the
// watchdogs stay armed. It looks every quarter of the timeout, and every second at
// least. failed, if not nil, is told of the first error.
func (p *Pack) Guard(ctx context.Context, pulse *Pulse, failed func(error)) {
	tick := time.Second
	if t := p.Timeout(); t > 0 {
		tick = min(tick, t/4)
	}
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !pulse.Alive() {
			continue
		}
		if err := p.Feed(); err != nil && failed != nil {
			failed(err)
			failed = nil
		}
	}
}

// driver is a watchdog of the kernel: Documentation/watchdog/watchdog-api.rst.
type driver struct{ f *os.File }

func (d *driver) setTimeout(seconds int) error {
	return unix.IoctlSetPointerInt(int(d.f.Fd()), unix.WDIOC_SETTIMEOUT, seconds)
}

func (d *driver) timeout() (int, error) {
	return unix.IoctlGetInt(int(d.f.Fd()), unix.WDIOC_GETTIMEOUT)
}

// feed writes a byte, which unlike WDIOC_KEEPALIVE every driver has always taken. It
// must not be a V.
func (d *driver) feed() error {
	_, err := d.f.Write([]byte{0})
	return err
}

func (d *driver) identity() string {
	name := filepath.Base(d.f.Name())
	if info, err := unix.IoctlGetWatchdogInfo(int(d.f.Fd())); err == nil {
		name += " (" + unix.ByteSliceToString(info.Identity[:]) + ")"
	}
	return name
}

func (d *driver) disarm() error {
	_, err := d.f.Write([]byte{'V'})
	return errors.Join(err, d.f.Close())
}
