package networds

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Method is how an interface gets its addresses.
type Method string

// The methods.
const (
	None    Method = "none"    // none but the one that is written down
	DHCP4   Method = "dhcp"    // DHCPv4
	DHCP6   Method = "dhcp6"   // DHCPv6, routes by router advertisements
	Auto6   Method = "auto6"   // SLAAC
	Either6 Method = "either6" // SLAAC, or DHCPv6 where the router says so
	Link6   Method = "link6"   // the link-local address only
)

// method reads the name of a method; on and any are the kernel's names.
func method(s string) (m Method, ok bool) {
	switch m := Method(s); m {
	case None, DHCP4, DHCP6, Auto6, Either6, Link6:
		return m, true
	}
	switch s {
	case "off":
		return None, true
	case "on", "any", "dhcp4", "single-dhcp":
		return DHCP4, true
	}
	return "", false
}

// IP is ip=.
type IP struct {
	Interface string // name or dashed MAC address; "": every NIC
	Method    Method

	Address  netip.Prefix // invalid: none is written down
	Peer     netip.Addr
	Gateway  netip.Addr
	Hostname string // for the DHCP server

	MTU int              // 0: as it is
	MAC net.HardwareAddr // nil: as it is
	DNS []netip.Addr
}

// Key is "ip".
func (IP) Key() string { return "ip" }

func (ip IP) String() string {
	if ip.Interface == "" {
		return string(ip.Method)
	}
	tail := ip.Interface + ":" + string(ip.Method)
	if ip.Address.IsValid() || ip.Hostname != "" || ip.Gateway.IsValid() || len(ip.DNS) > 0 {
		head := []string{"", "", bracketed(ip.Gateway), "", ip.Hostname}
		if ip.Address.IsValid() {
			head[0], head[3] = bracketed(ip.Address.Addr()), strconv.Itoa(ip.Address.Bits())
		}
		head[1] = bracketed(ip.Peer)
		tail = strings.Join(head, ":") + ":" + tail
	}
	for _, a := range ip.DNS {
		tail += ":" + bracketed(a)
	}
	if ip.MTU != 0 {
		tail += ":" + strconv.Itoa(ip.MTU)
	}
	if ip.MAC != nil {
		if ip.MTU == 0 {
			tail += ":"
		}
		tail += ":" + ip.MAC.String()
	}
	return tail
}

func readIP(value string) (Word, string) {
	fields, msg := split(value)
	if msg != "" {
		return nil, msg
	}
	first := fields[0]
	_, isAddress := address(first)
	switch m, isMethod := method(first); {
	case first == "ibft":
		return nil, "iBFT is not supported"
	case len(fields) == 1 && isMethod:
		return IP{Method: m}, ""
	case len(fields) == 1 && isAddress:
		return nil, "an address alone"
	case len(fields) == 1:
		return nil, "unknown method " + first
	case isAddress || first == "":
		return readLongIP(fields)
	}
	ip := IP{}
	if ip.Interface, msg = nic(first); msg != "" {
		return nil, msg
	}
	var ok bool
	if ip.Method, ok = method(fields[1]); !ok || ip.Method == None {
		return nil, "unknown method " + fields[1]
	}
	return ip.extra(fields[2:])
}

// readLongIP reads CLIENT:PEER:GW:MASK:HOST:IF:METHOD and what follows.
func readLongIP(fields []string) (_ Word, msg string) {
	const fixed = 7
	if len(fields) == fixed-1 && fields[0] != "" { // as the kernel takes it
		fields = append(fields, string(None))
	}
	if len(fields) < fixed {
		return nil, "only " + strconv.Itoa(len(fields)) + " of 7 fields"
	}
	ip := IP{Hostname: fields[4]}
	if ip.Interface, msg = nic(fields[5]); msg != "" {
		return nil, msg
	}
	var ok bool
	if ip.Method, ok = method(fields[6]); !ok && fields[6] == "" && fields[0] != "" {
		ip.Method, ok = None, true
	}
	switch {
	case !ok:
		return nil, "unknown method " + fields[6]
	case ip.Method == None && fields[0] == "":
		return nil, "no address, and no method to get one"
	case strings.ContainsAny(ip.Hostname, " :/[]"):
		return nil, ip.Hostname + " is not a host name"
	}
	for i, a := range []*netip.Addr{&ip.Peer, &ip.Gateway} {
		text := fields[1+i]
		if text == "" {
			continue
		}
		if *a, ok = address(text); !ok {
			return nil, text + " is not an address"
		}
	}
	if msg = ip.client(fields[0], fields[3]); msg != "" {
		return nil, msg
	}
	return ip.extra(fields[fixed:])
}

// client reads the address and its mask, and looks whether they fit the rest.
func (ip *IP) client(text, mask string) string {
	if text == "" {
		if mask != "" {
			return "a netmask without an address"
		}
		return ""
	}
	a, _ := address(text)
	bits, ok := prefix(a, mask)
	switch {
	case mask == "":
		return "no netmask"
	case !ok:
		return mask + " is not a netmask"
	case a.IsMulticast() || a.Is4() && a.As4() == [4]byte{255, 255, 255, 255}:
		return text + " is not the address of a host"
	case ip.Gateway.IsValid() && ip.Gateway.Is4() != a.Is4():
		return "address and gateway of different families"
	case ip.Gateway == a:
		return "address and gateway are the same"
	case ip.Peer.IsValid() && ip.Peer.Is4() != a.Is4():
		return "address and peer of different families"
	}
	ip.Address = netip.PrefixFrom(a, bits)
	return ""
}

// prefix reads a netmask, dotted or as its length.
func prefix(a netip.Addr, mask string) (bits int, ok bool) {
	if n, ok := number(mask, 1, a.BitLen()); ok {
		return n, true
	}
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() || !a.Is4() {
		return 0, false
	}
	b := m.As4()
	bits, size := net.IPMask(b[:]).Size()
	return bits, bits > 0 && size != 0
}

// extra reads what follows the method: MTU and MAC address, or name servers.
func (ip IP) extra(fields []string) (Word, string) {
	if len(fields) > 3 {
		return nil, "too many fields"
	}
	for i, f := range fields {
		mtu, isMTU := number(f, 68, 65535)
		a, isAddr := address(f)
		mac := MAC(f)
		switch {
		case f == "":
		case i == 0 && isMTU:
			ip.MTU = mtu
		case i == 1 && mac != nil && len(ip.DNS) == 0:
			if mac[0]&1 != 0 {
				return nil, f + " is a group's MAC address"
			}
			ip.MAC = mac
		case i < 2 && isAddr && ip.MTU == 0:
			ip.DNS = append(ip.DNS, a)
		case i == 2 && isAddr && ip.MTU == 0 && ip.MAC == nil: // the kernel's third is an NTP server
		case i == 0:
			return nil, f + " is neither an MTU nor a name server"
		default:
			return nil, f + " is neither a MAC address nor a name server"
		}
	}
	return ip, ""
}

// Netconfig is netconfig=, SUSE's KDUMP_NETCONFIG.
type Netconfig struct {
	Interface string // "": every NIC
	Methods   []Method
	Static    bool // the address stands in an ip= word
	text      string
}

// Key is "netconfig".
func (Netconfig) Key() string      { return "netconfig" }
func (n Netconfig) String() string { return n.text }

func readNetconfig(value string) (Word, string) {
	n := Netconfig{text: value, Methods: []Method{DHCP4, Either6}}
	fields, msg := split(strings.TrimSuffix(value, ":force")) // SUSE: bring it up even if no target needs it
	if msg != "" {
		return nil, msg
	}
	if len(fields) == 1 && fields[0] == "auto" {
		return n, ""
	}
	if len(fields) != 2 {
		return nil, "not IF:METHOD"
	}
	if n.Interface, msg = nic(fields[0]); msg != "" {
		return nil, msg
	}
	switch fields[1] {
	case "dhcp", "auto":
	case "dhcp4":
		n.Methods = []Method{DHCP4}
	case "dhcp6", "auto6":
		n.Methods = []Method{Method(fields[1])}
	case "static":
		n.Methods, n.Static = nil, true
	default:
		return nil, "unknown method " + fields[1]
	}
	return n, ""
}
