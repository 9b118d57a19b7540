package netcfg

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/networds"
)

func TestParse(t *testing.T) {
	p := plan(t, "vlan=vlan5:bond0 bond=bond0:eth0,eth1:mode=802.3ad bridge=br0:eth2 ip=10.0.0.2::10.0.0.1:24:h:vlan5:none:10.0.0.53 "+
		"ip=[2001:db8::2]:::64::vlan5:none ip=br0:dhcp:1400:02:00:00:00:00:01 ip=br0:auto6 ip=dhcp ifname=lan:02:00:00:00:00:02 "+
		"nameserver=10.0.0.53 nameserver=10.0.0.53 rd.route=10.1.0.0/16:10.0.0.9 rd.neednet=1 rd.net.timeout.dhcp=5 rd.net.timeout.carrier=7 rd.net.dhcp.retry=3")
	if len(p.ifaces) != 2 || len(p.ifaces[0].static) != 2 || p.ifaces[0].hostname != "h" || !slices.Equal(p.ifaces[0].dns, []netip.Addr{netip.MustParseAddr("10.0.0.53")}) {
		t.Errorf("vlan5: %+v", p.ifaces)
	}
	br0 := p.ifaces[1]
	if !slices.Equal(br0.methods, []networds.Method{networds.DHCP4, networds.Auto6}) || br0.mtu != 1400 || br0.mac.String() != "02:00:00:00:00:01" {
		t.Errorf("br0: %+v", br0)
	}
	if !slices.Equal(p.every, []networds.Method{networds.DHCP4}) || len(p.dns) != 1 || len(p.routes) != 1 || len(p.names) != 1 || p.tries != 3 {
		t.Errorf("%+v", p)
	}
	if p.timeout(stepDHCP) != 5*time.Second || p.timeout(stepCarrier) != 7*time.Second || p.timeout(stepDevice) != 30*time.Second {
		t.Errorf("timeouts: %+v", p.times)
	}
	if got := p.Modules(); !slices.Equal(got, []string{"af_packet", "ipv6", "bonding", "bridge", "8021q"}) {
		t.Errorf("modules: %v", got)
	}
}

func TestModules(t *testing.T) {
	for line, want := range map[string]string{
		"":                                    "af_packet ipv6",
		"ip=eth0:dhcp":                        "af_packet",
		"ip=eth0:auto6":                       "ipv6",
		"ip=10.0.0.2:::24::eth0:none":         "",
		"ip=[fd00::2]:::64::eth0:none":        "ipv6",
		"netconfig=eth0:dhcp4":                "af_packet",
		"vlan=vlan5:eth0 ip=vlan5:dhcp":       "af_packet 8021q",
		"bond=bond0 ip=bond0:link6":           "ipv6 bonding",
		"bridge=br0:eth0 netconfig=br0:dhcp6": "ipv6 bridge",
	} {
		if got := strings.Join(plan(t, line).Modules(), " "); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
	if got := (Plan{}).Modules(); !slices.Equal(got, []string{"af_packet", "ipv6"}) {
		t.Error(got)
	}
}

// What is right alone and wrong together. The rest of the words counts.
func TestContradictions(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"vlan=vlan5:eth0 vlan=vlan5:eth1", "vlan=vlan5:eth1: vlan5 is defined twice; want one word for each interface"},
		{"bond=bond0:eth0 vlan=bond0:eth1", "bond0 does not end in"}, // it does: 0 is no VLAN
		{"bond=b1:eth0 vlan=b1:eth1", "vlan=b1:eth1: b1 is defined twice"},
		{"bond=bond0:eth0 bond=bond1:eth0", "bond=bond1:eth0: eth0 belongs to bond0 already; want each interface in one place"},
		{"bond=bond0:eth0 bridge=br0:eth0", "bridge=br0:eth0: eth0 belongs to bond0 already"},
		{"bond=bond0:eth0,eth0", "eth0 twice; want each interface once"},
		{"vlan=v1:v2 vlan=v2:v1", "vlan=v2:v1: v1 stands on v2 itself; want a VLAN on an interface below it"},
		{"bond=bond1:br0 bridge=br0:bond1", "bridge=br0:bond1: bond1 stands on br0 itself; want members below it"},
		{"ip=eth0:dhcp bond=bond0:eth0,eth1", "ip=eth0:dhcp: eth0 belongs to bond0; want an address for bond0"},
		{"ip=eth0:dhcp:1400 ip=eth0:auto6:1500", "ip=eth0:auto6:1500: MTU 1400 was given before; want one MTU for eth0"},
		{"ip=eth0:dhcp::02:00:00:00:00:01 ip=eth0:auto6::02:00:00:00:00:02", "MAC address 02:00:00:00:00:01 was given before"},
		{"ifname=a:02:00:00:00:00:01 ifname=b:02:00:00:00:00:01", "ifname=b:02:00:00:00:00:01: contradicts ifname=a:02:00:00:00:00:01; want one name for each NIC"},
		{"ifname=a:02:00:00:00:00:01 ifname=a:02:00:00:00:00:02", "contradicts ifname=a:02:00:00:00:00:01"},
		{"netconfig=eth0:static", "netconfig=eth0:static: no address; want a word ip=CLIENT::GATEWAY:PREFIX::eth0:none beside it"},
		{"netconfig=eth0:static ip=eth0:dhcp", "netconfig=eth0:static: no address"},
		{"bond=bond0:eth0 rd.route=10.1.0.0/16:10.0.0.1:eth0", "eth0 belongs to bond0; want a route over bond0"},
		{"ip=eth0", "ip=eth0: unknown method eth0; want dhcp"},
		{"root=/dev/sda", "root=/dev/sda: unknown network word; want ip"},
	} {
		p, errs := Parse(append(cmdline.Words(tt.line), cmdline.Words("ip=eth9:dhcp")...))
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), tt.want) {
			t.Errorf("%s: %v\nwant %s", tt.line, errs, tt.want)
		}
		if p.iface("eth9") == nil {
			t.Errorf("%s: what is right is not in the plan", tt.line)
		}
	}
	plan(t, "netconfig=eth0:static ip=10.0.0.2:::24::eth0:none")
}

func FuzzPlan(f *testing.F) {
	for _, s := range []string{"vlan=a1:b1 vlan=b1:a1", "bond=bond0 bridge=br0:bond0 vlan=v5:br0 ip=v5:dhcp", "netconfig=auto ifname=a:02:00:00:00:00:01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, errs := Parse(cmdline.Words(line))
		for _, err := range errs {
			_ = err.Error()
		}
		p.Modules()
		for _, name := range p.virtuals() { // no circles
			for _, low := range p.lower(name) {
				if p.above(low, name) {
					t.Fatalf("%s stands on itself", name)
				}
			}
		}
		for _, i := range p.ifaces {
			if p.master(i.name) != "" {
				t.Fatalf("%s has addresses in a bond", i.name)
			}
		}
	})
}

func TestReport(t *testing.T) {
	var said []string
	r := &report{who: "eth0", logf: func(format string, a ...any) { said = append(said, format) }}
	if r.String() != "eth0: not begun" {
		t.Error(r)
	}
	r.begin("a", time.Now().Add(-1230*time.Second), "no a in {}")
	r.set("b", failed, "no b")
	r.set("b", failed, "no b")
	if want := regexp.MustCompile(`^eth0: no a in 12[34]\d\.\d s; no b$`); !want.MatchString(r.String()) || len(said) != 1 || !r.has(trying, "a") || !r.has(failed) || r.has(done) {
		t.Errorf("%s, want %s; %q", r, want, said)
	}
	r.set("a", done, "has a")
	r.begin("a", time.Now(), "again") // done stays done
	r.forget("b")
	if r.String() != "eth0: has a" || r.has(failed) {
		t.Error(r)
	}
}

func TestDoubling(t *testing.T) {
	for _, tt := range []struct{ total, want int }{{0, 0}, {1, 1}, {3, 2}, {4, 3}, {15, 4}, {16, 5}, {23, 5}, {24, 6}} {
		waits := doubling(time.Duration(tt.total) * time.Second)
		var sum time.Duration
		for _, w := range waits {
			sum += w
		}
		if len(waits) != tt.want || sum != time.Duration(tt.total)*time.Second {
			t.Errorf("%d s: %v", tt.total, waits)
		}
	}
}

// The packet that we send is one that we would read, with sums that are right.
func TestUDPPacket(t *testing.T) {
	for _, n := range []int{0, 1, 2, 299, 300} {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(i)
		}
		p := udpPacket(payload)
		if got := udpPayload(p); string(got) != string(payload) {
			t.Errorf("%d: %x", n, got)
		}
		if onesSum(0, p[:ipHeader]) != 0xffff || onesSum(17+uint32(len(p)-ipHeader)+uint32(onesSum(0, p[12:20])), p[ipHeader:]) != 0xffff {
			t.Errorf("%d: checksum", n)
		}
		for cut := range len(p) {
			udpPayload(p[:cut])
		}
	}
}

func FuzzUDPPayload(f *testing.F) {
	f.Add(udpPacket([]byte("x")))
	f.Fuzz(func(t *testing.T, p []byte) {
		udpPayload(p)
		if m, err := dhcpv4.FromBytes(p); err == nil {
			if l, err := readLease4(m); err == nil && (!l.address.IsValid() || l.t1 <= 0 || l.t2 <= l.t1 || l.end <= l.t2) {
				t.Errorf("%+v", l)
			}
		}
	})
}

// ra is an advertisement with options.
func ra(flags byte, options ...[]byte) []byte {
	return append([]byte{134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, slices.Concat(options...)...)
}

func TestRouterAdvertisement(t *testing.T) {
	prefix := make([]byte, 32)
	prefix[0], prefix[1], prefix[2], prefix[3] = 3, 4, 64, 0xc0
	server := netip.MustParseAddr("2001:db8::53").As16()
	rdnss := append([]byte{25, 3, 0, 0, 0, 0, 0, 9}, server[:]...)
	dead := append([]byte{25, 3, 0, 0, 0, 0, 0, 0}, server[:]...)
	dnssl := []byte{31, 3, 0, 0, 0, 0, 0, 9, 5, 'k', 'd', 'u', 'm', 'p', 4, 't', 'e', 's', 't', 0, 0, 0, 0, 0}
	for _, tt := range []struct {
		p    []byte
		want advertisement
		ok   bool
	}{
		{ra(0), advertisement{router: true}, true},
		{slices.Concat(ra(0)[:6], []byte{0, 0}, ra(0)[8:]), advertisement{}, true},
		{ra(0xc0, prefix), advertisement{managed: true, other: true, autonomous: true, router: true}, true},
		{ra(0x40, rdnss, dnssl), advertisement{other: true, router: true, dns: []netip.Addr{netip.MustParseAddr("2001:db8::53")}, search: []string{"kdump.test"}}, true},
		{ra(0, dead), advertisement{router: true}, true},
		{ra(0)[:15], advertisement{}, false},
		{ra(0, []byte{1, 0, 0, 0, 0, 0, 0, 0}), advertisement{}, false},
		{ra(0, []byte{1, 2, 0, 0, 0, 0, 0, 0}), advertisement{}, false},
		{append([]byte{133}, ra(0)[1:]...), advertisement{}, false},
	} {
		if got, ok := parseRA(tt.p); ok != tt.ok || ok && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%x: %+v %v, want %+v", tt.p, got, ok, tt.want)
		}
	}
}

func FuzzRouterAdvertisement(f *testing.F) {
	f.Add(ra(0xc0, []byte{31, 2, 0, 0, 0, 0, 0, 9, 1, 'a', 0, 63, 0, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, p []byte) {
		a, _ := parseRA(p)
		if len(a.dns)*16 > len(p) || len(strings.Join(a.search, "")) > len(p) {
			t.Errorf("%+v", a)
		}
	})
}

func TestResolvConf(t *testing.T) {
	n := &Network{root: t.TempDir(), log: t.Logf}
	n.addServers(nil, []string{"only.a.domain"})
	if _, err := os.Stat(filepath.Join(n.root, resolvConf)); err == nil {
		t.Error("written without a server")
	}
	n.addServers([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")},
		[]string{"a.test.", "two words", "new\nline", "", "only.a.domain"})
	dns, search := readResolvConf(filepath.Join(n.root, resolvConf))
	if len(dns) != 2 || dns[1] != netip.MustParseAddr("fd00::1") || !slices.Equal(search, []string{"only.a.domain", "a.test"}) {
		t.Error(dns, search)
	}
	later := &Network{root: n.root, log: t.Logf}
	if dns, _ := later.servers(); len(dns) != 2 {
		t.Error("the next process does not know the servers:", dns)
	}
}

// Bond options as the kernel prints them.
func TestBondSettings(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"mode": "802.3ad 4\n", "miimon": "100\n", "lacp_rate": "fast 1\n", "xmit_hash_policy": "layer2 0\n",
		"arp_ip_target": "10.0.0.1 10.0.0.2\n", "primary": "\n", "min_links": "0\n"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	b := networds.Bond{Name: "bond0", Slaves: []string{"eth0"}, Options: bondSettings(dir)}
	want := "bond0:eth0:mode=802.3ad,miimon=100,arp_ip_target=10.0.0.1;10.0.0.2,lacp_rate=fast"
	if b.String() != want {
		t.Errorf("got %s, want %s", b, want)
	}
	again, err := networds.Parse("bond", b.String())
	if err != nil || !reflect.DeepEqual(again, b) {
		t.Errorf("%+v %v", again, err)
	}
	options := bondOptions([]networds.Option{{Name: "primary", Value: "eth1"}, {Name: "mode", Value: "active-backup"}})
	if options[0].Name != "mode" || options[2] != (networds.Option{Name: "miimon", Value: "100"}) || !late(options[1]) {
		t.Errorf("%v", options)
	}
}

func TestVLANName(t *testing.T) {
	for _, tt := range []struct {
		name, phy string
		id        int
		want      string
	}{
		{"vlan5", "eth0", 5, "vlan5"}, {"eth0.0005", "eth0", 5, "eth0.0005"}, {"storage", "eth0", 5, "eth0.5"},
		{"vlan15", "eth0", 5, "eth0.5"}, {"storage", "averylongname", 4094, "vlan4094"}, {"x", "elevenchars", 400, "elevenchars.400"},
	} {
		if got := vlanName(tt.name, tt.phy, tt.id); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

// A server that is away for minutes must not fill the console.
func TestRepeated(t *testing.T) {
	var r repeated
	var got []string
	for i := range 20 {
		step := "neighbour"
		if i >= 10 {
			step = "connection refused"
		}
		if again, worth := r.add(step); worth {
			got = append(got, step+again)
		}
	}
	want := []string{
		"neighbour", "neighbour (2 times)", "neighbour (4 times)", "neighbour (8 times)",
		"connection refused", "connection refused (2 times)", "connection refused (4 times)", "connection refused (8 times)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestErrorText(t *testing.T) {
	cause, seen := errNoHost, []string{"eth0: no carrier in 60.0 s", "eth1: not begun"}
	for _, tt := range []struct {
		e    Error
		want string
	}{
		{Error{Op: "no address in 2.0 s"}, "no address in 2.0 s"},
		{Error{Op: "no route to h in 2.0 s", Seen: seen}, "no route to h in 2.0 s: eth0: no carrier in 60.0 s; eth1: not begun"},
		{Error{Op: "reach h", Err: cause}, "reach h: no such host"},
		{Error{Op: "reach h", Err: cause, Seen: seen}, "reach h: no such host (eth0: no carrier in 60.0 s; eth1: not begun)"},
	} {
		if got := tt.e.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
