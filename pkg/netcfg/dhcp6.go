package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"

	"github.com/ukdump/ukdump/internal/networds"
)

// lease6 is what a DHCPv6 server has granted (RFC 8415). Routes are no part of
// it: they come with router advertisements.
type lease6 struct {
	address netip.Addr
	server  dhcpv6.DUID
	dns     []netip.Addr
	search  []string
	term
}

// client6 speaks to the servers of one link. It is known by its MAC address, so
// that it is the same one after the next crash.
type client6 struct {
	link  link
	local netip.Addr // link-local
	id    dhcpv6.DUID
	iaid  [4]byte
	began time.Time

	solicits int
}

func newClient6(l link, local netip.Addr) *client6 {
	c := &client6{link: l, local: local, began: time.Now(), id: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: l.mac}}
	copy(c.iaid[:], l.mac[max(0, len(l.mac)-4):])
	return c
}

const (
	dhcp6Client = 546
	dhcp6Server = 547
)

func (c *client6) open(ctx context.Context) (wire, error) {
	servers := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 13: 1, 15: 2}) // ff02::1:2
	from, to := c.local.WithZone(c.link.zone()), servers.WithZone(c.link.zone())
	return openUDP(ctx, c.link.name, netip.AddrPortFrom(from, dhcp6Client), netip.AddrPortFrom(to, dhcp6Server))
}

func (c *client6) message(t dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: t}
	var xid [4]byte
	binary.BigEndian.PutUint32(xid[:], rand.Uint32())
	copy(m.TransactionID[:], xid[:])
	m.AddOption(dhcpv6.OptClientID(c.id))
	m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

func (c *client6) ask(ctx context.Context, w wire, waits []time.Duration, m *dhcpv6.Message, sent func(), want func(*dhcpv6.Message) bool) (*dhcpv6.Message, error) {
	var answer *dhcpv6.Message
	err := ask(ctx, w, waits, func() []byte {
		m.UpdateOption(dhcpv6.OptElapsedTime(time.Since(c.began)))
		sent()
		return m.ToBytes()
	}, func(p []byte) bool {
		r, err := dhcpv6.MessageFromBytes(p)
		if err != nil || r.TransactionID != m.TransactionID || r.Options.ClientID() == nil || !r.Options.ClientID().Equal(c.id) || !want(r) {
			return false
		}
		answer = r
		return true
	})
	return answer, err
}

// dhcp6 gets an address and keeps it, until ctx is over.
func (j *job) dhcp6(ctx context.Context, index int, local netip.Addr) {
	l, ok := byIndex(index)
	if !ok {
		return
	}
	for ctx.Err() == nil {
		c := newClient6(l, local)
		lease := j.acquire6(ctx, c)
		if lease == nil {
			return
		}
		for lease != nil {
			j.takeLease6(l, lease)
			lease = j.renew6(ctx, c, lease)
		}
	}
}

func (j *job) acquire6(ctx context.Context, c *client6) *lease6 {
	for try := 1; ; try++ {
		lease, err := j.try6(ctx, c)
		text := fmt.Sprintf("no DHCPv6 advertisement in %s (%d solicits sent)", took(c.began), c.solicits)
		if err != nil && !errors.Is(err, errNoAnswer) {
			text = err.Error()
		}
		switch {
		case err == nil:
			return lease
		case ctx.Err() != nil:
			return nil
		case j.n.plan.tries > 0 && try >= j.n.plan.tries:
			j.set(stepLease6, failed, "%s", text)
			j.n.events.fire()
			return nil
		case !errors.Is(err, errNoAnswer):
			j.begin(stepLease6, c.began, "%s", text)
			if !sleep(ctx, time.Second) {
				return nil
			}
		}
		j.n.log("%s: %s", j.name, text)
	}
}

// try6 is one solicit, advertise, request, reply.
func (j *job) try6(ctx context.Context, c *client6) (*lease6, error) {
	w, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	refusal := error(nil)
	offer, err := c.ask(ctx, w, doubling(j.n.plan.timeout(stepDHCP)), c.message(dhcpv6.MessageTypeSolicit, &dhcpv6.OptIANA{IaId: c.iaid}), func() {
		c.solicits++
		j.begin(stepLease6, c.began, "no DHCPv6 advertisement in {} (%d solicits sent)", c.solicits)
	}, func(m *dhcpv6.Message) bool {
		if m.MessageType != dhcpv6.MessageTypeAdvertise || m.Options.ServerID() == nil {
			return false
		}
		_, refusal = c.address(m)
		return refusal == nil
	})
	if errors.Is(err, errNoAnswer) && refusal != nil {
		return nil, refusal
	}
	if err != nil {
		return nil, err
	}
	server := offer.Options.ServerID()
	request := c.message(dhcpv6.MessageTypeRequest, dhcpv6.OptServerID(server), offer.Options.OneIANA())
	requests := 0
	reply, err := c.ask(ctx, w, doubling(7*time.Second), request, func() {
		requests++
		j.begin(stepLease6, c.began, "DHCPv6 server offered an address, and confirmed nothing in {} (%d requests sent)", requests)
	}, func(m *dhcpv6.Message) bool {
		return m.MessageType == dhcpv6.MessageTypeReply && m.Options.ServerID() != nil && m.Options.ServerID().Equal(server)
	})
	if errors.Is(err, errNoAnswer) {
		return nil, fmt.Errorf("DHCPv6 server offered an address, and confirmed nothing (%d requests sent)", requests)
	}
	if err != nil {
		return nil, err
	}
	return c.read(reply)
}

// address is the one in an answer, or why there is none.
func (c *client6) address(m *dhcpv6.Message) (*dhcpv6.OptIAAddress, error) {
	refused := func(s *dhcpv6.OptStatusCode) error {
		if s == nil || s.StatusCode == iana.StatusSuccess {
			return nil
		}
		return fmt.Errorf("DHCPv6 server gives no address: %s %q", s.StatusCode, s.StatusMessage)
	}
	if err := refused(m.Options.Status()); err != nil {
		return nil, err
	}
	for _, ia := range m.Options.IANA() {
		if ia.IaId != c.iaid {
			continue
		}
		if err := refused(ia.Options.Status()); err != nil {
			return nil, err
		}
		for _, a := range ia.Options.Addresses() {
			if ip := toAddr(a.IPv6Addr); ip.Is6() && a.ValidLifetime > 0 && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() && !ip.IsUnspecified() {
				return a, nil
			}
		}
	}
	return nil, errors.New("DHCPv6 server gives no address")
}

func (c *client6) read(reply *dhcpv6.Message) (*lease6, error) {
	a, err := c.address(reply)
	if err != nil {
		return nil, err
	}
	l := &lease6{address: toAddr(a.IPv6Addr), server: reply.Options.ServerID(), term: term{got: time.Now()}}
	l.dns, l.search = servers6(reply)
	l.end = min(max(a.ValidLifetime, 10*time.Second), 24*time.Hour)
	for _, ia := range reply.Options.IANA() {
		if ia.IaId == c.iaid {
			l.t1, l.t2 = ia.T1, ia.T2
		}
	}
	if l.t1 <= 0 || l.t1 >= l.end {
		l.t1 = l.end / 2
	}
	if l.t2 <= l.t1 || l.t2 >= l.end {
		l.t2 = l.t1 + (l.end-l.t1)*3/5
	}
	return l, nil
}

func servers6(m *dhcpv6.Message) (dns []netip.Addr, search []string) {
	for _, ip := range m.Options.DNS() {
		if a := toAddr(ip); a.IsValid() && !a.IsUnspecified() {
			dns = append(dns, a)
		}
	}
	if s := m.Options.DomainSearchList(); s != nil {
		search = s.Labels
	}
	return dns, search
}

func (j *job) takeLease6(l link, lease *lease6) {
	address := netip.PrefixFrom(lease.address, 128)
	if err := addAddress(l.index, address, netip.Addr{}); err != nil {
		j.set(stepLease6, failed, "lease of %s: %v", lease.address, err)
		return
	}
	for _, old := range addresses(l.index, netlink.FAMILY_V6) {
		p := toPrefix(old.IPNet)
		planned := slices.ContainsFunc(j.static, func(s networds.IP) bool { return s.Address == p })
		if p.Bits() == 128 && p != address && !planned && !p.Addr().IsLinkLocalUnicast() {
			netlink.AddrDel(l.handle(), &old)
		}
	}
	j.n.addServers(l.inZone(lease.dns), lease.search)
	j.n.addRoutes()
	j.set(stepLease6, done, "has %s from DHCPv6 server", lease.address)
	j.n.events.fire()
}

// renew6 is renew4 of DHCPv6.
func (j *job) renew6(ctx context.Context, c *client6, l *lease6) (next *lease6) {
	l.renew(ctx, j, l.address, func(everybody bool, wait time.Duration) (err error) {
		kind, options := dhcpv6.MessageTypeRenew, []dhcpv6.Option{dhcpv6.OptServerID(l.server)}
		if everybody {
			kind, options = dhcpv6.MessageTypeRebind, nil
		}
		ia := &dhcpv6.OptIANA{IaId: c.iaid}
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: l.address.AsSlice()})
		next, err = c.renew(ctx, c.message(kind, append(options, ia)...), wait)
		return err
	})
	if next != nil {
		j.n.log("%s: lease of %s renewed for %s", j.name, next.address, next.end)
	}
	return next
}

func (c *client6) renew(ctx context.Context, m *dhcpv6.Message, wait time.Duration) (*lease6, error) {
	w, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	reply, err := c.ask(ctx, w, []time.Duration{wait}, m, func() {}, func(m *dhcpv6.Message) bool {
		return m.MessageType == dhcpv6.MessageTypeReply && m.Options.ServerID() != nil
	})
	if err != nil {
		return nil, err
	}
	return c.read(reply)
}

// inform6 asks for name servers, where routers give the addresses.
func (j *job) inform6(ctx context.Context, index int, local netip.Addr) {
	l, ok := byIndex(index)
	if !ok {
		return
	}
	c := newClient6(l, local)
	for {
		w, err := c.open(ctx)
		if err == nil {
			var reply *dhcpv6.Message
			reply, err = c.ask(ctx, w, doubling(time.Minute), c.message(dhcpv6.MessageTypeInformationRequest), func() {}, func(m *dhcpv6.Message) bool {
				return m.MessageType == dhcpv6.MessageTypeReply
			})
			w.Close()
			if err == nil {
				dns, search := servers6(reply)
				j.n.addServers(l.inZone(dns), search)
				j.n.events.fire()
				return
			}
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
}
