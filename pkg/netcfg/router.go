package netcfg

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SLAAC itself is the kernel's work. It asks for routers only a few times,
// though, and keeps what they say of name servers to itself; so router
// solicitations are sent here too, and advertisements heard.

// advertisement is what we want of a router advertisement (RFC 4861 4.2):
//
//	0  type 134, code, checksum
//	4  hop limit
//	5  flags: 0x80 managed, 0x40 other
//	6  router lifetime, s
//	8  reachable time, retransmission timer
//	16 options: type, length in units of 8 bytes, ...
//	     3  prefix (RFC 4861 4.6.2): flags at 3, 0x40 autonomous
//	     25 RDNSS (RFC 8106 5.1): reserved 2, lifetime 4, addresses
//	     31 DNSSL (RFC 8106 5.2): reserved 2, lifetime 4, names as in DNS
type advertisement struct {
	managed, other bool // DHCPv6 has addresses, other things
	autonomous     bool // a prefix to make an address from
	router         bool // a default router's: with lifetime 0 it is none, or not yet
	dns            []netip.Addr
	search         []string
}

const (
	routerSolicitation  = 133
	routerAdvertisement = 134
)

// parseRA reads an ICMPv6 message. ok is false if it is no advertisement.
func parseRA(p []byte) (ra advertisement, ok bool) {
	if len(p) < 16 || p[0] != routerAdvertisement || p[1] != 0 {
		return ra, false
	}
	ra.managed, ra.other = p[5]&0x80 != 0, p[5]&0x40 != 0
	ra.router = binary.BigEndian.Uint16(p[6:]) != 0
	for o := p[16:]; len(o) > 0; {
		if len(o) < 8 || o[1] == 0 || int(o[1])*8 > len(o) {
			return ra, false
		}
		body := o[:int(o[1])*8]
		o = o[len(body):]
		alive := binary.BigEndian.Uint32(body[4:]) != 0
		switch {
		case body[0] == 3 && len(body) == 32:
			ra.autonomous = ra.autonomous || body[3]&0x40 != 0
		case body[0] == 25 && alive:
			for b := body[8:]; len(b) >= 16; b = b[16:] {
				ra.dns = append(ra.dns, netip.AddrFrom16([16]byte(b[:16])))
			}
		case body[0] == 31 && alive:
			ra.search = append(ra.search, dnsNames(body[8:])...)
		}
	}
	return ra, true
}

// dnsNames reads names in DNS's form, padded with zeros.
func dnsNames(p []byte) (names []string) {
	var labels []string
	for len(p) > 0 {
		n := int(p[0])
		p = p[1:]
		switch {
		case n == 0 && len(labels) > 0:
			names = append(names, strings.Join(labels, "."))
			labels = nil
		case n == 0:
		case n > 63 || n > len(p):
			return names
		default:
			labels = append(labels, string(p[:n]))
			p = p[n:]
		}
	}
	return names
}

// routerSeen is what is known of the routers of a link.
type routerSeen struct {
	mu    sync.Mutex
	asked int
	since time.Time
	last  *advertisement
	at    time.Time // of the first advertisement
	found time.Time // of the first one of a default router
}

func (s *routerSeen) get() (ra *advertisement, at time.Time, asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.at, s.asked
}

// router is since when a default router is known, zero if none is.
func (s *routerSeen) router() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found
}

// openICMP6 hears router advertisements on one interface.
func openICMP6(ctx context.Context, dev string) (*net.IPConn, error) {
	lc := onDevice(dev)
	bind := lc.Control
	lc.Control = func(network, address string, c syscall.RawConn) error {
		err := bind(network, address, c)
		c.Control(func(fd uintptr) {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255) // else it is ignored
			}
			if err == nil {
				filter := unix.ICMPv6Filter{}
				for i := range filter.Data {
					filter.Data[i] = ^uint32(0)
				}
				filter.Data[routerAdvertisement/32] &^= 1 << (routerAdvertisement % 32)
				err = unix.SetsockoptICMPv6Filter(int(fd), unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter)
			}
		})
		return err
	}
	c, err := lc.ListenPacket(ctx, "ip6:58", "::")
	if err != nil {
		return nil, err
	}
	return c.(*net.IPConn), nil
}

// solicitRouters asks for routers until a default router has answered, and hears
// what they say until ctx is over.
func (j *job) solicitRouters(ctx context.Context, index int, seen *routerSeen) {
	seen.mu.Lock()
	seen.since = time.Now()
	seen.mu.Unlock()
	for ctx.Err() == nil {
		l, ok := byIndex(index)
		if !ok {
			return
		}
		c, err := openICMP6(ctx, l.name)
		if err == nil {
			err = j.hearRouters(ctx, c, l, seen)
			c.Close()
		}
		if ctx.Err() == nil {
			j.n.log("%s: router advertisements: %v", j.name, err)
			sleep(ctx, time.Second)
		}
	}
}

func (j *job) hearRouters(ctx context.Context, c *net.IPConn, l link, seen *routerSeen) error {
	const slice = 200 * time.Millisecond
	// RFC 4861 4.1: type, code, checksum (the kernel's work), reserved, and our
	// link-layer address as an option.
	solicitation := append([]byte{routerSolicitation, 0, 0, 0, 0, 0, 0, 0, 1, 1}, l.mac...)
	if len(l.mac) != 6 {
		solicitation = solicitation[:8]
	}
	routers := &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: l.zone()}
	buf := make([]byte, maxDatagram)
	next, wait := time.Now(), time.Second
	for ctx.Err() == nil {
		if seen.router().IsZero() && !time.Now().Before(next) {
			if _, err := c.WriteTo(solicitation, routers); err != nil {
				return err
			}
			next, wait = time.Now().Add(wait), min(2*wait, 8*time.Second)
			seen.mu.Lock()
			seen.asked++
			seen.mu.Unlock()
			j.n.events.fire()
		}
		c.SetReadDeadline(time.Now().Add(slice))
		n, from, err := c.ReadFrom(buf)
		if isTimeout(err) {
			continue
		}
		if err != nil {
			return err
		}
		ra, ok := parseRA(buf[:n])
		if !ok || !from.(*net.IPAddr).IP.IsLinkLocalUnicast() {
			continue
		}
		seen.mu.Lock()
		if seen.last == nil {
			seen.at = time.Now()
		}
		if seen.found.IsZero() && ra.router {
			seen.found = time.Now()
		}
		seen.last = &ra
		seen.mu.Unlock()
		j.n.addServers(l.inZone(ra.dns), ra.search)
		j.n.events.fire()
	}
	return ctx.Err()
}

// slaac waits until the kernel has made an address, and nobody else has it.
func (j *job) slaac(ctx context.Context, index int, seen *routerSeen) {
	start := time.Now()
	limit := j.n.plan.timeout(stepRouter)
	had := ""
	j.n.events.wait(ctx, func() bool {
		address, duplicate := j.global(index)
		ra, at, asked := seen.get()
		late := time.Since(start) >= limit
		step := func(format string, a ...any) {
			if !late {
				j.begin(stepSLAAC, start, format, a...)
			} else if !j.has(done, stepSLAAC) {
				j.set(stepSLAAC, failed, strings.ReplaceAll(format, "{}", seconds(limit)), a...)
			}
		}
		switch {
		case address.IsValid():
			if had != address.String() {
				had = address.String()
				j.n.addRoutes()
				j.set(stepSLAAC, done, "has %s after %s", had, took(start))
				j.n.events.fire()
			}
		case duplicate.IsValid():
			step("another host has address %s", duplicate)
		case ra == nil:
			step("no router advertisement in {} (%d solicitations sent)", asked)
		case !ra.autonomous:
			step("router advertisement after %s has no prefix for addresses", seconds(at.Sub(start)))
		default:
			step("router advertisement after %s, no address in {}", seconds(at.Sub(start)))
		}
		return false // addresses may change while a dump runs
	})
}

// awaitRouter is the step of those whose address leads nowhere without a
// router's routes. That there is no advertisement at all is told here for a lease
// of DHCPv6, and by slaac for its own.
func (j *job) awaitRouter(ctx context.Context, seen *routerSeen, lease bool) {
	const grace = 100 * time.Millisecond // we hear it before the kernel heeds it
	start := time.Now()
	limit := j.n.plan.timeout(stepRouter)
	j.n.events.wait(ctx, func() bool {
		ra, at, asked := seen.get()
		found := seen.router()
		late := time.Since(start) >= limit
		switch {
		case !found.IsZero() && time.Since(found) > grace:
			j.forget(stepRouter)
			return true
		case !found.IsZero():
		case ra != nil && !late:
			j.begin(stepRouter, at, "no default router in {}, only an advertisement with lifetime 0")
		case ra != nil:
			j.set(stepRouter, failed, "no default router in %s, only an advertisement with lifetime 0", seconds(limit))
		case lease && !late:
			j.begin(stepRouter, start, "no router advertisement in {} (%d solicitations sent)", asked)
		case lease:
			j.set(stepRouter, failed, "no router advertisement in %s (%d solicitations sent)", seconds(limit), asked)
		}
		return false
	})
	j.n.events.fire()
}

// global is an address of SLAAC that may be used, else one that another host
// has.
func (j *job) global(index int) (usable, duplicate netip.Addr) {
	for _, a := range addresses(index, netlink.FAMILY_V6) {
		ip := toAddr(a.IP)
		bits, _ := a.Mask.Size()
		switch {
		case ip.IsLinkLocalUnicast() || a.Flags&unix.IFA_F_PERMANENT != 0 || bits == 128: // not of a router
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			duplicate = ip
		case !tentative(a) && a.Flags&unix.IFA_F_DEPRECATED == 0:
			return ip, netip.Addr{}
		}
	}
	return netip.Addr{}, duplicate
}

// byRouter does with DHCPv6 what the router says: other things, or addresses
// too where either was asked for. A router that is not there says nothing, and
// then a server may still be.
func (j *job) byRouter(ctx context.Context, index int, local netip.Addr, either bool, seen *routerSeen) {
	const quiet = 10 * time.Second
	start := time.Now()
	managed, other := false, false
	err := j.n.events.wait(ctx, func() bool {
		ra, _, _ := seen.get()
		if ra != nil {
			managed, other = ra.managed, ra.other
		}
		alone := time.Since(start) > quiet && !j.has(done, stepSLAAC)
		managed = managed || alone
		return either && managed || ra != nil && (other || managed)
	})
	switch {
	case err != nil:
	case either && managed:
		j.begin(stepLease6, time.Now(), "no DHCPv6 advertisement yet")
		j.dhcp6(ctx, index, local)
	default:
		j.inform6(ctx, index, local)
	}
}
