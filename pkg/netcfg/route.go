package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/networds"
)

// Metrics of our routes are these and the index of the interface: two interfaces
// never fight for the same route, and all but those that demote has put behind go
// before those of router advertisements, which have 1024.
const (
	metric = 100
	behind = 10000
)

// place is the metric of a new route. A default route that has been put behind
// stays there, when its lease is renewed or the next process finds it: connections
// over the other interface live on that.
func place(index int, dst netip.Prefix) int {
	if dst.Bits() > 0 {
		return metric + index
	}
	defaults, _ := defaultRoutes(family(dst.Addr()))
	at := metric + index
	for _, r := range defaults {
		if r.LinkIndex == index && r.Priority >= behind {
			at = max(at, r.Priority)
		}
	}
	return at
}

// defaultRoutes are those over a gateway.
func defaultRoutes(family int) ([]netlink.Route, error) {
	all, err := again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	return slices.DeleteFunc(all, func(r netlink.Route) bool {
		bits := 0
		if r.Dst != nil {
			bits, _ = r.Dst.Mask.Size()
		}
		return bits > 0 || r.Gw == nil
	}), err
}

// heedCarriers lets the kernel pass over routes whose interface has no carrier
// (ignore_routes_with_linkdown of Documentation/networking/ip-sysctl.rst): by
// itself it goes on sending into a cable that is out, though another interface
// leads to the target. Interfaces to come take the value of "default".
func heedCarriers() {
	files, _ := filepath.Glob("/proc/sys/net/ipv[46]/conf/*/ignore_routes_with_linkdown")
	for _, name := range files {
		os.WriteFile(name, []byte("1"), 0) // where it is not, routes are as before
	}
}

// lookupRoute asks the kernel.
func lookupRoute(a netip.Addr) (route, error) {
	list, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{OifIndex: zoneIndex(a)})
	if err != nil {
		return route{}, err
	}
	if len(list) == 0 {
		return route{}, unix.ENETUNREACH
	}
	k := list[0]
	r := route{index: k.LinkIndex, gateway: toAddr(k.Gw), src: toAddr(k.Src), local: k.Type == unix.RTN_LOCAL}
	if l, ok := byIndex(r.index); ok {
		r.dev = l.name
	} else if r.local {
		r.dev = "lo"
	}
	match, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true, OifIndex: zoneIndex(a)})
	if err == nil && len(match) > 0 {
		bits := 0
		if match[0].Dst != nil {
			bits, _ = match[0].Dst.Mask.Size()
		}
		r.byDefault = bits == 0
	}
	return r, nil
}

// usable tells whether packets to a can be sent, and answers come back: from an
// address of ours that others know.
func usable(a netip.Addr) (route, bool) {
	r, err := lookupRoute(a)
	if err != nil || !r.src.IsValid() {
		return r, false
	}
	if r.local {
		return r, true
	}
	if r.src.IsLoopback() { // the kernel's choice of IPv6 when only lo has an address
		return r, false
	}
	if r.src.Is6() && r.src.IsLinkLocalUnicast() != a.IsLinkLocalUnicast() {
		return r, false
	}
	for _, have := range addresses(r.index, family(a)) {
		if toAddr(have.IP) == r.src {
			return r, !tentative(have)
		}
	}
	return r, true // an address of another interface
}

func tentative(a netlink.Addr) bool {
	return a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
}

// addAddress gives an interface an address that stays: the kernel is told of no
// lifetime, for a dump that comes through is worth more than a lease that ran
// out under it. Duplicates of IPv6 addresses are not looked for, as the one who
// had the address has just crashed.
func addAddress(index int, p netip.Prefix, peer netip.Addr) error {
	a := &netlink.Addr{IPNet: ipNet(p), LinkIndex: index}
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if peer.IsValid() {
		a.Peer = ipNet(netip.PrefixFrom(peer, p.Bits()))
	} else if p.Addr().Is4() && p.Bits() < 31 {
		a.Broadcast = broadcast(p)
	}
	if err := netlink.AddrReplace(l, a); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return nil
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b[:]
}

// addRoute adds a route, or changes the one of the same network and metric. A
// gateway outside of all networks of the interface is taken to be on its link.
func addRoute(index int, dst netip.Prefix, gateway, src netip.Addr, metric int) error {
	r := &netlink.Route{LinkIndex: index, Dst: ipNet(dst), Priority: metric, Protocol: unix.RTPROT_BOOT, Family: family(dst.Addr())}
	if src.IsValid() {
		r.Src = src.AsSlice()
	}
	if gateway.IsValid() && !gateway.IsUnspecified() {
		r.Gw = gateway.AsSlice()
		if !onLink(index, gateway) {
			r.Flags = int(netlink.FLAG_ONLINK)
		}
	} else if dst.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s: %w", dst, err)
	}
	return nil
}

// onLink tells whether an address is in a network of the interface, or in one
// that a route without a gateway leads to.
func onLink(index int, a netip.Addr) bool {
	if a.IsLinkLocalUnicast() && a.Is6() {
		return true
	}
	routes, err := again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family(a), &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	})
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.Gw == nil && r.Dst != nil && r.Dst.Contains(a.AsSlice())
	})
}

func defaultNet(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// addStatic gives the job's interface what stands in its ip= words.
func (j *job) addStatic(index int) error {
	for _, s := range j.static {
		if err := addAddress(index, s.Address, s.Peer); err != nil {
			return err
		}
	}
	for _, s := range j.static {
		if !s.Gateway.IsValid() {
			continue
		}
		if err := addRoute(index, defaultNet(s.Gateway), s.Gateway, netip.Addr{}, place(index, defaultNet(s.Gateway))); err != nil {
			return fmt.Errorf("gateway %s: %w", s.Gateway, err)
		}
	}
	return nil
}

// addRoutes adds those routes of rd.route= that have become possible: called
// after each new address, and before that step is done, since Up gives up when
// all steps are done and no route leads to the target.
func (n *Network) addRoutes() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.plan.routes {
		how := n.addPlanned(r)
		if old, tried := n.routed[r]; how == "" && (!tried || old != "") {
			n.log("network: route to %s added", r.Net)
		}
		n.routed[r] = how
	}
}

// addPlanned returns what keeps a route from being added.
func (n *Network) addPlanned(r networds.Route) string {
	var index int
	if r.Interface != "" {
		l, ok := find(r.Interface)
		if !ok {
			return "no interface " + r.Interface
		}
		index = l.index
	} else {
		via, err := lookupRoute(r.Gateway)
		if err != nil || via.local || via.gateway.IsValid() {
			return "no interface leads to gateway " + r.Gateway.String()
		}
		index = via.index
	}
	if err := addRoute(index, r.Net, r.Gateway, netip.Addr{}, place(index, r.Net)); err != nil {
		return err.Error()
	}
	return ""
}

// demote puts the default route over an interface behind that of another one,
// after nobody answered there. It returns false when nothing was changed, as when
// there is no other.
func demote(a netip.Addr, l route) bool {
	all, err := defaultRoutes(family(a))
	if err != nil {
		return false
	}
	var mine, others []netlink.Route
	for _, r := range all {
		if r.LinkIndex == l.index {
			mine = append(mine, r)
		} else {
			others = append(others, r)
		}
	}
	if len(mine) == 0 || len(others) == 0 {
		return false
	}
	last := slices.MaxFunc(others, func(a, b netlink.Route) int { return a.Priority - b.Priority }).Priority
	moved := false
	for _, r := range mine {
		if r.Priority > last {
			continue
		}
		old := r
		r.Flags &^= unix.RTNH_F_LINKDOWN | unix.RTNH_F_DEAD // which the kernel tells, and does not take
		r.Priority = max(last+1, behind+l.index)
		if a.Is6() {
			// Else the next advertisement has it in front again; since Linux 5.12.
			os.WriteFile("/proc/sys/net/ipv6/conf/"+l.dev+"/ra_defrtr_metric", []byte(strconv.Itoa(r.Priority)), 0)
		}
		// It is there already when a lease brought the first one back.
		if err := netlink.RouteAdd(&r); err == nil || errors.Is(err, unix.EEXIST) {
			moved = netlink.RouteDel(&old) == nil || moved
		}
	}
	return moved
}

// took is how long ago something began, as it is told.
func took(start time.Time) string { return seconds(time.Since(start)) }
