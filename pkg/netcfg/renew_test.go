package netcfg

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpd is a server that does what no right one does: leases of seconds, refusals,
// silence.
type dhcpd struct {
	mu     sync.Mutex
	give   string
	mute   bool
	refuse bool
	lease  time.Duration // 0: 10 s
	router string        // "": the server
	full   bool          // a renewal tells all
	seen   lines
}

func (d *dhcpd) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (p *peer) dhcpd(d *dhcpd) {
	p.t.Helper()
	d.seen.t = p.t
	p.in(func() {
		lc := onDevice("port")
		c, err := lc.ListenPacket(p.t.Context(), "udp4", "0.0.0.0:67")
		if err != nil {
			p.t.Error(err)
			return
		}
		p.t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				if answer := d.answer(buf[:n], from); answer != nil {
					to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
					if !answer.ClientIPAddr.IsUnspecified() && answer.MessageType() == dhcpv4.MessageTypeAck {
						to.IP = answer.ClientIPAddr // RFC 2131 4.1
					}
					c.WriteTo(answer.ToBytes(), to)
				}
			}
		}()
	})
}

func (d *dhcpd) answer(p []byte, from net.Addr) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.FromBytes(p)
	if err != nil {
		d.seen.add("garbage: %v", err)
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	how := "broadcast"
	if !from.(*net.UDPAddr).IP.IsUnspecified() {
		how = "unicast"
	}
	d.seen.add("%s %s for %s", how, m.MessageType(), m.ClientIPAddr)
	if d.mute {
		return nil
	}
	kind := dhcpv4.MessageTypeAck
	switch {
	case m.MessageType() == dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case d.refuse && !m.ClientIPAddr.IsUnspecified():
		kind = dhcpv4.MessageTypeNak
	}
	lease := d.lease
	if lease == 0 {
		lease = 10 * time.Second
	}
	options := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.ParseIP(d.give)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP("10.9.0.1"))), dhcpv4.WithLeaseTime(uint32(lease / time.Second)),
		dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(lease / 10)), dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(lease * 3 / 10))}
	if m.ClientIPAddr.IsUnspecified() || d.full { // else a renewal tells less, as Windows does
		router := d.router
		if router == "" {
			router = "10.9.0.1"
		}
		options = append(options, dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.ParseIP(router)))
	}
	r, err := dhcpv4.NewReplyFromRequest(m, append(options, dhcpv4.WithClientIP(m.ClientIPAddr))...)
	if err != nil {
		d.seen.add("%v", err)
		return nil
	}
	return r
}

// A lease is renewed at T1 by unicast, at T2 by broadcast; one that is refused is
// replaced by another; one that nobody renews is kept.
func TestRenewal(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4)
	d := &dhcpd{give: "10.9.0.50"}
	p.dhcpd(d)
	c.up("ip=eth0:dhcp", "10.9.0.1", 10*time.Second)
	d.seen.await("unicast REQUEST for 10.9.0.50", 2, 5*time.Second)
	c.log.await("eth0: lease of 10.9.0.50/24 renewed for 10s", 2, time.Second)
	has(t, "ip -4 addr show eth0", `inet 10.9.0.50/24`)
	has(t, "ip route", `default via 10.9.0.1`)

	d.set(func() { d.give, d.refuse = "10.9.0.51", true })
	c.log.await("eth0: has 10.9.0.51/24, gateway 10.9.0.1", 1, 8*time.Second)
	d.set(func() { d.refuse = false })
	hasNot(t, "ip -4 addr show eth0; ip route", `10\.9\.0\.50`)
	has(t, "ip route", `default via 10.9.0.1 dev eth0 src 10.9.0.51`)

	d.set(func() { d.mute = true })
	d.seen.await("broadcast REQUEST for 10.9.0.51", 1, 8*time.Second)
	c.log.await("lease of 10.9.0.51/24 ran out, nobody has renewed it; the address is kept", 1, 15*time.Second)
	has(t, "ip -4 addr show eth0", `inet 10.9.0.51/24.*\n\s+valid_lft forever`)
	d.set(func() { d.mute = false })
	before := d.seen.count("unicast REQUEST for 10.9.0.51")
	d.seen.await("unicast REQUEST for 10.9.0.51", before+1, 10*time.Second)
}

// A lease of another address of the same network leaves the NIC with it, and with
// the address of the words, whichever the kernel takes for the first.
func TestOtherAddress(t *testing.T) {
	if !namespace(t) {
		return
	}
	p := newPeer(t)
	p.cable("eth0", "port")
	p.sh(server4)
	p.listen(":2222")
	d := &dhcpd{lease: time.Hour}
	p.dhcpd(d)
	for _, tt := range []struct{ words, give, want string }{
		{"ip=eth0:dhcp", "10.9.0.50", `^\S+/24\n$`},
		{"ip=eth0:dhcp", "10.9.0.51", `^\S+/24\n$`},
		{"ip=10.9.0.7:::24::eth0:dhcp", "10.9.0.52", `^(?s)\S+/24\n\S+/24\n$`},
	} {
		c := newClient(t)
		d.set(func() { d.give = tt.give })
		n := c.up(tt.words, "10.9.0.1", 20*time.Second)
		c.log.await("eth0: has "+tt.give+"/24, gateway 10.9.0.1", 1, 10*time.Second)
		const list = "ip -4 -o addr show eth0 | awk '{print $4}'"
		has(t, list, tt.want)
		has(t, list, `(?m)^`+tt.give+`/24$`)
		has(t, "ip route", `default via 10.9.0.1 dev eth0 src `+tt.give)
		c.reach(n, "10.9.0.1", 2222, 10*time.Second)
		n.Close()
	}
	has(t, "ip -4 addr show eth0", "inet 10.9.0.7/24")
}

// A default route that leads nowhere stays behind the other one when its lease is
// renewed, replaced by another, or found by the next process, and the connection
// over the other one lives.
func TestDemotedStays(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, dead, c := newPeer(t), newPeer(t), newClient(t)
	dead.cable("eth0", "port")
	dead.sh(server4)
	d := &dhcpd{give: "10.9.0.50", lease: 20 * time.Second, router: "10.9.0.77", full: true}
	dead.dhcpd(d)
	const words = "ip=eth0:dhcp ip=10.8.0.2::10.8.0.1:24::eth1:none"
	n := c.up(words, "10.20.0.1", 20*time.Second)
	c.log.await("eth0: has", 1, 5*time.Second)
	p.cable("eth1", "port")
	p.sh("ip addr add 10.8.0.1/24 dev port; ip addr add 10.20.0.1/32 dev lo")
	p.echo("10.20.0.1:2222")
	c.log.await("eth1: has", 1, 10*time.Second)
	c.reach(n, "10.20.0.1", 2222, 20*time.Second)
	c.log.await("the next default route goes first now", 1, 0)
	conn := c.dial(n, "10.20.0.1:2222", 5*time.Second)
	alive := func(when string) {
		t.Helper()
		has(t, "ip route get 10.20.0.1", "via 10.8.0.1 dev eth1")
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err := conn.Write([]byte{1})
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if err != nil {
			t.Errorf("the connection after %s: %v", when, err)
		}
	}
	alive("Reach")
	c.log.await("lease of 10.9.0.50/24 renewed", c.log.count("lease of 10.9.0.50/24 renewed")+1, 10*time.Second)
	time.Sleep(100 * time.Millisecond) // until it has been taken
	alive("a renewal")
	d.set(func() { d.give, d.refuse = "10.9.0.51", true })
	c.log.await("eth0: has 10.9.0.51/24, gateway 10.9.0.77", 1, 10*time.Second)
	alive("another lease")
	d.set(func() { d.refuse = false })
	n.Close()
	again := newClient(t)
	again.up(words, "10.20.0.1", 20*time.Second)
	again.log.await("eth0: has 10.9.0.51/24, gateway 10.9.0.77", 1, 10*time.Second)
	alive("the next process")
}

// What servers send that makes no sense.
func TestReadLease(t *testing.T) {
	ack := func(m ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		m = append([]dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5))}, m...)
		r, err := dhcpv4.New(m...)
		must(t, err)
		r, err = dhcpv4.FromBytes(r.ToBytes())
		must(t, err)
		return r
	}
	for _, ip := range []net.IP{net.IPv4zero, net.IPv4(224, 0, 0, 1), net.IPv4(127, 0, 0, 1)} {
		if l, err := readLease4(ack(dhcpv4.WithYourIP(ip))); err == nil {
			t.Errorf("%s: %+v", ip, l)
		}
	}
	for _, tt := range []struct {
		m              dhcpv4.Modifier
		address        string
		mtu            int
		end, t1, t2    time.Duration
		routes, search int
	}{
		{func(*dhcpv4.DHCPv4) {}, "10.0.0.5/8", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithNetmask(net.CIDRMask(24, 32)), "10.0.0.5/24", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0)), "10.0.0.5/32", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithLeaseTime(0), "10.0.0.5/8", 0, 10 * time.Second, 5 * time.Second, 8750 * time.Millisecond, 0, 0},
		{dhcpv4.WithLeaseTime(1<<32 - 1), "10.0.0.5/8", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{2, 63}), "10.0.0.5/8", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{2, 64}), "10.0.0.5/8", 576, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithRouter(net.IPv4(10, 0, 0, 5), net.IPv4(10, 0, 0, 1), net.IPv4(10, 0, 0, 2)), "10.0.0.5/8", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 1, 0},
		{dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(25 * time.Hour)), "10.0.0.5/8", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 0},
		{dhcpv4.WithDomainSearchList("a.test", "b.test"), "10.0.0.5/8", 0, 24 * time.Hour, 12 * time.Hour, 21 * time.Hour, 0, 2},
	} {
		l, err := readLease4(ack(tt.m))
		must(t, err)
		if l.address != netip.MustParsePrefix(tt.address) || l.mtu != tt.mtu || l.end != tt.end || l.t1 != tt.t1 || l.t2 != tt.t2 || len(l.routes) != tt.routes || len(l.search) != tt.search {
			t.Errorf("got %+v\nwant %+v", l, tt)
		}
	}
}
