package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/server"
	"github.com/ukdump/ukdump/qemu/server/wire"
	"github.com/ukdump/ukdump/qemu/vm"
)

// netFault is one crash whose way to the server is broken. The server is the first
// target, and the disk the second.
type netFault struct {
	name   string
	target string // %s is the name of the fault, which is the folder on the server
	folder string // of it, on the server's data disk
	conf   string // lines of kdump.conf: words of the network, and more
	append string // words on the capture kernel's command line

	programs []string // of the capture image, besides rawcopy
	before   func(ctx context.Context, srv *server.Server) error
	during   func(ctx context.Context, srv *server.Server, m *vm.Machine) error // beside the crash
	after    func(ctx context.Context, srv *server.Server) error                // ends the fault

	says   []string      // a line of the console that tells why has all of them
	step   string        // of the server's attempt that failed; "": the server has the dump
	killed bool          // PID 1 ended that attempt, which told of the steps before only
	or     string        // another line that tells why: PID 1 may be sooner, or not
	cost   time.Duration // the longest that the server's attempt may take
}

// Times of the configuration below. Those of a user are longer: see kdump.conf(5).
const (
	faultNet     = 50 * time.Second
	faultAttempt = 4 * time.Minute
	faultGrace   = 40 * time.Second // told to end, killed, unmounted: all at their longest

	// faultMargin is what two boots, the log and the dump to the disk take on a
	// machine that emulates them and has others to do beside it.
	faultMargin = 4 * time.Minute
)

const (
	faultConf    = "timeout = 9m\nnet-timeout = 50s\nstall-timeout = 40s\ndevice-timeout = 20s\n"
	faultLongest = "attempt-timeout = 4m\n" // where the fault has no other
)

const (
	dhcpWords   = "ip = eth0:dhcp\n"
	staticWords = "ip = 192.168.77.20:::24::eth0:none\n"
	sftpTarget  = "sftp://crash@192.168.77.1/dumps/%s" + sftpWords
	nfsTarget   = "nfs://192.168.77.1/export/%s?vers=4.1"
	ftpTarget   = "ftp://ftpdump@192.168.77.1/%s?password-file=/etc/kdump/ftp-pw"
	cifsTarget  = "cifs://smbdump@192.168.77.1/crash/%s?password-file=/etc/kdump/smb-pw"

	// slowly makes a core of 17 MiB take long enough for something to happen in
	// the middle of it.
	slowly = "compress = zstd:9\n"
)

// netFaults are in the order of how far the attempt comes.
func netFaults() []netFault {
	faults := slices.Concat(unreachable(), midway(), otherServers())
	folders := map[string]string{"sftp": "sftp/dumps", "nfs": "nfs", "ftp": "ftp", "cifs": "smb"}
	for i := range faults {
		scheme, _, _ := strings.Cut(faults[i].target, ":")
		faults[i].folder = folders[scheme]
	}
	return faults
}

// unreachable are faults that keep the attempt from its server, or for a while.
func unreachable() []netFault {
	return []netFault{
		{name: "no-dhcp", target: sftpTarget, conf: dhcpWords,
			before: daemon("dnsmasq", wire.Stop), after: daemon("dnsmasq", wire.Start),
			says: []string{"kdump-init: nothing saved on sftp:", "no route to 192.168.77.1", "no DHCP offer"}, step: "network", cost: faultNet},
		{name: "dhcp-late", target: sftpTarget, conf: dhcpWords,
			before: daemon("dnsmasq", wire.Stop), during: dhcpLate,
			says: []string{"eth0: no DHCP offer in "}, cost: faultAttempt},
		{name: "wrong-vlan", target: "sftp://crash@192.168.5.1/dumps/%s" + sftpWords,
			conf: "vlan = vlan6:eth0\nip = 192.168.5.20:::24::vlan6:none\n",
			says: []string{"kdump-init: nothing saved on sftp:", "192.168.5.1 does not answer ARP on vlan6"}, step: "network", cost: faultNet},
		{name: "dns-dead", target: "sftp://crash@" + server.Name + "/dumps/%s" + sftpWords,
			conf:   staticWords + "nameserver = 192.168.77.1\n",
			before: daemon("dnsmasq", wire.Freeze), after: daemon("dnsmasq", wire.Thaw),
			says: []string{"kdump-init: nothing saved on sftp:", server.Name, "name server"}, step: "network", cost: faultNet},
		{name: "black-hole", target: "sftp://crash@10.9.9.9/dumps/%s" + sftpWords,
			conf: "ip = 192.168.77.20::192.168.77.1:24::eth0:none\n", // which does not forward
			says: []string{"kdump-init: nothing saved on sftp:", "connect to 10.9.9.9:22", "no answer"}, step: "network", cost: faultNet},
		{name: "server-refuses", target: sftpTarget, conf: staticWords,
			before: daemon("sshd", wire.Stop), after: daemon("sshd", wire.Start),
			says: []string{"kdump-init: nothing saved on sftp:", "connection refused"}, step: "network", cost: faultNet},
		{name: "server-stalls", target: sftpTarget, conf: staticWords,
			before: daemon("sshd", wire.Freeze), after: daemon("sshd", wire.Thaw),
			says: []string{"kdump-init: nothing saved on sftp:", "accepts connections and does not speak"}, step: "open target", cost: faultNet},
	}
}

// midway are faults that come when half of the core is on its way.
func midway() []netFault {
	return []netFault{
		{name: "server-killed", target: sftpTarget, conf: staticWords + slowly,
			during: halfway(daemon("sshd", wire.Stop)), after: daemon("sshd", wire.Start),
			says: []string{"kdump-init: only the kernel log saved on sftp:", "connection refused"}, step: "core", cost: faultAttempt},
		{name: "cable-cut", target: sftpTarget, conf: staticWords + slowly, during: cutForGood,
			says: []string{"kdump-init: only the kernel log saved on sftp:"}, step: "core", cost: faultAttempt},
		{name: "disk-full", target: sftpTarget, conf: staticWords + slowly,
			during: halfway(func(ctx context.Context, srv *server.Server) error { return srv.Fill(ctx, 1) }),
			after: func(ctx context.Context, srv *server.Server) error {
				_, err := srv.Run(ctx, "rm /srv/filled")
				return err
			},
			says: []string{"kdump-init: only the kernel log saved on sftp:", "no space"}, step: "core", cost: faultAttempt},
		{name: "loss", target: sftpTarget, conf: dhcpWords,
			before: func(ctx context.Context, srv *server.Server) error { return srv.Netem(ctx, "loss 30%") },
			after:  func(ctx context.Context, srv *server.Server) error { return srv.Netem(ctx, "") },
			says:   []string{"kdump-init: done: crash saved on sftp:"}, cost: faultAttempt},
		{name: "bad-line", target: sftpTarget, conf: staticWords + "attempt-timeout = 75s\n", before: badLine,
			after: func(ctx context.Context, srv *server.Server) error {
				return errors.Join(srv.Netem(ctx, ""), srv.Drop(ctx, 22, 0))
			},
			// At times nothing is answered on it for all of stall-timeout.
			says: []string{"kdump-init: not done after 1m15s, told to end"}, or: "kdump-init: nothing moved for 40s, told to end", step: "core", cost: 75 * time.Second},
		{name: "nfs-frozen", target: nfsTarget, conf: staticWords + slowly,
			during: halfway(nfsGone), after: nfsBack,
			says: []string{"kdump-init: only the kernel log saved on nfs:", "the server did not answer in time"}, step: "core", cost: faultAttempt},
		{name: "nfs-frozen-unmount", target: nfsTarget, conf: staticWords,
			before: func(ctx context.Context, srv *server.Server) error { return srv.Netem(ctx, "delay 200ms") }, during: frozenAtEnd,
			after: func(ctx context.Context, srv *server.Server) error {
				return errors.Join(srv.Netem(ctx, ""), nfsBack(ctx, srv))
			},
			says: []string{"kdump-init: only the kernel log saved on nfs:", "sync it: the server did not answer"},
			step: "close target", cost: faultAttempt},
		{name: "savecore-stopped", target: nfsTarget, conf: staticWords, programs: []string{"./saboteur"},
			append: "rawcopy.then=/saboteur saboteur.stop=savecore:2097152",
			says:   []string{"kdump-init: savecore: nothing moved for 40s, killed"}, step: "core", killed: true, cost: faultAttempt},
	}
}

// otherServers are the worst of these faults with the other daemons.
func otherServers() []netFault {
	return []netFault{
		{name: "ftp-killed", target: ftpTarget, conf: staticWords + slowly,
			during: halfway(daemon("vsftpd", wire.Stop)), after: daemon("vsftpd", wire.Start),
			says: []string{"kdump-init: only the kernel log saved on ftp:", "connection refused"}, step: "core", cost: faultAttempt},
		{name: "ftp-frozen", target: ftpTarget, conf: staticWords + slowly,
			during: halfway(daemon("vsftpd", wire.Freeze)), after: daemon("vsftpd", wire.Thaw),
			says: []string{"kdump-init: only the kernel log saved on ftp:"}, or: "kdump-init: savecore: nothing moved for ", step: "core", cost: faultAttempt},
		{name: "cifs-killed", target: cifsTarget, conf: staticWords + slowly,
			during: halfway(daemon("smbd", wire.Stop)), after: daemon("smbd", wire.Start),
			says: []string{"kdump-init: only the kernel log saved on cifs:"}, step: "core", cost: faultAttempt},
		{name: "cifs-frozen", target: cifsTarget, conf: staticWords + slowly,
			during: halfway(daemon("smbd", wire.Freeze)), after: daemon("smbd", wire.Thaw), // the kernel's client waits on
			says: []string{"kdump-init: only the kernel log saved on cifs:"}, or: "kdump-init: savecore: nothing moved for ", step: "core", cost: faultAttempt},
	}
}

func daemon(name string, verb wire.Verb) func(context.Context, *server.Server) error {
	return func(ctx context.Context, srv *server.Server) error { return srv.Daemon(ctx, name, verb) }
}

// nfsGone throws away all that comes for the kernel's NFS server, which cannot be
// stopped like a process.
func nfsGone(ctx context.Context, srv *server.Server) error { return srv.Drop(ctx, 2049, 100) }
func nfsBack(ctx context.Context, srv *server.Server) error { return srv.Drop(ctx, 2049, 0) }

// badLine loses three of ten packets each way: what the core is made of too.
func badLine(ctx context.Context, srv *server.Server) error {
	return errors.Join(srv.Netem(ctx, "loss 30%"), srv.Drop(ctx, 22, 30))
}

// dhcpLate starts the DHCP server 30 s after the NIC has a carrier.
func dhcpLate(ctx context.Context, srv *server.Server, m *vm.Machine) error {
	_, _, waited := m.Wait(ctx, "savecore: eth0: carrier after")
	if waited == nil {
		select {
		case <-time.After(30 * time.Second):
		case <-ctx.Done():
		}
	}
	return errors.Join(waited, srv.Daemon(context.WithoutCancel(ctx), "dnsmasq", wire.Start))
}

// core waits until between 40 and 80 percent of the core have been read.
func core(ctx context.Context, m *vm.Machine) error {
	var texts []string
	for percent := 40; percent < 80; percent++ {
		texts = append(texts, fmt.Sprintf("savecore: core  %d%%", percent))
	}
	_, _, err := m.Wait(ctx, texts...)
	return err
}

// halfway has something happen then. That it came in time is seen by the attempt, which
// fails at its core.
func halfway(what func(context.Context, *server.Server) error) func(context.Context, *server.Server, *vm.Machine) error {
	return func(ctx context.Context, srv *server.Server, m *vm.Machine) error {
		if err := core(ctx, m); err != nil {
			return err
		}
		return what(ctx, srv)
	}
}

// frozenAtEnd has the NFS server gone when the core is safe there. What tells of it is
// not yet: each answer of the server takes its time.
func frozenAtEnd(ctx context.Context, srv *server.Server, m *vm.Machine) error {
	if _, _, err := m.Wait(ctx, "savecore: saved vmcore:"); err != nil {
		return err
	}
	return nfsGone(ctx, srv)
}

// cutForGood takes the cable out.
func cutForGood(ctx context.Context, _ *server.Server, m *vm.Machine) error {
	if err := core(ctx, m); err != nil {
		return err
	}
	q, err := m.Monitor(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	return q.SetLink(ctx, "net0", false)
}

// TestNetworkFaults has each crash with its fault, one after the other, with one
// server.
func TestNetworkFaults(t *testing.T) {
	faults := netFaults()
	var conf strings.Builder
	conf.WriteString("bond = bond0:eth0,eth1:mode=802.3ad\nvlan = vlan5:bond0\nip = vlan5:dhcp\n" + diskLine)
	for _, f := range faults {
		fmt.Fprintf(&conf, "target = "+f.target+"\n", f.name)
	}
	l := newLabWith(t, conf.String(), "6.1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(faults)+1)*10*time.Minute)
	defer cancel()
	srv, err := l.Server(ctx, "TestNetworkFaults-server", server.Config{Net: server.Single})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Kill()
	results := map[string]*rig.Result{}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { results[f.name] = crashWith(ctx, t, l, srv, f) })
	}
	if err := srv.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for _, folder := range []string{"sftp", "nfs", "ftp", "smb"} {
		if err := srv.Extract(ctx, "/"+folder, tree); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range faults {
		if res := results[f.name]; res != nil {
			t.Run(f.name+"-files", func(t *testing.T) { f.check(t, l, res, filepath.Join(tree, f.folder, f.name)) })
		}
	}
}

// crashWith makes the crash. Its result is nil if production did not come back.
func crashWith(ctx context.Context, t *testing.T, l *lab, srv *server.Server, f netFault) *rig.Result {
	if f.before != nil {
		if err := f.before(ctx, srv); err != nil {
			t.Fatal(err)
		}
	}
	if f.after != nil {
		defer func() {
			if err := f.after(ctx, srv); err != nil {
				t.Error(err)
			}
		}()
	}
	longest := faultLongest
	if strings.Contains(f.conf, "attempt-timeout") {
		longest = ""
	}
	s := setup{
		conf:  faultConf + longest + f.conf + "target = " + strings.ReplaceAll(f.target, "%s", f.name) + "\n" + diskLine,
		files: srv.Files(), programs: append([]string{"./rawcopy"}, f.programs...),
		crash: rig.Crash{Fill: true, Raw: true, Append: strings.TrimSpace("rawcopy.serial=raw " + f.append), NICs: srv.NICs(), Limit: 9 * time.Minute},
	}
	if f.during != nil {
		s.crash.Watch = func(ctx context.Context, m *vm.Machine) error {
			return f.during(ctx, srv, m)
		}
	}
	res := l.run(t, "6.1", s)
	f.checkConsole(t, res)
	return res
}

// checkConsole looks at what an operator sees, and how long it took.
func (f netFault) checkConsole(t *testing.T, res *rig.Result) {
	t.Helper()
	want(t, res, "kdump-init: done: crash saved on ")
	why := slices.ContainsFunc(res.Lines, func(l vm.Line) bool {
		return !slices.ContainsFunc(f.says, func(s string) bool { return !strings.Contains(l.Text, s) })
	})
	if other, ok := res.Said(f.or); !why && f.or != "" && ok {
		t.Logf("PID 1 was sooner: %s", other)
	} else if !why {
		t.Errorf("no line of the console has all of %q", f.says)
	}
	limit := f.cost + faultMargin
	back, ok := rig.Find(rig.Timeline(res.Lines), "production back")
	if !ok || back.At > limit {
		t.Errorf("back %s after the panic, want at most %s", back.At, limit)
	}
	t.Logf("fault %s: back %.0f s after the panic", f.name, back.At.Seconds())
}

// check looks at the files: root is the server's folder.
func (f netFault) check(t *testing.T, l *lab, res *rig.Result, root string) {
	defer os.Remove(res.Raw) // half a GiB
	server := ""
	if dirs := (&rig.Result{Tree: root}).Directories("*"); len(dirs) > 1 {
		t.Fatalf("dump directories on the server: %q, want one at most", dirs)
	} else if len(dirs) == 1 {
		server = dirs[0]
	}
	disk := oneDirectory(t, res)
	if f.step == "" {
		checkWhole(t, l, server, true, res)
		checkLogs(t, disk)
	} else {
		checkWhole(t, l, disk, false, res)
		f.checkNoCore(t, l, server, res)
	}
	f.checkResult(t, disk)
}

// checkWhole compares a dump with the raw core.
func checkWhole(t *testing.T, l *lab, dir string, remote bool, res *rig.Result) {
	t.Helper()
	if dir == "" {
		t.Fatal("no dump directory")
	}
	unsummed := "" // the core, where the console says so
	if line, ok := res.Said("no checksum of vmcore: "); ok && remote {
		unsummed = "vmcore"
		t.Log(line)
	}
	checkFilesBut(t, dir, unsummed, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
	contains(t, dir, "capture.log", "Linux version", "kdump-init: ", "savecore: ")
	checkDmesg(t, l, dir)
	checkPages(t, l, filepath.Join(dir, "vmcore"), res.Raw)
}

// checkLogs is for the disk behind a server that has the dump.
func checkLogs(t *testing.T, dir string) {
	t.Helper()
	checkFiles(t, dir, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
}

// checkNoCore makes sure that nobody takes what the server has for a whole core, unless
// it is one. The kernel log is there if the attempt came so far: before the core.
func (f netFault) checkNoCore(t *testing.T, l *lab, dir string, res *rig.Result) {
	t.Helper()
	begun := f.step == "core" || f.step == "close target"
	if dir == "" {
		if begun {
			t.Error("the server has no dump directory")
		}
		return
	}
	if begun {
		contains(t, dir, "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
	}
	if f.step == "close target" {
		checkPages(t, l, filepath.Join(dir, "vmcore"), res.Raw)
		return
	}
	for _, name := range files(t, dir) {
		if name == "vmcore" {
			t.Errorf("%s/vmcore is there, and the attempt failed", dir)
		}
		if name != "vmcore-incomplete" {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", "run", "./cmds/vmcore", "verify", filepath.Join(dir, name))
		cmd.Dir = l.Root
		out, err := rig.Output(cmd)
		if err == nil {
			t.Errorf("vmcore verify of half a core: %s", out)
		}
		t.Logf("half a core: %s", out)
	}
}

// checkResult reads what the disk's result.json tells of all attempts: the kernel log
// first, then the server, then the disk where the server failed.
func (f netFault) checkResult(t *testing.T, dir string) {
	t.Helper()
	r, err := result.Load(filepath.Join(dir, result.Name))
	if err != nil {
		t.Fatal(err)
	}
	scheme, _, _ := strings.Cut(f.target, ":")
	if r.Saved != result.SavedAll || len(r.Attempts) != 3 {
		t.Fatalf("result.json: %q saved, %d attempts, want all and 3: %+v", r.Saved, len(r.Attempts), r)
	}
	early, remote := r.Attempts[0], r.Attempts[1]
	if !strings.HasPrefix(early.Target, "disk:") || early.Saved != result.SavedLog || early.Error != "" {
		t.Errorf("first attempt: %+v, want the kernel log on the disk", early)
	}
	if !strings.HasPrefix(remote.Target, scheme+":") || len(remote.Steps) == 0 {
		t.Fatalf("second attempt: %+v, want %s and its steps", remote, scheme)
	}
	t.Logf("the server's attempt, %.1f s: %s", remote.Seconds, remote.Error)
	if f.step == "" {
		if remote.Saved != result.SavedAll || remote.Error != "" {
			t.Errorf("second attempt: %+v, want all saved", remote)
		}
		return
	}
	failed := slices.ContainsFunc(remote.Steps, func(s result.Step) bool { return s.Name == f.step && s.Error != "" })
	if remote.Saved == result.SavedAll || remote.Error == "" || failed == f.killed && f.or == "" {
		t.Errorf("second attempt: %+v, want it to fail at the step %s", remote, f.step)
	}
	if limit := f.cost + faultGrace; remote.Seconds > limit.Seconds() {
		t.Errorf("the server's attempt took %.1f s, want at most %s", remote.Seconds, limit)
	}
}
