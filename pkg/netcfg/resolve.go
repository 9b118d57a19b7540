package netcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// resolvConf is resolv.conf(5): written when servers become known, read when
// none are, which is what an earlier process has left.
const resolvConf = "etc/resolv.conf"

// addServers adds name servers and search domains, behind those there are.
func (n *Network) addServers(servers []netip.Addr, search []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.dns) + len(n.search)
	for _, a := range servers {
		n.dns = appendNew(n.dns, a)
	}
	for _, s := range search {
		if s = strings.Trim(s, "."); isDomain(s) {
			n.search = appendNew(n.search, s)
		}
	}
	if len(n.dns)+len(n.search) == before && !slices.Equal(n.dns, n.plan.dns) || len(n.dns) == 0 {
		return
	}
	if err := n.writeResolvConf(); err != nil {
		n.log("network: %v", err)
	}
}

// isDomain keeps out what would be more than a word of resolv.conf.
func isDomain(s string) bool {
	return s != "" && len(s) < 254 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

func (n *Network) writeResolvConf() error {
	var b bytes.Buffer
	for _, a := range n.dns {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(n.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(n.search, " "))
	}
	name := filepath.Join(n.root, resolvConf)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, b.Bytes()) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", b.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// servers are the name servers and search domains known at this moment.
func (n *Network) servers() (dns []netip.Addr, search []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dns) > 0 {
		return slices.Clone(n.dns), slices.Clone(n.search)
	}
	return readResolvConf(filepath.Join(n.root, resolvConf))
}

func readResolvConf(name string) (dns []netip.Addr, search []string) {
	text, _ := os.ReadFile(name) // none: no servers
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				dns = appendNew(dns, a)
			}
		case f[0] == "search":
			search = f[1:]
		}
	}
	return dns, search
}

// Errors of names.
const (
	errNoServers netError = "no name server is known: set nameserver=, or write the address"
	errNoHost    netError = "no such host"
)

// Resolve finds the addresses of a host, those with a route first. It asks
// again until ctx is over, unless the servers say that there is none. Addresses
// that were found before count where nobody answers any more.
func (n *Network) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	list, _, err := n.resolve(ctx, host, false)
	return list, err
}

// resolve is Resolve. all tells that both families have been answered, if only
// with "none"; patient waits for the second as long as for the first.
func (n *Network) resolve(ctx context.Context, host string, patient bool) (list []netip.Addr, all bool, err error) {
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return []netip.Addr{a.Unmap()}, true, nil
	}
	start := time.Now()
	n.mu.Lock()
	before, last := n.queries, n.known[host]
	n.mu.Unlock()
	var deny []netip.Addr // servers that know no such host; another may
	for try := 0; ; try++ {
		dns, _ := n.servers()
		list, all, err = n.resolveOnce(ctx, host, try, patient)
		if err == nil {
			return routedFirst(n.remember(host, list, all)), all, nil
		}
		if errors.Is(err, errNoHost) && len(dns) > 0 {
			deny = appendNew(deny, dns[try%len(dns)])
		}
		asked := try + 1
		switch {
		case len(last) > 0 && asked >= len(dns):
			if ctx.Err() == nil {
				n.log("network: %v; it was %s", n.unresolved(host, dns, deny, start, before), joined(last))
			}
			return routedFirst(slices.Clone(last)), false, nil
		case len(deny) > 0 && (len(deny) >= len(dns) || asked >= 2*len(dns)), !sleep(ctx, 250*time.Millisecond):
			return nil, false, n.unresolved(host, dns, deny, start, before)
		}
	}
}

// unresolved is the error of a name; before is the number of queries before its.
func (n *Network) unresolved(host string, dns, deny []netip.Addr, start time.Time, before int) error {
	switch {
	case len(deny) > 0:
		return fmt.Errorf("%s: %w: so says name server %s", host, errNoHost, joined(deny))
	case len(dns) == 0:
		return fmt.Errorf("%s: %w", host, errNoServers)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Errorf("%s: no answer of name server %s in %s (%d queries sent)", host, joined(dns), took(start), n.queries-before)
}

// remember keeps a host's addresses. Where one family has not been answered, it
// has those that it had before.
func (n *Network) remember(host string, list []netip.Addr, all bool) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !all {
		for _, a := range n.known[host] {
			list = appendNew(list, a)
		}
	}
	n.known[host] = slices.Clone(list)
	return list
}

func routedFirst(list []netip.Addr) []netip.Addr {
	slices.SortStableFunc(list, func(a, b netip.Addr) int {
		_, x := usable(a)
		_, y := usable(b)
		switch {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	return list
}

func joined(list []netip.Addr) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// resolveOnce asks for both families side by side, so that the loss of one
// answer does not cost the other.
func (n *Network) resolveOnce(ctx context.Context, host string, try int, patient bool) (all []netip.Addr, both bool, err error) {
	const within = 2 * time.Second
	const grace = 200 * time.Millisecond // for the other family, when the first is of use
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	type answer struct {
		list []netip.Addr
		err  error
	}
	families := []string{"ip4", "ip6"}
	answers := make(chan answer, len(families))
	for _, f := range families {
		go func() {
			list, err := n.lookupFamily(ctx, f, host, try)
			answers <- answer{list, err}
		}()
	}
	var lost []error
	for range families {
		a := <-answers
		for _, addr := range a.list {
			all = appendNew(all, addr.Unmap())
		}
		var d *net.DNSError
		switch {
		case a.err == nil && !patient && slices.ContainsFunc(all, func(a netip.Addr) bool { _, ok := usable(a); return ok }):
			time.AfterFunc(grace, cancel)
		case a.err != nil && !(errors.As(a.err, &d) && d.IsNotFound):
			lost = append(lost, a.err)
		}
	}
	switch {
	case len(all) > 0:
		return all, len(lost) == 0, nil
	case len(lost) > 0:
		return nil, false, errors.Join(lost...)
	}
	return nil, true, errNoHost
}

// lookupFamily tries the search domains for names without a dot. Each try
// begins with another server.
func (n *Network) lookupFamily(ctx context.Context, family, host string, try int) (list []netip.Addr, err error) {
	dns, search := n.servers()
	names := []string{strings.TrimSuffix(host, ".") + "."}
	if !strings.Contains(host, ".") {
		for _, s := range slices.Backward(search) {
			names = slices.Insert(names, 0, host+"."+s+".")
		}
	}
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		// The library's own view of resolv.conf is up to 5 s old.
		if len(dns) == 0 {
			return nil, errNoServers
		}
		n.mu.Lock()
		n.queries++
		n.mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(dns[try%len(dns)], 53).String())
	}}
	for _, name := range names {
		if list, err = r.LookupNetIP(ctx, family, name); err == nil || ctx.Err() != nil {
			break
		}
	}
	return list, err
}

// lookup is the search for a target's addresses while the network comes up.
type lookup struct {
	n    *Network
	host string

	mu    sync.Mutex
	list  []netip.Addr
	all   bool // both families are known
	err   error
	tries int
}

// start finds them at once, or goes on in the background until both families are
// known: the address that was found may be that of the family without a route.
func (t *lookup) start(ctx context.Context) {
	if a, err := netip.ParseAddr(strings.Trim(t.host, "[]")); err == nil {
		t.list, t.all = []netip.Addr{a.Unmap()}, true
		return
	}
	t.n.wg.Go(func() {
		for ctx.Err() == nil {
			t.n.events.wait(ctx, func() bool {
				dns, _ := t.n.servers()
				return len(dns) > 0 && slices.ContainsFunc(dns, func(a netip.Addr) bool { _, ok := usable(a); return ok })
			})
			if t.ask(ctx) {
				return
			}
			sleep(ctx, time.Second)
		}
	})
}

// ask tries once, and tells whether that was all.
func (t *lookup) ask(ctx context.Context) bool {
	const within = 10 * time.Second // one answer for the log
	rctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	list, all, err := t.n.resolve(rctx, t.host, t.tries > 0)
	if ctx.Err() != nil {
		return true
	}
	t.mu.Lock()
	before := len(t.list)
	if err == nil {
		t.list, t.all = list, all
	}
	t.err = err
	t.tries++
	t.mu.Unlock()
	t.n.events.fire()
	switch {
	case err != nil:
		t.n.log("network: %v", err)
	case len(list) != before:
		t.n.log("network: %s is %s", t.host, joined(list))
	}
	return err == nil && all
}

func (t *lookup) found() []netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.list
}

// settled tells that to look again is of no use when no interface is to come.
func (t *lookup) settled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all || t.tries >= 3
}

// failure is why the name is not known, nil if that is not it.
func (t *lookup) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) > 0 || t.host == "" {
		return nil
	}
	if t.err != nil {
		return t.err
	}
	if dns, _ := t.n.servers(); len(dns) == 0 {
		return fmt.Errorf("%s: %w", t.host, errNoServers)
	} else if r, ok := usable(dns[0]); !ok {
		return fmt.Errorf("%s: no route to name server %s", t.host, dns[0])
	} else {
		return fmt.Errorf("%s: no answer of name server %s yet, %s", t.host, dns[0], r)
	}
}

// Dial is a net.Dialer's for targets: it resolves names by what this network
// knows, and tries all addresses, that which Reach has found to answer first.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	list, err := n.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	if i := slices.Index(list, n.answered[host]); i > 0 {
		list = slices.Insert(slices.Delete(list, i, i+1), 0, n.answered[host])
	}
	n.mu.Unlock()
	var errs []error
	for i, a := range list {
		dctx, cancel := ctx, context.CancelFunc(func() {})
		if until, ok := ctx.Deadline(); ok { // a fair part for each
			dctx, cancel = context.WithTimeout(ctx, time.Until(until)/time.Duration(len(list)-i))
		}
		c, err := n.dialAddress(dctx, network, a, port)
		cancel()
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialAddress goes another way, if there is one, when nobody answers behind a
// gateway.
func (n *Network) dialAddress(ctx context.Context, network string, a netip.Addr, port string) (net.Conn, error) {
	const most = 2 * time.Minute    // as TCP itself, where the caller sets no deadline
	const silence = 6 * time.Second // SYNs at 0, 1 and 3 s; callers give 15 s for all addresses
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		start := time.Now()
		r, noRoute := lookupRoute(a)
		try, cancel := context.WithTimeout(ctx, silence)
		c, err := (&net.Dialer{KeepAlive: -1}).DialContext(try, network, net.JoinHostPort(a.String(), port))
		cancel()
		silent := isTimeout(err) && time.Since(start) >= silence
		if err == nil {
			return c, nil
		}
		// The kernel's own EHOSTUNREACH, not that of a router on the way.
		noGateway := errors.Is(err, unix.EHOSTUNREACH) && neighbourState(r.index, r.gateway)&answering == 0
		moved := noRoute == nil && (silent || noGateway) && demote(a, r)
		if moved {
			n.log("network: nobody answers behind %s, the next default route goes first now", r.dev)
		}
		if !silent && !moved {
			return nil, err
		}
	}
}
