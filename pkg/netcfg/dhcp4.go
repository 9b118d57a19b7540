package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"

	"github.com/ukdump/ukdump/internal/networds"
)

// lease4 is what a DHCP server has granted (RFC 2131).
type lease4 struct {
	address netip.Prefix
	server  netip.Addr
	routes  []networds.Route // in the server's order, without interface
	dns     []netip.Addr
	search  []string
	mtu     int // 0: none said
	term
}

// client4 speaks to servers on one link. Each exchange has a socket of its own:
// one that was open while the link flapped may never hear again.
type client4 struct {
	index    int
	dev      string
	mac      net.HardwareAddr
	hostname string
	began    time.Time

	discovers int
}

// message is built here rather than by the library, which waits up to two
// minutes for the kernel's random numbers to be good.
func (c *client4) message(t dhcpv4.MessageType, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: c.mac,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: make(dhcpv4.Options),
	}
	binary.BigEndian.PutUint32(m.TransactionID[:], rand.Uint32())
	m.UpdateOption(dhcpv4.OptMessageType(t))
	m.UpdateOption(dhcpv4.OptMaxMessageSize(maxDatagram))
	m.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionInterfaceMTU,
		dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue))
	if c.hostname != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.hostname))
	}
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

// ask sends m until an answer to it satisfies want.
func (c *client4) ask(ctx context.Context, w wire, waits []time.Duration, m *dhcpv4.DHCPv4, sent func(), want func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	var answer *dhcpv4.DHCPv4
	err := ask(ctx, w, waits, func() []byte {
		m.NumSeconds = uint16(min(time.Since(c.began)/time.Second, 0xffff))
		sent()
		return m.ToBytes()
	}, func(p []byte) bool {
		r, err := dhcpv4.FromBytes(p)
		if err != nil || r.OpCode != dhcpv4.OpcodeBootReply || r.TransactionID != m.TransactionID || !slices.Equal(r.ClientHWAddr, c.mac) || !want(r) {
			return false
		}
		answer = r
		return true
	})
	return answer, err
}

// dhcp4 gets a lease and keeps it, until ctx is over.
func (j *job) dhcp4(ctx context.Context, index int) {
	for {
		l, ok := byIndex(index)
		if !ok {
			return
		}
		c := &client4{index: index, dev: l.name, mac: l.mac, hostname: j.hostname, began: time.Now()}
		lease := j.acquire4(ctx, c)
		if lease == nil {
			return
		}
		for lease != nil {
			j.takeLease4(ctx, l, lease)
			lease = j.renew4(ctx, c, lease)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// acquire4 tries until it has a lease, or as often as is allowed: nil then, and
// when ctx is over.
func (j *job) acquire4(ctx context.Context, c *client4) *lease4 {
	for try := 1; ; try++ {
		lease, err := j.try4(ctx, c)
		switch {
		case err == nil:
			return lease
		case ctx.Err() != nil:
			return nil
		case j.n.plan.tries > 0 && try >= j.n.plan.tries:
			if !errors.Is(err, errNoAnswer) {
				j.set(stepLease4, failed, "%v", err)
			} else {
				j.set(stepLease4, failed, "no DHCP offer in %s (%d discovers sent)", took(c.began), c.discovers)
			}
			j.n.events.fire()
			return nil
		case errors.Is(err, errNoAnswer):
			j.n.log("%s: no DHCP offer in %s (%d discovers sent)", j.name, took(c.began), c.discovers)
		default:
			j.n.log("%s: %v", j.name, err)
			if !sleep(ctx, time.Second) {
				return nil
			}
		}
	}
}

// try4 is one discover, offer, request, acknowledge. errNoAnswer: nobody made
// an offer.
func (j *job) try4(ctx context.Context, c *client4) (*lease4, error) {
	w, err := openRaw(c.index)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	offer, err := c.ask(ctx, w, doubling(j.n.plan.timeout(stepDHCP)), c.message(dhcpv4.MessageTypeDiscover), func() {
		c.discovers++
		j.begin(stepLease4, c.began, "no DHCP offer in {} (%d discovers sent)", c.discovers)
	}, func(m *dhcpv4.DHCPv4) bool {
		return m.MessageType() == dhcpv4.MessageTypeOffer && toAddr(m.ServerIdentifier()).Is4() && !m.YourIPAddr.IsUnspecified()
	})
	if err != nil {
		return nil, err
	}
	server, address := offer.ServerIdentifier(), offer.YourIPAddr
	request := c.message(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(address), dhcpv4.OptServerIdentifier(server))
	request.TransactionID = offer.TransactionID
	requests := 0
	ack, err := c.ask(ctx, w, doubling(7*time.Second), request, func() {
		requests++
		j.begin(stepLease4, c.began, "DHCP server %s offered %s, and confirmed nothing in {} (%d requests sent)", server, address, requests)
	}, func(m *dhcpv4.DHCPv4) bool {
		return isVerdict(m) && m.ServerIdentifier().Equal(server)
	})
	switch {
	case errors.Is(err, errNoAnswer):
		return nil, fmt.Errorf("DHCP server %s offered %s, and confirmed nothing (%d requests sent)", server, address, requests)
	case err != nil:
		return nil, err
	case ack.MessageType() == dhcpv4.MessageTypeNak:
		return nil, fmt.Errorf("DHCP server %s refused %s %q", server, address, ack.Message())
	}
	return readLease4(ack)
}

func isVerdict(m *dhcpv4.DHCPv4) bool {
	return m.MessageType() == dhcpv4.MessageTypeAck || m.MessageType() == dhcpv4.MessageTypeNak
}

// readLease4 reads an acknowledgement. What has no place in it is left out.
func readLease4(ack *dhcpv4.DHCPv4) (*lease4, error) {
	address := toAddr(ack.YourIPAddr)
	if !address.Is4() || address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() {
		return nil, fmt.Errorf("DHCP server %s gave the address %s", ack.ServerIdentifier(), ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = net.IP(address.AsSlice()).DefaultMask()
	}
	bits, size := mask.Size()
	if bits == 0 || size != 32 {
		bits = 32
	}
	l := &lease4{address: netip.PrefixFrom(address, bits), server: toAddr(ack.ServerIdentifier()), term: term{got: time.Now()}}
	// RFC 3442: with classless routes, the router option does not count.
	for _, r := range ack.ClasslessStaticRoute() {
		l.routes = append(l.routes, networds.Route{Net: toPrefix(r.Dest).Masked(), Gateway: toAddr(r.Router)})
	}
	if len(l.routes) == 0 {
		for _, r := range ack.Router() {
			if gw := toAddr(r); gw.Is4() && !gw.IsUnspecified() && gw != address {
				l.routes = append(l.routes, networds.Route{Net: defaultNet(gw), Gateway: gw})
				break // the others are for when it fails
			}
		}
	}
	for _, d := range ack.DNS() {
		if a := toAddr(d); a.Is4() && !a.IsUnspecified() {
			l.dns = append(l.dns, a)
		}
	}
	if s := ack.DomainSearch(); s != nil {
		l.search = s.Labels
	} else if d := ack.DomainName(); d != "" {
		l.search = []string{d}
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= 576 {
		l.mtu = int(mtu)
	}
	l.times(ack)
	return l, nil
}

// times are the server's, if they make sense; else RFC 2131's parts of the
// lease. A lease without end is asked for again after a day.
func (l *lease4) times(ack *dhcpv4.DHCPv4) {
	const forever = 24 * time.Hour
	l.end = min(max(ack.IPAddressLeaseTime(forever), 10*time.Second), forever)
	l.t1 = ack.IPAddressRenewalTime(0)
	if l.t1 <= 0 || l.t1 >= l.end {
		l.t1 = l.end / 2
	}
	l.t2 = ack.IPAddressRebindingTime(0)
	if l.t2 <= l.t1 || l.t2 >= l.end {
		l.t2 = l.t1 + (l.end-l.t1)*3/4
	}
}

// takeLease4 gives the interface what the lease says, and takes away what an
// earlier lease did. What the kernel refuses is tried again: it may have had no
// memory.
func (j *job) takeLease4(ctx context.Context, l link, lease *lease4) {
	const tries = 3
	if mtu := lease.mtu; j.mtu == 0 && mtu != 0 {
		if now, ok := byIndex(l.index); ok && now.mtu != mtu {
			if err := netlink.LinkSetMTU(l.handle(), mtu); err != nil {
				j.n.log("%s: MTU %d of the DHCP server: %v", j.name, mtu, err)
			}
		}
	}
	for try := 1; ; try++ {
		gateway, err := j.applyLease4(l, lease)
		if try == 1 {
			j.n.addServers(lease.dns, lease.search)
		}
		j.n.addRoutes()
		if err == nil {
			j.set(stepLease4, done, "has %s%s from DHCP server %s", lease.address, gateway, lease.server)
			break
		}
		if try == tries {
			j.set(stepLease4, failed, "lease of %s: %v", lease.address, err)
			break
		}
		j.begin(stepLease4, lease.got, "lease of %s: %v", lease.address, err)
		j.n.events.fire()
		if !sleep(ctx, time.Second) {
			return
		}
	}
	j.n.events.fire()
}

// applyLease4 sets address and routes; gateway is for the log.
func (j *job) applyLease4(l link, lease *lease4) (gateway string, _ error) {
	metrics := make([]int, len(lease.routes))
	for i, r := range lease.routes {
		metrics[i] = place(l.index, r.Net) // before the old ones go with their address
	}
	// The old address goes first, and with promote_secondaries it goes alone: by
	// itself the kernel deletes all others of its network too
	// (__inet_del_ifa of net/ipv4/devinet.c).
	os.WriteFile("/proc/sys/net/ipv4/conf/"+l.name+"/promote_secondaries", []byte("1"), 0)
	for _, old := range addresses(l.index, netlink.FAMILY_V4) {
		p := toPrefix(old.IPNet)
		planned := slices.ContainsFunc(j.static, func(s networds.IP) bool { return s.Address == p })
		if p != lease.address && !planned {
			netlink.AddrDel(l.handle(), &old)
		}
	}
	var errs []error
	if err := addAddress(l.index, lease.address, netip.Addr{}); err != nil {
		errs = append(errs, err)
	}
	for i, r := range lease.routes {
		if err := addRoute(l.index, r.Net, r.Gateway, lease.address.Addr(), metrics[i]); err != nil {
			errs = append(errs, err)
		} else if r.Net.Bits() == 0 {
			gateway = ", gateway " + r.Gateway.String()
		}
	}
	return gateway, errors.Join(errs...)
}

// renew4 waits until the lease wants to be renewed, and returns the new one. nil:
// ctx is over, or the server does not want it any more.
func (j *job) renew4(ctx context.Context, c *client4, l *lease4) (next *lease4) {
	answered := l.renew(ctx, j, l.address, func(everybody bool, wait time.Duration) (err error) {
		next, err = c.renew(ctx, l, !everybody, wait)
		return err
	})
	switch {
	case next != nil:
		j.n.log("%s: lease of %s renewed for %s", j.name, next.address, next.end)
	case answered:
		j.n.log("%s: DHCP server does not renew %s", j.name, l.address)
	}
	return next
}

// renew asks once: the server that gave the lease, or everybody. No lease and
// no error: it was refused.
func (c *client4) renew(ctx context.Context, l *lease4, unicast bool, wait time.Duration) (*lease4, error) {
	var w wire
	var err error
	if unicast {
		w, err = openUDP(ctx, c.dev, netip.AddrPortFrom(l.address.Addr(), bootpc), netip.AddrPortFrom(l.server, bootps))
	} else {
		w, err = openRaw(c.index)
	}
	if err != nil {
		return nil, err
	}
	defer w.Close()
	m := c.message(dhcpv4.MessageTypeRequest)
	m.ClientIPAddr = l.address.Addr().AsSlice()
	ack, err := c.ask(ctx, w, []time.Duration{wait}, m, func() {}, isVerdict)
	if err != nil {
		return nil, err
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return nil, nil
	}
	next, err := readLease4(ack)
	if err != nil {
		return nil, err
	}
	// Some servers say in a renewal only what is new.
	if ack.SubnetMask() == nil {
		next.address = netip.PrefixFrom(next.address.Addr(), l.address.Bits())
	}
	if !next.server.IsValid() {
		next.server = l.server
	}
	return next, nil
}
