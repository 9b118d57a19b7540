package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/internal/vmcoretest"
)

// newFTPServer is vsftpd, which anonymous users may send files to: those get into root,
// as files of the user daemon, who has a home. Lines overrule those that all have. What listens is the test, so
// that there is no port to be lost to another.
func newFTPServer(t *testing.T, root string, lines ...string) (url string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("vsftpd needs root")
	}
	program, err := exec.LookPath("vsftpd")
	if err != nil && os.Getenv("UKDUMP_CACHE") != "" {
		t.Fatal("vsftpd is missing: qemu/fetch daemons, and its bin in PATH")
	}
	if err != nil {
		t.Skip("vsftpd is missing: make check fetches it")
	}
	letDaemonIn(t, root)
	config := filepath.Join(t.TempDir(), "config")
	all := append([]string{"listen=NO", "seccomp_sandbox=NO", "isolate=NO", "isolate_network=NO", "secure_chroot_dir=" + t.TempDir(), "nopriv_user=nobody",
		"ftp_username=daemon", "anonymous_enable=YES", "local_enable=NO", "write_enable=YES", "anon_upload_enable=YES", "anon_mkdir_write_enable=YES",
		"anon_other_write_enable=YES", "anon_umask=077", "anon_world_readable_only=NO", "anon_root=" + filepath.Dir(root)}, lines...)
	if err := os.WriteFile(config, []byte(strings.Join(all, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serveEach(l, program, config)
	return fmt.Sprintf("ftp://%s/%s", l.Addr(), filepath.Base(root))
}

// letDaemonIn gives dir to the user daemon, who is number 1 everywhere.
func letDaemonIn(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chown(dir, 1, 1); err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o1 == 0 && os.Chmod(dir, info.Mode()|0o1) != nil {
			t.Fatalf("%s: %v", dir, err)
		}
	}
}

// serveEach gives each connection a server of its own, as inetd did.
func serveEach(l net.Listener, program string, args ...string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f, err := c.(*net.TCPConn).File()
		if err == nil {
			cmd := exec.Command(program, args...)
			cmd.Stdin, cmd.Stdout = f, f
			if err = cmd.Start(); err == nil {
				go cmd.Wait()
			}
			f.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, program, err)
		}
		c.Close()
	}
}

// saveTo runs savecore with any target. What it saved is in root.
func saveTo(t *testing.T, url, root, core string, flags ...string) saving {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"-core", core, "-progress", "0"}, flags...)
	r := saving{status: run(append(args, url), &out, &errs)}
	r.out, r.errs = out.String(), errs.String()
	dirs, err := filepath.Glob(filepath.Join(root, "*-????"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("dumps %q, %v:\n%s", dirs, err, r.out)
	}
	r.dir = dirs[0]
	return r
}

// A server that takes files and gives none back gets a whole dump; what is missing is
// the checksum of the core.
func TestServerGivesNothingBack(t *testing.T) {
	root := t.TempDir()
	url := newFTPServer(t, root, "download_enable=NO")
	r := saveTo(t, url, root, vmcoretest.File(t, machine), "-reserve", "0")
	r.want(t, exitSaved, "no checksum of vmcore: ", "the server does not let it be read back", "saved vmcore: ")
	for _, name := range []string{"vmcore", "vmcore-dmesg.txt", "capture.log", "result.json"} {
		if _, err := os.Stat(filepath.Join(r.dir, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(r.dir, "vmcore-incomplete")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("vmcore-incomplete: %v", err)
	}
	if sums := r.read(t, "SHA256SUMS"); strings.Contains(sums, " vmcore\n") || !strings.Contains(sums, " vmcore-dmesg.txt\n") {
		t.Errorf("SHA256SUMS:\n%s", sums)
	}
}

// Over FTP a short core meets the full disk only when its transfer ends: at reading
// back, or at the commit. Its part does not stay in the way of what tells of it.
func TestNoSpaceAtTheEnd(t *testing.T) {
	core := vmcoretest.File(t, machine+"pattern 0x1100000 160K\n")
	for says, flags := range map[string][]string{"core not saved: read back vmcore: ": nil, "core not saved: write ": {"-checksum=false"}} {
		t.Run(says, func(t *testing.T) {
			root := targetstest.Mount(t, "none", "tmpfs", 0, "size=96k")
			url := newFTPServer(t, root)
			r := saveTo(t, url, root, core, append(flags, "-reserve", "0")...)
			r.want(t, exitLogOnly, says, "saved only the kernel log")
			r.files(t, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
		})
	}
}
