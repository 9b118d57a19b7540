package netcfg

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/cmdline"
)

// bind puts a file of this text over another, in this namespace alone.
func bind(t *testing.T, over, text string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, []byte(text), 0o644))
	must(t, unix.Mount(name, over, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(over, unix.MNT_DETACH)) }) // or the folder cannot be removed
}

// A name that only this system knows, by /etc/hosts, by a search domain, or from a name
// server that is elsewhere, would not be found in the capture kernel.
func TestFromSystemNames(t *testing.T) {
	if !namespace(t, "dnsmasq") {
		return
	}
	bind(t, "/etc/resolv.conf", "nameserver 10.9.0.1\nnameserver 10.8.0.1\nsearch corp.test\n")
	bind(t, "/etc/hosts", "127.0.0.1 localhost\n10.9.0.1 listed\n10.9.0.1 listed.corp.test\n10.8.0.1 far.corp.test\n")
	p := newPeer(t)
	p.cable("eth0", "port")
	p.cable("eth1", "port1")
	sh(t, "ip link set eth0 address 02:00:00:00:00:10; ip link set eth1 address 02:00:00:00:00:11; ip link set eth0 up; ip link set eth1 up; ip addr add 10.8.0.2/24 dev eth1")
	p.sh("ip addr add 10.9.0.1/24 dev port; ip addr add 10.8.0.1/24 dev port1")
	p.dnsmasq("--host-record=dump.corp.test,10.9.0.1", "--local=/corp.test/", "--local=/dump/", "--local=/listed/")
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if knows(t.Context(), netip.MustParseAddr("10.8.0.1"), "dump.corp.test") {
			break
		}
		if time.Now().After(until) {
			t.Fatal("dnsmasq does not answer")
		}
	}
	const static, leased = "ip addr add 10.9.0.2/24 dev eth0", "ip addr add 10.9.0.2/24 dev eth0 valid_lft 1000 preferred_lft 1000"
	const name = "ifname=eth0:02:00:00:00:00:10 "
	for _, tt := range []struct{ setup, host, want, wrong string }{
		{static, "dump.corp.test", name + "ip=10.9.0.2:::24::eth0:none nameserver=10.9.0.1", ""},
		{static, "dump", "", "dump: this system knows it, but name server 10.9.0.1 does not, under that very name, and a capture kernel has only that: write 10.9.0.1 in its place"},
		{leased, "dump", name + "ip=eth0:dhcp nameserver=10.9.0.1", ""}, // the lease has the domain
		{static, "listed", "", "write 10.9.0.1 in its place"},
		{leased, "listed.corp.test", "", "write 10.9.0.1 in its place"},
		{static, "far.corp.test", "", "write 10.8.0.1 in its place"},
		{static, "10.9.0.1", name + "ip=10.9.0.2:::24::eth0:none", ""},
	} {
		sh(t, "ip addr flush dev eth0; "+tt.setup)
		words, err := FromSystem(t.Context(), tt.host)
		if got := cmdline.Join(words); tt.wrong == "" && (err != nil || got != tt.want) || tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
			t.Errorf("%s with %s\n got %s %v\nwant %s%s", tt.host, tt.setup, got, err, tt.want, tt.wrong)
		}
	}
	// Name servers behind the other NIC alone: a lease brings some, nothing else does.
	bind(t, "/etc/resolv.conf", "nameserver 10.8.0.1\nsearch corp.test\n")
	sh(t, "ip addr flush dev eth0; "+static)
	if words, err := FromSystem(t.Context(), "dump.corp.test"); err == nil || !strings.Contains(err.Error(), "the way to it leads to no name server") {
		t.Error(words, err)
	}
	sh(t, "ip addr flush dev eth0; "+leased)
	if words, err := FromSystem(t.Context(), "dump.corp.test"); err != nil || cmdline.Join(words) != name+"ip=eth0:dhcp" {
		t.Error(words, err)
	}
}
