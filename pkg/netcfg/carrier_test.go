package netcfg

import (
	"sync"
	"testing"
	"time"
)

// A cable that is out while another NIC leads to the target: after Up, when the
// next process begins, with both NICs in one network, and with IPv6.
func TestDeadCable(t *testing.T) {
	if !namespace(t) {
		return
	}
	const gateways4 = "ip=10.9.0.2::10.9.0.1:24::eth0:none ip=10.8.0.2::10.8.0.1:24::eth1:none"
	const gateways6 = "ip=[fd09::2]::[fd09::1]:64::eth0:none ip=[fd08::2]::[fd08::1]:64::eth1:none"
	for _, tt := range []struct{ words, host, dead, alive string }{
		{gateways4, "10.20.0.1", "10.9.0.1/24", "ip addr add 10.8.0.1/24 dev port; ip addr add 10.20.0.1/32 dev lo"},
		{gateways6, "fd20::1", "fd09::1/64", "ip addr add fd08::1/64 dev port nodad; ip addr add fd20::1/128 dev lo"},
		{"ip=10.9.0.2:::24::eth0:none ip=10.9.0.3:::24::eth1:none", "10.9.0.1", "10.9.0.9/24", server4},
		{"ip=[fd09::2]:::64::eth0:none ip=[fd09::3]:::64::eth1:none", "fd09::1", "fd09::9/64", "ip addr add fd09::1/64 dev port nodad"},
	} {
		t.Log(tt.words)
		p, dead, c := newPeer(t), newPeer(t), newClient(t)
		dead.cable("eth0", "port")
		dead.sh("ip addr add " + tt.dead + " dev port")
		n := c.up(tt.words, tt.host, 10*time.Second)
		p.cable("eth1", "port") // later, so that the route over eth0 is the first
		p.sh(tt.alive)
		p.listen(":2222")
		c.log.await("eth1: has", 1, 10*time.Second)
		dead.sh("ip link set port down")
		c.log.await("eth0: carrier lost", 1, 10*time.Second)
		c.reach(n, tt.host, 2222, 10*time.Second)
		n.Close()

		again := newClient(t)
		n = again.up(tt.words, tt.host, 10*time.Second)
		again.log.await("route to .* over eth1", 1, 0)
		again.reach(n, tt.host, 2222, 10*time.Second)
		n.Close()
		sh(t, "ip link del eth0; ip link del eth1")
	}
}

// Behind the first gateway there is silence from one moment to the next: Dial
// finds the other way, and advertisements do not bring the first one back.
func TestDialAnotherWay(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	p, dead, c := newPeer(t), newPeer(t), newClient(t)
	dead.cable("eth0", "port")
	p.cable("eth1", "port")
	for _, q := range []*peer{dead, p} {
		q.sh("ip addr add 10.20.0.1/32 dev lo; ip addr add fd20::1/128 dev lo")
		q.listen(":2222")
	}
	dead.sh(server4 + "; sysctl -qw net.ipv4.ip_forward=1; ip addr add fd09::1/64 dev port nodad")
	p.sh("ip addr add 10.8.0.1/24 dev port; ip addr add fd08::1/64 dev port nodad")
	dead.dnsmasq("--enable-ra", "--dhcp-range=fd09::,ra-only,64,10m", "--ra-param=port,4,600")
	n := c.up("ip=10.9.0.2::10.9.0.1:24::eth0:none ip=eth0:auto6", "fd20::1", 20*time.Second)
	c.reach(n, "10.20.0.1", 2222, 10*time.Second)
	c.reach(n, "fd20::1", 2222, 10*time.Second)
	n.Close()
	p.dnsmasq("--enable-ra", "--dhcp-range=fd08::,ra-only,64,10m", "--ra-param=port,600,600")
	n = c.up("ip=10.9.0.2::10.9.0.1:24::eth0:none ip=eth0:auto6 ip=10.8.0.2::10.8.0.1:24::eth1:none ip=eth1:auto6", "fd20::1", 20*time.Second)
	c.log.await("eth1: has 10.8", 1, 10*time.Second)
	c.log.await("eth1: has fd08", 1, 10*time.Second)
	dead.sh("ip addr del 10.20.0.1/32 dev lo; ip addr del fd20::1/128 dev lo; ip route add blackhole 10.20.0.0/16; ip -6 route add blackhole fd20::/64")
	var wg sync.WaitGroup
	for _, address := range []string{"10.20.0.1:2222", "[fd20::1]:2222"} {
		wg.Go(func() { c.dial(n, address, 30*time.Second) })
	}
	wg.Wait()
	time.Sleep(5 * time.Second) // an advertisement
	has(t, "ip route get 10.20.0.1; ip route get fd20::1", `(?s)dev eth1.*dev eth1`)
}

// Up does not give up while the carrier of the NIC that leads there is away; one
// that stays away counts as failed after the time that one has at the start.
func TestFlapBeforeUp(t *testing.T) {
	if !namespace(t) {
		return
	}
	const words = "ip=10.9.0.2::10.9.0.1:24::eth0:none ip=eth1:dhcp rd.net.dhcp.retry=1 rd.net.timeout.dhcp=4 rd.net.timeout.carrier="
	p, c := newPeer(t), newClient(t)
	p.cable("eth0", "port")
	p.cable("eth1", "port1") // without a server, which is what Up waits for at first
	p.sh(server4 + "; ip link set port down")
	done := make(chan bool)
	go func() {
		defer close(done)
		c.log.await("eth1: carrier after", 1, 10*time.Second)
		p.sh("ip link set port up")
		c.log.await("eth0: has", 1, 10*time.Second)
		p.sh("ip link set port down")
		c.log.await("eth1: no DHCP offer in", 1, 20*time.Second)
		time.Sleep(2 * time.Second)
		p.sh("ip link set port up")
	}()
	n := c.up(words+"20", "10.20.0.1", 30*time.Second)
	<-done
	n.Close()

	c = newClient(t)
	c.up(words+"2", "10.20.0.1", 20*time.Second)
	p.sh("ip link set port down")
	c.log.await("eth0: carrier lost, not back in 2.0 s", 1, 20*time.Second)
}
