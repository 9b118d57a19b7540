package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/watchdog"
	"github.com/ukdump/ukdump/pkg/config"
)

const (
	// watchdogTimeout bounds the arming; a driver that hangs is left behind.
	watchdogTimeout = 15 * time.Second
	// autoBite is the timeout of a watchdog that is there for PID 1 and the kernel.
	autoBite = time.Minute
	// autoSlack is how much longer than an attempt the watchdog waits with "auto":
	// PID 1 ends what does not move, and only if it cannot, the watchdog does.
	autoSlack = 30 * time.Second
	// feedTick is how long a beat is good for where a TIME is set: it must not be
	// over before Guard has looked, which it does every second.
	feedTick = 2 * time.Second
)

// guard is the machine's watchdogs and what they are fed for. Its zero value has
// none. Every goroutine may use it.
type guard struct {
	mu    sync.Mutex // guards what follows
	pulse *watchdog.Pulse
	pack  *watchdog.Pack // nil: none, or released
	stop  context.CancelFunc
	done  chan struct{} // closed when nothing feeds any more
}

// beat says that the capture moves, and how much longer than usual its next step
// may take.
func (g *guard) beat(grace time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pulse != nil {
		g.pulse.Beat(grace)
	}
}

// follow hands on the beats of an attempt until it has ended.
func (g *guard) follow(r io.Reader, pulse *watchdog.Pulse) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 { // the last one counts
			grace := watchdog.Decode(buf[n-1])
			pulse.Beat(grace)
			g.beat(grace)
		}
		if err != nil {
			return
		}
	}
}

// arm takes the watchdogs over. failed is told when they can no longer be fed.
func (g *guard) arm(pack *watchdog.Pack, window time.Duration, failed func(error)) {
	ctx, cancel := context.WithCancel(context.Background())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pulse, g.pack, g.stop, g.done = watchdog.NewPulse(window), pack, cancel, make(chan struct{})
	pulse, done := g.pulse, g.done
	go func() {
		defer close(done)
		pack.Guard(ctx, pulse, failed)
	}()
}

func (g *guard) armed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pack != nil
}

// release stops the watchdogs, if they can be stopped.
func (g *guard) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pack == nil {
		return
	}
	g.stop()
	<-g.done
	_ = g.pack.Disarm() // the log is closed; the machine is about to stop
	g.pack = nil
}

// armEarly loads the drivers of the watchdogs that the machine has, before anything
// else that may hang.
func (c *capture) armEarly() error {
	if c.config().Watchdog == config.WatchdogOff {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchdogTimeout)
	defer cancel()
	results, err := modules.LoadFile(ctx, modules.FSListPath(modules.WatchdogList),
		modules.Options{PerModule: watchdogTimeout / 2, Cmdline: c.cmdline, Devices: "/sys"})
	for _, r := range results {
		if r.Err != nil && !r.Absent {
			c.logf("warning: %v", r.Err)
		}
	}
	return errors.Join(err, c.arm(false))
}

// arm arms the watchdogs that there are, unless it has done so. last: no more
// drivers come.
func (c *capture) arm(last bool) error {
	cfg := c.config()
	if cfg.Watchdog == config.WatchdogOff || c.guard.armed() {
		return nil
	}
	bite, window := autoBite, cfg.StallTimeout+autoSlack
	if cfg.Watchdog != config.WatchdogAuto {
		bite, window = cfg.Watchdog, min(feedTick, cfg.Watchdog/2)
	}
	pack, err := watchdog.Open("/dev", bite)
	switch {
	case err == watchdog.ErrNone && (!last || cfg.Watchdog == config.WatchdogAuto):
		return nil
	case pack == nil:
		return err
	}
	c.guard.arm(pack, window, func(err error) { c.logf("warning: feed watchdog: %v", err) })
	c.logf("armed: %s, timeout %s, fed while nothing stands still for more than %s", pack, pack.Timeout(), window)
	return err
}
