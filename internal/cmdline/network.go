package cmdline

import "strings"

// IsNetwork reports whether key is one of the words that describe a network:
// dracut's, as far as ukdump knows them (dracut.cmdline(7)).
func IsNetwork(key string) bool {
	switch key {
	case "ip", "vlan", "bond", "bridge", "ifname", "nameserver",
		"rd.route", "rd.neednet", "rd.net.dhcp.retry":
		return true
	}
	return strings.HasPrefix(key, "rd.net.timeout.")
}
