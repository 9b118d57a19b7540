package netcfg

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/networds"
)

// FromSystem is the words for the route to host that the running system has: the
// interface and all that it stands on, its address or how it got it, gateway,
// MTU, and name servers if host is a name, which they must know. It tells a lease from a static address
// by its lifetime, so that of a DHCP client that sets none looks static.
func FromSystem(ctx context.Context, host string) ([]Word, error) {
	address, r, err := liveRoute(ctx, host)
	if err != nil {
		return nil, err
	}
	if r.local {
		return nil, fmt.Errorf("%s is this machine itself; want a target elsewhere", host)
	}
	s := &system{sysfs: "/sys/class/net"}
	if s.links, err = links(); err != nil {
		return nil, err
	}
	name, err := s.device(r.index)
	if err != nil {
		return nil, err
	}
	if err := s.address(name, r, address); err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if err := s.servers(ctx, host, address, r); err != nil {
			return nil, err
		}
	}
	var words []Word
	for _, w := range s.words {
		words = append(words, Word{Key: w.Key(), Value: w.String(), HasValue: true})
	}
	if _, errs := Parse(words); len(errs) > 0 {
		return nil, fmt.Errorf("the system has what words cannot say: %w", errs[0])
	}
	return words, nil
}

// liveRoute takes the first of the host's addresses that there is a route to.
func liveRoute(ctx context.Context, host string) (netip.Addr, route, error) {
	list := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		list = append(list, a.Unmap())
	} else if list, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return netip.Addr{}, route{}, err
	}
	var last error
	for _, a := range list {
		r, err := lookupRoute(a.Unmap())
		if err == nil {
			return a.Unmap(), r, nil
		}
		last = err
	}
	return netip.Addr{}, route{}, fmt.Errorf("no route to %s: %w", host, last)
}

// system is a live network on its way into words.
type system struct {
	sysfs string // where bonds have their options
	links []link
	words []networds.Word
}

func (s *system) add(w networds.Word) {
	same := func(o networds.Word) bool { return o.Key() == w.Key() && o.String() == w.String() }
	if !slices.ContainsFunc(s.words, same) {
		s.words = append(s.words, w)
	}
}

// device adds an interface and what it stands on, and returns the name that it
// has in the words.
func (s *system) device(index int) (string, error) {
	i := slices.IndexFunc(s.links, func(l link) bool { return l.index == index })
	if i < 0 {
		return "", fmt.Errorf("interface %d is in another network namespace", index)
	}
	l := s.links[i]
	switch {
	case l.kind == "vlan":
		return s.vlan(l)
	case l.kind == "bond":
		b := networds.Bond{Name: l.name, Options: bondSettings(filepath.Join(s.sysfs, l.name, "bonding"))}
		var err error
		b.Slaves, err = s.members(l)
		if err != nil {
			return "", err
		}
		if l.mtu != usualMTU {
			b.MTU = l.mtu
		}
		s.add(b)
	case l.kind == "bridge":
		ports, err := s.members(l)
		if err != nil {
			return "", err
		}
		s.add(networds.Bridge{Name: l.name, Ports: ports})
	case l.nic():
		mac := l.mac
		if l.perm != nil {
			mac = l.perm
		}
		s.add(networds.Name{Name: l.name, MAC: mac})
	default:
		return "", fmt.Errorf("%s is a %s, which a capture kernel has no words for; want a NIC, a VLAN, a bond or a bridge", l.name, l.kind)
	}
	return l.name, nil
}

const usualMTU = 1500

func (s *system) vlan(l link) (string, error) {
	full, err := netlink.LinkByIndex(l.index)
	if err != nil {
		return "", err
	}
	v, ok := full.(*netlink.Vlan)
	if !ok {
		return "", fmt.Errorf("%s is no VLAN any more", l.name)
	}
	if v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q && v.VlanProtocol != 0 {
		return "", fmt.Errorf("%s: VLAN of protocol %s; want 802.1q", l.name, v.VlanProtocol)
	}
	phy, err := s.device(v.ParentIndex)
	if err != nil {
		return "", err
	}
	name := vlanName(l.name, phy, v.VlanId)
	s.add(networds.VLAN{Name: name, Phy: phy, ID: v.VlanId})
	return name, nil
}

// vlanName is a name that ends in the VLAN id, as the words want it.
func vlanName(name, phy string, id int) string {
	if networds.VLANID(name) == id {
		return name
	}
	if name = fmt.Sprintf("%s.%d", phy, id); len(name) <= 15 {
		return name
	}
	return fmt.Sprintf("vlan%d", id)
}

// members are the interfaces in a bond or bridge, without those of virtual
// machines and containers.
func (s *system) members(master link) (names []string, err error) {
	for _, l := range s.links {
		if l.master != master.index || master.kind == "bridge" && !slices.Contains([]string{"device", "bond", "vlan"}, l.kind) {
			continue
		}
		name, err := s.device(l.index)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no NIC in it", master.name)
	}
	return names, nil
}

// bondSettings are the options of a bond that differ from their defaults
// (Documentation/networking/bonding.rst).
func bondSettings(dir string) (options []networds.Option) {
	for _, o := range []networds.Option{
		{Name: "mode"}, {Name: "miimon", Value: "0"}, {Name: "updelay", Value: "0"}, {Name: "downdelay", Value: "0"},
		{Name: "arp_interval", Value: "0"}, {Name: "arp_ip_target"}, {Name: "arp_validate", Value: "none"}, {Name: "arp_all_targets", Value: "any"},
		{Name: "primary"}, {Name: "primary_reselect", Value: "always"}, {Name: "fail_over_mac", Value: "none"},
		{Name: "xmit_hash_policy", Value: "layer2"}, {Name: "lacp_rate", Value: "slow"}, {Name: "lacp_active", Value: "on"},
		{Name: "ad_select", Value: "stable"}, {Name: "min_links", Value: "0"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, o.Name))
		if err != nil {
			continue // not of this kernel
		}
		fields := strings.Fields(string(text))
		if len(fields) == 0 {
			continue
		}
		value := fields[0] // behind it stands its number
		if o.Name == "arp_ip_target" {
			value = strings.Join(fields, ",")
		}
		if value != o.Value {
			options = append(options, networds.Option{Name: o.Name, Value: value})
		}
	}
	return options
}

// address adds ip= and rd.route= for a route.
func (s *system) address(name string, r route, target netip.Addr) error {
	ip := networds.IP{Interface: name, Method: networds.None}
	if l := s.links[slices.IndexFunc(s.links, func(l link) bool { return l.index == r.index })]; l.mtu != usualMTU {
		ip.MTU = l.mtu
	}
	have := addresses(r.index, family(target))
	i := slices.IndexFunc(have, func(a netlink.Addr) bool { return toAddr(a.IP) == r.src })
	if i < 0 {
		return fmt.Errorf("address %s, from which %s is reached, is not on %s", r.src, target, r.dev)
	}
	match, err := netlink.RouteGetWithOptions(target.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(match) == 0 {
		return fmt.Errorf("route to %s: %w", target, err)
	}
	ip.Method = method(have[i], match[0])
	if ip.Method == networds.None {
		ip.Address = toPrefix(have[i].IPNet)
		if p := have[i].Peer; p != nil && !p.IP.Equal(have[i].IP) {
			ip.Peer = toAddr(p.IP)
			ip.Address = netip.PrefixFrom(r.src, toPrefix(p).Bits())
		}
		ip.Gateway = defaultGateway(r.index, target)
	}
	s.add(ip)
	protocol := match[0].Protocol
	byHand := protocol == unix.RTPROT_BOOT || protocol == unix.RTPROT_STATIC
	if r.gateway.IsValid() && !r.byDefault && (byHand || ip.Method == networds.None) {
		s.add(networds.Route{Net: toPrefix(match[0].Dst).Masked(), Gateway: r.gateway, Interface: name})
	}
	if r.gateway.IsValid() && r.byDefault && ip.Method == networds.None && !ip.Gateway.IsValid() {
		s.add(networds.Route{Net: defaultNet(r.gateway), Gateway: r.gateway, Interface: name})
	}
	return nil
}

// method guesses how an address was got.
func method(a netlink.Addr, by netlink.Route) networds.Method {
	const dhcp = unix.RTPROT_DHCP
	lasting := a.Flags&unix.IFA_F_PERMANENT != 0
	if a.IP.To4() != nil {
		if lasting && by.Protocol != dhcp {
			return networds.None
		}
		return networds.DHCP4
	}
	bits, _ := a.Mask.Size()
	switch {
	case lasting:
		return networds.None
	case bits == 128:
		return networds.DHCP6
	}
	return networds.Auto6
}

// defaultGateway is that of an interface, if it has one.
func defaultGateway(index int, target netip.Addr) netip.Addr {
	routes, err := again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family(target), &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return netip.Addr{}
	}
	for _, r := range routes {
		if r.Gw != nil && (r.Dst == nil || toPrefix(r.Dst).Bits() == 0) {
			return toAddr(r.Gw)
		}
	}
	return netip.Addr{}
}

// servers adds the name servers that the way of the words leads to, and makes sure that
// they know host: the capture kernel has no /etc/hosts and no search domains but those
// of a lease, and goes one way only. Where a lease is to bring servers, others need not
// be there.
func (s *system) servers(ctx context.Context, host string, address netip.Addr, r route) error {
	leased := slices.ContainsFunc(s.words, func(w networds.Word) bool {
		ip, ok := w.(networds.IP)
		return ok && ip.Method != networds.None
	})
	all, search := systemServers()
	var near []netip.Addr
	for _, a := range all {
		if way, err := lookupRoute(a); err == nil && way.index == r.index {
			near = append(near, a)
			s.add(networds.Server(a))
		}
	}
	names := []string{host}
	if leased && !strings.Contains(host, ".") {
		for _, domain := range search {
			names = append(names, host+"."+domain)
		}
	}
	for _, a := range near {
		for _, name := range names {
			if knows(ctx, a, name) {
				return nil
			}
		}
	}
	switch {
	case len(near) == 0 && leased:
		return nil
	case len(near) == 0:
		return fmt.Errorf("%s: the way to it leads to no name server of this system, and a capture kernel has no other: write %s in its place", host, address)
	}
	return fmt.Errorf("%s: this system knows it, but name server %s does not, under that very name, and a capture kernel has only that: write %s in its place",
		host, joined(near), address)
}

// knows asks a name server for the addresses of a name, and nobody else: the library
// would look into /etc/hosts first. An answer that is cut off is one.
func knows(ctx context.Context, server netip.Addr, name string) bool {
	const typeA, typeAAAA = 1, 28
	for _, kind := range []byte{typeA, typeAAAA} {
		for range 2 { // a packet may be lost
			if n, err := answers(ctx, server, name, kind); err == nil && n > 0 {
				return true
			} else if err == nil {
				break
			}
		}
	}
	return false
}

// answers is how many records a name server has of a name. A message of DNS (RFC 1035,
// section 4.1), in bytes; all numbers are big endian:
//
//	0 ID   2 flags   4 questions   6 answers   12 name, type, class
func answers(ctx context.Context, server netip.Addr, name string, kind byte) (int, error) {
	const within = 2 * time.Second
	const wantsRecursion, queryLen, classIN = 0x01, 12, 1
	id := byte(rand.IntN(256))
	query := []byte{id, kind, wantsRecursion, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return 0, nil
		}
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, kind, 0, classIN)
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(query); err != nil {
		return 0, err
	}
	answer := make([]byte, 1500)
	for {
		n, err := c.Read(answer)
		if err != nil {
			return 0, err
		}
		if n < queryLen || answer[0] != id || answer[1] != kind {
			continue // to another question
		}
		if code := answer[3] & 0xf; code != 0 && code != 3 { // 3: there is no such name
			return 0, fmt.Errorf("name server %s: error %d", server, code)
		}
		return int(answer[6])<<8 | int(answer[7]), nil
	}
}

// systemServers are the name servers and search domains of the system itself, not of a
// resolver on it, which a capture kernel does not have.
func systemServers() (servers []netip.Addr, search []string) {
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"} {
		all, domains := readResolvConf(file)
		all = slices.DeleteFunc(all, func(a netip.Addr) bool { return a.IsLoopback() || a.Zone() != "" })
		if len(all) > 0 {
			return all, domains
		}
	}
	return nil, nil
}
