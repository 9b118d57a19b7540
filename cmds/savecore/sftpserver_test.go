package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/internal/watchdog"
)

// newSFTPServer is OpenSSH, to which the user daemon may send files: those get into root.
func newSFTPServer(t *testing.T, root string) (url string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sshd needs root")
	}
	program, err := exec.LookPath("sshd")
	keygen, keygenErr := exec.LookPath("ssh-keygen")
	if err := errors.Join(err, keygenErr); err != nil && os.Getenv("UKDUMP_CACHE") != "" {
		t.Fatalf("%v: qemu/fetch daemons, and its bin in PATH", err)
	} else if err != nil {
		t.Skipf("%v: make check fetches it", err)
	}
	dir := t.TempDir()
	letDaemonIn(t, root)
	letDaemonIn(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", file(key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	pin, err := exec.Command(keygen, "-l", "-f", file("host.pub")).Output()
	if err != nil {
		t.Fatal(err)
	}
	config := []string{"HostKey " + file("host"), "AuthorizedKeysFile " + file("user.pub"), "StrictModes no", "UsePAM no", "UseDNS no",
		"ForceCommand internal-sftp", "Subsystem sftp internal-sftp", "PidFile none", ""}
	if err := errors.Join(os.MkdirAll("/run/sshd", 0o755), os.WriteFile(file("config"), []byte(strings.Join(config, "\n")), 0o600)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serveEach(l, program, "-i", "-f", file("config"), "-E", file("log"))
	return fmt.Sprintf("sftp://daemon@%s%s?key=%s&fingerprint=%s", l.Addr(), root, file("user"), strings.Fields(string(pin))[1])
}

// pulseOf runs do as a child of PID 1 that beats, and gives the graces that it asked for.
func pulseOf(t *testing.T, do func()) (graces []time.Duration) {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Setenv(watchdog.FDVariable, fmt.Sprint(fds[1]))
	do()
	syscall.Close(fds[1])
	defer syscall.Close(fds[0])
	for b := make([]byte, 4096); ; {
		n, err := syscall.Read(fds[0], b)
		if err != nil && err != syscall.EINTR {
			t.Fatal(err)
		}
		if err == nil && n == 0 {
			return graces
		}
		for _, code := range b[:max(0, n)] {
			graces = append(graces, watchdog.Decode(code))
		}
	}
}

// A server may sync a large core for longer than the disk of this machine would: that is
// said to PID 1, which would end the attempt in the midst of it.
func TestCommitTakesItsTime(t *testing.T) {
	root := t.TempDir()
	url, core := newSFTPServer(t, root), vmcoretest.File(t, machine)
	const stall = 2 * time.Minute // of which a quarter is the target's
	graces := pulseOf(t, func() {
		r := saveTo(t, url, root, core, "-reserve", "0", "-level", "0", "-stall-timeout", stall.String())
		r.want(t, exitSaved)
		info, err := os.Stat(filepath.Join(r.dir, "vmcore"))
		if err != nil || info.Size() < 32<<20 {
			t.Fatalf("vmcore: %v, %v; want 32 MiB of noise", info, err)
		}
	})
	const fsync = 32 << 20 / (4 << 20) * time.Second
	if most := slices.Max(graces); most < commitGrace+stall/4+fsync {
		t.Errorf("the longest grace is %v, want %v", most, commitGrace+stall/4+fsync)
	}
}
