package netcfg

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// term is how long a lease holds, counted from got.
type term struct {
	got    time.Time
	t1, t2 time.Duration // ask the server that gave it, ask everybody
	end    time.Duration
}

// renew has ask send one request after the other once the lease wants to be renewed
// (RFC 2131, 4.4.5; RFC 8415, 18.2.4 and 18.2.5), each for up to half of the time that
// is left of its phase, until one is answered. False: none was, or ctx is over.
func (t term) renew(ctx context.Context, j *job, address fmt.Stringer, ask func(everybody bool, wait time.Duration) error) bool {
	if !sleep(ctx, time.Until(t.got.Add(t.t1))) {
		return false
	}
	for {
		now := time.Since(t.got)
		if now >= t.end {
			j.n.log("%s: lease of %s ran out, nobody has renewed it; the address is kept", j.name, address)
			return false
		}
		phase, everybody := t.t2, now >= t.t2
		if everybody {
			phase = t.end
		}
		wait := min(max((phase-now)/2, 2*time.Second), time.Minute)
		err := ask(everybody, wait)
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case !errors.Is(err, errNoAnswer):
			j.n.log("%s: renew %s: %v", j.name, address, err)
			if !sleep(ctx, wait) {
				return false
			}
		}
	}
}
