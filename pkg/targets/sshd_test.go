package targets_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/targetstest"
)

// sshd is OpenSSH's server with a configuration and keys of its own. It lives in
// this process's mount namespace, see prepareServers, and in a pid namespace, so
// that its end is the end of all its connections.
type sshd struct {
	program string
	dir     string // of its files
	top     string // of what users get to see,
	root    string // and what they see as /
	port    int
	config  string
	cmd     *exec.Cmd
}

const (
	sshUser     = "kdump-test"
	sshUID      = 59999
	sshPassword = "correct horse #1 ü"

	// serversDir holds a directory for each server, named as its port. All above
	// it belongs to root, without which sshd does not chroot.
	serversDir = "/media"
)

// prepareServers gives all servers of this mount namespace a user, and a place
// in memory for what they are sent.
func prepareServers() error {
	if passwd, err := os.ReadFile("/etc/passwd"); err != nil || strings.Contains(string(passwd), sshUser) {
		return err // this process was started by a test
	}
	const etc = serversDir + "/etc"
	if err := errors.Join(syscall.Mount("tmpfs", serversDir, "tmpfs", 0, "mode=0755"), os.Mkdir(etc, 0o755)); err != nil {
		return fmt.Errorf("mount %s: %w", serversDir, err)
	}
	hash, err := cryptPassword()
	if err != nil {
		return err
	}
	for name, line := range map[string]string{
		"passwd": fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", sshUser, sshUID, sshUID),
		"group":  fmt.Sprintf("%s:x:%d:\n", sshUser, sshUID),
		"shadow": fmt.Sprintf("%s:%s:19000:0:99999:7:::\n", sshUser, hash),
	} {
		old, err := os.ReadFile("/etc/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(etc, name), append(old, line...), 0o644)
		}
		if err == nil {
			err = syscall.Mount(filepath.Join(etc, name), "/etc/"+name, "", syscall.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("a user for servers: %w", err)
		}
	}
	const pam = "auth required pam_unix.so\naccount required pam_unix.so\n"
	return errors.Join(os.MkdirAll("/etc/pam.d", 0o755), syscall.Mount("tmpfs", "/etc/pam.d", "tmpfs", 0, ""),
		os.WriteFile("/etc/pam.d/vsftpd", []byte(pam), 0o644), os.MkdirAll("/run/sshd", 0o755))
}

// cryptPassword is sshPassword as /etc/shadow has it.
func cryptPassword() (string, error) {
	hash, err := exec.Command("perl", "-e", `print crypt($ARGV[0], '$6$saltsalt$')`, sshPassword).Output()
	if err != nil {
		return "", fmt.Errorf("perl: %w", err)
	}
	return string(hash), nil
}

// findDaemon is the path of a program, of this machine or of those that make
// fetches, which puts them into PATH.
func findDaemon(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name)
	}
	return path
}

// missing ends a test: make has all servers, a bare go test only those of the machine.
func missing(t testing.TB, name string) {
	t.Helper()
	if os.Getenv("UKDUMP_CACHE") != "" {
		t.Fatalf("%s is missing: qemu/fetch daemons, and its bin in PATH", name)
	}
	t.Skipf("%s is missing: make check fetches it", name)
}

// newSSHD starts one. More lines go first in sshd_config: the first of a kind
// counts. Users are chrooted.
func newSSHD(t testing.TB, lines ...string) *sshd {
	t.Helper()
	return newSSHDWith(t, func(*sshd) []string { return lines })
}

// newSSHDWith is for lines that need to know the files of the server.
func newSSHDWith(t testing.TB, lines func(*sshd) []string) *sshd {
	t.Helper()
	if os.Getenv("UKDUMP_TEST_MOUNTS") == "" {
		t.Skip("needs root and a mount namespace, for users of its own")
	}
	program := findDaemon(t, "sshd")
	findDaemon(t, "ssh-keygen")
	s := &sshd{dir: t.TempDir(), program: program}
	s.place(t)
	for _, name := range []string{"host_ed25519", "host_ecdsa", "host_rsa", "host_other", "user_ed25519", "user_ecdsa", "user_rsa", "user_other", "ca"} {
		kind := strings.TrimPrefix(strings.TrimPrefix(name, "host_"), "user_")
		if kind == "other" || kind == "ca" {
			kind = "ed25519"
		}
		args := []string{"-t", kind, "-N", "", "-f", s.file(name)}
		if kind == "rsa" {
			args = append(args, "-b", "2048") // twice as fast to make
		}
		s.keygen(t, args...)
	}
	s.keygen(t, "-t", "ed25519", "-N", "secret", "-f", s.file("user_locked"))
	authorized := ""
	for _, name := range []string{"user_ed25519", "user_ecdsa", "user_rsa"} {
		authorized += "restrict " + s.text(t, name+".pub")
	}
	if err := os.WriteFile(s.top+"/authorized", []byte(authorized), 0o644); err != nil { // the user has to be able to read it
		t.Fatal(err)
	}
	s.write(t, "known_hosts", s.known(t, "host_ed25519", "host_ecdsa", "host_rsa"))
	s.write(t, "password", sshPassword+"\n")
	s.write(t, "wrong_password", "wrong\n")
	s.config = strings.Join(append(lines(s),
		"Port "+fmt.Sprint(s.port), "ListenAddress 127.0.0.1", "ListenAddress ::1",
		"HostKey "+s.file("host_ed25519"), "HostKey "+s.file("host_ecdsa"), "HostKey "+s.file("host_rsa"),
		"AuthorizedKeysFile "+s.top+"/authorized", "UsePAM no", "StrictModes no", "PidFile none", "UseDNS no", "LogLevel VERBOSE",
		"ForceCommand internal-sftp -u 0022", "Subsystem sftp internal-sftp -u 0022", "ChrootDirectory "+s.root, ""), "\n")
	s.start(t)
	t.Cleanup(func() {
		s.kill(t)
		if log, err := os.ReadFile(s.file("log")); err == nil && t.Failed() {
			t.Logf("sshd's log ends:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return s
}

func (s *sshd) file(name string) string { return filepath.Join(s.dir, name) }

func (s *sshd) write(t testing.TB, name, text string) string {
	t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.file(name)
}

func (s *sshd) text(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(s.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (s *sshd) keygen(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// known is lines of known_hosts.
func (s *sshd) known(t testing.TB, keys ...string) string {
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "127.0.0.1 %s", s.text(t, k+".pub"))
	}
	return b.String()
}

func (s *sshd) fingerprint(t testing.TB, key string) string {
	return strings.Fields(s.keygen(t, "-l", "-f", s.file(key+".pub")))[1]
}

func (s *sshd) makeDir(t testing.TB, dir string, uid int, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chown(dir, uid, uid), os.Chmod(dir, mode)); err != nil {
		t.Fatal(err)
	}
}

// mount mounts in the namespace of this process for the time of the test.
func mount(t testing.TB, source, on string, flags uintptr, data string) {
	t.Helper()
	if err := syscall.Mount(source, on, "tmpfs", flags, data); err != nil {
		t.Fatalf("mount %s: %v", on, err)
	}
	t.Cleanup(func() { syscall.Unmount(on, syscall.MNT_DETACH) })
}

// place takes a port that nobody has, and the directory of that name. Ports are
// below those that the kernel gives out: after a kill it still is free.
func (s *sshd) place(t testing.TB) {
	t.Helper()
	first := 20000 + os.Getpid()%100*100
	for s.port = first; s.port < first+1000; s.port++ {
		s.top = filepath.Join(serversDir, fmt.Sprint(s.port))
		if err := os.Mkdir(s.top, 0o755); errors.Is(err, os.ErrExist) {
			continue // another test has it
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(s.top) })
		l, err := net.Listen("tcp", fmt.Sprint(":", s.port))
		if err != nil {
			continue
		}
		l.Close()
		s.root = filepath.Join(s.top, "top")
		s.makeDir(t, s.root, 0, 0o755)
		s.makeDir(t, filepath.Join(s.root, "crash"), sshUID, 0o700)
		return
	}
	t.Fatal("no free port")
}

// answers waits until somebody listens there, for half a minute.
func answers(addr string) bool {
	for range 1500 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func (s *sshd) start(t testing.TB) {
	s.write(t, "config", s.config)
	s.cmd = exec.Command(s.program, "-D", "-f", s.file("config"), "-E", s.file("log"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Errorf("sshd: %v", err)
		return
	}
	if answers(s.addr()) {
		return
	}
	log, _ := os.ReadFile(s.file("log"))
	t.Errorf("sshd does not listen:\n%s", log)
}

func (s *sshd) kill(t testing.TB) {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *sshd) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// url is the chrooted directory dir, with the words of the query as given.
func (s *sshd) url(dir string, words ...string) string {
	if len(words) == 0 {
		words = []string{"key=" + s.file("user_ed25519"), "known_hosts=" + s.file("known_hosts")}
	}
	return fmt.Sprintf("sftp://%s@%s/%s?%s", sshUser, s.addr(), strings.ReplaceAll(dir, " ", "%20"), strings.Join(words, "&"))
}

// server is what the suite for servers wants to know.
func (s *sshd) server(t *testing.T) targetstest.Server {
	for _, dir := range []string{"small", "ro"} {
		s.makeDir(t, filepath.Join(s.root, dir), 0, 0o755)
	}
	mount(t, "tmpfs", filepath.Join(s.root, "small"), 0, fmt.Sprintf("size=512k,uid=%d", sshUID))
	mount(t, "tmpfs", filepath.Join(s.root, "ro"), syscall.MS_RDONLY, fmt.Sprintf("size=512k,uid=%d", sshUID))
	s.makeDir(t, filepath.Join(s.root, "denied"), 0, 0o755)
	key, known := "key="+s.file("user_ed25519"), "known_hosts="+s.file("known_hosts")
	good := s.url("x")
	refuse := func(url, says string) targetstest.Refusal { return targetstest.Refusal{URL: url, Says: says} }
	return targetstest.Server{
		URL: func(dir string) string {
			switch dir {
			case "small", "ro", "denied", "denied/new":
				return s.url(dir)
			}
			return s.url("crash/" + dir)
		},
		Behind: func(dir string) string { return filepath.Join(s.root, "crash", dir) },
		Small:  "small", ReadOnly: "ro", Denied: "denied",
		Refused: map[string]targetstest.Refusal{
			"key":             refuse(s.url("x", "key="+s.file("user_other"), known), "authorized_keys"),
			"password":        refuse(s.url("x", "password-file="+s.file("wrong_password"), known), "refused user "+sshUser+" with the password in"),
			"key with a lock": refuse(s.url("x", "key="+s.file("user_locked"), known), "passphrase"),
			"public key":      refuse(s.url("x", "key="+s.file("user_ed25519.pub"), known), "want the file that ssh-keygen"),
			"no key file":     refuse(s.url("x", "key=/none", known), "key=/none: open /none: no such file"),
			"user":            refuse(strings.Replace(good, sshUser, "nobody-there", 1), "refused user nobody-there"),
			"host key":        refuse(s.url("x", key, "known_hosts="+s.write(t, "known_other", s.known(t, "host_other"))), "not the one of known_hosts="),
			"unknown host":    refuse(s.url("x", key, "known_hosts="+s.write(t, "known_none", "192.0.2.1 "+s.text(t, "host_other.pub"))), "no line for it: if that is the server's key, add: [127.0.0.1]:"),
			"revoked":         refuse(s.url("x", key, "known_hosts="+s.write(t, "known_revoked", s.known(t, "host_ed25519")+"@revoked * "+s.text(t, "host_ed25519.pub"))), "revoked"),
			"fingerprint":     refuse(s.url("x", key, "fingerprint="+s.fingerprint(t, "host_other")), "not the one of fingerprint=SHA256:"),
			"known_hosts":     refuse(s.url("x", key, "known_hosts="+s.file("user_ed25519")), "want lines as ssh-keyscan writes them"),
		},
		Kill:  func(t *testing.T) { s.kill(t) },
		Start: func(t *testing.T) { s.start(t) },
		Line:  true, Resumes: true,
	}
}
