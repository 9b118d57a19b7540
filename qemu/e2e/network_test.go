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
	"github.com/ukdump/ukdump/qemu/vm"
)

// netCase is one crash whose dump goes to a server. In conf, %s is the name of
// the case, which is the folder on the server.
type netCase struct {
	name    string
	conf    string
	folder  string   // on the server's data disk; empty: see disk
	disk    bool     // the dump is on the disk "target", the second in the list
	says    []string // on the console
	trouble func(ctx context.Context, srv *server.Server, m *vm.Machine, name string) error
	after   string // script for the server: ends the trouble
	reserve string // crashkernel=, for which the image has nothing but what this case needs
}

// URLs of the server's services, without their query.
const (
	sftpWords = "?key=/etc/kdump/key&known_hosts=/etc/kdump/known_hosts"
	diskLine  = "target = disk:///crash?dev=LABEL=CRASH\n"
)

// plainCases are those of one cable.
func plainCases() []netCase {
	return []netCase{
		{name: "sftp-dhcp", folder: "sftp/dumps", conf: "ip = eth0:dhcp\ntarget = sftp://crash@192.168.77.1/dumps/%s" + sftpWords},
		{name: "sftp-static-vlan", folder: "sftp/dumps",
			conf: "vlan = vlan5:eth0\nip = 192.168.5.20::192.168.5.1:24::vlan5:none\ntarget = sftp://crash@192.168.5.1/dumps/%s" + sftpWords},
		{name: "nfs4-dhcp", folder: "nfs", conf: "ip = eth0:dhcp\ntarget = nfs://192.168.77.1/export/%s?vers=4.1"},
		{name: "nfs3-static-vlan", folder: "nfs", conf: "vlan = vlan5:eth0\nip = 192.168.5.20:::24::vlan5:none\ntarget = nfs://192.168.5.1/export/%s?vers=3"},
		{name: "ftp-dhcp-vlan", folder: "ftp", says: []string{"vmcore is unconfirmed: FTP has no word for sync"}, conf: "vlan = vlan5:eth0\nip = vlan5:dhcp\ntarget = ftp://ftpdump@192.168.5.1/%s?password-file=/etc/kdump/ftp-pw"},
		{name: "sftp-slaac", folder: "sftp/dumps", conf: "ip = eth0:auto6\ntarget = sftp://crash@[fd77::1]/dumps/%s" + sftpWords},
		{name: "cifs-dhcp", folder: "smb", conf: "ip = eth0:dhcp\ntarget = cifs://smbdump@192.168.77.1/crash/%s?password-file=/etc/kdump/smb-pw"},
		{name: "sftp-dhcp6", folder: "sftp/dumps", says: []string{"from DHCPv6 server"},
			conf: "ip = eth0:dhcp6\ntarget = sftp://crash@[fd77::1]/dumps/%s" + sftpWords},
		{name: "sftp-bridge", folder: "sftp/dumps", says: []string{"lan0: is 52:54:00:c1:00:01, which was eth0", "br0: has lan0"},
			conf: "ifname = lan0:52:54:00:c1:00:01\nbridge = br0:lan0\nip = br0:dhcp\ntarget = sftp://crash@192.168.77.1/dumps/%s" + sftpWords},
		{name: "sftp-dhcp-96M", folder: "sftp/dumps", reserve: "96M", conf: "ip = eth0:dhcp\ntarget = sftp://crash@192.168.77.1/dumps/%s" + sftpWords},
		{name: "nfs4-dhcp-112M", folder: "nfs", reserve: "112M", conf: "ip = eth0:dhcp\ntarget = nfs://192.168.77.1/export/%s?vers=4.1"},
		{name: "cifs-dhcp-112M", folder: "smb", reserve: "112M", conf: "ip = eth0:dhcp\ntarget = cifs://smbdump@192.168.77.1/crash/%s?password-file=/etc/kdump/smb-pw"},
		{name: "ftp-dhcp-112M", folder: "ftp", reserve: "112M", conf: "ip = eth0:dhcp\ntarget = ftp://ftpdump@192.168.77.1/%s?password-file=/etc/kdump/ftp-pw"},
		{name: "sftp-no-words", folder: "sftp/dumps", conf: "target = sftp://crash@192.168.77.1/dumps/%s" + sftpWords},
		{name: "sftp-dns", folder: "sftp/dumps", conf: "ip = eth0:dhcp\ntarget = sftp://crash@" + server.Name + "/dumps/%s" + sftpWords},
	}
}

func bondCases() []netCase {
	return []netCase{
		{name: "sftp-bond-vlan", folder: "sftp/dumps", says: []string{"bond0: has eth0", "bond0: has eth1", "vlan5: VLAN 5 on bond0"},
			conf: "bond = bond0:eth0,eth1:mode=802.3ad,miimon=100\nvlan = vlan5:bond0\nip = 192.168.5.20:::24::vlan5:none\ntarget = sftp://crash@192.168.5.1/dumps/%s" + sftpWords},
	}
}

// failoverCases have both cables on one switch.
func failoverCases() []netCase {
	return []netCase{
		{name: "bond-cable-cut", folder: "sftp/dumps", trouble: cutFirst, says: []string{"(slave eth0): link status definitely down", "(slave eth1): making interface the new active one"},
			conf: "bond = bond0:eth0,eth1:mode=active-backup,primary=eth0\nip = bond0:dhcp\ntarget = sftp://crash@192.168.77.1/dumps/%s" + sftpWords},
	}
}

// troubleCases: the dump is safe all the same.
func troubleCases() []netCase {
	return []netCase{
		{name: "wrong-host-key", disk: true, says: []string{"host key"},
			conf: "ip = eth0:dhcp\ntarget = sftp://crash@192.168.77.1/dumps/%s" + strings.Replace(sftpWords, "known_hosts=/etc/kdump/known_hosts", "known_hosts=/etc/kdump/wrong_hosts", 1) + "\n" + diskLine},
		{name: "cable-cut", folder: "sftp/dumps", trouble: cutCable, says: []string{"eth0: carrier lost", "lost before"},
			conf: "ip = eth0:dhcp\ntarget = sftp://crash@192.168.77.1/dumps/%s" + sftpWords},
		{name: "server-off", disk: true, trouble: serverOff, after: "ip link set eth0 up",
			conf: "ip = 192.168.77.20:::24::eth0:none\ntarget = sftp://crash@192.168.77.1/dumps/%s" + sftpWords + "\n" + diskLine},
	}
}

// cutCable takes the cable out for 20 s once 2 MiB of the core are on the server.
func cutCable(ctx context.Context, srv *server.Server, m *vm.Machine, name string) error {
	q, err := cutFirstCable(ctx, srv, m, name)
	if err != nil {
		return err
	}
	defer q.Close()
	select {
	case <-time.After(20 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	return q.SetLink(ctx, "net0", true)
}

// cutFirst leaves the other cable of a bond.
func cutFirst(ctx context.Context, srv *server.Server, m *vm.Machine, name string) error {
	q, err := cutFirstCable(ctx, srv, m, name)
	if err != nil {
		return err
	}
	return q.Close()
}

func cutFirstCable(ctx context.Context, srv *server.Server, m *vm.Machine, name string) (*vm.Monitor, error) {
	if _, _, err := m.Wait(ctx, "saved vmcore-dmesg.txt"); err != nil {
		return nil, err
	}
	const wait = "i=0; until find /srv/sftp/dumps/%s -name 'vmcore-incomplete' -size +2M | grep -q .; do i=$((i+1)); [ $i -lt 600 ]; sleep 0.05; done"
	if _, err := srv.Run(ctx, fmt.Sprintf(wait, name)); err != nil {
		return nil, err
	}
	q, err := m.Monitor(ctx)
	if err != nil {
		return nil, err
	}
	err = q.SetLink(ctx, "net0", false)
	if err == nil { // not a moment too late: else nothing would have been cut
		_, err = srv.Run(ctx, "sleep 1; find /srv/sftp/dumps/"+name+" -name vmcore-incomplete | grep -q .")
	}
	if err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// serverOff has nobody at the other end, though there is a carrier.
func serverOff(ctx context.Context, srv *server.Server, m *vm.Machine, _ string) error {
	_, err := srv.Run(ctx, "ip link set eth0 down")
	return err
}

// TestNetwork makes the crashes of each group, one after the other, with one server.
func TestNetwork(t *testing.T) {
	l := newNetworkLab(t)
	for _, g := range []struct {
		name  string
		shape server.Net
		cases []netCase
	}{
		{"plain", server.Single, plainCases()},
		{"bond", server.LACP, bondCases()},
		{"failover", server.Bridge, failoverCases()},
		{"trouble", server.Single, troubleCases()},
	} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			testGroup(t, l, g.shape, g.cases)
		})
	}
}

// newNetworkLab has one image with what every target needs.
func newNetworkLab(t *testing.T) *lab {
	t.Helper()
	var conf strings.Builder
	conf.WriteString("bond = bond0:eth0,eth1:mode=802.3ad\nbridge = br0:lan0\nvlan = vlan5:bond0\nip = vlan5:dhcp\n")
	for _, cases := range [][]netCase{plainCases(), bondCases(), failoverCases(), troubleCases()} {
		for _, c := range cases {
			for line := range strings.Lines(c.conf) {
				if strings.HasPrefix(line, "target") {
					fmt.Fprintln(&conf, strings.TrimSpace(strings.ReplaceAll(line, "%s", c.name)))
				}
			}
		}
	}
	return newLabWith(t, conf.String(), "6.1")
}

func testGroup(t *testing.T, l *lab, shape server.Net, cases []netCase) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(cases)+1)*9*time.Minute)
	defer cancel()
	srv, err := l.Server(ctx, strings.ReplaceAll(t.Name(), "/", "-")+"-server", server.Config{Net: shape})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Kill()
	results := map[string]*rig.Result{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { results[c.name] = crashTo(ctx, t, l, srv, c) })
	}
	if err := srv.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, folder := range []string{"sftp", "ftp", "nfs", "smb"} {
		if err := srv.Extract(ctx, "/"+folder, tree); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cases {
		if res := results[c.name]; res != nil {
			t.Run(c.name+"-files", func(t *testing.T) { checkDump(t, l, c, res, tree) })
		}
	}
}

// crashTo makes the crash. Its result is nil if production did not come back.
func crashTo(ctx context.Context, t *testing.T, l *lab, srv *server.Server, c netCase) *rig.Result {
	s := setup{
		conf: strings.ReplaceAll(c.conf, "%s", c.name) + "\n", files: srv.Files(), programs: []string{"./rawcopy"},
		crash: rig.Crash{Fill: true, Raw: true, Append: "rawcopy.serial=raw", NICs: srv.NICs(), Limit: 8 * time.Minute},
	}
	if c.reserve != "" {
		s.crash.Reserve, s.flags = c.reserve, append([]string{}, l.secrets(t, s.conf)...) // not nil: an image of its own
	}
	if c.trouble != nil {
		s.crash.Watch = func(ctx context.Context, m *vm.Machine) error { return c.trouble(ctx, srv, m, c.name) }
	}
	res := l.run(t, "6.1", s)
	if c.after != "" {
		if _, err := srv.Run(ctx, c.after); err != nil {
			t.Error(err)
		}
	}
	want(t, res, "kdump-init: done: ")
	want(t, res, c.says...)
	return res
}

// checkDump compares what is on the server, or on the disk, with the raw core.
func checkDump(t *testing.T, l *lab, c netCase, res *rig.Result, tree string) {
	root := filepath.Join(tree, c.folder, c.name)
	if c.disk {
		root = filepath.Join(res.Tree, "crash")
	}
	dirs := (&rig.Result{Tree: root}).Directories("*")
	if len(dirs) != 1 {
		t.Fatalf("dump directories in %s: %q, want one", root, dirs)
	}
	checkFiles(t, dirs[0], "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dirs[0], "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
	contains(t, dirs[0], "capture.log", "Linux version", "kdump-init: ", "savecore: ")
	contains(t, dirs[0], "capture.log", c.says...)
	checkDmesg(t, l, dirs[0])
	if c.reserve != "" {
		checkAdvice(t, dirs[0], c.reserve)
	}
	defer os.Remove(res.Raw) // half a GiB
	checkPages(t, l, filepath.Join(dirs[0], "vmcore"), res.Raw)
}
