package netcfg

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// nameserver answers as no right one does: one family late, or never.
type nameserver struct {
	mu     sync.Mutex
	v4, v6 netip.Addr            // what each name has; none at all: there is no such name
	wait   map[int]time.Duration // by type
	lose   map[int]int           // how many questions are lost
	seen   lines
}

func (s *nameserver) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// nameserver listens on an address of the peer's.
func (p *peer) nameserver(at string, s *nameserver) {
	p.t.Helper()
	s.seen.t = p.t
	p.in(func() {
		c, err := net.ListenPacket("udp", net.JoinHostPort(at, "53"))
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
				if answer, wait := s.answer(buf[:n]); answer != nil {
					time.AfterFunc(wait, func() { c.WriteTo(answer, from) })
				}
			}
		}()
	})
}

// Types of records (RFC 1035 3.2.2, RFC 3596 2.1).
const (
	typeA    = 1
	typeAAAA = 28
)

// answer is one question and up to one record (RFC 1035 4.1).
func (s *nameserver) answer(p []byte) ([]byte, time.Duration) {
	const header, typeAndClass = 12, 4
	if len(p) < header {
		return nil, 0
	}
	end := bytes.IndexByte(p[header:], 0) + header + 1
	if end <= header || len(p) < end+typeAndClass {
		return nil, 0
	}
	kind := int(p[end+1])
	s.seen.add("%d %q", kind, p[header:end])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lose[kind] > 0 {
		s.lose[kind]--
		return nil, 0
	}
	r := append([]byte{p[0], p[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, p[header:end+typeAndClass]...)
	record := func(a netip.Addr) {
		r[7] = 1
		r = append(r, 0xc0, header, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(a.BitLen()/8))
		r = append(r, a.AsSlice()...)
	}
	switch {
	case !s.v4.IsValid() && !s.v6.IsValid():
		r[3] = 3 // name error
	case kind == typeA && s.v4.IsValid():
		record(s.v4)
	case kind == typeAAAA && s.v6.IsValid():
		record(s.v6)
	}
	return r, s.wait[kind]
}

func (c *client) dial(n *Network, address string, within time.Duration) net.Conn {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp", address)
	must(c.t, err)
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// A server that refuses one family and takes the other is dialed over that one.
func TestRefusedFamily(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4 + "; ip addr add fd09::1/64 dev port nodad")
	p.nameserver("10.9.0.1", &nameserver{v4: netip.MustParseAddr("10.9.0.1"), v6: netip.MustParseAddr("fd09::1")})
	p.listen("10.9.0.1:2222")
	p.listen("[fd09::1]:2223")
	n := c.up("ip=10.9.0.2:::24::eth0:none ip=[fd09::2]:::64::eth0:none nameserver=10.9.0.1", "target.test", 10*time.Second)
	for range 3 { // whichever comes first
		c.dial(n, "target.test:2222", 5*time.Second)
		c.dial(n, "target.test:2223", 5*time.Second)
	}
	for port, address := range map[int]string{2222: "10.9.0.1:2222", 2223: "[fd09::1]:2223"} {
		c.reach(n, "target.test", port, 10*time.Second)
		if got := n.answered["target.test"]; got != netip.MustParseAddrPort(address).Addr() {
			t.Errorf("port %d: %s answers", port, got)
		}
	}
}

// The answer of one family comes late, or is lost at first, while the other's
// address has no route: Up waits for it, Reach has it as well.
func TestLateFamily(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4 + "; ip addr add 10.9.0.3/24 dev port; ip addr add 10.9.0.4/24 dev port")
	p.listen("10.9.0.1:2222")
	target, elsewhere := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("2001:db8::1")
	p.nameserver("10.9.0.1", &nameserver{v4: target, v6: elsewhere, wait: map[int]time.Duration{typeA: 700 * time.Millisecond}})
	p.nameserver("10.9.0.3", &nameserver{v4: target, v6: elsewhere, lose: map[int]int{typeA: 1}})
	gone := &nameserver{v4: target, v6: elsewhere, lose: map[int]int{typeA: 1e6}}
	p.nameserver("10.9.0.4", gone)
	for _, server := range []string{"10.9.0.1", "10.9.0.3"} {
		n := c.up("ip=10.9.0.2:::24::eth0:none nameserver="+server, "target.test", 20*time.Second)
		c.reach(n, "target.test", 2222, 15*time.Second)
		n.Close()
	}
	// Three tries, then no more.
	c.fails("ip=10.9.0.2:::24::eth0:none nameserver=10.9.0.4", "target.test", 60*time.Second, `^no route to target.test in \d+.\d s: eth0: `)
	if asked := gone.seen.count("(?m)^1 "); asked < 3 {
		t.Errorf("asked %d times for IPv4\n%s", asked, &gone.seen)
	}
}

// "No such host" counts when all servers have said it; TestDeadDNS has one that says
// nothing.
func TestOneServerKnows(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4 + "; ip addr add 10.9.0.3/24 dev port; ip addr add 10.9.0.4/24 dev port")
	p.listen("10.9.0.1:2222")
	p.nameserver("10.9.0.1", &nameserver{})
	p.nameserver("10.9.0.3", &nameserver{v4: netip.MustParseAddr("10.9.0.1")})
	p.nameserver("10.9.0.4", &nameserver{})
	const words = "ip=10.9.0.2:::24::eth0:none nameserver=10.9.0.1 nameserver="
	n := c.up(words+"10.9.0.3", "target.test", 20*time.Second)
	c.reach(n, "target.test", 2222, 10*time.Second)
	n.Close()
	c.fails(words+"10.9.0.4", "target.test", 30*time.Second, `^network to target.test: target.test: no such host: so says name server 10.9.0.1, 10.9.0.4 \(`)
}

// A name that was known once is dialed when its server is gone, or knows it no
// more.
func TestServerGone(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4)
	p.listen("10.9.0.1:2222")
	s := &nameserver{v4: netip.MustParseAddr("10.9.0.1")}
	p.nameserver("10.9.0.1", s)
	n := c.up("ip=10.9.0.2:::24::eth0:none nameserver=10.9.0.1", "target.test", 20*time.Second)
	c.reach(n, "target.test", 2222, 10*time.Second)
	s.set(func() { s.lose = map[int]int{typeA: 1e6, typeAAAA: 1e6} })
	c.dial(n, "target.test:2222", 10*time.Second)
	c.log.await(`no answer of name server 10.9.0.1 in .*; it was 10.9.0.1`, 1, 0)
	s.set(func() { s.lose, s.v4 = nil, netip.Addr{} })
	c.dial(n, "target.test:2222", 10*time.Second)
	c.log.await(`no such host: so says name server 10.9.0.1; it was 10.9.0.1`, 1, 0)
}

// A name server with a link-local address is asked on its link, by the next process
// too.
func TestLinkLocalServer(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	for _, tt := range []struct{ words, kind string }{
		{"ip=eth0:auto6", "--dhcp-range=fd09::,ra-only,64,10m"},
		{"ip=eth0:dhcp6", "--dhcp-range=fd09::1000,fd09::1fff,64,10m"},
	} {
		p, c := newPeer(t), newClient(t)
		p.cable("eth0", "port")
		p.sh("ip addr add fd09::1/64 dev port nodad")
		p.nameserver("::", &nameserver{v6: netip.MustParseAddr("fd09::1")})
		p.dnsmasq("--port=0", "--enable-ra", tt.kind, "--dhcp-option=option6:dns-server,[fe80::]")
		c.up(tt.words, "target.test", 20*time.Second).Close()
		next := newClient(t)
		next.root = c.root
		next.up("ip=[fd09::2]:::64::eth0:none", "target.test", 10*time.Second).Close()
		sh(t, "ip link del eth0")
	}
}
