package networds

import (
	"reflect"
	"strings"
	"testing"
)

// Each word is right, and prints itself as want.
func TestParse(t *testing.T) {
	for _, tt := range []struct{ word, want string }{
		{"ip=dhcp", ""}, {"ip=on", "dhcp"}, {"ip=any", "dhcp"}, {"ip=off", "none"}, {"ip=dhcp6", ""}, {"ip=auto6", ""},
		{"ip=either6", ""}, {"ip=link6", ""}, {"ip=single-dhcp", "dhcp"},
		{"ip=eth0:dhcp", ""}, {"ip=eth0:on", "eth0:dhcp"}, {"ip=eth0:auto6", ""}, {"ip=eth0.5:dhcp6", ""},
		{"ip=eth0:dhcp:1400", ""}, {"ip=eth0:dhcp:1400:52:54:00:12:34:56", ""}, {"ip=eth0:dhcp::52:54:00:12:34:56", ""},
		{"ip=eth0:dhcp:", "eth0:dhcp"}, {"ip=eth0:dhcp::", "eth0:dhcp"},
		{"ip=52:54:00:AB:cd:56:dhcp", "52-54-00-ab-cd-56:dhcp"}, {"ip=52-54-00-12-34-56:dhcp", ""},
		{"ip=10.0.0.2::10.0.0.1:24:h:eth0:none", ""}, {"ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off", "10.0.0.2::10.0.0.1:24::eth0:none"},
		{"ip=10.0.0.2:::32::eth0:none", ""}, {"ip=10.0.0.2:10.0.0.1::32::eth0:none", ""}, {"ip=10.0.0.2:::1::eth0:none", ""},
		{"ip=10.0.0.2:::24::eth0", "10.0.0.2:::24::eth0:none"}, {"ip=10.0.0.2:::24::eth0:", "10.0.0.2:::24::eth0:none"},
		{"ip=10.0.0.2:::24::52:54:00:12:34:56:none", "10.0.0.2:::24::52-54-00-12-34-56:none"},
		{"ip=10.0.0.2:::24::eth0:none:9000:52:54:00:12:34:56", ""},
		{"ip=10.0.0.2:::24::eth0:none:10.0.0.53", ""}, {"ip=10.0.0.2:::24::eth0:none:10.0.0.53:[2001:db8::53]", ""},
		{"ip=10.0.0.2:::24::eth0:none::10.0.0.53:10.0.0.54", "10.0.0.2:::24::eth0:none:10.0.0.53"},
		{"ip=10.0.0.2:::24::eth0:dhcp", ""}, {"ip=::::box:eth0:dhcp", ""},
		{"ip=[2001:db8::2]::[2001:db8::1]:64:h:eth0:none", ""}, {"ip=[2001:db8::2]:::128::eth0:none", ""},
		{"ip=[::ffff:10.0.0.2]:::24::eth0:none", "10.0.0.2:::24::eth0:none"},
		{"vlan=vlan5:eth0", ""}, {"vlan=vlan0005:bond0", ""}, {"vlan=eth0.4094:eth0", ""}, {"vlan=eth0.1:52-54-00-12-34-56", ""},
		{"bond=bond0", "bond0:eth0,eth1"}, {"bond=bond0:eth1", ""}, {"bond=bond0:eth0,eth1:mode=4,miimon=100", "bond0:eth0,eth1:mode=802.3ad,miimon=100"},
		{"bond=bond0:eth0,eth1:mode=802.3ad:9000", ""}, {"bond=bond0:eth0,eth1::9000", ""},
		{"bond=bond0:a,b:arp_interval=100,arp_ip_target=10.0.0.1;10.0.0.2", ""}, {"bond=bond0:a,b:ns_ip6_target=2001:db8::1", ""},
		{"bond=bond0:a,b:ad_actor_system=02:00:00:00:00:01", ""}, {"bond=bond0:a,b:ad_actor_system=02:00:00:00:00:01:9000", ""},
		{"bridge=br0:eth0", ""}, {"bridge=br0:eth0,eth1", ""},
		{"ifname=lan:52:54:00:12:34:56", ""}, {"ifname=lan:52-54-00-12-34-56", "lan:52:54:00:12:34:56"},
		{"nameserver=10.0.0.1", ""}, {"nameserver=[2001:db8::1]", ""}, {"nameserver=2001:db8::1", "[2001:db8::1]"},
		{"rd.route=10.1.0.0/16:10.0.0.1", ""}, {"rd.route=10.1.2.3/16:10.0.0.1:eth0", "10.1.0.0/16:10.0.0.1:eth0"}, {"rd.route=10.1.0.0/16::eth0", ""},
		{"rd.route=10.1.2.3:10.0.0.1", "10.1.2.3/32:10.0.0.1"}, {"rd.route=0.0.0.0/0:10.0.0.1", ""},
		{"rd.route=[2001:db8:3::/48]:[2001:db8:2::1]:ens10", ""}, {"rd.route=[2001:db8:3::]/48:[2001:db8:2::1]", "[2001:db8:3::/48]:[2001:db8:2::1]"},
		{"rd.neednet=1", ""}, {"rd.neednet=0", ""}, {"rd.net.dhcp.retry=3", ""},
		{"rd.net.timeout.dhcp=1", ""}, {"rd.net.timeout.carrier=86400", ""}, {"rd.net.timeout.iflink=60", ""}, {"rd.net.timeout.ifup=20", ""},
		{"netconfig=auto", ""}, {"netconfig=eth0:dhcp", ""}, {"netconfig=eth0:dhcp4:force", ""}, {"netconfig=eth0:static", ""},
	} {
		key, value, _ := strings.Cut(tt.word, "=")
		w, err := Parse(key, value)
		if err != nil {
			t.Error(err)
			continue
		}
		if tt.want == "" {
			tt.want = value
		}
		if w.Key() != key || w.String() != tt.want {
			t.Errorf("%s: got %s=%s, want %s", tt.word, w.Key(), w, tt.want)
		}
	}
}

// The message names the word, what is wrong with it, and what would be right.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ word, want string }{
		{"ip=", "ip: no value; want dhcp, IF:METHOD or"},
		{"ip=eth0", "ip=eth0: unknown method eth0; want dhcp"},
		{"ip=10.0.0.2", "an address alone"},
		{"ip=ibft", "iBFT is not supported"},
		{"ip=eth0:static", "unknown method static"},
		{"ip=eth0:none", "unknown method none"},
		{"ip=an-interface-name:dhcp", "interface name an-interface-name is longer than 15 bytes"},
		{"ip=eth0:dhcp:67", "67 is neither an MTU nor a name server"},
		{"ip=eth0:dhcp:65536", "65536 is neither an MTU nor a name server"},
		{"ip=eth0:dhcp:1500:x", "x is neither a MAC address nor a name server"},
		{"ip=eth0:dhcp:1500:01:00:5e:00:00:01", "is a group's MAC address"},
		{"ip=eth0:dhcp:1500:52:54:00:12:34:56:x", "neither a MAC address nor a name server"},
		{"ip=10.0.0.2::10.0.0.1:24:h", "only 5 of 7 fields"},
		{"ip=10.0.0.2::10.0.0.1::h:eth0:none", "no netmask"},
		{"ip=10.0.0.2::10.0.0.1:33:h:eth0:none", "33 is not a netmask"},
		{"ip=10.0.0.2::10.0.0.1:0:h:eth0:none", "0 is not a netmask"},
		{"ip=10.0.0.2::10.0.0.1:255.0.255.0:h:eth0:none", "255.0.255.0 is not a netmask"},
		{"ip=[2001:db8::2]::[2001:db8::1]:129::eth0:none", "129 is not a netmask"},
		{"ip=[2001:db8::2]::[2001:db8::1]:255.255.0.0::eth0:none", "255.255.0.0 is not a netmask"},
		{"ip=10.0.0.2::10.0.0.256:24:h:eth0:none", "10.0.0.256 is not an address"},
		{"ip=10.0.0.2::[2001:db8::1]:24:h:eth0:none", "address and gateway of different families"},
		{"ip=10.0.0.2::10.0.0.2:24:h:eth0:none", "address and gateway are the same"},
		{"ip=10.0.0.2:[2001:db8::1]::24:h:eth0:none", "address and peer of different families"},
		{"ip=224.0.0.1:::24::eth0:none", "224.0.0.1 is not the address of a host"},
		{"ip=10.0.0.2:::24:::none", "no interface name"},
		{"ip=10.0.0.2:::24::eth0:bootp", "unknown method bootp"},
		{"ip=::::h:eth0:none", "no address, and no method"},
		{"ip=:::24:h:eth0:dhcp", "a netmask without an address"},
		{"ip=10.0.0.2:::24::eth0:none:10.0.0.53:x", "x is neither a MAC address nor a name server"},
		{"ip=10.0.0.2:::24::eth0:none:1:2:3:4", "too many fields"},
		{"ip=[2001:db8::2::eth0:none", "no closing bracket"},
		{"ip=2001:db8::2::eth0:none", "unknown method db8"},
		{"vlan=vlan5", "no interface to be on; want NAME:PHY"},
		{"vlan=vlan:eth0", "vlan does not end in a VLAN id from 1 to 4094"},
		{"vlan=vlan0:eth0", "does not end in a VLAN id"}, {"vlan=vlan4095:eth0", "does not end in a VLAN id"}, {"vlan=5:eth0", "does not end in a VLAN id"},
		{"vlan=vlan5:vlan5", "a VLAN on itself"},
		{"bond=:eth0", "no interface name"}, {"bond=bond0:eth0,,eth1", "no interface name"}, {"bond=bond0:bond0", "a bond of itself"},
		{"bond=bond0:eth0:mode=5g", "unknown mode 5g"}, {"bond=bond0:eth0:miimon", "miimon is not OPTION=VALUE"}, {"bond=bond0:eth0:speed=1", "unknown option speed"},
		{"bond=bond0:eth0:mode=1:x", "x is not an MTU"},
		{"bridge=br0", "no interface name"}, {"bridge=br0:br0", "a bridge over itself"},
		{"ifname=lan", "no MAC address"}, {"ifname=lan:52:54:00:12:34", "no MAC address"}, {"ifname=:52:54:00:12:34:56", "no interface name"},
		{"nameserver=dns", "not an address"}, {"nameserver=0.0.0.0", "not an address"},
		{"rd.route=10.1.0.0/16", "no gateway"}, {"rd.route=10.1.0.0/16:", "neither gateway nor interface"}, {"rd.route=10.1.0.0/33:10.0.0.1", "10.1.0.0/33 is not a network"},
		{"rd.route=10.1.0.0/16:[2001:db8::1]", "network and gateway of different families"},
		{"rd.neednet=yes", "neither 0 nor 1"}, {"rd.net.timeout.dhcp=1m", "not such a number; want seconds"}, {"rd.net.timeout.dhcp=0", "not such a number"},
		{"rd.net.timeout.route=3", "unknown network word; want ip,"}, {"rd.net.dhcp.retry=0", "not such a number; want a number from 1 to 1000"},
		{"netconfig=eth0", "not IF:METHOD; want auto or IF:METHOD"}, {"netconfig=eth0:bootp", "unknown method bootp"},
		{"team=team0:eth0", "unknown network word"},
		{"bridge=br0:" + strings.Repeat("eth0,", 300), "too long"},
	} {
		key, value, _ := strings.Cut(tt.word, "=")
		w, err := Parse(key, value)
		if err == nil {
			t.Errorf("%s is taken for %#v", tt.word, w)
		} else if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "; want ") {
			t.Errorf("%s: got %v\nwant %s", tt.word, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"ip=10.0.0.2::10.0.0.1:24:h:eth0:none:1500:52:54:00:12:34:56", "ip=[2001:db8::2]::[2001:db8::1]:64::eth0:none:[::1]",
		"bond=b:a,b:mode=1,ad_actor_system=02:00:00:00:00:01:9000", "rd.route=[2001:db8::]/32:[fe80::1]:e", "vlan=a1:b", "ifname=a:52:54:00:12:34:56",
		"netconfig=a:dhcp:force", "nameserver=::1", "bridge=a:b,c", "rd.net.timeout.dhcp=5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, word string) {
		key, value, _ := strings.Cut(word, "=")
		w, err := Parse(key, value)
		if err != nil {
			_ = err.Error()
			return
		}
		again, err := Parse(w.Key(), w.String())
		if err != nil {
			t.Fatalf("%s prints %s, which is wrong: %v", word, w, err)
		}
		if n, ok := w.(Netconfig); ok {
			n.text, w = again.String(), n
		}
		if !reflect.DeepEqual(again, w) {
			t.Fatalf("%s prints %s, which is %#v, want %#v", word, w, again, w)
		}
	})
}
