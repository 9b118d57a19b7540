package netcfg

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/networds"
)

// job is one interface on its way to its addresses, and keeping them. Its steps
// are in its report: device, link-up, carrier, then one for each family and
// method.
type job struct {
	iface
	report
	n     *Network
	index int // of the NIC that was found, 0: the name says which

	flaps int // carrier lost

	mu  sync.Mutex
	dev string // name of the interface, once it is there
}

func (j *job) device() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.dev
}

// Steps behind the carrier, each a way to get an address.
const (
	stepStatic = "static"
	stepLease4 = "dhcp4"
	stepSLAAC  = "slaac"
	stepLease6 = "dhcp6"
	stepLink6  = "link6"
)

func addressSteps() []string {
	return []string{stepStatic, stepLease4, stepSLAAC, stepLease6, stepLink6}
}

func (j *job) ready() bool { return j.has(done, addressSteps()...) }

// stuck tells that no address is to be expected within the time that its steps
// have. The job goes on nevertheless. An MTU or MAC address that the NIC refuses
// is no reason.
func (j *job) stuck() bool {
	if j.has(failed, stepDevice, stepUp, stepCarrier) {
		return true
	}
	return j.has(failed, addressSteps()...) && !j.has(trying)
}

// pending tells that a step may still lead to the target: the first address, a
// carrier that was lost, or what the target's family waits for when the other one
// has come first.
func (j *job) pending(target []netip.Addr) bool {
	if !j.ready() {
		return !j.stuck()
	}
	return j.has(trying, stepCarrier) || slices.ContainsFunc(target, func(a netip.Addr) bool {
		if a.Is4() {
			return j.has(trying, stepLease4)
		}
		return j.has(trying, stepSLAAC, stepLease6, stepRouter)
	})
}

// run returns when ctx is over, or nothing is left to do. An interface that goes is
// waited for again; a NIC that no word names gets a new job then.
func (j *job) run(ctx context.Context) {
	for {
		l, err := j.appear(ctx)
		if err != nil {
			return
		}
		j.setDevice(l.name)
		if err := j.linkUp(ctx, l); err == nil {
			j.keep(ctx, l)
		}
		if ctx.Err() != nil {
			return
		}
		j.flaps = 0
		j.setDevice("")
		j.restart(stepDevice, "gone {} ago")
		if j.index != 0 {
			j.set(stepDevice, failed, "gone")
			return
		}
		j.n.log("%s: gone", j.name)
	}
}

func (j *job) setDevice(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dev = name
}

// keep has the interface configured whenever it has a carrier, and returns when ctx
// is over or the interface gone.
func (j *job) keep(ctx context.Context, l link) {
	for j.carrier(ctx, l.index) {
		stay, lost := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			err := j.n.events.wait(stay, func() bool { now, ok := byIndex(l.index); return !ok || !now.running })
			if err == nil {
				j.carrierLost() // at once: the routes are gone already
			}
			lost()
		})
		j.configure(stay, l.index)
		wg.Wait()
		lost()
	}
}

// appear waits for the interface.
func (j *job) appear(ctx context.Context) (link, error) {
	start := time.Now()
	limit := j.n.plan.timeout(stepDevice)
	j.begin(stepDevice, start, "not there after {}")
	t := time.AfterFunc(limit, func() {
		j.set(stepDevice, failed, "not there after %s; there is %s", seconds(limit), inventory())
		j.n.events.fire()
	})
	l, err := j.find(ctx)
	t.Stop()
	switch {
	case err != nil && ctx.Err() == nil:
		j.set(stepDevice, failed, "%v", err)
		j.n.events.fire()
	case err == nil && time.Since(start) > time.Second:
		j.set(stepDevice, done, "there after %s", took(start))
	case err == nil:
		j.forget(stepDevice)
	}
	return l, err
}

func (j *job) find(ctx context.Context) (link, error) {
	if j.index == 0 {
		return j.n.device(ctx, j.name)
	}
	var l link
	ok := false
	err := j.n.events.wait(ctx, func() bool {
		l, ok = byIndex(j.index)
		return ok || gone(j.index)
	})
	if err == nil && !ok {
		err = errGone
	}
	return l, err
}

const errGone netError = "gone again"

// inventory lists the NICs that there are, for who has asked for another.
func inventory() string {
	all, _ := links()
	text := ""
	for _, l := range all {
		if l.nic() {
			text += fmt.Sprintf(", %s (%s)", l.name, l.mac)
		}
	}
	if text == "" {
		return "no NIC at all: is its driver in the image"
	}
	return text[2:] + ": names may differ in a capture kernel, ifname=NAME:MAC sets one"
}

// linkUp sets what must be set before, and the interface up. Drivers may fail
// for a while.
func (j *job) linkUp(ctx context.Context, l link) error {
	start := time.Now()
	limit := j.n.plan.timeout(stepUp)
	j.begin(stepUp, start, "being set up for {}")
	if j.mac != nil {
		if err := setMAC(l, j.mac); err != nil {
			j.set("mac", failed, "%v", err)
		}
	}
	if j.mtu != 0 {
		if err := netlink.LinkSetMTU(l.handle(), j.mtu); err != nil {
			j.set("mtu", failed, "MTU %d: %v", j.mtu, err)
		}
	}
	if j.wants6() {
		prepare6(l.name)
	}
	for {
		err := netlink.LinkSetUp(l.handle())
		if err == nil {
			j.forget(stepUp)
			return nil
		}
		if gone(l.index) {
			return errGone
		}
		if time.Since(start) >= limit {
			j.set(stepUp, failed, "cannot be set up in %s: %v", seconds(limit), err)
			j.n.events.fire()
		} else {
			j.begin(stepUp, start, "cannot be set up in {}: %v", err)
		}
		if !sleep(ctx, time.Second) {
			return err
		}
	}
}

// carrier waits for it, and returns false when ctx is over or the interface gone.
func (j *job) carrier(ctx context.Context, index int) bool {
	start := time.Now()
	limit := j.n.plan.timeout(stepCarrier)
	isGone := false
	err := j.n.events.wait(ctx, func() bool {
		l, ok := byIndex(index)
		if isGone = !ok && gone(index); l.running || isGone {
			return true
		}
		switch waited := time.Since(start); {
		case j.flaps > 0 && waited < limit:
			j.begin(stepCarrier, start, "carrier lost%s, {} ago", j.times())
		case j.flaps > 0:
			j.set(stepCarrier, failed, "carrier lost%s, not back in %s", j.times(), seconds(limit))
		case waited < limit:
			j.begin(stepCarrier, start, "no carrier in {}")
		default:
			j.set(stepCarrier, failed, "no carrier in %s: is the cable in", seconds(limit))
		}
		return false
	})
	if err != nil || ctx.Err() != nil || isGone {
		return false
	}
	j.set(stepCarrier, done, "carrier after %s%s", seconds(time.Since(start)), j.lostBefore())
	return true
}

func (j *job) carrierLost() {
	j.flaps++
	j.put(entry{stepCarrier, fmt.Sprintf("carrier lost%s, {} ago", j.times()), time.Now(), trying})
	j.n.log("%s: carrier lost%s", j.name, j.times())
}

func (j *job) times() string {
	if j.flaps > 1 {
		return fmt.Sprintf(" %d times", j.flaps)
	}
	return ""
}

func (j *job) lostBefore() string {
	if j.flaps > 0 {
		return ", lost" + j.times() + " before"
	}
	return ""
}

// configure gets the addresses and keeps them, until the carrier is lost, which
// ends ctx.
func (j *job) configure(ctx context.Context, index int) {
	if len(j.static) > 0 {
		j.setStatic(index)
	}
	j.n.addServers(j.dns, nil)
	var wg sync.WaitGroup
	has := func(m ...networds.Method) bool {
		return slices.ContainsFunc(m, func(m networds.Method) bool { return slices.Contains(j.methods, m) })
	}
	if has(networds.DHCP4) {
		j.begin(stepLease4, time.Now(), "no DHCP offer yet")
		wg.Go(func() { j.dhcp4(ctx, index) })
	}
	if j.wants6() {
		wg.Go(func() { j.family6(ctx, index) })
	}
	j.n.events.fire()
	wg.Wait()
	<-ctx.Done()
}

func (j *job) setStatic(index int) {
	if err := j.addStatic(index); err != nil {
		j.set(stepStatic, failed, "%v", err)
		return
	}
	text := ""
	for _, s := range j.static {
		text += " " + s.Address.String()
	}
	j.n.addRoutes()
	j.set(stepStatic, done, "has%s", text)
}

// wants6 tells whether words ask for IPv6.
func (j *job) wants6() bool {
	return slices.ContainsFunc(j.methods, func(m networds.Method) bool { return m != networds.DHCP4 }) ||
		slices.ContainsFunc(j.static, func(s networds.IP) bool { return s.Address.Addr().Is6() })
}

// prepare6 makes sure that the kernel does IPv6 and heeds routers. Errors:
// there is no IPv6 then, and the steps that need it say so.
func prepare6(name string) {
	for file, value := range map[string]string{"disable_ipv6": "0", "accept_ra": "2", "autoconf": "1"} {
		os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/"+file, []byte(value), 0)
	}
}

// linkLocal waits for the address that all IPv6 begins with.
func (j *job) linkLocal(ctx context.Context, index int) (found netip.Addr, ok bool) {
	start := time.Now()
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		j.set(stepLink6, failed, "the kernel has no IPv6: is the module ipv6 in the image")
		j.n.events.fire()
		return found, false
	}
	err := j.n.events.wait(ctx, func() bool {
		for _, a := range addresses(index, netlink.FAMILY_V6) {
			ip := toAddr(a.IP)
			switch {
			case !ip.IsLinkLocalUnicast():
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				j.set(stepLink6, failed, "another host has address %s", ip)
			case a.Flags&unix.IFA_F_TENTATIVE == 0:
				found = ip
				return true
			}
		}
		if !j.has(failed, stepLink6) {
			j.begin(stepLink6, start, "no IPv6 link-local address in {}")
		}
		return false
	})
	if err != nil {
		return found, false
	}
	if slices.Contains(j.methods, networds.Link6) {
		j.set(stepLink6, done, "has %s after %s", found, took(start))
	} else {
		j.forget(stepLink6)
	}
	return found, true
}

// family6 runs what there is to do for IPv6.
func (j *job) family6(ctx context.Context, index int) {
	has := func(m networds.Method) bool { return slices.Contains(j.methods, m) }
	auto, lease := has(networds.Auto6) || has(networds.Either6), has(networds.DHCP6)
	if auto {
		j.begin(stepSLAAC, time.Now(), "no router advertisement yet")
	}
	if lease {
		j.begin(stepLease6, time.Now(), "no DHCPv6 advertisement yet")
	}
	if lease && !auto {
		j.begin(stepRouter, time.Now(), "no router advertisement yet")
	}
	if !auto && !lease && !has(networds.Link6) {
		return // static addresses alone
	}
	local, ok := j.linkLocal(ctx, index)
	if !ok {
		return
	}
	j.n.events.fire()
	if !auto && !lease {
		return
	}
	var wg sync.WaitGroup
	seen := &routerSeen{}
	wg.Go(func() { j.solicitRouters(ctx, index, seen) })
	wg.Go(func() { j.awaitRouter(ctx, seen, lease && !auto) })
	if auto {
		wg.Go(func() { j.slaac(ctx, index, seen) })
	}
	switch {
	case lease:
		wg.Go(func() { j.dhcp6(ctx, index, local) })
	case auto:
		wg.Go(func() { j.byRouter(ctx, index, local, has(networds.Either6), seen) })
	}
	wg.Wait()
}
