package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Times of the steps of Reach, each within the deadline of its caller.
const (
	neighbourTime = 4 * time.Second // three questions of the kernel's, and a second
	connectTime   = 8 * time.Second // SYNs at 0, 1, 3 and 7 s
	refusals      = 5               // the server may just be starting
	retryTime     = time.Second
)

// Reach makes sure that a TCP port of the target answers: name, route, neighbour
// and connection, again and again until ctx is over. Where a gateway does not
// lead to it, and another interface has one as well, that goes first from then
// on. The error is an *Error and says which step failed.
func (n *Network) Reach(ctx context.Context, host string, port int) error {
	start := time.Now()
	refused := 0
	var last error
	told := make(map[netip.Addr]*repeated)
	for {
		list, _, err := n.resolve(ctx, host, last != nil)
		if err != nil {
			return &Error{Op: "reach " + host, Err: err, Seen: n.seen()}
		}
		for _, a := range list {
			step, err := n.reachAddress(ctx, netip.AddrPortFrom(a, uint16(port)))
			if err == nil {
				n.mu.Lock()
				n.answered[host] = a
				n.mu.Unlock()
				n.log("network: %s answers on port %d after %s", host, port, took(start))
				return nil
			}
			if until, ok := ctx.Deadline(); last == nil || !ok || time.Until(until) > 0 {
				if told[a] == nil {
					told[a] = &repeated{}
				}
				if again, worth := told[a].add(step); worth {
					n.log("network: %v%s", err, again)
				}
				last = err
			}
			if errors.Is(err, unix.ECONNREFUSED) {
				refused++
			}
		}
		until, bounded := ctx.Deadline()
		if refused >= refusals*len(list) || bounded && time.Until(until) < 2*retryTime || !sleep(ctx, retryTime) {
			return &Error{Op: fmt.Sprintf("reach %s in %s", host, took(start)), Err: last, Seen: n.seen()}
		}
	}
}

// repeated counts how often the same step has failed.
type repeated struct {
	step  string
	times int
}

// add tells what to say of it, and whether it is worth a line: the first time, the
// second, the fourth, and so on.
func (r *repeated) add(step string) (again string, worth bool) {
	if step != r.step {
		*r = repeated{step: step}
	}
	r.times++
	if r.times > 1 {
		again = fmt.Sprintf(" (%d times)", r.times)
	}
	return again, r.times&(r.times-1) == 0
}

// reachAddress makes one try. step says what failed: route, neighbour, silence, or
// what the kernel said of the connection.
func (n *Network) reachAddress(ctx context.Context, to netip.AddrPort) (step string, err error) {
	r, err := lookupRoute(to.Addr())
	if err != nil {
		return "route", fmt.Errorf("no route to %s: %w", to.Addr(), err)
	}
	if !r.local {
		if err := n.neighbour(ctx, r, to.Addr()); err != nil {
			if demote(to.Addr(), r) {
				n.log("network: %s does not lead to %s, the next default route goes first now", r.dev, to.Addr())
			}
			return "neighbour", err
		}
	}
	dctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	start := time.Now()
	c, err := (&net.Dialer{KeepAlive: -1}).DialContext(dctx, "tcp", to.String())
	if err == nil {
		return "", c.Close()
	}
	if isTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		if demote(to.Addr(), r) {
			n.log("network: nobody answers behind %s, the next default route goes first now", r.dev)
		}
		return "silence", fmt.Errorf("connect to %s %s: no answer in %s", to, r, took(start))
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err.Error(), fmt.Errorf("connect to %s %s: %w", to, r, err)
}

// neighbour waits until the next host on the way has answered ARP or neighbour
// discovery.
func (n *Network) neighbour(ctx context.Context, r route, target netip.Addr) error {
	next, what := target, "target"
	if r.gateway.IsValid() {
		next, what = r.gateway, "gateway"
	}
	protocol := "ARP"
	if next.Is6() {
		protocol = "neighbour discovery"
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, neighbourTime)
	defer cancel()
	err := n.events.wait(ctx, func() bool {
		state := neighbourState(r.index, next)
		switch {
		case state&answering != 0:
			return true
		case state&unix.NUD_INCOMPLETE == 0: // nobody asks at the moment
			// NTF_USE makes the kernel ask (neigh_add of net/core/neighbour.c).
			netlink.NeighSet(&netlink.Neigh{LinkIndex: r.index, Family: family(next), IP: next.AsSlice(), Flags: netlink.NTF_USE, State: unix.NUD_NONE})
		}
		return false
	})
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s does not answer %s on %s in %s: is it there, and on this network", what, next, protocol, r.dev, took(start))
}

// answering are the states of a neighbour that has answered.
const answering = unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_STALE | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP

// neighbourState is the NUD state, 0 for a neighbour that nobody asked for.
func neighbourState(index int, a netip.Addr) int {
	list, err := again(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, family(a)) })
	if err != nil {
		return 0
	}
	for _, e := range list {
		if toAddr(e.IP) == a {
			return e.State
		}
	}
	return 0
}
