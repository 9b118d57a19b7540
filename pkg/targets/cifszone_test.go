package targets

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The kernel reads a zone as a number; one that is a number, or of no interface, stays.
func TestCIFSZone(t *testing.T) {
	links, err := net.Interfaces()
	if err != nil || len(links) == 0 {
		t.Fatal(links, err)
	}
	want := map[string]string{"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", "fe80::1%7": "fe80::1%7", "fe80::1%nothing": "fe80::1%nothing"}
	for _, l := range links {
		want["fe80::1%"+l.Name] = fmt.Sprintf("fe80::1%%%d", l.Index)
	}
	s := mustParse(t, "cifs://u@h/s?password-file=/p")
	for addr, want := range want {
		data := cifsData(peer{addr: netip.MustParseAddr(addr)}, s, "secret", 30*time.Second, "")
		if ip, _, _ := strings.Cut(data, ","); ip != "ip="+want {
			t.Errorf("%s: %s, want ip=%s", addr, ip, want)
		}
	}
}
