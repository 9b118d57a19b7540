package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/server"
	"github.com/ukdump/ukdump/qemu/server/wire"
)

// pair is a server and a client of Debian's own programs.
type pair struct {
	srv, client *server.Server
}

// newPair joins two machines by all the server's cables.
func newPair(ctx context.Context, t *testing.T, r *rig.Rig, shape server.Net) *pair {
	t.Helper()
	dir := strings.ReplaceAll(t.Name(), "/", "-")
	p := &pair{}
	var err error
	if p.srv, err = r.Server(ctx, dir, server.Config{Net: shape, Pcap: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.srv.Kill)
	p.client, err = r.Server(ctx, dir+"-client", server.Config{Net: server.None, Peer: p.srv.NICs(), Files: p.srv.Files(), Data: mib})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.client.Kill)
	for i, s := range []*server.Server{p.srv, p.client} {
		t.Logf("machine %d: %s", i, s.Tail(1))
	}
	return p
}

// net takes the client's network down and brings it up as the script says.
func (p *pair) net(ctx context.Context, t *testing.T, script string) {
	t.Helper()
	out, err := p.client.Run(ctx, `pkill dhclient || :; umount -f /mnt 2>/dev/null || :
for dev in vlan5 bond0; do ip link del $dev 2>/dev/null || :; done
for dev in eth0 eth1; do [ ! -e /sys/class/net/$dev ] || { ip link set $dev down; ip addr flush dev $dev; }; done
rm -f /var/lib/dhcp/*
`+script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestServer has Debian's clients try each service over each network, so that a crash
// that fails there fails for its own reasons.
func TestServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	r, err := rig.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	t.Run("single", func(t *testing.T) { testServices(ctx, t, newPair(ctx, t, r, server.Single)) })
	t.Run("802.3ad", func(t *testing.T) { testLACP(ctx, t, newPair(ctx, t, r, server.LACP)) })
	t.Run("bridge", func(t *testing.T) { testFailover(ctx, t, newPair(ctx, t, r, server.Bridge)) })
}

// Networks of the client.
const (
	dhcp4      = "ip link set eth0 up; dhclient -4 -1 -q eth0; ip -4 addr show dev eth0 | grep 'inet 192.168.77.1..'"
	static4    = "ip link set eth0 up; ip addr add 192.168.77.20/24 dev eth0"
	vlan       = "ip link set eth0 up; ip link add link eth0 name vlan5 type vlan id 5; ip link set vlan5 up; "
	vlanStatic = vlan + "ip addr add 192.168.5.20/24 dev vlan5"
	vlanDHCP   = vlan + "dhclient -4 -1 -q vlan5; ip -4 addr show dev vlan5 | grep 'inet 192.168.5.1..'"
	slaac      = "sysctl -qw net.ipv6.conf.eth0.accept_ra=2; ip link set eth0 up; " +
		"i=0; until ip -6 addr show dev eth0 scope global -tentative | grep 'inet6 fd77:'; do i=$((i+1)); [ $i -lt 100 ]; sleep 0.1; done"
	dhcp6 = "ip link set eth0 up; i=0; while ip -6 addr show dev eth0 tentative | grep -q fe80 || ! ip -6 addr show dev eth0 | grep -q fe80; do i=$((i+1)); [ $i -lt 100 ]; sleep 0.1; done; " +
		"dhclient -6 -1 -q eth0; ip -6 addr show dev eth0 | grep 'inet6 fd77::1'"
)

func sftp(host string) string {
	return "echo 'put /tmp/f dumps/f' | sftp -b - -i /etc/kdump/key -o UserKnownHostsFile=/etc/kdump/known_hosts -o StrictHostKeyChecking=yes -o ConnectTimeout=15 'crash@" + host + "'"
}

func ftp(scheme, host string) string {
	return "curl -sS -m 60 --ssl --cacert /etc/kdump/ftp-ca.pem -T /tmp/f -u ftpdump:$(cat /etc/kdump/ftp-pw) " + scheme + "://" + host + "/f"
}

func mounted(mount string) string {
	return mount + " && cp /tmp/f /mnt/f && sync && umount /mnt"
}

// service is one put by one protocol over one network.
type service struct{ name, net, put, file string }

func services() []service {
	nfs := func(options, from string) string {
		return mounted("mount -t nfs -o soft," + options + " " + from + " /mnt")
	}
	cifs := mounted("mount -t cifs -o vers=3.1.1,user=smbdump,pass=$(cat /etc/kdump/smb-pw) //192.168.77.1/crash /mnt")
	return []service{
		{"sftp-dhcp", dhcp4, sftp("192.168.77.1"), "sftp/dumps/f"},
		{"sftp-static-vlan", vlanStatic, sftp("192.168.5.1"), "sftp/dumps/f"},
		{"sftp-slaac", slaac, sftp("[fd77::1]"), "sftp/dumps/f"},
		{"sftp-dhcp6", dhcp6, sftp("[fd77::1]"), "sftp/dumps/f"},
		{"nfs4.1-dhcp", dhcp4, nfs("vers=4.1", "192.168.77.1:/export"), "nfs/f"},
		{"nfs4.2-slaac", slaac, nfs("vers=4.2", "[fd77::1]:/export"), "nfs/f"},
		{"nfs3-static", static4, nfs("vers=3,nolock", "192.168.77.1:/export"), "nfs/f"},
		{"nfs3-static-vlan", vlanStatic, nfs("vers=3,nolock", "192.168.5.1:/export"), "nfs/f"},
		{"ftp-vlan-dhcp", vlanDHCP, strings.Replace(ftp("ftp", "192.168.5.1"), "--ssl", "", 1), "ftp/f"},
		{"ftps-static", static4, ftp("ftp", "192.168.77.1"), "ftp/f"},
		{"ftp-slaac", slaac, strings.Replace(ftp("ftp", "[fd77::1]"), "--ssl", "", 1), "ftp/f"},
		{"cifs-static", static4, cifs, "smb/f"},
		{"dns", dhcp4, "grep -q 192.168.77.1 /etc/resolv.conf; " + sftp(server.Name), "sftp/dumps/f"},
	}
}

func testServices(ctx context.Context, t *testing.T, p *pair) {
	last := ""
	for _, c := range services() {
		t.Run(c.name, func(t *testing.T) {
			if c.net != last {
				p.net(ctx, t, c.net)
			}
			last = c.net
			p.put(ctx, t, c.put, c.file)
		})
	}
	t.Run("refusals", func(t *testing.T) { testRefusals(ctx, t, p) })
	t.Run("troubles", func(t *testing.T) { testTroubles(ctx, t, p) })
	if err := p.srv.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := p.srv.Extract(ctx, "/nfs", to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "nfs", "f")); err != nil || len(b) != 3*mib+1 {
		t.Errorf("extracted: %d bytes, %v", len(b), err)
	}
}

// put sends a new file and compares it with what the server has.
func (p *pair) put(ctx context.Context, t *testing.T, put, file string) {
	t.Helper()
	sum, err := p.client.Run(ctx, fmt.Sprintf("head -c %d /dev/urandom >/tmp/f; sha256sum </tmp/f", 3*mib+1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.srv.Run(ctx, "rm -f /srv/"+file); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := p.client.Run(ctx, put); err != nil {
		t.Error(err)
		return
	}
	t.Logf("3 MiB in %.1f s", time.Since(start).Seconds())
	got, err := p.srv.Run(ctx, "sha256sum </srv/"+file)
	if err != nil || got != sum {
		t.Errorf("the server has %s, want %s (%v)", got, sum, err)
	}
}

func testRefusals(ctx context.Context, t *testing.T, p *pair) {
	p.net(ctx, t, static4)
	for _, c := range []struct{ name, script, says string }{
		{"wrong host key", strings.Replace(sftp("192.168.77.1"), "known_hosts", "wrong_hosts", 1), "Host key verification failed"},
		{"read only", strings.Replace(sftp("192.168.77.1"), "dumps/f", "readonly/f", 1), "Permission denied"},
		{"outside of chroot", strings.Replace(sftp("192.168.77.1"), "dumps/f", "../../etc/f", 1), "No such file"},
		{"shell", "ssh -i /etc/kdump/key -o UserKnownHostsFile=/etc/kdump/known_hosts crash@192.168.77.1 id </dev/null", "sftp connections only"},
		{"ftp password", strings.Replace(ftp("ftp", "192.168.77.1"), "$(cat /etc/kdump/ftp-pw)", "guess", 1), "denied"},
		{"cifs password", "mount -t cifs -o vers=3.1.1,user=smbdump,pass=guess //192.168.77.1/crash /mnt", "Permission denied"},
		{"export to others", "ip addr add 10.0.0.2/24 dev eth0; mount -t nfs -o vers=3,nolock,soft,clientaddr=10.0.0.2 192.168.77.1:/nothing /mnt", "access denied"},
	} {
		out, err := p.client.Run(ctx, c.script)
		if err == nil || !strings.Contains(out, c.says) {
			t.Errorf("%s: want a refusal that says %q, got %v: %s", c.name, c.says, err, out)
		}
	}
}

// testTroubles has the control channel do what the crashes will be tested with.
func testTroubles(ctx context.Context, t *testing.T, p *pair) {
	p.net(ctx, t, static4)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what, script string, says ...string) {
		t.Helper()
		out, err := p.client.Run(ctx, script)
		if err == nil {
			t.Errorf("%s: it worked", what)
		}
		for _, s := range says {
			if !strings.Contains(out, s) {
				t.Errorf("%s: want %q, got %s", what, s, out)
			}
		}
	}
	must(p.srv.Daemon(ctx, "sshd", wire.Stop))
	refused("sshd stopped", sftp("192.168.77.1"), "refused")
	must(p.srv.Daemon(ctx, "sshd", wire.Start))
	must(p.srv.Daemon(ctx, "sshd", wire.Freeze))
	refused("sshd frozen", "timeout 5 sh -c \""+sftp("192.168.77.1")+"\"")
	must(p.srv.Daemon(ctx, "sshd", wire.Thaw))
	p.put(ctx, t, sftp("192.168.77.1"), "sftp/dumps/f")
	must(p.srv.Drop(ctx, 22, 100))
	refused("port 22 dropped", strings.Replace(sftp("192.168.77.1"), "ConnectTimeout=15", "ConnectTimeout=3", 1), "timed out")
	must(p.srv.Drop(ctx, 22, 0))
	must(p.srv.Daemon(ctx, "nfsd", wire.Stop))
	refused("nfsd stopped", "mount -t nfs -o vers=4.1,soft,retry=0 192.168.77.1:/export /mnt", "refused")
	must(p.srv.Daemon(ctx, "nfsd", wire.Start))
	p.put(ctx, t, mounted("mount -t nfs -o soft,vers=4.1 192.168.77.1:/export /mnt"), "nfs/f")
	must(p.srv.Netem(ctx, "loss 30%"))
	p.put(ctx, t, sftp("192.168.77.1"), "sftp/dumps/f")
	must(p.srv.Netem(ctx, ""))
	_, err := p.srv.Run(ctx, "rm /srv/sftp/dumps/f") // what it takes would be enough for the next
	must(err)
	must(p.srv.Fill(ctx, 1))
	refused("disk full", sftp("192.168.77.1"), "Failure")
	_, err = p.srv.Run(ctx, "rm /srv/filled")
	must(err)
	log, err := p.srv.Log(ctx, "sshd")
	if err != nil || !strings.Contains(log, "Accepted publickey for crash") {
		t.Errorf("log of sshd: %v: %s", err, log)
	}
}

// bond puts both ports of the client into a bond with VLAN 5 on top.
func bond(mode string) string {
	return "ip link add bond0 type bond mode " + mode + " miimon 100; for dev in eth0 eth1; do ip link set $dev master bond0; done; ip link set bond0 up; " +
		"ip link add link bond0 name vlan5 type vlan id 5; ip link set vlan5 up; ip addr add 192.168.5.20/24 dev vlan5; " +
		"i=0; until ping -c 1 -W 1 192.168.5.1 >/dev/null; do i=$((i+1)); [ $i -lt 30 ]; done"
}

func testLACP(ctx context.Context, t *testing.T, p *pair) {
	p.net(ctx, t, bond("802.3ad"))
	p.put(ctx, t, sftp("192.168.5.1"), "sftp/dumps/f")
	out, err := p.client.Run(ctx, "cat /proc/net/bonding/bond0")
	if err != nil || !strings.Contains(out, "Number of ports: 2") || strings.Contains(out, "Partner Mac Address: 00:00:00:00:00:00") {
		t.Errorf("no aggregator with two ports and a partner (%v):\n%s", err, out)
	}
}

// testFailover cuts one cable after the other.
func testFailover(ctx context.Context, t *testing.T, p *pair) {
	p.net(ctx, t, bond("active-backup"))
	q, err := p.client.Monitor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for _, cut := range []string{"net0", "net1", ""} {
		for _, nic := range []string{"net0", "net1"} {
			if err := q.SetLink(ctx, nic, nic != cut); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.client.Run(ctx, "sleep 1"); err != nil {
			t.Fatal(err)
		}
		p.put(ctx, t, sftp("192.168.5.1"), "sftp/dumps/f")
		out, err := p.client.Run(ctx, "grep 'Currently Active' /proc/net/bonding/bond0")
		if err != nil || cut != "" && strings.Contains(out, strings.Replace(cut, "net", "eth", 1)) {
			t.Errorf("cable %s cut: %v: %s", cut, err, out)
		}
	}
}
