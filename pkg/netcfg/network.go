package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ukdump/ukdump/internal/networds"
)

// Options are what Up needs from its surroundings.
type Options struct {
	// Log takes lines an operator should see. nil: they are dropped.
	Log func(format string, a ...any)

	// Root is the folder below which etc/resolv.conf is written. Empty: /.
	Root string
}

// Network is a network that comes up, or is up. Its methods may be called from
// several goroutines.
type Network struct {
	plan Plan
	log  func(format string, a ...any)
	root string

	ctx    context.Context // of all that goes on until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	start  time.Time
	events events
	naming sync.Mutex // one at a time changes names

	mu      sync.Mutex // guards what follows
	devices map[string]*device
	jobs    []*job
	nics    *report   // of the search for NICs that no word names
	newest  time.Time // when the last NIC of any kind has appeared to it
	dns     []netip.Addr
	search  []string
	routed  map[networds.Route]string // how a route of rd.route= went, "" if well
	queries int                       // to name servers, since Up
	known   map[string][]netip.Addr   // what they have answered, by host

	answered map[string]netip.Addr // of a host's addresses, the one that Reach has reached
}

// Up brings up what the plan asks for, and returns once there is a route to
// host, a name or an address. The other interfaces come up in the background.
// With host empty it waits for all. The deadline of ctx bounds it; its error is
// an *Error. After an error everything stays as far as it came, for a next try.
func (p Plan) Up(ctx context.Context, host string, o Options) (*Network, error) {
	n := &Network{plan: p, log: o.Log, root: filepath.Join("/", o.Root), start: time.Now(),
		devices: make(map[string]*device), routed: make(map[networds.Route]string), known: make(map[string][]netip.Addr), answered: make(map[string]netip.Addr), dns: slices.Clone(p.dns)}
	if n.log == nil {
		n.log = func(string, ...any) {}
	}
	if len(p.ifaces) == 0 && len(p.every) == 0 {
		n.plan.every = []networds.Method{networds.DHCP4, networds.Either6}
	}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := n.events.listen(n.ctx, &n.wg); err != nil {
		n.Close()
		return nil, &Error{Op: "listen to the kernel's network events", Err: err}
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		netlink.LinkSetUp(lo)
	}
	heedCarriers()
	n.startJobs()
	if err := n.await(ctx, host); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close ends what goes on in the background, such as the renewal of leases.
// Interfaces, addresses and routes stay.
func (n *Network) Close() {
	n.cancel()
	stopped := make(chan struct{})
	go func() {
		n.wg.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(2 * time.Second): // a system call that hangs in a driver
	}
}

// startJobs starts the interfaces that the plan names, and the search for those
// that it does not.
func (n *Network) startJobs() {
	for _, name := range n.plan.names {
		n.wg.Go(func() { n.follow(name.Name, func(link, error) bool { return true }) })
	}
	for _, i := range n.plan.ifaces {
		n.startJob(i, 0)
	}
	if len(n.plan.every) == 0 {
		return
	}
	for _, name := range n.plan.virtuals() {
		if n.plan.master(name) == "" && n.plan.iface(name) == nil {
			n.startJob(iface{name: name, methods: n.plan.every}, 0)
		}
	}
	n.nics = &report{who: "network", logf: n.log}
	n.wg.Go(n.everyNIC)
}

// startJob starts one interface: that of an index, or with 0 that of the name.
func (n *Network) startJob(i iface, index int) {
	j := &job{n: n, iface: i, index: index, report: report{who: i.name, logf: n.log}}
	n.mu.Lock()
	n.jobs = slices.DeleteFunc(n.jobs, func(old *job) bool { return old.index != 0 && old.name == i.name && old.has(failed, stepDevice) })
	n.jobs = append(n.jobs, j)
	n.mu.Unlock()
	n.wg.Go(func() { j.run(n.ctx) })
}

// everyNIC starts each NIC that appears and that no word speaks of.
func (n *Network) everyNIC() {
	there, seen := make(map[int]bool), make(map[int]bool)
	n.events.wait(n.ctx, func() bool {
		all, err := links()
		if err != nil {
			n.nics.set(stepDevice, failed, "%v", err)
			return false
		}
		for _, l := range all {
			if l.nic() && !there[l.index] {
				there[l.index] = true
				n.mu.Lock()
				n.newest = time.Now()
				n.mu.Unlock()
			}
			if !seen[l.index] && l.nic() && l.master == 0 && n.free(l, all) {
				seen[l.index] = true
				n.startJob(iface{name: l.name, methods: n.plan.every}, l.index)
			}
		}
		switch waited := time.Since(n.start); {
		case len(seen) > 0:
			n.nics.forget(stepDevice)
		case waited < n.plan.timeout(stepDevice):
			n.nics.begin(stepDevice, n.start, "no NIC in {}")
		default:
			n.nics.set(stepDevice, failed, "no NIC in %s: is its driver in the image", seconds(n.plan.timeout(stepDevice)))
		}
		return false
	})
}

// complete tells that no other NIC is to be expected, where each is to be tried:
// drivers find them one after the other.
func (n *Network) complete() bool {
	const quiet = 10 * time.Second // since the last one
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nics == nil || n.nics.has(failed) || !n.newest.IsZero() && time.Since(n.newest) > quiet
}

// free tells that no word speaks of a NIC, and that it has its final name: none
// that a word gives to another one of them all.
func (n *Network) free(l link, all []link) bool {
	for _, name := range n.plan.names {
		is := l.hasMAC(name.MAC)
		there := slices.ContainsFunc(all, func(l link) bool { return l.nic() && l.hasMAC(name.MAC) })
		if is != (l.name == name.Name) && (is || there) {
			return false
		}
	}
	for _, i := range n.plan.ifaces {
		if i.mac != nil && l.hasMAC(i.mac) {
			return false // waitNIC gives it the name
		}
	}
	for _, called := range []string{l.name, networds.Dashed(l.mac), networds.Dashed(l.perm)} {
		if n.plan.iface(called) != nil || n.plan.master(called) != "" {
			return false
		}
	}
	return true
}

// patience is how long Up waits for interfaces that have a carrier and no
// address yet, when all it has is a default route: theirs may be better.
const patience = 3 * time.Second

// await waits for the route to host.
func (n *Network) await(ctx context.Context, host string) error {
	target := &lookup{n: n, host: host}
	if host != "" {
		lctx, cancel := context.WithCancel(n.ctx)
		defer cancel()
		target.start(lctx)
	}
	var only time.Time    // since when there is a default route
	var settled time.Time // since when nothing is to come
	err := n.events.wait(ctx, func() bool {
		if host == "" {
			_, all := n.progress(nil)
			return all
		}
		for _, a := range target.found() {
			r, ok := usable(a)
			if !ok || n.unset(r.dev) {
				continue
			}
			if only.IsZero() {
				only = time.Now()
			}
			if !r.byDefault || !n.undecided() || time.Since(only) > patience {
				n.log("network: route to %s after %s: %s", host, seconds(time.Since(n.start)), r)
				return true
			}
		}
		// The kernel tells of a carrier and its routes one after the other, so
		// what is seen in a moment may be the half of it.
		if _, all := n.progress(target.found()); !all || !target.settled() || !n.complete() {
			settled = time.Time{}
		} else if settled.IsZero() {
			settled = time.Now()
		}
		return !settled.IsZero() && time.Since(settled) > glance/2
	})
	switch ready, _ := n.progress(nil); {
	case err == nil && host == "" && ready:
		return nil
	case err == nil && host != "" && n.reachable(target):
		return nil
	}
	return n.failure(host, target, err)
}

// failure is the error of await, which ended with err, or gave up with none.
func (n *Network) failure(host string, target *lookup, err error) error {
	e := &Error{Op: fmt.Sprintf("no route to %s in %s", host, seconds(time.Since(n.start))), Seen: n.seen()}
	if host == "" {
		e.Op = "no address in " + seconds(time.Since(n.start))
	}
	if err := target.failure(); err != nil {
		e.Op, e.Err = "network to "+host, err
	} else if errors.Is(err, context.Canceled) {
		e.Err = err
	}
	return e
}

func (n *Network) reachable(target *lookup) bool {
	return slices.ContainsFunc(target.found(), func(a netip.Addr) bool { _, ok := usable(a); return ok })
}

// progress tells whether an interface has an address, and whether nothing is to
// come any more that may lead to the target, as far as its addresses are known.
func (n *Network) progress(target []netip.Addr) (ready, settled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	settled = n.nics == nil || len(n.jobs) > 0 || n.nics.has(failed)
	for _, j := range n.jobs {
		ready = ready || j.ready()
		settled = settled && !j.pending(target)
	}
	return ready, settled
}

// undecided tells whether an interface with a carrier has no address yet.
func (n *Network) undecided() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.jobs, func(j *job) bool {
		return !j.ready() && !j.stuck() && j.has(done, stepCarrier)
	})
}

// unset tells that the words give an interface addresses which it does not have
// yet: its routes are those of somebody before us.
func (n *Network) unset(dev string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.jobs, func(j *job) bool {
		if len(j.static) == 0 || j.has(done, stepStatic) || j.has(failed, stepStatic) {
			return false
		}
		is := j.device()
		if is == "" { // not yet; a MAC address may be that of no NIC at all
			l, _ := find(j.name)
			is = l.name
		}
		return is == dev
	})
}

// seen is what each interface has gone through.
func (n *Network) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var texts []string
	for _, j := range n.jobs {
		texts = append(texts, j.String())
	}
	if n.nics != nil && (n.nics.has(failed) || n.nics.has(trying)) {
		texts = append(texts, n.nics.String())
	}
	for r, how := range n.routed {
		if how != "" {
			texts = append(texts, "rd.route="+r.String()+": "+how)
		}
	}
	return texts
}

// route is the kernel's answer to how an address is reached.
type route struct {
	index     int
	dev       string
	gateway   netip.Addr // invalid: on the link
	src       netip.Addr
	local     bool // this machine itself
	byDefault bool
}

func (r route) String() string {
	text := "over " + r.dev
	if r.gateway.IsValid() {
		text += " by " + r.gateway.String()
	}
	return text + " from " + r.src.String()
}
