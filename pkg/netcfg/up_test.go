package netcfg

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/cmdline"
)

const server4 = "ip addr add 10.9.0.1/24 dev port"

// MTU, classless routes in place of the router option, name server, domain, and
// the same again in a second process.
func TestDHCP4(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4 + "; ip addr add 10.20.0.1/32 dev lo; ip addr add 10.30.0.1/32 dev lo")
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m", "--dhcp-option=26,1400", "--dhcp-option=3,10.9.0.77",
		"--dhcp-option=121,10.20.0.0/16,10.9.0.1,0.0.0.0/0,10.9.0.1", "--domain=kdump.test", "--local=/kdump.test/", "--host-record=target.kdump.test,10.20.0.1")
	p.listen("10.20.0.1:2222")
	n := c.up("ip=eth0:dhcp rd.route=10.30.0.0/24:10.9.0.1", "target", 20*time.Second)
	c.reach(n, "target", 2222, 10*time.Second)
	has(t, "ip addr show eth0", `mtu 1400.*\n.*\n\s+inet 10\.9\.0\.1\d\d/24 brd 10\.9\.0\.255`)
	has(t, "ip route", `(?m)^default via 10\.9\.0\.1 dev eth0 src 10\.9\.0\.\d+ metric`)
	has(t, "ip route", `(?m)^10\.20\.0\.0/16 via 10\.9\.0\.1 dev eth0`)
	has(t, "ip route", `(?m)^10\.30\.0\.0/24 via 10\.9\.0\.1 dev eth0`)
	hasNot(t, "ip route", `10\.9\.0\.77`)
	conf, err := os.ReadFile(filepath.Join(c.root, resolvConf))
	if string(conf) != "nameserver 10.9.0.1\nsearch kdump.test\n" {
		t.Errorf("resolv.conf: %q %v", conf, err)
	}
	conn, err := n.Dial(t.Context(), "tcp", "target:2222")
	must(t, err)
	conn.Close()

	before := sh(t, "ip -4 -o addr show eth0; ip route")
	n.Close()
	again := newClient(t)
	again.root = c.root
	start := time.Now()
	n = again.up("ip=eth0:dhcp rd.route=10.30.0.0/24:10.9.0.1", "target", 20*time.Second)
	again.reach(n, "target", 2222, 5*time.Second)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the second process needed %s", took)
	}
	again.log.await("DHCP server", 1, 5*time.Second)
	if after := sh(t, "ip -4 -o addr show eth0; ip route"); after != before {
		t.Errorf("the second process has changed\n%sto\n%s", before, after)
	}
}

// failing brings up networks that do not come, one after the other.
func failing(t *testing.T, within time.Duration, cases []failure) {
	t.Helper()
	p := newPeer(t)
	p.cable("eth0", "port")
	p.cable("eth1", "port1")
	p.sh(server4 + "; ip link set port1 down")
	for _, f := range cases {
		newClient(t).fails(f.line, f.host, within, f.want)
		sh(t, "ip addr flush dev eth0; ip link set eth0 down")
	}
}

// failure is the error that words lead to.
type failure struct{ line, host, want string }

// The error of a network that is not there names the steps and what was seen.
func TestNoAnswer4(t *testing.T) {
	if !namespace(t) {
		return
	}
	failing(t, 10*time.Second, []failure{
		{"ip=eth0:dhcp", "10.9.0.1", `^no route to 10.9.0.1 in \d+.\d s: eth0: carrier after \d+.\d s; no DHCP offer in \d+.\d s \([1-9] discovers sent\)$`},
		{"ip=eth0:dhcp rd.net.dhcp.retry=1 rd.net.timeout.dhcp=2", "10.9.0.1", `^no route to 10.9.0.1 in \d+.\d s: eth0: carrier after \d+.\d s; no DHCP offer in \d+.\d s \(2 discovers sent\)$`},
		{"ip=eth1:dhcp", "10.9.0.1", `: eth1: no carrier in \d+.\d s$`},
		{"ip=eth1:dhcp rd.net.timeout.carrier=1", "10.9.0.1", `^no route to 10.9.0.1 in \d+.\d s: eth1: no carrier in 1.0 s: is the cable in$`},
		{"ip=eth7:dhcp rd.net.timeout.iflink=1", "10.9.0.1", `eth7: not there after 1.0 s; there is eth0 \(.{17}\), eth1 \(.{17}\): names may differ in a capture kernel, ifname=NAME:MAC sets one`},
		{"ip=dhcp", "10.9.0.1", `: eth0: carrier.*; eth1: no carrier in|: eth1: no carrier in .*; eth0: carrier`},
	})
}

func TestNoAnswer6(t *testing.T) {
	if !namespace(t) {
		return
	}
	failing(t, 10*time.Second, []failure{
		{"ip=eth0:auto6", "fd00::1", `eth0: carrier after \d+.\d s; no router advertisement in \d+.\d s \([1-9] solicitations sent\)$`},
		{"ip=eth0:dhcp6", "fd00::1", `eth0: carrier after \d+.\d s; no DHCPv6 advertisement in \d+.\d s \([1-9] solicits sent\); no router advertisement in \d+.\d s \([1-9] solicitations sent\)$`},
	})
}

func TestNoName(t *testing.T) {
	if !namespace(t) {
		return
	}
	failing(t, 8*time.Second, []failure{
		{"ip=10.9.0.2:::24::eth0:none", "10.77.0.1", `^no route to 10.77.0.1 in \d+.\d s: eth0: carrier after \d+.\d s; has 10.9.0.2/24$`},
		{"ip=10.9.0.2:::24::eth0:none", "target.test", `^network to target.test: target.test: no name server is known: set nameserver=, or write the address \(eth0: carrier after`},
		{"ip=10.9.0.2:::24::eth0:none nameserver=10.66.0.1", "target.test", `^network to target.test: target.test: no route to name server 10.66.0.1 \(eth0: carrier after`},
		{"ip=10.9.0.2:::24::eth0:none nameserver=10.9.0.9", "target.test", `^network to target.test: target.test: no answer of name server 10.9.0.9`},
	})
}

// An MTU that the NIC refuses is told, and no reason to give up, however long its
// driver takes to set it up.
func TestRefusedMTU(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p := newPeer(t)
	p.lossy("eth0", "port", 0) // a TAP device has an MTU of 65521 at most
	p.sh(server4)
	p.listen(":2222")
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told := &lines{t: t, show: true}
	n, err := plan(t, "ip=eth0:dhcp:65535").Up(ctx, "10.9.0.1", Options{Root: t.TempDir(), Log: func(format string, a ...any) {
		told.add(format, a...)
		if strings.Contains(fmt.Sprintf(format, a...), "MTU") {
			time.Sleep(4 * time.Second) // stands for the driver
		}
	}})
	must(t, err)
	defer n.Close()
	told.await("eth0: MTU 65535: invalid argument", 1, 0)
}

func TestLateServer(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4)
	time.AfterFunc(6*time.Second, func() { p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m") })
	p.listen(":2222")
	n := c.up("ip=eth0:dhcp rd.net.timeout.dhcp=3", "10.9.0.1", 25*time.Second)
	c.reach(n, "10.9.0.1", 2222, 5*time.Second)
	c.log.await(`eth0: no DHCP offer in`, 1, 0)
}

// An address is no route yet: the target's may come with a later server, after
// a first address of the other family or a lease of DHCPv6 without a router.
func TestLateRoute(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	const lease4, lease6, router = "--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m", "--dhcp-range=fd09::1000,fd09::1fff,64,2m", "--dhcp-range=fd09::,ra-only,64,2m"
	for _, c := range []struct {
		words, target, early string
		late                 []string
	}{
		{"ip=eth0:dhcp6", "fd09::1", lease6, []string{lease6, "--enable-ra"}},
		{"ip=eth0:dhcp ip=eth0:dhcp6", "fd09::1", lease4, []string{lease6, "--enable-ra"}},
		{"ip=eth0:dhcp ip=eth0:auto6", "fd09::1", lease4, []string{router, "--enable-ra"}},
		{"", "fd09::1", lease4, []string{router, "--enable-ra"}},
		{"", "10.9.0.1", router, []string{lease4}},
	} {
		t.Log(c.words, c.target)
		p, client := newPeer(t), newClient(t)
		p.cable("eth0", "port")
		p.sh(server4 + "; ip addr add fd09::1/64 dev port nodad")
		p.listen(":2222")
		early := []string{c.early}
		if c.early == router {
			early = append(early, "--enable-ra")
		}
		kill, _ := p.dnsmasq(early...)
		go func() {
			for client.log.count("eth0: has") == 0 {
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
			kill()
			p.dnsmasq(c.late...)
		}()
		n := client.up(c.words, c.target, 30*time.Second)
		client.reach(n, c.target, 2222, 5*time.Second)
		n.Close()
		sh(t, "ip link del eth0")
	}
}

// An advertisement with lifetime 0 is no default router's: the target behind one is
// waited for.
func TestLateRouter(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	const lease6, auto6 = "--dhcp-range=fd09::1000,fd09::1fff,64,2m", "--dhcp-range=fd09::,ra-only,64,2m"
	for _, tt := range []struct{ words, kind string }{{"ip=eth0:auto6", auto6}, {"ip=eth0:dhcp6", lease6}} {
		p, c := newPeer(t), newClient(t)
		p.cable("eth0", "port")
		p.sh("ip addr add fd09::1/64 dev port nodad; ip addr add fd20::1/128 dev lo")
		p.listen(":2222")
		kill, _ := p.dnsmasq("--enable-ra", tt.kind, "--ra-param=port,0,0")
		go func() {
			c.log.await("eth0: has", 1, 15*time.Second)
			time.Sleep(1500 * time.Millisecond)
			kill()
			p.dnsmasq("--enable-ra", tt.kind)
		}()
		n := c.up(tt.words, "fd20::1", 30*time.Second)
		c.reach(n, "fd20::1", 2222, 10*time.Second)
		n.Close()
		sh(t, "ip link del eth0")
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh("ip addr add fd09::1/64 dev port nodad")
	p.dnsmasq("--enable-ra", auto6, "--ra-param=port,0,0")
	c.fails("ip=eth0:auto6 rd.net.timeout.ipv6auto=2", "fd20::1", 20*time.Second, `^no route to fd20::1 in \d+.\d s: eth0: .*no default router in 2.0 s, only an advertisement with lifetime 0`)
}

// A third of all frames is lost: DHCP, DNS, ARP and TCP get through.
func TestLoss(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.lossy("eth0", "port", 0.3)
	p.sh(server4)
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m", "--domain=kdump.test", "--local=/kdump.test/", "--host-record=target.kdump.test,10.9.0.1")
	p.listen(":2222")
	n := c.up("ip=eth0:dhcp", "target.kdump.test", 90*time.Second)
	c.reach(n, "target.kdump.test", 2222, 60*time.Second)
}

func TestLoss6(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.lossy("eth0", "port", 0.3)
	p.sh("ip addr add fd09::1/64 dev port nodad")
	p.dnsmasq("--enable-ra", "--dhcp-range=fd09::1000,fd09::1fff,64,2m")
	p.listen(":2222")
	n := c.up("ip=eth0:dhcp6", "fd09::1", 90*time.Second)
	c.reach(n, "fd09::1", 2222, 60*time.Second)
}

// The link goes away in the middle of DHCP, and again after it.
func TestFlap(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4)
	p.listen(":2222")
	flap := func(n int) { // the kernel tells of a link once a second
		p.sh("ip link set port down")
		for c.log.count("eth0: carrier lost") < n {
			time.Sleep(20 * time.Millisecond)
		}
		p.sh("ip link set port up")
		for c.log.count("eth0: carrier after") <= n {
			time.Sleep(20 * time.Millisecond)
		}
	}
	go func() {
		for c.log.count("eth0: carrier after") == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		flap(1)
		flap(2)
		p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m")
	}()
	n := c.up("ip=eth0:dhcp", "10.9.0.1", 30*time.Second)
	c.log.await("eth0: carrier lost", 2, 0)
	c.reach(n, "10.9.0.1", 2222, 5*time.Second)
	c.log.await("from DHCP server", 1, 5*time.Second)
	leases := c.log.count("from DHCP server")
	flap(3)
	c.log.await(`carrier after .* lost 3 times before`, 1, 5*time.Second)
	c.reach(n, "10.9.0.1", 2222, 10*time.Second)
	if leases != 1 {
		t.Errorf("%d leases before the last flap", leases)
	}
}

func TestGateway(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4 + "; ip addr add 10.20.0.1/32 dev lo")
	p.listen(":2222")
	n := c.up("ip=10.9.0.2::10.9.0.9:24::eth0:none", "10.20.0.1", 10*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 6500*time.Millisecond)
	defer cancel()
	err := n.Reach(ctx, "10.20.0.1", 2222)
	if err == nil || !strings.Contains(err.Error(), "gateway 10.9.0.9 does not answer ARP on eth0 in ") || !strings.Contains(err.Error(), "eth0: carrier after") {
		t.Errorf("%v", err)
	}
	n.Close()
	n = c.up("ip=10.9.0.2::10.9.0.1:24::eth0:none", "10.20.0.1", 10*time.Second)
	c.reach(n, "10.20.0.1", 2222, 5*time.Second)
	has(t, "ip route show default", `^default via 10\.9\.0\.1 dev eth0 metric \d+ \n$`)

	short, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	err = n.Reach(short, "10.20.0.1", 2223)
	if err == nil || !strings.Contains(err.Error(), "connect to 10.20.0.1:2223 over eth0 by 10.9.0.1 from 10.9.0.2: connection refused") || time.Since(start) > 20*time.Second {
		t.Errorf("%s: %v", time.Since(start), err)
	}
	// A gateway outside of the network of a /32, as some hosters have it.
	sh(t, "ip addr flush dev eth0; ip route flush dev eth0 || :")
	n = c.up("ip=10.9.0.2::10.9.0.1:32::eth0:none", "10.20.0.1", 10*time.Second)
	c.reach(n, "10.20.0.1", 2222, 5*time.Second)
	// Point to point.
	sh(t, "ip addr flush dev eth0; ip route flush dev eth0 || :")
	n = c.up("ip=10.9.0.2:10.9.0.1::32::eth0:none", "10.9.0.1", 10*time.Second)
	c.reach(n, "10.9.0.1", 2222, 5*time.Second)
}

// Two NICs with default routes, of which the second leads to the target.
func TestSeveralNICs(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, dead, c := newPeer(t), newPeer(t), newClient(t)
	dead.cable("eth0", "port")
	p.cable("eth1", "port")
	p.cable("eth2", "port2")
	p.sh("ip link set port2 down; ip addr add 10.8.0.1/24 dev port; ip addr add 10.20.0.1/32 dev lo")
	dead.sh(server4 + "; sysctl -qw net.ipv4.ip_forward=1; ip route add blackhole 10.20.0.0/16")
	dead.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m")
	p.listen(":2222")
	n := c.up("ip=dhcp", "10.20.0.1", 20*time.Second)
	p.dnsmasq("--dhcp-range=10.8.0.100,10.8.0.150,255.255.255.0,2m") // later: the way that leads nowhere is the first one
	c.reach(n, "10.20.0.1", 2222, 30*time.Second)
	c.log.await("the next default route goes first now", 1, 0)
	// The zero plan does the same, and IPv6 besides. The routes of the first
	// attempt are still there, as they are for the next target of a list.
	n.Close()
	n = c.up("", "10.20.0.1", 20*time.Second)
	c.reach(n, "10.20.0.1", 2222, 30*time.Second)
}

// A lookup goes on when the first server is dead, and says so when all are.
func TestDeadDNS(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh(server4)
	p.dnsmasq("--host-record=target.test,10.9.0.1", "--address=/none.test/")
	n := c.up("ip=10.9.0.2:::24::eth0:none:10.9.0.3:10.9.0.1", "target.test", 20*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+busy)
	defer cancel()
	if list, err := n.Resolve(ctx, "target.test"); err != nil || len(list) != 1 || list[0] != netip.MustParseAddr("10.9.0.1") {
		t.Errorf("%v %v", list, err)
	}
	if _, err := n.Resolve(ctx, "x.none.test"); err == nil || !strings.Contains(err.Error(), "x.none.test: no such host: so says name server 10.9.0.1") {
		t.Errorf("%v", err)
	}
}

func TestSLAAC(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh("ip addr add fd09::1/64 dev port nodad; ip addr add fd20::1/128 dev lo")
	p.dnsmasq("--enable-ra", "--dhcp-range=fd09::,ra-only,64,2m", "--dhcp-option=option6:dns-server,[fd09::1]", "--dhcp-option=option6:domain-search,kdump.test",
		"--host-record=target.kdump.test,fd20::1")
	p.listen(":2222")
	n := c.up("ip=eth0:auto6", "target", 20*time.Second)
	c.reach(n, "target", 2222, 10*time.Second)
	has(t, "ip -6 addr show eth0", `inet6 fd09::[0-9a-f:]+/64 scope global dynamic`)
	n.Close()
	// No advertisement is sent now for minutes: the second process asks for one.
	again := newClient(t)
	again.root = c.root
	n = again.up("ip=eth0:auto6", "target", 10*time.Second)
	again.reach(n, "target", 2222, 5*time.Second)
}

func TestDHCP6(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh("ip addr add fd09::1/64 dev port nodad")
	_, server := p.dnsmasq("--enable-ra", "--dhcp-range=fd09::1000,fd09::1fff,64,2m", "--dhcp-option=option6:dns-server,[fd09::1]",
		"--host-record=target.kdump.test,fd09::1")
	p.listen(":2222")
	n := c.up("ip=eth0:dhcp6", "target.kdump.test", 20*time.Second)
	c.reach(n, "target.kdump.test", 2222, 10*time.Second)
	has(t, "ip -6 addr show eth0", `inet6 fd09::1[0-9a-f]{3}/128 scope global`)
	first := sh(t, "ip -6 -o addr show eth0 scope global")
	n.Close()
	sh(t, "ip addr flush dev eth0; ip link set eth0 down")
	n = c.up("ip=eth0:either6", "fd09::1", 20*time.Second) // as the router says
	if second := sh(t, "ip -6 -o addr show eth0 scope global"); second != first {
		t.Errorf("first %sthen %s", first, second)
	}
	c.reach(n, "fd09::1", 2222, 5*time.Second)
	if server.count("DHCPREPLY") < 2 {
		t.Error(server)
	}
}

// Addresses of SLAAC, name servers of DHCPv6.
func TestStatelessDHCP6(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh("ip addr add fd09::1/64 dev port nodad")
	_, server := p.dnsmasq("--enable-ra", "--dhcp-range=fd09::,ra-stateless,64,2m", "--dhcp-option=option6:dns-server,[fd09::1]",
		"--ra-param=port,0,600", "--host-record=target.kdump.test,fd09::1")
	n := c.up("ip=eth0:auto6", "target.kdump.test", 20*time.Second)
	_ = n
	server.await("DHCPINFORMATION-REQUEST", 1, 10*time.Second)
}

func TestStatic6(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.sh("ip addr add fd09::1/64 dev port nodad; ip addr add fd20::1/128 dev lo; ip addr add 10.9.0.1/24 dev port")
	p.listen(":2222")
	n := c.up("ip=[fd09::2]::[fd09::1]:64::eth0:none ip=10.9.0.2:::24::eth0:none", "fd20::1", 10*time.Second)
	c.reach(n, "fd20::1", 2222, 5*time.Second)
	c.reach(n, "10.9.0.1", 2222, 5*time.Second)
	has(t, "ip -6 addr show eth0", "inet6 fd09::2/64 scope global nodad")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := n.Reach(ctx, "fd09::9", 2222); err == nil || !strings.Contains(err.Error(), "target fd09::9 does not answer neighbour discovery on eth0") {
		t.Error(err)
	}
}

// Two NICs change names, an address is set, a NIC is meant by its address.
func TestNames(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port0")
	p.cable("eth1", "port1")
	p.cable("eth2", "port2")
	sh(t, "ip link set eth0 address 02:00:00:00:00:10; ip link set eth1 address 02:00:00:00:00:11; ip link set eth2 address 02:00:00:00:00:12")
	p.sh("ip addr add 10.1.0.1/24 dev port0; ip addr add 10.2.0.1/24 dev port1; ip addr add 10.3.0.1/24 dev port2")
	p.listen(":2222")
	line := "ifname=eth0:02:00:00:00:00:11 ifname=eth1:02:00:00:00:00:10 ip=10.2.0.2:::24::eth0:none ip=10.1.0.2:::24::eth1:none ip=10.3.0.2:::24::02-00-00-00-00-12:none"
	for range 2 { // the second time it is so already
		n := c.up(line, "", 10*time.Second)
		for _, host := range []string{"10.1.0.1", "10.2.0.1", "10.3.0.1"} {
			c.reach(n, host, 2222, 5*time.Second)
		}
		n.Close()
	}
	has(t, "ip -o link", `eth0@.*02:00:00:00:00:11`)
	has(t, "ip -o link", `eth1@.*02:00:00:00:00:10`)
	// ip=...:MAC: the NIC that has it, called as it says; else it is set.
	sh(t, "ip addr flush dev eth2")
	n := c.up("ip=10.3.0.2:::24::lan:none:1400:02:00:00:00:00:12", "10.3.0.1", 10*time.Second)
	has(t, "ip -o link show lan", `mtu 1400.*02:00:00:00:00:12`)
	n.Close()
	n = c.up("ip=10.3.0.2:::24::lan:none::02:00:00:00:00:99", "10.3.0.1", 10*time.Second)
	c.reach(n, "10.3.0.1", 2222, 5*time.Second)
	has(t, "ip -o link show lan", `02:00:00:00:00:99`)
}

// Each NIC gets one job where some are named by words and every NIC is to be tried,
// even if the kernel has given such a name to another one.
func TestNamesOfOthers(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	for _, words := range []string{"ifname=eth0:02:00:00:00:00:11 ip=dhcp", "ip=eth0:dhcp::02:00:00:00:00:11 ip=dhcp"} {
		p, other := newPeer(t), newPeer(t)
		p.cable("eth0", "port")
		other.cable("eth1", "port")
		sh(t, "ip link set eth1 address 02:00:00:00:00:11")
		p.sh(server4)
		p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,1h")
		other.sh("ip addr add 10.8.0.1/24 dev port")
		other.dnsmasq("--dhcp-range=10.8.0.100,10.8.0.120,255.255.255.0,1h")
		for range 2 { // the second time it is so already
			c := newClient(t)
			n := c.up(words, "10.9.0.1", 15*time.Second)
			c.log.await("nic0: has 10.9.0", 1, 10*time.Second)
			c.log.await("eth0: has 10.8.0", 1, 10*time.Second)
			if jobs := c.log.count("carrier after"); jobs != 2 {
				t.Errorf("%d jobs for 2 NICs", jobs)
			}
			n.Close()
		}
		sh(t, "ip link del eth0; ip link del nic0")
	}
}

// Words for a NIC that is not there do not keep Up from the one that is.
func TestAbsentNIC(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p := newPeer(t)
	p.cable("eth1", "port")
	p.sh(server4)
	p.listen(":2222")
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,1h")
	for _, nic := range []string{"eth0", "02-00-00-00-00-99"} {
		c := newClient(t)
		n := c.up("ip=10.8.0.2::10.8.0.1:24::"+nic+":none ip=eth1:dhcp", "10.9.0.1", 15*time.Second)
		c.reach(n, "10.9.0.1", 2222, 5*time.Second)
		n.Close()
	}
}

// A NIC that is found late, and one that no word names.
func TestLateNIC(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	late := func(dev, port string, with ...string) {
		time.Sleep(4 * time.Second)
		p.cable(dev, port)
		p.sh(strings.Join(with, ";"))
	}
	go late("eth5", "port", server4)
	n := c.up("ip=10.9.0.2:::24::eth5:none ip=10.7.0.1:::24::eth6:none", "10.9.0.1", 10*time.Second)
	c.log.await("eth5: there after", 1, 0)
	n.Close()
	go func() {
		late("eth7", "port7", "ip addr add 10.7.0.1/24 dev port7")
		p.dnsmasq("--dhcp-range=10.7.0.100,10.7.0.150,255.255.255.0,2m")
	}()
	c.up("netconfig=auto", "10.7.0.1", 15*time.Second)
}

// Where every NIC is to be tried, the one that leads there may come after another
// has its lease; when none does, that is waited for in vain for a while only.
func TestSlowNICs(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, other, c := newPeer(t), newPeer(t), newClient(t)
	other.cable("eth0", "port")
	other.sh(server4)
	other.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,1h", "--dhcp-option=3")
	go func() {
		c.log.await("eth0: has", 1, 10*time.Second)
		time.Sleep(3 * time.Second)
		p.cable("eth1", "port")
		p.sh("ip addr add 10.8.0.1/24 dev port")
		p.dnsmasq("--dhcp-range=10.8.0.100,10.8.0.120,255.255.255.0,1h")
	}()
	c.up("ip=dhcp", "10.8.0.1", 30*time.Second).Close()
	sh(t, "ip link del eth1")
	c.fails("ip=dhcp", "10.7.0.1", 40*time.Second, `^no route to 10.7.0.1 in [12]\d.\d s: `)
}

// A NIC that goes comes up again when it is back, and what stands on it.
func TestBack(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p := newPeer(t)
	p.listen(":2222")
	cases := []string{"ip=eth0:dhcp", "", "ifname=lan:02:00:00:00:00:11 ip=dhcp"}
	const vlan, bond, bridge = "vlan=vlan5:eth0 ip=vlan5:dhcp", "bond=bond0:eth0:mode=1 ip=bond0:dhcp", "bridge=br0:eth0 ip=br0:dhcp"
	for words, missing := range map[string]string{vlan: p.supports("vlan", "link lo type vlan id 5"), bond: p.supports("bond", "type bond"), bridge: p.bridgeHere()} {
		if missing == "" {
			cases = append(cases, words)
		}
	}
	for _, words := range cases {
		t.Log(words)
		c := newClient(t)
		kill := func() {}
		plug := func() {
			kill()
			sh(t, "ip link add eth0 address 02:00:00:00:00:11 type veth peer name port netns "+p.pid)
			p.sh("ip link set port up")
			if words == vlan {
				p.sh("ip link add link port name port.5 type vlan id 5; ip link set port.5 up; ip addr add 10.9.0.1/24 dev port.5")
			} else {
				p.sh(server4)
			}
			kill, _ = p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,1h")
		}
		plug()
		n := c.up(words, "10.9.0.1", 20*time.Second)
		c.log.await("has 10.9.0", 1, 5*time.Second)
		p.sh("ip link del port")
		c.log.await("gone|carrier lost", 1, 10*time.Second)
		plug()
		c.log.await("carrier after", 2, 20*time.Second)
		c.reach(n, "10.9.0.1", 2222, 20*time.Second)
		if jobs := len(n.seen()); jobs != 1 {
			t.Errorf("%d jobs: %s", jobs, n.seen())
		}
		n.Close()
		kill()
		p.sh("ip link del port")
		sh(t, "for i in vlan5 bond0 br0; do ip link del $i 2>/dev/null || :; done")
	}
}

func TestBridge(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	if err := p.bridgeHere(); err != "" {
		t.Skip("the kernel makes no bridge: " + err)
	}
	p.cable("eth0", "port")
	p.cable("eth1", "port1")
	p.sh(server4)
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m")
	p.listen(":2222")
	for range 2 {
		n := c.up("bridge=br0:eth0,eth1 ip=br0:dhcp", "10.9.0.1", 20*time.Second)
		c.reach(n, "10.9.0.1", 2222, 5*time.Second)
		n.Close()
	}
	has(t, "ip -o link show master br0", `(?s)eth0.*eth1`)
	hasNot(t, "ip -4 addr show eth0", `inet`)
}

func (p *peer) bridgeHere() string { return p.supports("bridge", "type bridge") }

// supports tries whether the kernel makes such an interface, and says why not.
func (p *peer) supports(name, kind string) string {
	return strings.TrimSpace(p.sh("ip link add " + name + "0try " + kind + " 2>&1 && ip link del " + name + "0try || :"))
}

// VLANs and bonds, where the kernel has them; elsewhere the error says it.
func TestVLAN(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	if why := p.supports("vlan", "link port type vlan id 5"); why != "" {
		c.fails("vlan=vlan5:eth0 ip=vlan5:dhcp", "10.9.0.1", 5*time.Second, `vlan5: the kernel cannot make a vlan: is the module 8021q in the image$`)
		t.Skip("the kernel makes no VLANs: " + why)
	}
	p.sh("ip link add link port name port.5 type vlan id 5; ip link set port.5 up; ip addr add 10.9.0.1/24 dev port.5")
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m")
	p.listen(":2222")
	for range 2 {
		n := c.up("vlan=vlan5:eth0 ip=vlan5:dhcp", "10.9.0.1", 20*time.Second)
		c.reach(n, "10.9.0.1", 2222, 5*time.Second)
		n.Close()
	}
}

func TestBond(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port0")
	p.cable("eth1", "port1")
	if why := p.supports("bond", "type bond"); why != "" {
		c.fails("bond=bond0:eth0,eth1:mode=1 ip=bond0:dhcp", "10.9.0.1", 5*time.Second, `bond0: the kernel cannot make a bond: is the module bonding in the image$`)
		t.Skip("the kernel makes no bonds: " + why)
	}
	p.sh("ip link add br0 type bridge; ip link set port0 master br0; ip link set port1 master br0; ip link set br0 up; ip addr add 10.9.0.1/24 dev br0")
	p.dnsmasq("--dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,2m")
	p.listen(":2222")
	sh(t, "ip link add bond0 type bond || :") // as the module does when it is loaded
	for range 2 {
		n := c.up("bond=bond0:eth0,eth1:mode=active-backup,primary=eth1:1400 ip=bond0:dhcp", "10.9.0.1", 20*time.Second)
		c.reach(n, "10.9.0.1", 2222, 5*time.Second)
		n.Close()
	}
	has(t, "cat /proc/net/bonding/bond0", `(?s)active-backup.*Primary Slave: eth1.*MII Polling Interval \(ms\): 100`)
	has(t, "ip -o link show bond0", `mtu 1400`)
	if words, err := FromSystem(t.Context(), "10.9.0.1"); err != nil || !strings.Contains(cmdline.Join(words), "bond=bond0:eth0,eth1:mode=active-backup,miimon=100,primary=eth1:1400") {
		t.Errorf("%v %v", words, err)
	}
	n := c.up("bond=bond0:eth0,eth1:mode=active-backup vlan=bond0.7:bond0 ip=10.7.0.2:::24::bond0.7:none ip=10.9.0.77:::24::bond0:none", "10.9.0.1", 20*time.Second)
	p.sh("ip link set port1 down")
	c.reach(n, "10.9.0.1", 2222, 10*time.Second)
}

// The words that the system is put into bring it up again.
func TestFromSystem(t *testing.T) {
	if !namespace(t) {
		return
	}
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.cable("eth1", "port1")
	sh(t, "ip link set eth0 address 02:00:00:00:00:10; ip link set eth1 address 02:00:00:00:00:11")
	p.sh(server4 + "; ip addr add fd09::1/64 dev port nodad; ip addr add 10.20.0.1/32 dev lo; ip addr add 10.30.0.1/32 dev lo; ip route add 10.9.1.1 dev port || :")
	p.listen(":2222")
	bridge := p.bridgeHere() == ""
	const name = "ifname=eth0:02:00:00:00:00:10 "
	for _, tt := range []struct{ setup, host, want string }{
		{"ip addr add 10.9.0.2/24 dev eth0", "10.9.0.1", name + "ip=10.9.0.2:::24::eth0:none"},
		{"ip addr add 10.9.0.2/24 dev eth0; ip route add default via 10.9.0.1; ip link set eth0 mtu 1400", "10.20.0.1", name + "ip=10.9.0.2::10.9.0.1:24::eth0:none:1400"},
		{"ip addr add 10.9.0.2/24 dev eth0; ip route add 10.20.0.0/16 via 10.9.0.1", "10.20.0.1", name + "ip=10.9.0.2:::24::eth0:none rd.route=10.20.0.0/16:10.9.0.1:eth0"},
		{"ip addr add 10.9.0.2 peer 10.9.0.1/32 dev eth0", "10.9.0.1", name + "ip=10.9.0.2:10.9.0.1::32::eth0:none"},
		{"ip addr add 10.9.0.2/24 dev eth0 valid_lft 100 preferred_lft 100; ip route add default via 10.9.0.1", "10.20.0.1", name + "ip=eth0:dhcp"},
		{"ip addr add 10.9.0.2/24 dev eth0; ip route add default via 10.9.0.1 proto dhcp", "10.20.0.1", name + "ip=eth0:dhcp"},
		{"ip addr add 10.9.0.2/24 dev eth0 valid_lft 100 preferred_lft 100; ip route add 10.30.0.0/24 via 10.9.0.1 proto static", "10.30.0.1", name + "ip=eth0:dhcp rd.route=10.30.0.0/24:10.9.0.1:eth0"},
		{"ip addr add fd09::2/64 dev eth0 nodad; ip route add default via fd09::1", "fd09::1", name + "ip=[fd09::2]::[fd09::1]:64::eth0:none"},
		{"ip addr add fd09::2/64 dev eth0 nodad valid_lft 100 preferred_lft 100", "fd09::1", name + "ip=eth0:auto6"},
		{"ip link add br0 type bridge; ip link set eth0 master br0; ip link set br0 up; ip addr add 10.9.0.2/24 dev br0", "10.9.0.1", ""},
	} {
		if tt.want == "" && !bridge {
			continue
		}
		sh(t, "ip link del br0 2>/dev/null || :; ip addr flush dev eth0; ip route flush dev eth0 || :; ip link set eth0 down; ip link set eth0 mtu 1500 up")
		for until := time.Now().Add(3 * time.Second); !strings.Contains(sh(t, "ip link show eth0"), "LOWER_UP"); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("no carrier")
			}
		}
		sh(t, tt.setup)
		words, err := FromSystem(t.Context(), tt.host)
		if tt.want == "" { // a container's veth is no port of ours, so the bridge is empty
			if err == nil || err.Error() != "br0 has no NIC in it" {
				t.Errorf("bridge: %v %v", words, err)
			}
			continue
		}
		got := cmdline.Join(words)
		if err != nil || got != tt.want {
			t.Errorf("%s\n got %s %v\nwant %s", tt.setup, got, err, tt.want)
			continue
		}
		if strings.Contains(got, ":dhcp") || strings.Contains(got, "auto6") {
			continue
		}
		sh(t, "ip addr flush dev eth0; ip route flush dev eth0 || :; ip link set eth0 down; ip link set eth0 name wrong0; ip link set eth1 name eth0")
		n := c.up(got, tt.host, 10*time.Second)
		c.reach(n, tt.host, 2222, 10*time.Second)
		n.Close()
		sh(t, "ip link set nic0 down; ip link set nic0 name eth1")
	}
	if words, err := FromSystem(t.Context(), "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "is this machine itself") {
		t.Error(words, err)
	}
	if words, err := FromSystem(t.Context(), "192.0.2.1"); err == nil || !strings.Contains(err.Error(), "no route to 192.0.2.1: network is unreachable") {
		t.Error(words, err)
	}
}
