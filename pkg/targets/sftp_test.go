package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// The account has SFTP alone, in a chroot, as it should on a real server.
func TestSFTP(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	targetstest.RunServer(t, s.server(t))
}

// A server that knows neither limits@openssh.com nor fsync@openssh.com: the
// one of the Go library, in its own process behind sshd.
func TestSFTPOtherServer(t *testing.T) {
	t.Parallel()
	s := newSSHDWith(t, func(s *sshd) []string {
		return []string{"ChrootDirectory none", "ForceCommand UKDUMP_TEST_SFTP_SERVER=1 " + s.top + "/server -test.run=^TestSFTPServerProcess$"}
	})
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.top+"/server", self, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := s.root + "/crash/store"
	targetstest.Run(t, targetstest.Store{
		Open: func(t *testing.T) targets.Target { return open(t, s.url(dir[1:])) },
		Read: func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) },
	})
	var log syncLog
	tg := s.open(t, s.url(dir[1:]), targets.Options{Log: log.printf})
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("x"))
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if why := targets.Unconfirmed(f); !strings.Contains(why, "fsync@openssh.com") {
		t.Errorf("Unconfirmed: %q", why)
	}
	if !strings.Contains(log.String(), "64 writes of 32768 bytes") {
		t.Errorf("log: %s", log.String())
	}
}

// TestSFTPServerProcess is the server of TestSFTPOtherServer.
func TestSFTPServerProcess(t *testing.T) {
	if os.Getenv("UKDUMP_TEST_SFTP_SERVER") == "" {
		t.Skip("this is a part of TestSFTPOtherServer")
	}
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	if err == nil {
		err = server.Serve()
	}
	if err != nil && err != io.EOF {
		os.Exit(1)
	}
	os.Exit(0)
}

type syncLog struct{ text atomic.Value }

func (l *syncLog) String() string { s, _ := l.text.Load().(string); return s }

func (l *syncLog) printf(format string, a ...any) {
	for {
		old := l.text.Load()
		s, _ := old.(string)
		if l.text.CompareAndSwap(old, s+fmt.Sprintf(format, a...)+"\n") {
			return
		}
	}
}

func (s *sshd) open(t *testing.T, url string, o targets.Options) targets.Target {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tg, err := targets.Open(ctx, url, o)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return tg
}

func TestSFTPLogin(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	known := "known_hosts=" + s.file("known_hosts")
	for name, word := range map[string]string{
		"ed25519":              "key=" + s.file("user_ed25519"),
		"ecdsa":                "key=" + s.file("user_ecdsa"),
		"rsa":                  "key=" + s.file("user_rsa"),
		"password":             "password-file=" + s.file("password"),
		"password after a key": "key=" + s.file("user_other") + "&password-file=" + s.file("password"),
	} {
		t.Run(name, func(t *testing.T) { s.open(t, s.url("crash", word, known), targets.Options{}).Close() })
	}
	t.Run("IPv6", func(t *testing.T) {
		s.write(t, "known_v6", "[::1]:"+fmt.Sprint(s.port)+" "+s.text(t, "host_ed25519.pub"))
		url := strings.Replace(s.url("crash", "key="+s.file("user_ed25519"), "known_hosts="+s.file("known_v6")), "127.0.0.1", "[::1]", 1)
		s.open(t, url, targets.Options{}).Close()
	})
}

// The server has keys of three types and shows the one that it is asked for.
func TestSFTPHostKeys(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	hosts := func(name, text string) string { return "known_hosts=" + s.write(t, name, text) }
	ported := strings.ReplaceAll(s.known(t, "host_ed25519"), "127.0.0.1", fmt.Sprintf("[127.0.0.1]:%d", s.port))
	hosts("hashed", ported)
	s.keygen(t, "-H", "-f", s.file("hashed"))
	if strings.Contains(s.text(t, "hashed"), "127.0.0.1") {
		t.Fatal("ssh-keygen -H did nothing")
	}
	for name, word := range map[string]string{
		"ed25519 alone":                hosts("only1", s.known(t, "host_ed25519")),
		"ecdsa alone":                  hosts("only2", s.known(t, "host_ecdsa")),
		"rsa alone":                    hosts("only3", s.known(t, "host_rsa")),
		"two":                          hosts("two", s.known(t, "host_rsa", "host_ecdsa")),
		"with a port":                  hosts("port", ported),
		"hashed":                       "known_hosts=" + s.file("hashed"),
		"pattern":                      hosts("pattern", strings.Replace(s.known(t, "host_rsa"), "127.0.0.1", "# comment\n\n!10.0.0.1,127.0.*", 1)),
		"an old key of the same type":  hosts("old", s.known(t, "host_other", "host_ed25519")),
		"fingerprint ed25519":          "fingerprint=" + s.fingerprint(t, "host_ed25519"),
		"fingerprint ecdsa":            "fingerprint=" + s.fingerprint(t, "host_ecdsa"),
		"fingerprint rsa":              "fingerprint=" + s.fingerprint(t, "host_rsa"),
		"fingerprints, one of another": "fingerprint=" + s.fingerprint(t, "host_other") + "," + s.fingerprint(t, "host_ecdsa"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line := targetstest.NewLine(t)
			tg := s.open(t, s.url("crash", "key="+s.file("user_ed25519"), word), targets.Options{Dial: line.Dial, Log: t.Logf})
			defer tg.Close()
			line.Cut() // the next connection asks for the same
			if _, err := tg.List(t.Context(), ""); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSFTPHostCertificate(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	s.kill(t)
	s.keygen(t, "-s", s.file("ca"), "-I", "host", "-h", "-n", "127.0.0.1,localhost", "-V", "-1h:+1h", s.file("host_ed25519.pub"))
	s.config = "HostCertificate " + s.file("host_ed25519-cert.pub") + "\n" + s.config
	s.start(t)
	key := "key=" + s.file("user_ed25519")
	hosts := func(name, text string) string { return "known_hosts=" + s.write(t, name, text) }
	for name, word := range map[string]string{
		"authority":                hosts("ca_line", "@cert-authority 127.0.0.* "+s.text(t, "ca.pub")),
		"a plain key, without one": hosts("plain", s.known(t, "host_ed25519")),
		"both":                     hosts("both", s.known(t, "host_rsa")+"@cert-authority * "+s.text(t, "ca.pub")),
		"fingerprint":              "fingerprint=" + s.fingerprint(t, "host_ed25519"),
	} {
		t.Run(name, func(t *testing.T) { s.open(t, s.url("crash", key, word), targets.Options{}).Close() })
	}
	_, err := targets.Open(t.Context(), s.url("crash", key, hosts("other_ca", "@cert-authority * "+s.text(t, "host_other.pub"))), targets.Options{})
	var e *targets.Error
	if !errors.As(err, &e) || e.Temporary || !strings.Contains(err.Error(), "host key refused") {
		t.Errorf("another authority: %v", err)
	}
	t.Log(err)
}

// Accounts that have no SFTP are told apart from servers that are away.
func TestSFTPNotOffered(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"no subsystem":    "Subsystem none /bin/false",
		"a shell's words": "ForceCommand echo Welcome to the machine; exec cat",
		"nothing":         "ForceCommand true",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSSHD(t, "ChrootDirectory none", line)
			if name == "no subsystem" {
				s.kill(t)
				s.config = strings.Replace(s.config, "Subsystem sftp", "# ", 1)
				s.start(t)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := targets.Open(ctx, s.url("crash"), targets.Options{})
			var e *targets.Error
			if !errors.As(err, &e) || e.Temporary || !strings.Contains(err.Error(), "sshd_config wants: Subsystem sftp") {
				t.Errorf("%v", err)
			}
			t.Log(err)
		})
	}
}

// A server whose SSH answers and whose SFTP does not, as when its disk hangs:
// keepalives alone would never find out.
func TestSFTPServerHangs(t *testing.T) {
	t.Parallel()
	var note string
	s := newSSHDWith(t, func(s *sshd) []string {
		note = s.top + "/pid"
		return []string{"ChrootDirectory none", "ForceCommand read pid rest < /proc/self/stat; echo $pid >> " + note + "; exec /usr/lib/openssh/sftp-server"}
	})
	if err := os.WriteFile(note, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(note, 0o666)
	var log syncLog
	tg := s.open(t, s.url(s.root[1:]+"/crash"), targets.Options{Log: log.printf, Stall: 2 * time.Second, Reconnect: time.Minute})
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	if _, err := f.Write(data[:3<<20]); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(note) // one each channel: there are more where the machine is busy, so that the server seems far away
	stopped := 0
	for _, line := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		var comm []byte // the shell's at first
		for end := time.Now().Add(10 * time.Second); !strings.HasPrefix(string(comm), "sftp-server"); time.Sleep(5 * time.Millisecond) {
			comm, err = os.ReadFile("/proc/" + line + "/comm")
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) { // of a channel that is closed
				break
			}
			if err != nil || time.Now().After(end) {
				t.Fatalf("process %s is %q: %v", line, comm, err)
			}
		}
		if err == nil && syscall.Kill(pid, syscall.SIGSTOP) == nil {
			stopped++
		}
	}
	if stopped == 0 {
		t.Fatalf("no server to stop: %q", text)
	}
	start := time.Now()
	if _, err := f.Write(data[3<<20:]); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("went on after %v", took)
	}
	for _, want := range []string{"the connection was lost: no answer from the SFTP server for ", "vmcore goes on at byte "} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
	if got, err := os.ReadFile(s.root + "/crash/vmcore"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A server that was restarted may have lost bytes that it had acknowledged.
// They are not here any more either, so the file has failed.
func TestSFTPServerForgets(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	line := targetstest.NewLine(t)
	tg := s.open(t, s.url("crash"), targets.Options{Log: t.Logf, Dial: line.Dial})
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.(io.ReaderAt).ReadAt(make([]byte, 1), 0); err != nil { // now all is acknowledged
		t.Fatal(err)
	}
	line.Down(true)
	line.Cut()
	if err := os.Truncate(s.root+"/crash/vmcore-incomplete", 4<<20-1); err != nil {
		t.Fatal(err)
	}
	line.Down(false)
	f.Write(make([]byte, 1<<20))
	err = f.Commit()
	var e *targets.Error
	if !errors.As(err, &e) || !e.Temporary || !strings.Contains(err.Error(), "4194303 bytes of 4194304 that it had acknowledged") {
		t.Errorf("%v", err)
	}
}

// A server that has gone for good is given up after Options.Reconnect, however many
// writes wait for it: they try to connect in turns.
func TestSFTPServerGone(t *testing.T) {
	s := newSSHD(t)
	line := targetstest.NewLine(t)
	tg := s.open(t, s.url("crash"), targets.Options{Log: t.Logf, Dial: line.Dial, Stall: 2 * time.Second, Reconnect: 4 * time.Second})
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	line.Down(true)
	line.Cut()
	start := time.Now()
	for err == nil {
		_, err = f.Write(make([]byte, 1<<20))
	}
	if took := time.Since(start); took > 30*time.Second { // 4 s, and a try to connect at its longest interval
		t.Errorf("given up after %v: %v", took, err)
	}
	f.Close()
	start = time.Now()
	if _, err := tg.Create(t.Context(), "capture.log"); err == nil {
		t.Error("a file of a server that is gone: no error")
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the next file took %v", took)
	}
}

// Who is told to end does not wait for what a bad line still has to send, and what is
// with the server already can be committed all the same.
func TestSFTPToldToEnd(t *testing.T) {
	s := newSSHD(t)
	line := targetstest.NewLine(t)
	tg := s.open(t, s.url("crash"), targets.Options{Log: t.Logf, Dial: line.Dial, Stall: time.Minute, Reconnect: time.Minute})
	defer tg.Close()
	ctx, end := context.WithCancel(t.Context())
	whole, err := tg.Create(ctx, "whole")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := whole.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := whole.(io.ReaderAt).ReadAt(make([]byte, 1), 0); err != nil { // now all is acknowledged
		t.Fatal(err)
	}
	half, err := tg.Create(ctx, "half")
	if err != nil {
		t.Fatal(err)
	}
	line.Silence(true)
	failed := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = half.Write(make([]byte, 1<<20))
		}
		half.Close()
		failed <- err
	}()
	time.Sleep(time.Second / 2)
	end()
	select {
	case err := <-failed:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("failed with %v, want that the context has ended", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the file waits for the line")
	}
	line.Silence(false)
	if err := whole.Commit(); err != nil {
		t.Errorf("commit of a file that was with the server: %v", err)
	}
}

// What a server cannot take is held back at the writer, in a buffer that has a
// bound.
func TestSFTPBufferIsBounded(t *testing.T) {
	t.Parallel()
	for name, far := range map[string]bool{"near": false, "far": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bufferIsBounded(t, far)
		})
	}
}

func bufferIsBounded(t *testing.T, far bool) {
	line := targetstest.NewLine(t)
	if far {
		line.Delay(20 * time.Millisecond)
	}
	s := newSSHD(t)
	var log syncLog
	tg := s.open(t, s.url("crash"), targets.Options{Log: log.printf, Dial: line.Dial, Stall: 10 * time.Second, Reconnect: time.Millisecond})
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	var inFlight, size int64
	_, text, _ := strings.Cut(log.String(), sshUser+", ")
	fmt.Sscanf(text, "%d writes of %d bytes", &inFlight, &size)
	// To a machine that is busy enough, nothing is near.
	if size != 261120 || inFlight != 24 && (inFlight != 8 || far) {
		t.Fatalf("log: %s", log.String())
	}
	most := (inFlight + 2) * size
	line.Silence(true)
	var taken atomic.Int64
	failed := make(chan error)
	go func() {
		for {
			n, err := f.Write(make([]byte, 10000))
			taken.Add(int64(n))
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	if err := <-failed; err == nil {
		t.Error("no error")
	}
	if n := taken.Load(); n > most || n < most-10000 {
		t.Errorf("took %d bytes of a server that is silent, want %d", n, most)
	}
	tg.Close()
}

// One that reads in order gets more than it asked for at once; not what was
// there before a write.
func TestSFTPReadBack(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	line := targetstest.NewLine(t)
	line.Delay(5 * time.Millisecond)
	tg := s.open(t, s.url("crash"), targets.Options{Log: t.Logf, Dial: line.Dial})
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 9<<20+5)
	for i := range data {
		data[i] = byte(i ^ i>>9 ^ i>>17)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	r := f.(io.ReaderAt)
	start := time.Now()
	got := make([]byte, 0, len(data))
	for buf := make([]byte, 10007); ; {
		n, err := r.ReadAt(buf, int64(len(got)))
		got = append(got, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 6*10007 {
			copy(data[5<<20:], "changed")
			if _, err := f.(io.WriterAt).WriteAt([]byte("changed"), 5<<20); err != nil {
				t.Fatal(err)
			}
			copy(data[100_000:], "changed")
			if _, err := f.(io.WriterAt).WriteAt([]byte("changed"), 100_000); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%d bytes read, not those that were written", len(got))
	}
	if took := time.Since(start); took > 9*time.Second { // 943 round trips would be 9.4 s
		t.Errorf("took %v", took)
	}
	if err := f.Commit(); err != nil {
		t.Error(err)
	}
}

func TestSFTPURL(t *testing.T) {
	const pin = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
	s, err := targets.Parse("sftp://kdump@crash.example.com:2222/srv/crash?key=/etc/kdump/key&password-file=/etc/kdump/pw&known_hosts=/etc/kdump/known_hosts")
	if err != nil || s.User != "kdump" || s.Port != 2222 || !s.Network() || len(s.Files()) != 3 || s.Modules() != nil {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := targets.Parse("sftp://u@h/?key=/k&fingerprint=" + pin + "," + pin); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"sftp://h/x?key=/k&known_hosts=/h":                       "no user",
		"sftp://u@h/x?known_hosts=/h":                            "want key=FILE",
		"sftp://u@h/x?key=/k":                                    "want known_hosts=FILE, or fingerprint=",
		"sftp://u@h/x?key=/k&known_hosts=/h&fingerprint=" + pin:  "want one of them",
		"sftp://u@h/x?key=/k&fingerprint=MD5:00:11":              "want SHA256:",
		"sftp://u@h/x?key=/k&fingerprint=" + pin + "A":           "want SHA256:",
		"sftp://u@h/x?key=/k&fingerprint=" + pin + ",":           "want SHA256:",
		"sftp://u:pw@h/x?key=/k&known_hosts=/h":                  "password-file=/etc/kdump/pw",
		"sftp://u@h/x?key=/k&known_hosts=/h&known-hosts=/etc/kh": "want key, password-file, known_hosts, fingerprint",
	} {
		if _, err := targets.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
