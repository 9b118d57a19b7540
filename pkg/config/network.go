package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/internal/cmdline"
)

func isNetwork(key string) bool { return cmdline.IsNetwork(key) }

// maxNetwork bounds how many network words there are.
const maxNetwork = 256

// network keeps a network word. Its meaning is pkg/netcfg's matter: a word
// whose form looks wrong from here is reported, and kept all the same, since
// to lose the network over a doubt would lose the dump.
func (p *parser) network(where string, w Word) {
	pr := Problem{Where: where, Key: w.Key, Value: w.Value}
	if pr.Msg = checkText(w.Value); pr.Msg == "" && strings.ContainsRune(w.Value, ' ') {
		pr.Msg = "a blank inside the value"
	}
	if pr.Msg != "" {
		pr.Want = w.Key + "=VALUE in one word"
		p.problem(pr)
		return
	}
	if p.seen[w.Key] == "" {
		p.forget(w.Key)
	}
	if len(p.c.Network) >= maxNetwork {
		pr.Msg = "one network word too many"
		p.problem(pr)
		return
	}
	p.seen[w.Key] = where
	p.c.set[w.Key] = where
	p.c.Network = append(p.c.Network, w)
	if pr.Want = checkNetwork(w.Key, w.Value); pr.Want != "" {
		pr.Msg = "not understood"
		p.problem(pr)
	}
	if networkLater {
		p.problem(Problem{Where: where, Key: w.Key, Value: w.Value, Msg: "not supported by this version"})
	}
}

// forget drops the words of one key. It makes a new slice: copies of a Config
// may share the old one.
func (p *parser) forget(key string) {
	var rest []Word
	for _, w := range p.c.Network {
		if w.Key != key {
			rest = append(rest, w)
		}
	}
	p.c.Network = rest
}

// checkNetwork returns what would be right, "" where the value may be.
func checkNetwork(key, value string) string {
	name, rest, colon := strings.Cut(value, ":")
	switch key {
	case "ip":
		if !colon && !isMethod(value) || strings.Count(value, "[") != strings.Count(value, "]") {
			return "dhcp, IF:METHOD or CLIENT:[PEER]:GW:MASK:HOST:IF:METHOD, IPv6 addresses in brackets"
		}
	case "vlan":
		if name == "" || rest == "" || !endsInDigit(name) {
			return "NAME:PHY, where NAME ends in the VLAN id"
		}
	case "bond":
		if name == "" {
			return "NAME[:SLAVE,...[:OPTION,...[:MTU]]]"
		}
	case "bridge":
		if name == "" || rest == "" {
			return "NAME:IF,..."
		}
	case "ifname":
		if _, err := net.ParseMAC(rest); name == "" || err != nil {
			return "IF:MAC"
		}
	case "nameserver":
		if _, err := netip.ParseAddr(unbracket(value)); err != nil {
			return "an IP address"
		}
	case "rd.route":
		if !strings.Contains(value, ":") {
			return "NET/PREFIX:GATEWAY[:IF]"
		}
	default: // rd.neednet, rd.net.timeout.*, rd.net.dhcp.retry
		if _, err := strconv.ParseUint(value, 10, 31); err != nil {
			return "a number"
		}
	}
	return ""
}

func isMethod(s string) bool {
	switch s {
	case "dhcp", "on", "any", "dhcp6", "auto6", "either6", "link6":
		return true
	}
	return false
}

func endsInDigit(s string) bool {
	c := s[len(s)-1]
	return c >= '0' && c <= '9'
}

func unbracket(s string) string {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return s[1 : len(s)-1]
	}
	return s
}
