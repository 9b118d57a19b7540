package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/networds"
)

// link is an interface of the kernel's.
type link struct {
	index   int
	name    string
	kind    string // "device" for a NIC; bond, bridge, vlan, ...
	mac     net.HardwareAddr
	perm    net.HardwareAddr // that the NIC was made with, nil where the kernel does not tell
	master  int              // index, 0: none
	mtu     int
	ether   bool
	up      bool
	running bool // carrier, and nothing in the way: IFF_RUNNING
}

// zone is the link in an IPv6 address. It is the number, as package net keeps the
// number of a name for a minute, in which a NIC may go and come back as another.
func (l link) zone() string { return strconv.Itoa(l.index) }

// zoneIndex is the link that an address names, 0 for none.
func zoneIndex(a netip.Addr) int {
	if i, err := strconv.Atoi(a.Zone()); err == nil || a.Zone() == "" {
		return i
	}
	l, _ := find(a.Zone())
	return l.index
}

// inZone makes link-local addresses those of the link on which they were heard.
func (l link) inZone(list []netip.Addr) []netip.Addr {
	for i, a := range list {
		if a.Is6() && a.IsLinkLocalUnicast() {
			list[i] = a.WithZone(l.zone())
		}
	}
	return list
}

// again repeats a question to the kernel whose answer was torn: something
// changed while it was given.
func again[T any](ask func() (T, error)) (v T, err error) {
	for range 10 {
		if v, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return v, err
		}
		time.Sleep(time.Millisecond)
	}
	return v, err
}

// links lists all interfaces but loopback.
func links() ([]link, error) {
	list, err := again(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var all []link
	for _, l := range list {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		all = append(all, link{
			index: a.Index, name: a.Name, kind: l.Type(), mac: a.HardwareAddr, perm: a.PermHWAddr, master: a.MasterIndex, mtu: a.MTU,
			ether: a.EncapType == "ether", up: a.RawFlags&unix.IFF_UP != 0, running: a.RawFlags&unix.IFF_RUNNING != 0,
		})
	}
	return all, nil
}

// find looks for an interface by its name, or by a NIC's dashed MAC address.
func find(name string) (link, bool) {
	all, err := links()
	if err != nil {
		return link{}, false
	}
	mac := networds.MAC(name)
	i := slices.IndexFunc(all, func(l link) bool {
		return mac != nil && l.nic() && l.hasMAC(mac) || mac == nil && l.name == name
	})
	if i < 0 {
		return link{}, false
	}
	return all[i], true
}

func byIndex(index int) (link, bool) {
	all, err := links()
	if err != nil {
		return link{}, false
	}
	i := slices.IndexFunc(all, func(l link) bool { return l.index == index })
	if i < 0 {
		return link{}, false
	}
	return all[i], true
}

// gone tells that there is no such interface any more. An error is no answer.
func gone(index int) bool {
	all, err := links()
	return err == nil && !slices.ContainsFunc(all, func(l link) bool { return l.index == index })
}

// nic is true for hardware, and for what a container has in its place.
func (l link) nic() bool { return l.ether && (l.kind == "device" || l.kind == "veth") }

// hasMAC looks at the address that the NIC was made with, for a bond gives all
// its slaves the same one.
func (l link) hasMAC(mac net.HardwareAddr) bool {
	if l.perm != nil && slices.Equal(l.perm, mac) {
		return true
	}
	return (l.perm == nil || l.master == 0) && slices.Equal(l.mac, mac)
}

// handle is what package netlink wants for a link.
func (l link) handle() netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: l.index, Name: l.name}, LinkType: l.kind}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toPrefix(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// addresses are the addresses of an interface, of one family or, with
// netlink.FAMILY_ALL, of both.
func addresses(index, family int) []netlink.Addr {
	list, err := again(func() ([]netlink.Addr, error) {
		return netlink.AddrList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}, family)
	})
	if err != nil {
		return nil
	}
	return list
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
