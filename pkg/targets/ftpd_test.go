package targets_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/targetstest"
)

// ftpd is vsftpd or proftpd with a configuration of its own, in the same
// namespaces as sshd.
type ftpd struct {
	*sshd   // its files, users and directories; not its server
	kind    string
	program string
	args    []string
	env     []string
	host    string // that it listens on
	tls     bool
}

// newFTPD starts one on 127.0.0.1; more lines overrule those that all have.
func newFTPD(t testing.TB, kind string, lines ...string) *ftpd {
	t.Helper()
	return newFTPDWith(t, kind, func(*ftpd) []string { return lines })
}

// newFTPDWith is for lines that need to know the files of the server; lines may
// be nil.
func newFTPDWith(t testing.TB, kind string, lines func(*ftpd) []string) *ftpd {
	t.Helper()
	return newFTPDOn(t, "127.0.0.1", kind, lines)
}

func newFTPDOn(t testing.TB, host, kind string, more func(*ftpd) []string) *ftpd {
	t.Helper()
	if os.Getenv("UKDUMP_TEST_MOUNTS") == "" {
		t.Skip("needs root and a mount namespace, for users of its own")
	}
	s := &ftpd{sshd: &sshd{dir: t.TempDir()}, kind: kind, host: host}
	s.findProgram(t)
	s.place(t)
	s.write(t, "password", sshPassword+"\n")
	s.write(t, "wrong_password", "wrong\n")
	s.certificate(t, "server", host)
	s.certificate(t, "other", host)
	lines := s.proftpd
	if kind == "vsftpd" {
		lines = s.vsftpd
	}
	config := lines(t)
	if more != nil {
		config = append(config, more(s)...)
	}
	config = lastOfEach(config)
	s.config = strings.Join(config, "\n") + "\n"
	s.tls = strings.Contains(s.config, "server.pem")
	if s.start(t); t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		s.kill(t)
		if log, err := os.ReadFile(s.file("log")); err == nil && t.Failed() {
			t.Logf("%s's log ends:\n%s", kind, log[max(0, len(log)-6000):])
		}
	})
	return s
}

// lastOfEach drops lines that a later one overrules: vsftpd takes the last, and
// proftpd the first.
func lastOfEach(lines []string) []string {
	word := func(line string) string { return line[:strings.IndexAny(line+" ", " =")] }
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		i := slices.Index(lines, line)
		return slices.ContainsFunc(lines[i+1:], func(later string) bool { return word(later) == word(line) })
	})
}

// findProgram takes the server of this machine, or of the trees that make fetches.
func (s *ftpd) findProgram(t testing.TB) {
	t.Helper()
	for _, tree := range []string{"/", "first", "second"} {
		if tree != "/" {
			tree = filepath.Join(os.Getenv("UKDUMP_CACHE"), "daemons", tree)
			s.env = []string{fmt.Sprintf("LD_LIBRARY_PATH=%[1]s/usr/lib/x86_64-linux-gnu:%[1]s/lib/x86_64-linux-gnu", tree)}
		}
		s.program = filepath.Join(tree, "usr/sbin", s.kind)
		if _, err := os.Stat(s.program); err == nil {
			return
		}
	}
	missing(t, s.kind)
}

// certificate makes NAME.pem, with its key, for an address; it is its own
// authority.
func (s *ftpd) certificate(t testing.TB, name, host string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write(t, name+".crt", cert)
	s.write(t, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))+cert)
}

func (s *ftpd) pin(t testing.TB, name string) string {
	b, _ := pem.Decode([]byte(s.text(t, name+".crt")))
	return fmt.Sprintf("SHA256:%x", sha256.Sum256(b.Bytes))
}

func (s *ftpd) vsftpd(t testing.TB) []string {
	t.Helper()
	empty := s.file("empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	address := "listen_address=" + s.host
	if strings.Contains(s.host, ":") {
		address = "listen=NO\nlisten_ipv6=YES\nlisten_address6=" + s.host
	}
	s.args = []string{s.file("config")}
	return []string{"listen=YES", address, "listen_port=" + fmt.Sprint(s.port), "background=NO", "seccomp_sandbox=NO", "isolate=NO", "isolate_network=NO",
		"secure_chroot_dir=" + empty, "nopriv_user=nobody", "ftp_username=" + sshUser, "pam_service_name=vsftpd",
		"anonymous_enable=NO", "local_enable=YES", "write_enable=YES", "local_umask=022",
		"chroot_local_user=YES", "pasv_min_port=35000", "pasv_max_port=60000", "allow_writeable_chroot=YES", "local_root=" + s.root, "anon_root=" + s.root,
		"xferlog_enable=YES", "log_ftp_protocol=YES", "vsftpd_log_file=" + s.file("log")}
}

// vsftpdTLS are lines for TLS; sessions have to be resumed by data connections.
func (s *ftpd) vsftpdTLS() []string {
	return []string{"ssl_enable=YES", "rsa_cert_file=" + s.file("server.pem"), "require_ssl_reuse=YES",
		"force_local_logins_ssl=YES", "force_local_data_ssl=YES", "ssl_ciphers=HIGH", "strict_ssl_read_eof=YES"}
}

func (s *ftpd) proftpd(t testing.TB) []string {
	t.Helper()
	hash, err := cryptPassword()
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "users", fmt.Sprintf("%s:%s:%d:%d::/:/bin/sh\n", sshUser, hash, sshUID, sshUID))
	modules := strings.TrimSuffix(s.program, "sbin/proftpd") + "lib/proftpd"
	s.args = []string{"-n", "-q", "-c", s.file("config")}
	return []string{"ServerType standalone", "ModulePath " + modules, "UseIPv6 off", "DefaultAddress " + s.host, "SocketBindTight on", "Port " + fmt.Sprint(s.port),
		"User nobody", "Group nogroup", "AuthUserFile " + s.file("users"), "AuthOrder mod_auth_file.c", "RequireValidShell off",
		"DefaultRoot " + s.root, "Umask 022", "AllowStoreRestart on", "AllowOverwrite on", "UseReverseDNS off", "WtmpLog off", "TransferLog none",
		"PassivePorts 35000 60000", "PidFile " + s.file("pid"), "ScoreboardFile " + s.file("scoreboard"), "DelayTable none", "SystemLog " + s.file("log"), "MaxInstances none"}
}

// proftpdTLS are lines for TLS of one version, "TLSv1.2" or "TLSv1.3".
func (s *ftpd) proftpdTLS(version string) []string {
	return []string{"LoadModule mod_tls.c", "TLSEngine on", "TLSSessionTickets on", "TLSRequired on", "TLSProtocol " + version,
		"TLSECCertificateFile " + s.file("server.crt"), "TLSECCertificateKeyFile " + s.file("server.pem"), "TLSVerifyClient off", "TLSLog " + s.file("log")}
}

func (s *ftpd) start(t testing.TB) {
	s.write(t, "config", s.config)
	// A shell is process 1: vsftpd ends where it is, and gets orphans to reap.
	s.cmd = exec.Command("sh", append([]string{"-c", `"$0" "$@"; exit $?`, s.program}, s.args...)...)
	s.cmd.Env = append(os.Environ(), s.env...)
	out, err := os.OpenFile(s.file("out"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Error(err)
		return
	}
	defer out.Close()
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Errorf("%s: %v", s.kind, err)
		return
	}
	if answers(s.addr()) {
		return
	}
	text, _ := os.ReadFile(s.file("out"))
	log, _ := os.ReadFile(s.file("log"))
	t.Errorf("%s does not listen:\n%s\n%s", s.kind, text, log)
}

func (s *ftpd) addr() string { return net.JoinHostPort(s.host, fmt.Sprint(s.port)) }

// url is the directory dir, with the words of the query as given.
func (s *ftpd) url(dir string, words ...string) string {
	scheme := "ftp"
	if s.tls {
		scheme = "ftps"
	}
	if len(words) == 0 {
		words = []string{"password-file=" + s.file("password")}
		if s.tls {
			words = append(words, "ca="+s.file("server.crt"))
		}
	}
	return fmt.Sprintf("%s://%s@%s/%s?%s", scheme, sshUser, s.addr(), strings.ReplaceAll(dir, " ", "%20"), strings.Join(words, "&"))
}

// server is what the suite for servers wants to know.
func (s *ftpd) server(t *testing.T) targetstest.Server {
	for _, dir := range []string{"small", "ro"} {
		s.makeDir(t, filepath.Join(s.root, dir), 0, 0o755)
	}
	mount(t, "tmpfs", filepath.Join(s.root, "small"), 0, fmt.Sprintf("size=512k,uid=%d", sshUID))
	mount(t, "tmpfs", filepath.Join(s.root, "ro"), syscall.MS_RDONLY, fmt.Sprintf("size=512k,uid=%d", sshUID))
	s.makeDir(t, filepath.Join(s.root, "denied"), 0, 0o755)
	good := s.url("x")
	refuse := func(url, says string) targetstest.Refusal { return targetstest.Refusal{URL: url, Says: says} }
	r := map[string]targetstest.Refusal{
		"password":         refuse(strings.Replace(good, "/password", "/wrong_password", 1), "is the password in "+s.file("wrong_password")+" right"),
		"user":             refuse(strings.Replace(good, sshUser, "nobody-there", 1), "the login of nobody-there"),
		"no password file": refuse(strings.Replace(good, s.file("password"), "/none", 1), "password-file=/none: open /none: no such file"),
	}
	if s.tls {
		password := "password-file=" + s.file("password")
		r["fingerprint"] = refuse(s.url("x", password, "fingerprint="+s.pin(t, "other")), "if that is the server, write fingerprint=SHA256:")
		r["ca"] = refuse(s.url("x", password, "ca="+s.file("other.crt")), "certificate signed by unknown authority")
		r["no certificate"] = refuse(s.url("x", password, "ca="+s.file("password")), "holds no certificate")
	}
	return targetstest.Server{
		URL: func(dir string) string {
			switch dir {
			case "small", "ro", "denied", "denied/new":
				return s.url(dir)
			}
			return s.url("crash/" + dir)
		},
		Behind: func(dir string) string { return filepath.Join(s.root, "crash", dir) },
		Small:  "small", ReadOnly: "ro", Denied: "denied", Refused: r,
		Kill:  func(t *testing.T) { s.kill(t) },
		Start: func(t *testing.T) { s.start(t) },
		Line:  true, Resumes: true,
	}
}

// processes are all of the server, the shell in front of it included.
func (s *ftpd) processes(t testing.TB) []int {
	t.Helper()
	pids := family(s.cmd.Process.Pid)
	if len(pids) < 3 {
		t.Fatalf("processes %v: no child for the connection", pids)
	}
	return pids
}

// family is a process and all that it started.
func family(first int) []int {
	var pids []int
	for next := []int{first}; len(next) > 0; next = next[1:] {
		pids = append(pids, next[0])
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", next[0]))
		for _, name := range tasks {
			text, _ := os.ReadFile(name)
			for _, f := range strings.Fields(string(text)) {
				var pid int
				fmt.Sscan(f, &pid)
				next = append(next, pid)
			}
		}
	}
	return pids
}
