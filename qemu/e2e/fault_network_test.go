package e2e

import (
	"context"
	"fmt"
	"os"
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
	net    string // words of the network
	folder string // on the server's data disk
	append string // on the capture kernel's command line

	before func(ctx context.Context, srv *server.Server) error                              // the crash
	during func(ctx context.Context, srv *server.Server, m *vm.Machine, where string) error // beside it; where is the folder on the server
	after  func(ctx context.Context, srv *server.Server) error                              // ends the fault
	remote func(t *testing.T, l *lab, dir string, res *rig.Result)                          // what the server has; dir "" if nothing

	says   []string      // the console, in the line that tells why
	step   string        // of the first attempt that failed; "": the server has the dump
	cost   time.Duration // the longest that the fault may hold the capture up
	margin time.Duration // in place of faultMargin
}

// Times of the configuration below. Those of a user are longer: see kdump.conf(5).
const (
	faultNet     = 50 * time.Second
	faultStall   = 40 * time.Second
	faultAttempt = 4 * time.Minute
	faultGrace   = 40 * time.Second // told to end, killed, unmounted: all at their longest

	// faultMargin is what two boots, the log and the dump to the disk take on a
	// machine that emulates them and has others to do beside it.
	faultMargin = 4 * time.Minute
)

const faultConf = "timeout = 9m\nattempt-timeout = 4m\nnet-timeout = 50s\nstall-timeout = 40s\ndevice-timeout = 20s\n"

const (
	dhcpWords   = "ip = eth0:dhcp\n"
	staticWords = "ip = 192.168.77.20:::24::eth0:none\n"
	sftpTarget  = "sftp://crash@192.168.77.1/dumps/%s" + sftpWords
	nfsTarget   = "nfs://192.168.77.1/export/%s?vers=4.1"
)

func daemon(name string, verb wire.Verb) func(context.Context, *server.Server) error {
	return func(ctx context.Context, srv *server.Server) error { return srv.Daemon(ctx, name, verb) }
}

// netFaults are in the order of how far the attempt comes.
func netFaults() []netFault {
	return []netFault{
		{name: "no-dhcp", target: sftpTarget, net: dhcpWords, folder: "sftp/dumps",
			before: daemon("dnsmasq", wire.Stop), after: daemon("dnsmasq", wire.Start),
			says: []string{"target: no route to 192.168.77.1", "no DHCP offer"}, step: "network", cost: faultNet},
		{name: "server-refuses", target: sftpTarget, net: staticWords, folder: "sftp/dumps",
			before: daemon("sshd", wire.Stop), after: daemon("sshd", wire.Start),
			says: []string{"target: reach 192.168.77.1", "connection refused"}, step: "network", cost: faultNet},
		{name: "server-stalls", target: sftpTarget, net: staticWords, folder: "sftp/dumps",
			before: daemon("sshd", wire.Freeze), after: daemon("sshd", wire.Thaw),
			says: []string{"target: open sftp://crash@192.168.77.1/dumps/server-stalls"}, step: "open target", cost: 2 * faultNet},
	}
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
	for _, folder := range []string{"sftp", "nfs"} {
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
	s := setup{
		conf:  faultConf + f.net + "target = " + strings.ReplaceAll(f.target, "%s", f.name) + "\n" + diskLine,
		files: srv.Files(), programs: []string{"./rawcopy"},
		crash: rig.Crash{Fill: true, Raw: true, Append: strings.TrimSpace("rawcopy.serial=raw " + f.append), NICs: srv.NICs(), Limit: 9 * time.Minute},
	}
	if f.during != nil {
		s.crash.Watch = func(ctx context.Context, m *vm.Machine) error {
			return f.during(ctx, srv, m, filepath.Join("/srv", f.folder, f.name))
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
	if !why {
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
		checkWhole(t, l, server, res)
		checkLogs(t, disk)
	} else {
		checkWhole(t, l, disk, res)
		if server != "" {
			checkNoCore(t, server)
		}
	}
	f.checkResult(t, disk)
	if f.remote != nil {
		f.remote(t, l, server, res)
	}
}

// checkWhole compares a dump with the raw core.
func checkWhole(t *testing.T, l *lab, dir string, res *rig.Result) {
	t.Helper()
	if dir == "" {
		t.Fatal("no dump directory")
	}
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
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

// checkNoCore makes sure that nobody takes what is there for a whole core.
func checkNoCore(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "vmcore")); !os.IsNotExist(err) {
		t.Errorf("%s/vmcore is there (%v), and the attempt failed", dir, err)
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
	last := remote.Steps[len(remote.Steps)-1]
	if remote.Saved == result.SavedAll || remote.Error == "" || last.Name != f.step || last.Error == "" {
		t.Errorf("second attempt: %+v, want it to fail at the step %s", remote, f.step)
	}
	if remote.Seconds > (f.cost + faultGrace).Seconds() {
		t.Errorf("the server's attempt took %.1f s, want at most %s", remote.Seconds, f.cost+faultGrace)
	}
}
