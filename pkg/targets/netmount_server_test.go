package targets_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// The tests of this file want a machine for themselves, in which they export
// folders, and kill and start the kernel's NFS server and samba: that of
// qemu/server, where qemu/e2e runs them. The servers and the kernel's clients
// are on the same machine, as nothing here is about the network.
const (
	machineOfServers = "UKDUMP_TEST_SERVERS" // its address
	smbPort          = 1445
)

func serverMachine(t *testing.T) string {
	t.Helper()
	addr := os.Getenv(machineOfServers)
	if addr == "" {
		t.Skip("needs the machine of qemu/server: go test -run TestMounts ./e2e in qemu runs it there")
	}
	return addr
}

// sh runs a script that must not fail.
func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// listening waits for a server, or for its end.
func listening(t *testing.T, addr string, want bool) {
	t.Helper()
	for range 200 {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		if (err == nil) == want {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s: listening is not %v", addr, want)
}

// places makes folders below /srv, which is a disk; one of them is small. The
// servers have the mounts of PID 1, these tests have their own.
func places(t *testing.T, name string) (root string) {
	root = "/srv/" + name
	sh(t, fmt.Sprintf(`mkdir -p %[1]s/all %[1]s/denied/sub %[1]s/readonly %[1]s/small %[1]s/others
chmod 755 %[1]s %[1]s/denied %[1]s/denied/sub
nsenter -t 1 -m sh -c "mountpoint -q %[1]s/small || mount -t tmpfs -o size=900k,mode=777 none %[1]s/small"`, root))
	return root
}

// nfsServer exports places.
func nfsServer(t *testing.T, version string) targetstest.Server {
	addr := serverMachine(t)
	root := places(t, "nfs-"+strings.ReplaceAll(version, ".", ""))
	// A bind mount that is exported, as the machine's own, takes the place of
	// the whole file system in version 4's root.
	sh(t, fmt.Sprintf(`modprobe -a nfs nfsv3 nfsv4
exportfs -au
exportfs -i -o rw,sync,no_root_squash,no_subtree_check '*:%[1]s/all'
exportfs -i -o rw,sync,root_squash,no_subtree_check '*:%[1]s/denied'
exportfs -i -o ro,sync,no_root_squash,no_subtree_check '*:%[1]s/readonly'
exportfs -i -o rw,sync,no_root_squash,no_subtree_check,fsid=%[2]d '*:%[1]s/small'
exportfs -i -o rw,sync,no_root_squash,no_subtree_check '203.0.113.9:%[1]s/others'
echo text >%[1]s/all/file`, root, 100+version[len(version)-1]))
	t.Cleanup(func() { sh(t, "exportfs -au; rm -rf "+root+"/*/*") })
	where := func(dir string) string {
		for _, special := range []string{"denied", "readonly", "small", "others"} {
			if dir == special || strings.HasPrefix(dir, special+"/") {
				return root + "/" + dir
			}
		}
		return root + "/all/" + dir
	}
	url := func(dir string) string {
		return "nfs://" + addr + strings.ReplaceAll(where(dir), " ", "%20") + "?vers=" + version
	}
	return targetstest.Server{
		URL: url, Behind: where, Small: "small", ReadOnly: "readonly", Denied: "denied",
		Refused: map[string]targetstest.Refusal{
			"a file":         {URL: url("file"), Says: "not a directory"},
			"not exported":   {URL: "nfs://" + addr + "/srv/nowhere/at/all?vers=" + version, Says: "exportfs -v"},
			"to others only": {URL: url("others"), Says: "exportfs -v"},
			"option":         {URL: url("x") + "&opts=nonsense=1", Says: "an unknown option"},
		},
		Kill: func(t *testing.T) { sh(t, "rpc.nfsd 0"); listening(t, addr+":2049", false) },
		Start: func(t *testing.T) {
			sh(t, "rpc.nfsd 4; echo Y >/proc/fs/nfsd/v4_end_grace")
			listening(t, addr+":2049", true)
		},
		Resumes: true,
	}
}

func TestNFSServer(t *testing.T) {
	for _, version := range []string{"4.2", "4.1", "4.0", "3"} {
		t.Run(version, func(t *testing.T) { targetstest.RunServer(t, nfsServer(t, version)) })
	}
}

// Without vers= the newest that there is: also where the server has only the
// oldest.
func TestNFSNegotiation(t *testing.T) {
	addr := serverMachine(t)
	nfsServer(t, "4.2")
	defer sh(t, "rpc.nfsd 0; rpc.nfsd 4")
	for _, c := range []struct{ off, want string }{{"", "vers=4.2"}, {"-N 4.2", "vers=4.1"}, {"-N 4", "vers=3"}} {
		sh(t, "rpc.nfsd 0; rpc.nfsd "+c.off+" 4; echo Y >/proc/fs/nfsd/v4_end_grace || :")
		tg := open(t, "nfs://"+addr+"/srv/nfs-42/all")
		put(t, tg, "auto/"+c.want, "x")
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil || !strings.Contains(string(mounts), c.want+",") {
			t.Errorf("%q off: want %s: %v\n%s", c.off, c.want, err, mounts)
		}
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Version 3 where rpcbind cannot be asked, and over IPv6.
func TestNFSShapes(t *testing.T) {
	addr := serverMachine(t)
	nfsServer(t, "3")
	for _, url := range []string{
		"nfs://" + addr + ":2049/srv/nfs-3/all?vers=3",
		"nfs://[fd77::1]/srv/nfs-3/all?vers=3",
		"nfs://[fd77::1]/srv/nfs-3/all?vers=4.2",
		"nfs://[fd77::1]/srv/nfs-3/all?vers=4.0&opts=wsize=65536,noatime",
	} {
		tg := open(t, url)
		put(t, tg, "shapes/d", url)
		if err := tg.Remove(t.Context(), "shapes"); err != nil {
			t.Error(err)
		}
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A server that has gone away holds up Close, and with it the reboot, no longer
// than a few times Stall; nothing stays mounted.
func TestMountCloseOfDeadServer(t *testing.T) {
	nfs, cifs := nfsServer(t, "4.1"), cifsServer(t)
	for what, s := range map[string]targetstest.Server{"nfs": nfs, "cifs": cifs} {
		t.Run(what, func(t *testing.T) {
			const stall = 3 * time.Second
			tg := openWith(t, t.Context(), s.URL("dead"), targets.Options{Log: t.Logf, Stall: stall})
			f, err := tg.Create(t.Context(), "vmcore")
			if err != nil {
				t.Fatal(err)
			}
			// Dropped, not refused: nobody answers any more.
			drop := "nft add table inet hole; nft add chain inet hole in '{ type filter hook input priority 0; }'; nft add rule inet hole in tcp dport '{ 2049, 1445 }' drop"
			sh(t, drop)
			defer exec.Command("nft", "delete", "table", "inet", "hole").Run()
			start := time.Now()
			for range 256 {
				if _, err = f.Write(make([]byte, 256<<10)); err != nil {
					break
				}
			}
			if err == nil {
				err = f.Commit()
			}
			t.Logf("noticed after %v: %v", time.Since(start).Round(time.Second/10), err)
			if err == nil {
				t.Error("a server that does not answer took a file")
			}
			if took := time.Since(start); took > 8*stall {
				t.Errorf("noticed after %v", took)
			}
			start = time.Now()
			f.Close()
			err = tg.Close()
			t.Logf("closed after %v: %v", time.Since(start).Round(time.Second/10), err)
			if took := time.Since(start); took > 3*stall {
				t.Errorf("closed after %v", took)
			}
			mounts, err := os.ReadFile("/proc/self/mounts")
			if err != nil || strings.Contains(string(mounts), "/ukdump-") {
				t.Errorf("still mounted: %v\n%s", err, mounts)
			}
		})
	}
}

// cifsServer is a samba of its own, with what the machine's does not have.
func cifsServer(t *testing.T) targetstest.Server {
	addr := serverMachine(t)
	root := places(t, "smb-test")
	sh(t, "modprobe cifs; chown smbdump "+root+"/all "+root+"/readonly; mkdir -p /run/smb-test /var/log/samba")
	conf := fmt.Sprintf(`[global]
	server role = standalone server
	workgroup = KDUMP
	server min protocol = SMB3_00
	disable netbios = yes
	smb ports = %d
	load printers = no
	disable spoolss = yes
	passdb backend = smbpasswd:/etc/samba/smbpasswd
	map to guest = never
	log level = 1
	pid directory = /run/smb-test
	lock directory = /run/smb-test
	state directory = /run/smb-test
	cache directory = /run/smb-test
	private dir = /run/smb-test
	ncalrpc dir = /run/smb-test/ncalrpc
	strict sync = yes
`, smbPort)
	for name, more := range map[string]string{"all": "read only = no", "denied": "read only = no", "small": "read only = no", "readonly": "read only = yes", "others": "read only = no\n\tvalid users = root"} {
		conf += fmt.Sprintf("[%s]\n\tpath = %s/%s\n\t%s\n", name, root, name, more)
	}
	if err := os.WriteFile("/run/smb-test/smb.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := t.TempDir() + "/wrong"
	if err := os.WriteFile(wrong, []byte("guess\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	where := func(dir string) string {
		for _, special := range []string{"denied", "readonly", "small", "others"} {
			if dir == special || strings.HasPrefix(dir, special+"/") {
				return "/" + dir
			}
		}
		return "/all/" + dir
	}
	const query = "?password-file=/etc/kdump/smb-pw&vers=3.1.1"
	url := func(dir string) string {
		return fmt.Sprintf("cifs://smbdump@%s:%d%s%s", addr, smbPort, strings.ReplaceAll(where(dir), " ", "%20"), query)
	}
	var smbd *exec.Cmd
	server := fmt.Sprintf("%s:%d", addr, smbPort)
	kill := func(t *testing.T) {
		if smbd == nil {
			return
		}
		unix.Kill(-smbd.Process.Pid, unix.SIGKILL)
		smbd.Wait()
		smbd = nil
		listening(t, server, false)
	}
	start := func(t *testing.T) {
		smbd = exec.Command("nsenter", "-t", "1", "-m", "/usr/sbin/smbd", "-F", "--no-process-group", "-s", "/run/smb-test/smb.conf", "-l", "/var/log/samba")
		smbd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		if err := smbd.Start(); err != nil {
			t.Fatal(err)
		}
		listening(t, server, true)
	}
	start(t)
	t.Cleanup(func() { kill(t) })
	return targetstest.Server{
		URL: url, Behind: func(dir string) string { return root + where(dir) }, Small: "small", ReadOnly: "readonly", Denied: "denied",
		Refused: map[string]targetstest.Refusal{
			"password":      {URL: strings.Replace(url("x"), "/etc/kdump/smb-pw", wrong, 1), Says: "is the password in " + wrong + " right"},
			"user":          {URL: strings.Replace(url("x"), "smbdump@", "nobody@", 1), Says: "may nobody use the share all"},
			"share":         {URL: strings.Replace(url("x"), "/all/", "/nowhere/", 1), Says: "no share nowhere"},
			"valid users":   {URL: url("others"), Says: "may smbdump use the share others"},
			"old dialect":   {URL: strings.Replace(url("x"), "vers=3.1.1", "vers=2.1", 1), Says: "no dialect or cipher in common"},
			"password file": {URL: strings.Replace(url("x"), "/etc/kdump/smb-pw", "/none", 1), Says: "password-file=/none: open /none: no such file"},
			"option":        {URL: url("x") + "&opts=nonsense=1", Says: "an unknown option"},
		},
		Kill: kill, Start: start,
		Resumes: true,
	}
}

func TestCIFSServer(t *testing.T) {
	targetstest.RunServer(t, cifsServer(t))
}

// Encrypted, over IPv6, with the newest dialect that there is; and the password
// shows nowhere.
func TestCIFSShapes(t *testing.T) {
	s := cifsServer(t)
	good := s.URL("shapes")
	for _, url := range []string{
		good + "&seal=1",
		good + "&domain=KDUMP",
		strings.Replace(good, "&vers=3.1.1", "", 1),
		strings.Replace(good, "vers=3.1.1", "vers=3.0.2", 1),
		strings.Replace(good, "vers=3.1.1", "vers=3.0&seal=1", 1),
		strings.Replace(good, "vers=3.1.1", "vers=3", 1),
		strings.Replace(good, os.Getenv(machineOfServers), "[fd77::1]", 1),
	} {
		tg := open(t, url)
		put(t, tg, "d/vmcore", url)
		password, err := os.ReadFile("/etc/kdump/smb-pw")
		if err != nil {
			t.Fatal(err)
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil || strings.Contains(string(mounts), strings.TrimSpace(string(password))) || !strings.Contains(string(mounts), " cifs ") {
			t.Errorf("%s: %v\n%s", url, err, mounts)
		}
		if err := tg.Remove(t.Context(), "d"); err != nil {
			t.Error(err)
		}
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	}
}
