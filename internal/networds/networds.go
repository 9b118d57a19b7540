// Package networds reads the words that describe a network: dracut's, as
// dracut.cmdline(7) has them, and SUSE's netconfig.
//
//	ip={dhcp|on|any|dhcp6|auto6|either6|link6}                  every NIC
//	ip=IF:{dhcp|on|any|dhcp6|auto6|either6|link6}[:[MTU][:MAC]]
//	ip=CLIENT:[PEER]:[GW]:MASK:[HOST]:IF:{none|off|METHOD}[:[MTU][:MAC] | :[DNS1][:DNS2]]
//	vlan=NAME:PHY                        the VLAN id is NAME's trailing number
//	bond=NAME[:SLAVE,...[:OPTION=VALUE,...[:MTU]]]
//	bridge=NAME:IF,...
//	ifname=NAME:MAC
//	nameserver=IP
//	rd.route=NET/PREFIX:[GW][:IF]
//	rd.neednet=0|1   rd.net.timeout.{iflink|ifup|carrier|dhcp|ipv6auto}=SECONDS   rd.net.dhcp.retry=N
//	netconfig={auto|IF:{dhcp4|dhcp6|dhcp|auto6|auto|static}}
//
// IPv6 addresses stand in brackets. Where a NIC is named, its MAC address may
// stand in place of the name: 52-54-00-12-34-56, in ip= with colons too.
//
// Start with Parse. Each result prints itself as the value of its word.
package networds

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Error is what is wrong with one word.
type Error struct {
	Key, Value string
	Msg        string // what is wrong
	Want       string // what would be right
}

func (e *Error) Error() string {
	word := e.Key + "=" + e.Value
	if e.Value == "" {
		word = e.Key
	}
	return word + ": " + e.Msg + "; want " + e.Want
}

// Word is one word, understood: IP, VLAN, Bond, Bridge, Name, Server, Route,
// NeedNet, Timeout, Retry or Netconfig.
type Word interface {
	Key() string
	String() string // the value, as Parse reads it
}

// reader reads the value of a key. msg says what is wrong with it, "" if
// nothing is.
type reader struct {
	want string
	read func(value string) (w Word, msg string)
}

func readers(key string) *reader {
	switch key {
	case "ip":
		return &reader{"dhcp, IF:METHOD or CLIENT:[PEER]:[GATEWAY]:PREFIX:[HOST]:IF:none, IPv6 addresses in brackets", readIP}
	case "vlan":
		return &reader{"NAME:PHY, where NAME ends in the VLAN id, as in vlan5:eth0", readVLAN}
	case "bond":
		return &reader{"NAME[:SLAVE,...[:OPTION=VALUE,...[:MTU]]], as in bond0:eth0,eth1:mode=802.3ad", readBond}
	case "bridge":
		return &reader{"NAME:IF,..., as in br0:eth0", readBridge}
	case "ifname":
		return &reader{"NAME:MAC, as in eth0:52:54:00:12:34:56", readName}
	case "nameserver":
		return &reader{"an IP address", readServer}
	case "rd.route":
		return &reader{"NET/PREFIX:[GATEWAY][:IF], as in 10.1.0.0/16:10.0.0.1", readRoute}
	case "rd.neednet":
		return &reader{"0 or 1", readNeedNet}
	case "rd.net.dhcp.retry":
		return &reader{"a number from 1 to 1000", readRetry}
	case "netconfig":
		return &reader{"auto or IF:METHOD, with one of dhcp4, dhcp6, dhcp, auto6, auto, static", readNetconfig}
	}
	if step, ok := strings.CutPrefix(key, "rd.net.timeout."); ok && knownStep(step) {
		return &reader{"seconds from 1 to 86400", func(v string) (Word, string) { return readTimeout(step, v) }}
	}
	return nil
}

// maxValue bounds the value of a word in bytes.
const maxValue = 1024

// Parse reads one word. Its error is an *Error.
func Parse(key, value string) (Word, error) {
	r := readers(key)
	if r == nil {
		return nil, &Error{key, value, "unknown network word",
			"ip, vlan, bond, bridge, ifname, nameserver, rd.route, rd.neednet, rd.net.dhcp.retry, netconfig, or rd.net.timeout. with " + strings.Join(steps(), ", ")}
	}
	switch {
	case value == "":
		return nil, &Error{key, value, "no value", r.want}
	case len(value) > maxValue:
		return nil, &Error{key, value[:40] + "...", "too long", r.want}
	}
	w, msg := r.read(value)
	if msg != "" {
		return nil, &Error{key, value, msg, r.want}
	}
	return w, nil
}

// split cuts a value at its colons, but not inside brackets, which are taken
// off, nor inside a MAC address.
func split(s string) (fields []string, msg string) {
	for {
		end := strings.IndexByte(s, ':')
		switch n := len("00:00:00:00:00:00"); {
		case strings.HasPrefix(s, "["):
			end = strings.IndexByte(s, ']')
			if end < 0 {
				return nil, "no closing bracket"
			}
			fields = append(fields, s[1:end])
			s = s[end+1:]
			if s == "" {
				return fields, ""
			}
			if s[0] != ':' {
				return nil, "text behind a closing bracket"
			}
			s = s[1:]
			continue
		case len(s) >= n && (len(s) == n || s[n] == ':') && isMAC(s[:n]):
			end = n
		}
		if end < 0 || end == len(s) {
			return append(fields, s), ""
		}
		fields = append(fields, s[:end])
		s = s[end+1:]
	}
}

func isMAC(s string) bool {
	_, err := parseMAC(s)
	return err == nil
}

// parseMAC reads an Ethernet address, with colons or dashes.
func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err == nil && (len(mac) != 6 || len(s) != 17) {
		err = fmt.Errorf("%s: not an Ethernet address", s)
	}
	return mac, err
}

// MAC is the address that stands in place of a NIC's name; nil for a name.
func MAC(name string) net.HardwareAddr {
	if mac, err := parseMAC(name); err == nil {
		return mac
	}
	return nil
}

// Dashed is the form of a MAC address that may stand for a name.
func Dashed(mac net.HardwareAddr) string { return strings.ReplaceAll(mac.String(), ":", "-") }

// checkName looks at the name of an interface as dev_valid_name() of
// net/core/dev.c does.
func checkName(name string) string {
	switch {
	case name == "":
		return "no interface name"
	case len(name) > 15:
		return "interface name " + name + " is longer than 15 bytes"
	case name == "." || name == ".." || strings.ContainsAny(name, `/:,[]"\`) || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return name + " is not an interface name"
	}
	return ""
}

// nic reads the name of a NIC, or its MAC address.
func nic(s string) (name, msg string) {
	if mac := MAC(s); mac != nil {
		return Dashed(mac), ""
	}
	return s, checkName(s)
}

func nics(list string) (names []string, msg string) {
	for s := range strings.SplitSeq(list, ",") {
		name, msg := nic(s)
		if msg != "" {
			return nil, msg
		}
		names = append(names, name)
	}
	return names, ""
}

// address reads an address whose brackets are off already.
func address(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil && !a.IsUnspecified() && a.Zone() == ""
}

func bracketed(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return ""
	case a.Is6():
		return "[" + a.String() + "]"
	}
	return a.String()
}

// Server is nameserver=.
type Server netip.Addr

// Key is "nameserver".
func (Server) Key() string      { return "nameserver" }
func (s Server) String() string { return bracketed(netip.Addr(s)) }

func readServer(value string) (Word, string) {
	fields, msg := split(value)
	if msg == "" && len(fields) > 1 {
		fields = []string{value} // IPv6 without brackets is plain enough here
	}
	if msg != "" {
		return nil, msg
	}
	a, ok := address(fields[0])
	if !ok {
		return nil, "not an address"
	}
	return Server(a), ""
}

// NeedNet is rd.neednet=: it changes nothing, for the network comes up when a
// target needs it.
type NeedNet bool

// Key is "rd.neednet".
func (NeedNet) Key() string { return "rd.neednet" }
func (n NeedNet) String() string {
	if n {
		return "1"
	}
	return "0"
}

func readNeedNet(value string) (Word, string) {
	if value != "0" && value != "1" {
		return nil, "neither 0 nor 1"
	}
	return NeedNet(value == "1"), ""
}

// Retry is rd.net.dhcp.retry=: how often DHCP is tried.
type Retry int

// Key is "rd.net.dhcp.retry".
func (Retry) Key() string      { return "rd.net.dhcp.retry" }
func (r Retry) String() string { return strconv.Itoa(int(r)) }

func readRetry(value string) (Word, string) {
	n, ok := number(value, 1, 1000)
	if !ok {
		return nil, "not such a number"
	}
	return Retry(n), ""
}

// Timeout is rd.net.timeout.STEP=: how long one step may take.
type Timeout struct {
	Step string // iflink, ifup, carrier, dhcp or ipv6auto
	Time time.Duration
}

// Key is "rd.net.timeout.STEP".
func (t Timeout) Key() string    { return "rd.net.timeout." + t.Step }
func (t Timeout) String() string { return strconv.Itoa(int(t.Time / time.Second)) }

func steps() []string { return []string{"iflink", "ifup", "carrier", "dhcp", "ipv6auto"} }

func knownStep(s string) bool {
	for _, step := range steps() {
		if s == step {
			return true
		}
	}
	return false
}

func readTimeout(step, value string) (Word, string) {
	n, ok := number(value, 1, 86400)
	if !ok {
		return nil, "not such a number"
	}
	return Timeout{step, time.Duration(n) * time.Second}, ""
}

func number(s string, low, high int) (int, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= low && n <= high
}
