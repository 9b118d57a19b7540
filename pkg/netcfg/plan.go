// Package netcfg brings a network up from dracut's words, for a capture kernel
// where nothing else does.
//
// Start with Parse, which takes the words of pkg/config and says what does not
// fit together; then Plan.Up, which returns as soon as a route to the target
// exists; then Network.Reach, which says whether the target answers. Up may be
// called again by the next process: it finds what is there and goes on from it.
//
// Interfaces come up side by side, one goroutine for each and for each family
// of addresses. Their steps are the device, link-up, carrier and address; those
// of Reach are the name, route, neighbour and connection. Each step is bounded,
// and an error names those that failed and what was seen of them. No words at
// all mean every NIC, with DHCPv4 and SLAAC.
//
// The package loads no kernel modules: Plan.Modules says which ones are needed.
package netcfg

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/networds"
)

// Word is a word of a kernel command line or of kdump.conf.
type Word = cmdline.Word

// Plan is what the words ask for. The zero value asks for nothing written
// down: every NIC, by itself.
type Plan struct {
	ifaces  []iface
	every   []networds.Method // for each NIC that ifaces does not have
	vlans   []networds.VLAN
	bonds   []networds.Bond
	bridges []networds.Bridge
	names   []networds.Name
	routes  []networds.Route
	dns     []netip.Addr

	times map[string]time.Duration // by step, as in rd.net.timeout.
	tries int                      // of DHCP; 0: until the deadline
}

// iface is all that the words say of one interface.
type iface struct {
	name     string // or dashed MAC address
	static   []networds.IP
	methods  []networds.Method
	hostname string
	mtu      int
	mac      net.HardwareAddr
	dns      []netip.Addr
}

// Parse reads the words. What is wrong comes back as errors that name the word;
// the Plan has what is right. Words with other keys are errors too.
func Parse(words []Word) (Plan, []error) {
	var p Plan
	var errs []error
	fail := func(w networds.Word, msg, want string) {
		errs = append(errs, &networds.Error{Key: w.Key(), Value: w.String(), Msg: msg, Want: want})
	}
	var parsed []networds.Word
	for _, w := range words {
		word, err := networds.Parse(w.Key, w.Value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		parsed = append(parsed, word)
	}
	for _, w := range parsed { // devices first: addresses are checked against them
		p.addDevice(w, fail)
	}
	var static []networds.Netconfig
	for _, w := range parsed {
		switch w := w.(type) {
		case networds.IP:
			p.addIP(w, fail)
		case networds.Netconfig:
			if w.Static {
				static = append(static, w)
				continue
			}
			for _, m := range w.Methods {
				p.addIP(networds.IP{Interface: w.Interface, Method: m}, fail)
			}
		}
	}
	for _, w := range static {
		if i := p.iface(w.Interface); i == nil || len(i.static) == 0 {
			fail(w, "no address", "a word ip=CLIENT::GATEWAY:PREFIX::"+w.Interface+":none beside it, as kdumpctl config-from-system writes it")
		}
	}
	for _, r := range p.routes {
		if r.Interface != "" && p.master(r.Interface) != "" {
			fail(r, r.Interface+" belongs to "+p.master(r.Interface), "a route over "+p.master(r.Interface))
		}
	}
	if len(p.ifaces) == 0 && len(p.every) == 0 {
		p.every = []networds.Method{networds.DHCP4, networds.Either6}
	}
	return p, errs
}

// addDevice takes all words but those with addresses.
func (p *Plan) addDevice(w networds.Word, fail func(w networds.Word, msg, want string)) {
	switch w := w.(type) {
	case networds.VLAN:
		switch {
		case p.virtual(w.Name):
			fail(w, w.Name+" is defined twice", "one word for each interface")
		case p.above(w.Phy, w.Name):
			fail(w, w.Phy+" stands on "+w.Name+" itself", "a VLAN on an interface below it")
		default:
			p.vlans = append(p.vlans, w)
		}
	case networds.Bond:
		if p.group(w, w.Name, w.Slaves, fail) {
			p.bonds = append(p.bonds, w)
		}
	case networds.Bridge:
		if p.group(w, w.Name, w.Ports, fail) {
			p.bridges = append(p.bridges, w)
		}
	case networds.Name:
		same := func(n networds.Name) bool { return n.Name == w.Name || slices.Equal(n.MAC, w.MAC) }
		if i := slices.IndexFunc(p.names, same); i >= 0 {
			fail(w, "contradicts ifname="+p.names[i].String(), "one name for each NIC")
			return
		}
		p.names = append(p.names, w)
	case networds.Route:
		p.routes = append(p.routes, w)
	case networds.Server:
		p.dns = appendNew(p.dns, netip.Addr(w))
	case networds.Retry:
		p.tries = int(w)
	case networds.Timeout:
		p.times = maps.Clone(p.times)
		if p.times == nil {
			p.times = make(map[string]time.Duration)
		}
		p.times[w.Step] = w.Time
	}
}

// group looks whether a bond or bridge may have these members.
func (p *Plan) group(w networds.Word, name string, members []string, fail func(w networds.Word, msg, want string)) bool {
	if p.virtual(name) {
		fail(w, name+" is defined twice", "one word for each interface")
		return false
	}
	for i, m := range members {
		switch other := p.master(m); {
		case other != "":
			fail(w, m+" belongs to "+other+" already", "each interface in one place")
			return false
		case slices.Contains(members[:i], m):
			fail(w, m+" twice", "each interface once")
			return false
		case p.above(m, name):
			fail(w, m+" stands on "+name+" itself", "members below it")
			return false
		}
	}
	return true
}

// addIP takes one ip= word, or a part of netconfig=.
func (p *Plan) addIP(w networds.IP, fail func(w networds.Word, msg, want string)) {
	if w.Interface == "" {
		if w.Method != networds.None {
			p.every = appendNew(p.every, w.Method)
		}
		return
	}
	if m := p.master(w.Interface); m != "" {
		fail(w, w.Interface+" belongs to "+m, "an address for "+m)
		return
	}
	i := p.iface(w.Interface)
	if i == nil {
		p.ifaces = append(p.ifaces, iface{name: w.Interface})
		i = &p.ifaces[len(p.ifaces)-1]
	}
	switch {
	case w.MTU != 0 && i.mtu != 0 && w.MTU != i.mtu:
		fail(w, "MTU "+strconv.Itoa(i.mtu)+" was given before", "one MTU for "+w.Interface)
	case w.MAC != nil && i.mac != nil && !slices.Equal(w.MAC, i.mac):
		fail(w, "MAC address "+i.mac.String()+" was given before", "one MAC address for "+w.Interface)
	default:
		i.mtu = max(i.mtu, w.MTU)
		if w.MAC != nil {
			i.mac = w.MAC
		}
	}
	if w.Hostname != "" {
		i.hostname = w.Hostname
	}
	if w.Address.IsValid() {
		i.static = append(i.static, w)
	}
	if w.Method != networds.None {
		i.methods = appendNew(i.methods, w.Method)
	}
	for _, a := range w.DNS {
		i.dns = appendNew(i.dns, a)
	}
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

func (p *Plan) iface(name string) *iface {
	for i := range p.ifaces {
		if p.ifaces[i].name == name {
			return &p.ifaces[i]
		}
	}
	return nil
}

// master is the bond or bridge that an interface belongs to, "" if to none.
func (p *Plan) master(name string) string {
	for _, b := range p.bonds {
		if slices.Contains(b.Slaves, name) {
			return b.Name
		}
	}
	for _, b := range p.bridges {
		if slices.Contains(b.Ports, name) {
			return b.Name
		}
	}
	return ""
}

// lower are the interfaces that a virtual one stands on.
func (p *Plan) lower(name string) []string {
	for _, v := range p.vlans {
		if v.Name == name {
			return []string{v.Phy}
		}
	}
	for _, b := range p.bonds {
		if b.Name == name {
			return b.Slaves
		}
	}
	for _, b := range p.bridges {
		if b.Name == name {
			return b.Ports
		}
	}
	return nil
}

func (p *Plan) virtual(name string) bool { return p.lower(name) != nil }

// virtuals are the names of all virtual interfaces.
func (p *Plan) virtuals() []string {
	var names []string
	for _, b := range p.bonds {
		names = append(names, b.Name)
	}
	for _, b := range p.bridges {
		names = append(names, b.Name)
	}
	for _, v := range p.vlans {
		names = append(names, v.Name)
	}
	return names
}

// above tells whether name is base, or stands on it. What was taken so far has
// no circles.
func (p *Plan) above(name, base string) bool {
	return name == base || slices.ContainsFunc(p.lower(name), func(l string) bool { return p.above(l, base) })
}

// Modules are the kernel modules that the plan needs where they are not built
// in, besides the drivers of the NICs.
func (p Plan) Modules() []string {
	var names []string
	add := func(need bool, name string) {
		if need {
			names = append(names, name)
		}
	}
	v4, v6 := false, false
	look := func(methods []networds.Method) {
		for _, m := range methods {
			v4 = v4 || m == networds.DHCP4
			v6 = v6 || m != networds.DHCP4
		}
	}
	look(p.every)
	for _, i := range p.ifaces {
		look(i.methods)
		for _, s := range i.static {
			v6 = v6 || s.Address.Addr().Is6()
		}
	}
	if len(p.ifaces) == 0 && len(p.every) == 0 {
		v4, v6 = true, true // the zero Plan
	}
	add(v4, "af_packet")
	add(v6, "ipv6")
	add(len(p.bonds) > 0, "bonding")
	add(len(p.bridges) > 0, "bridge")
	add(len(p.vlans) > 0, "8021q")
	return names
}

// Steps of bringing an interface up, by the names of rd.net.timeout.
const (
	stepDevice  = "iflink"
	stepUp      = "ifup"
	stepCarrier = "carrier"
	stepDHCP    = "dhcp"
	stepRouter  = "ipv6auto"
)

// timeout is what a step may take before it counts as failed. It is tried on
// until the deadline all the same, as long as another interface may do.
func (p *Plan) timeout(step string) time.Duration {
	if t := p.times[step]; t > 0 {
		return t
	}
	switch step {
	case stepDevice:
		return 30 * time.Second
	case stepUp:
		return 20 * time.Second
	case stepCarrier:
		return 60 * time.Second // spanning tree and bonds take their time
	case stepDHCP:
		return 15 * time.Second // one try
	}
	return 24 * time.Hour
}

// Error is what Up and Reach return when the network is the reason. It names
// what was asked for, then each interface with the steps it went through.
type Error struct {
	Op   string // "no route to 10.0.0.1 in 30.0 s"
	Seen []string
	Err  error // may be nil
}

func (e *Error) Error() string {
	seen := strings.Join(e.Seen, "; ")
	switch {
	case e.Err == nil && seen == "":
		return e.Op
	case e.Err == nil:
		return e.Op + ": " + seen
	case seen == "":
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error() + " (" + seen + ")"
}

func (e *Error) Unwrap() error { return e.Err }

// seconds is how durations are told.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
