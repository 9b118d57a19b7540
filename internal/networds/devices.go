package networds

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// VLAN is vlan=.
type VLAN struct {
	Name, Phy string
	ID        int // 1 to 4094
}

// Key is "vlan".
func (VLAN) Key() string      { return "vlan" }
func (v VLAN) String() string { return v.Name + ":" + v.Phy }

// VLANID is the number that a VLAN's name ends in, 0 if that is none.
func VLANID(name string) int {
	digits := len(name) - len(strings.TrimRight(name, "0123456789"))
	if digits == 0 || digits == len(name) {
		return 0
	}
	id, ok := number(name[len(name)-digits:], 1, 4094)
	if !ok {
		return 0
	}
	return id
}

func readVLAN(value string) (_ Word, msg string) {
	name, phy, ok := strings.Cut(value, ":")
	if !ok {
		return nil, "no interface to be on"
	}
	v := VLAN{Name: name, ID: VLANID(name)}
	if msg = checkName(name); msg != "" {
		return nil, msg
	}
	if v.Phy, msg = nic(phy); msg != "" {
		return nil, msg
	}
	switch {
	case v.ID == 0:
		return nil, name + " does not end in a VLAN id from 1 to 4094"
	case v.Phy == name:
		return nil, "a VLAN on itself"
	}
	return v, ""
}

// Bond is bond=.
type Bond struct {
	Name    string
	Slaves  []string
	Options []Option
	MTU     int // 0: as it is
}

// Option is an option of a bond. A list of addresses has commas.
type Option struct{ Name, Value string }

// Key is "bond".
func (Bond) Key() string { return "bond" }

func (b Bond) String() string {
	var options []string
	for _, o := range b.Options {
		options = append(options, o.Name+"="+strings.ReplaceAll(o.Value, ",", ";"))
	}
	s := b.Name + ":" + strings.Join(b.Slaves, ",")
	if len(options) > 0 || b.MTU > 0 {
		s += ":" + strings.Join(options, ",")
	}
	if b.MTU > 0 {
		s += ":" + strconv.Itoa(b.MTU)
	}
	return s
}

// bondOptions are the names of Documentation/networking/bonding.rst that exist
// in sysfs.
func bondOptions() []string {
	return []string{"mode", "active_slave", "ad_actor_sys_prio", "ad_actor_system", "ad_select", "ad_user_port_key",
		"all_slaves_active", "arp_all_targets", "arp_interval", "arp_ip_target", "arp_missed_max", "arp_validate",
		"coupled_control", "downdelay", "fail_over_mac", "lacp_active", "lacp_rate", "lp_interval", "miimon", "min_links",
		"ns_ip6_target", "num_grat_arp", "num_unsol_na", "packets_per_slave", "peer_notif_delay", "primary",
		"primary_reselect", "resend_igmp", "tlb_dynamic_lb", "updelay", "use_carrier", "xmit_hash_policy"}
}

// BondModes are the modes in the order of their numbers.
func BondModes() []string {
	return []string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}
}

func readBond(value string) (_ Word, msg string) {
	fields := bondFields(value)
	b := Bond{Name: fields[0], Slaves: []string{"eth0", "eth1"}}
	if msg = checkName(b.Name); msg != "" {
		return nil, msg
	}
	if fields[1] != "" {
		if b.Slaves, msg = nics(fields[1]); msg != "" {
			return nil, msg
		}
	}
	if slices.Contains(b.Slaves, b.Name) {
		return nil, "a bond of itself"
	}
	if fields[2] != "" {
		if b.Options, msg = readOptions(fields[2]); msg != "" {
			return nil, msg
		}
	}
	if fields[3] != "" {
		var ok bool
		if b.MTU, ok = number(fields[3], 68, 65535); !ok {
			return nil, fields[3] + " is not an MTU"
		}
	}
	return b, ""
}

// bondFields cuts NAME:SLAVES:OPTIONS:MTU. Values of options may hold colons,
// as MAC and IPv6 addresses do.
func bondFields(value string) (fields [4]string) {
	var rest string
	fields[0], rest, _ = strings.Cut(value, ":")
	fields[1], rest, _ = strings.Cut(rest, ":")
	if at := strings.LastIndexByte(rest, ':'); at >= 0 && !strings.ContainsAny(rest[at:], "=,;") && !colonValue(rest) {
		rest, fields[3] = rest[:at], rest[at+1:]
	}
	fields[2] = rest
	return fields
}

// colonValue tells whether the last option has an address with colons, and no
// MTU behind it.
func colonValue(options string) bool {
	last := options[strings.LastIndexAny(options, ",;=")+1:]
	_, err := netip.ParseAddr(last)
	return isMAC(last) || err == nil
}

func readOptions(list string) (options []Option, msg string) {
	for s := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(s, "=")
		switch {
		case !ok || value == "" || strings.ContainsAny(value, "/ "):
			return nil, s + " is not OPTION=VALUE"
		case strings.Contains(value, ":") && !addresses(value):
			return nil, value + " is not a list of addresses"
		case !slices.Contains(bondOptions(), name):
			return nil, "unknown option " + name
		}
		if number, isNumber := number(value, 0, len(BondModes())-1); name == "mode" && isNumber {
			value = BondModes()[number]
		}
		if name == "mode" && !slices.Contains(BondModes(), value) {
			return nil, "unknown mode " + value
		}
		options = append(options, Option{name, strings.ReplaceAll(value, ";", ",")})
	}
	return options, ""
}

// addresses tells whether all of list are IPv6 or MAC addresses.
func addresses(list string) bool {
	for s := range strings.SplitSeq(list, ";") {
		if _, ok := address(s); !ok && !isMAC(s) {
			return false
		}
	}
	return true
}

// Bridge is bridge=.
type Bridge struct {
	Name  string
	Ports []string
}

// Key is "bridge".
func (Bridge) Key() string      { return "bridge" }
func (b Bridge) String() string { return b.Name + ":" + strings.Join(b.Ports, ",") }

func readBridge(value string) (_ Word, msg string) {
	name, ports, _ := strings.Cut(value, ":")
	b := Bridge{Name: name}
	if msg = checkName(name); msg != "" {
		return nil, msg
	}
	if b.Ports, msg = nics(ports); msg != "" {
		return nil, msg
	}
	if slices.Contains(b.Ports, name) {
		return nil, "a bridge over itself"
	}
	return b, ""
}

// Name is ifname=: what the NIC with a MAC address is called.
type Name struct {
	Name string
	MAC  net.HardwareAddr
}

// Key is "ifname".
func (Name) Key() string      { return "ifname" }
func (n Name) String() string { return n.Name + ":" + n.MAC.String() }

func readName(value string) (_ Word, msg string) {
	name, text, _ := strings.Cut(value, ":")
	n := Name{Name: name, MAC: MAC(text)}
	if msg = checkName(name); msg != "" {
		return nil, msg
	}
	if n.MAC == nil {
		return nil, "no MAC address"
	}
	return n, ""
}

// Route is rd.route=.
type Route struct {
	Net       netip.Prefix
	Gateway   netip.Addr // invalid: on the link
	Interface string     // "": where the gateway is
}

// Key is "rd.route".
func (Route) Key() string { return "rd.route" }

func (r Route) String() string {
	s := r.Net.String()
	if r.Net.Addr().Is6() {
		s = "[" + s + "]"
	}
	s += ":" + bracketed(r.Gateway)
	if r.Interface != "" {
		s += ":" + r.Interface
	}
	return s
}

func readRoute(value string) (_ Word, msg string) {
	// Both [NET/PREFIX] and [NET]/PREFIX are in use.
	if end := strings.Index(value, "]/"); strings.HasPrefix(value, "[") && end > 0 {
		bits, rest, _ := strings.Cut(value[end+2:], ":")
		value = value[:end] + "/" + bits + "]:" + rest
	}
	fields, msg := split(value)
	switch {
	case msg != "":
		return nil, msg
	case len(fields) < 2:
		return nil, "no gateway"
	case len(fields) > 3:
		return nil, "too many fields"
	}
	var r Route
	var ok bool
	if r.Net, ok = network(fields[0]); !ok {
		return nil, fields[0] + " is not a network"
	}
	if fields[1] != "" {
		if r.Gateway, ok = address(fields[1]); !ok {
			return nil, fields[1] + " is not an address"
		}
		if r.Gateway.Is4() != r.Net.Addr().Is4() {
			return nil, "network and gateway of different families"
		}
	}
	if len(fields) == 3 {
		if r.Interface, msg = nic(fields[2]); msg != "" {
			return nil, msg
		}
	}
	if !r.Gateway.IsValid() && r.Interface == "" {
		return nil, "neither gateway nor interface"
	}
	return r, ""
}

// network reads NET/PREFIX; bits of the host are dropped, and an address alone
// is a network of one.
func network(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return p.Masked(), true
	}
	a, ok := address(s)
	if !ok {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}
