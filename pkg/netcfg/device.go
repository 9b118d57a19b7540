package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/networds"
)

// device is an interface that somebody has asked for: made, or waited for,
// once.
type device struct {
	ready chan struct{} // closed when link and err are final
	link  link
	err   error
}

// lost tells that it was there and is gone.
func (d *device) lost() bool {
	select {
	case <-d.ready:
		return d.err == nil && gone(d.link.index)
	default:
		return false
	}
}

// device gives an interface by its name in the plan. A NIC is waited for and
// gets the name of its ifname= word, a virtual interface is made with all below
// it. What is there already is taken as it is, what is gone is waited for or made
// again.
func (n *Network) device(ctx context.Context, name string) (link, error) {
	n.mu.Lock()
	d := n.devices[name]
	if d == nil || d.lost() {
		d = &device{ready: make(chan struct{})}
		n.devices[name] = d
		n.wg.Go(func() {
			defer close(d.ready)
			d.link, d.err = n.make(name)
		})
	}
	n.mu.Unlock()
	select {
	case <-d.ready:
		return d.link, d.err
	case <-ctx.Done():
		return link{}, ctx.Err()
	}
}

// follow calls f with an interface each time that it is there anew, as long as f
// wants that.
func (n *Network) follow(name string, f func(link, error) bool) {
	for n.ctx.Err() == nil {
		l, err := n.device(n.ctx, name)
		if !f(l, err) || err != nil {
			return
		}
		n.events.wait(n.ctx, func() bool { return gone(l.index) })
	}
}

// insist repeats what a driver may refuse for a while.
func (n *Network) insist(f func() error) error {
	start := time.Now()
	for {
		err := f()
		if err == nil || errors.Is(err, errGone) || time.Since(start) >= n.plan.timeout(stepUp) || !sleep(n.ctx, time.Second) {
			return err
		}
	}
}

func (n *Network) make(name string) (link, error) {
	for _, v := range n.plan.vlans {
		if v.Name == name {
			return n.makeVLAN(v)
		}
	}
	for _, b := range n.plan.bonds {
		if b.Name == name {
			return n.makeBond(b)
		}
	}
	for _, b := range n.plan.bridges {
		if b.Name == name {
			return n.makeBridge(b)
		}
	}
	return n.waitNIC(name)
}

// waitNIC waits for a NIC until Close: a device that its driver finds late is
// better than none.
func (n *Network) waitNIC(name string) (found link, err error) {
	i := slices.IndexFunc(n.plan.names, func(w networds.Name) bool { return w.Name == name })
	err = n.events.wait(n.ctx, func() bool {
		var ok bool
		// A bond gives its slaves its own address, and before Linux 5.6 the
		// kernel does not tell the old one: then the name must do.
		if found, ok = find(name); ok && found.master != 0 && found.perm == nil {
			return true
		}
		if i >= 0 {
			found, ok = n.rename(n.plan.names[i])
			return ok
		}
		// A MAC address in ip= is that of the NIC that is meant, if there is such
		// a one; else it is to be set.
		if cfg := n.plan.iface(name); cfg != nil && cfg.mac != nil {
			if found, ok = n.rename(networds.Name{Name: name, MAC: cfg.mac}); ok {
				return true
			}
		}
		found, ok = find(name)
		return ok
	})
	return found, err
}

// rename finds a NIC by its MAC address and gives it its name. Who has that
// name already is called something else.
func (n *Network) rename(w networds.Name) (l link, ok bool) {
	n.naming.Lock()
	defer n.naming.Unlock()
	all, err := links()
	i := slices.IndexFunc(all, func(l link) bool { return l.nic() && l.hasMAC(w.MAC) })
	if err != nil || i < 0 {
		return link{}, false
	}
	if l = all[i]; l.name == w.Name {
		return l, true
	}
	if other := slices.IndexFunc(all, func(o link) bool { return o.name == w.Name }); other >= 0 {
		if err := setName(all[other], freeName(all)); err != nil {
			n.log("%s: %v", w.Name, err)
			return link{}, false
		}
	}
	if err := setName(l, w.Name); err != nil {
		n.log("%s: %v", l.name, err)
		return link{}, false
	}
	n.log("%s: is %s, which was %s", w.Name, l.mac, l.name)
	l.name, l.up = w.Name, false
	return l, true
}

func freeName(all []link) string {
	for i := 0; ; i++ {
		name := "nic" + strconv.Itoa(i)
		if !slices.ContainsFunc(all, func(l link) bool { return l.name == name }) {
			return name
		}
	}
}

// setName renames; before Linux 6.2 an interface must be down for that.
func setName(l link, name string) error {
	if l.up {
		if err := netlink.LinkSetDown(l.handle()); err != nil {
			return fmt.Errorf("down: %w", err)
		}
	}
	if err := netlink.LinkSetName(l.handle(), name); err != nil {
		return fmt.Errorf("rename %s to %s: %w", l.name, name, err)
	}
	return nil
}

// create makes a virtual interface; one that an earlier attempt has made is
// taken.
func create(l netlink.Link, module string) (made link, fresh bool, err error) {
	name := l.Attrs().Name
	err = netlink.LinkAdd(l)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return link{}, false, fmt.Errorf("the kernel cannot make a %s: is the module %s in the image", l.Type(), module)
	case err != nil && !errors.Is(err, unix.EEXIST):
		return link{}, false, fmt.Errorf("make %s: %w", name, err)
	}
	made, ok := find(name)
	switch {
	case !ok:
		return link{}, false, fmt.Errorf("%s is gone again", name)
	case made.kind != l.Type():
		return link{}, false, fmt.Errorf("%s is there, but is no %s: a %s", name, l.Type(), made.kind)
	}
	return made, err == nil, nil
}

func (n *Network) makeVLAN(v networds.VLAN) (link, error) {
	var phy link
	var none error
	err := n.insist(func() error {
		if phy, none = n.device(n.ctx, v.Phy); none != nil {
			return nil
		}
		n.raiseMTU(phy, v.Name)
		if err := netlink.LinkSetUp(phy.handle()); err != nil {
			return fmt.Errorf("%s: up: %w", v.Phy, err)
		}
		return nil
	})
	switch {
	case none != nil:
		return link{}, fmt.Errorf("%s: %w", v.Phy, none)
	case err != nil:
		return link{}, err
	}
	l, fresh, err := create(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: v.Name, ParentIndex: phy.index, TxQLen: -1}, VlanId: v.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}, "8021q")
	if fresh {
		n.log("%s: VLAN %d on %s", v.Name, v.ID, phy.name)
	}
	return l, err
}

// members gives each member to its master as soon as it is there, and whenever it
// comes back. It returns when all are there, or when a while has passed since the
// first.
func (n *Network) members(master link, names []string) error {
	const rest = 5 * time.Second
	results := make(chan error, len(names))
	for _, name := range names {
		n.wg.Go(func() {
			told := false
			n.follow(name, func(l link, err error) bool {
				if err = n.enslave(master, name, l, err); !told {
					results <- err
				} else if err != nil {
					n.log("%s: %v", master.name, err)
				}
				told = true
				return !gone(master.index)
			})
		})
	}
	var wait <-chan time.Time
	var errs []error
	for range names {
		select {
		case err := <-results:
			if err != nil {
				n.log("%s: %v", master.name, err)
				errs = append(errs, err)
				continue
			}
			if wait == nil {
				t := time.NewTimer(rest)
				defer t.Stop()
				wait = t.C
			}
		case <-wait:
			n.log("%s: going on without all of %s", master.name, strings.Join(names, ", "))
			return nil
		}
	}
	if len(errs) == len(names) {
		return errors.Join(errs...)
	}
	return nil
}

// enslave gives a member, that device has found or not, to its master.
func (n *Network) enslave(master link, name string, d link, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return n.insist(func() error {
		l, ok := byIndex(d.index)
		if !ok {
			return fmt.Errorf("%s: %w", name, errGone)
		}
		if l.master != master.index {
			if err := netlink.LinkSetDown(l.handle()); err != nil { // a bond takes nobody who is up
				return fmt.Errorf("%s: down: %w", l.name, err)
			}
			if err := netlink.LinkSetMasterByIndex(l.handle(), master.index); err != nil {
				return fmt.Errorf("%s: into %s: %w", l.name, master.name, err)
			}
			n.log("%s: has %s", master.name, l.name)
		}
		n.raiseMTU(l, master.name)
		if err := netlink.LinkSetUp(l.handle()); err != nil {
			return fmt.Errorf("%s: up: %w", l.name, err)
		}
		return nil
	})
}

// raiseMTU makes room in a lower interface for the MTU of the one above it.
func (n *Network) raiseMTU(low link, above string) {
	i := n.plan.iface(above)
	if i == nil || i.mtu <= low.mtu {
		return
	}
	if err := netlink.LinkSetMTU(low.handle(), i.mtu); err != nil {
		n.log("%s: MTU %d: %v", low.name, i.mtu, err)
	}
}

func (n *Network) makeBridge(b networds.Bridge) (link, error) {
	// Without STP, the default, ports forward at once: forward_delay is for STP
	// (br_make_forwarding of net/bridge/br_stp_if.c).
	l, _, err := create(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.Name, TxQLen: -1}}, "bridge")
	if err != nil {
		return link{}, err
	}
	return l, n.members(l, b.Ports)
}

// makeBond sets the options by sysfs, which takes all of them by name and in
// their written form.
func (n *Network) makeBond(b networds.Bond) (link, error) {
	l, _, err := create(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: b.Name, TxQLen: -1}, LinkType: "bond"}, "bonding")
	if err != nil {
		return link{}, err
	}
	options := bondOptions(b.Options)
	// The module makes a bond0 by itself. One with slaves is ours, of an earlier
	// attempt, and most options of such a one do not change.
	if !hasMembers(l) {
		if l.up {
			netlink.LinkSetDown(l.handle())
		}
		for _, o := range options {
			if late(o) {
				continue
			}
			err := setBondOption(b.Name, o)
			if err != nil && o.Name == "mode" {
				return link{}, err
			}
			if err != nil {
				n.log("%s: %v", b.Name, err)
			}
		}
	}
	if err := n.members(l, b.Slaves); err != nil {
		return link{}, err
	}
	for _, o := range options {
		if late(o) {
			if err := setBondOption(b.Name, o); err != nil {
				n.log("%s: %v", b.Name, err)
			}
		}
	}
	if b.MTU != 0 {
		if err := netlink.LinkSetMTU(l.handle(), b.MTU); err != nil {
			n.log("%s: MTU %d: %v", b.Name, b.MTU, err)
		}
	}
	return l, nil
}

func hasMembers(master link) bool {
	all, err := links()
	return err == nil && slices.ContainsFunc(all, func(l link) bool { return l.master == master.index })
}

// late options name a slave.
func late(o networds.Option) bool { return o.Name == "active_slave" || o.Name == "primary" }

// bondOptions puts the mode first, on which the others depend, and adds what
// tells a bond that a cable is out, which by default nothing does.
func bondOptions(given []networds.Option) []networds.Option {
	options := slices.Clone(given)
	named := func(name string) func(networds.Option) bool {
		return func(o networds.Option) bool { return o.Name == name }
	}
	slices.SortStableFunc(options, func(a, b networds.Option) int {
		rank := func(o networds.Option) int {
			if o.Name == "mode" {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	if !slices.ContainsFunc(options, named("miimon")) && !slices.ContainsFunc(options, named("arp_interval")) {
		options = append(options, networds.Option{Name: "miimon", Value: "100"})
	}
	return options
}

func setBondOption(bond string, o networds.Option) error {
	file := filepath.Join("/sys/class/net", bond, "bonding", o.Name)
	values := []string{o.Value}
	if o.Name == "arp_ip_target" || o.Name == "ns_ip6_target" { // added one at a time
		values = nil
		for a := range strings.SplitSeq(o.Value, ",") {
			values = append(values, "+"+a)
		}
	}
	for _, v := range values {
		if err := os.WriteFile(file, []byte(v), 0); err != nil {
			var p *os.PathError
			if errors.As(err, &p) {
				err = p.Err
			}
			return fmt.Errorf("bond option %s=%s: %w", o.Name, o.Value, err)
		}
	}
	return nil
}

// setMAC changes a MAC address, for which most NICs must be down.
func setMAC(l link, mac net.HardwareAddr) error {
	if slices.Equal(l.mac, mac) {
		return nil
	}
	if l.up {
		netlink.LinkSetDown(l.handle())
	}
	if err := netlink.LinkSetHardwareAddr(l.handle(), mac); err != nil {
		return fmt.Errorf("MAC address %s: %w", mac, err)
	}
	return nil
}
