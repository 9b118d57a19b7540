package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

func TestFTP(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"vsftpd", "proftpd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			targetstest.RunServer(t, newFTPD(t, kind).server(t))
		})
	}
}

// A server that does not let a transfer begin in the middle of a file: files
// without WriteAt, and what is lost with a connection is lost.
func TestFTPWithoutRestart(t *testing.T) {
	t.Parallel()
	s := newFTPD(t, "proftpd", "AllowStoreRestart off").server(t)
	s.Stream, s.Resumes, s.Line = true, false, false
	targetstest.RunServer(t, s)
}

func TestFTPS(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind string
		lines      func(*ftpd) []string
		line       bool // cases on a bad line: they take long, and are the same for all
	}{
		{"vsftpd", "vsftpd", (*ftpd).vsftpdTLS, true},
		{"proftpd TLS 1.3", "proftpd", func(s *ftpd) []string { return s.proftpdTLS("TLSv1.3") }, false},
		{"proftpd TLS 1.2", "proftpd", func(s *ftpd) []string { return s.proftpdTLS("TLSv1.2") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newFTPDWith(t, c.kind, c.lines).server(t)
			s.Line = c.line
			targetstest.RunServer(t, s)
		})
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// sendAndSee stores a file and reads it from behind.
func sendAndSee(t *testing.T, s *ftpd, url string, o targets.Options) {
	t.Helper()
	o.Log = t.Logf
	tg := openWith(t, t.Context(), url, o)
	defer tg.Close()
	f, err := tg.Create(t.Context(), "d/vmcore")
	if err != nil {
		t.Fatal(err)
	}
	all := pattern(3<<20 + 17)
	_, err = f.Write(all)
	if err == nil {
		_, err = f.(io.WriterAt).WriteAt(all[100:200], 100)
	}
	if err := errors.Join(err, f.Commit()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(s.root, "crash/d/vmcore"))
	if err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(all))
	}
	if entries, err := tg.List(t.Context(), "d"); err != nil || len(entries) != 1 || entries[0].Size != int64(len(all)) {
		t.Errorf("List: %v, %v", entries, err)
	}
}

func TestFTPOverIPv6(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"vsftpd", "proftpd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newFTPDOn(t, "::1", kind, func(s *ftpd) []string {
				if kind == "proftpd" {
					return []string{"UseIPv6 on"}
				}
				return nil
			})
			sendAndSee(t, s, s.url("crash"), targets.Options{})
		})
	}
}

// A server that knows no EPSV, and whose PASV tells an address that does not
// lead to it, as behind a NAT.
func TestFTPWithPASV(t *testing.T) {
	t.Parallel()
	s := newFTPD(t, "vsftpd", "cmds_denied=EPSV", "pasv_address=192.0.2.1")
	var mu sync.Mutex
	var hosts []string
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		host, _, _ := net.SplitHostPort(addr)
		hosts = append(hosts, host)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	sendAndSee(t, s, s.url("crash"), targets.Options{Dial: dial})
	for _, h := range hosts {
		if h != "127.0.0.1" {
			t.Errorf("connected to %s", h)
		}
	}
	if len(hosts) < 4 {
		t.Errorf("only %d connections", len(hosts))
	}
}

// wire records what goes through connections.
type wire struct {
	mu    sync.Mutex
	bytes bytes.Buffer
	conns int
}

type tapped struct {
	*net.TCPConn
	w *wire
}

func (c tapped) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.w.add(p[:n])
	return n, err
}

func (c tapped) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.w.add(p[:n])
	return n, err
}

func (w *wire) add(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes.Write(p)
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns++
	return tapped{c.(*net.TCPConn), w}, nil
}

// TestFTPSOnTheWire guards against data connections in the clear, as one gets
// them when only the control connection is made private. Without TLS the same
// search finds what it looks for.
func TestFTPSOnTheWire(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind string
		lines      func(*ftpd) []string
		open       bool
	}{
		{"ftp", "vsftpd", nil, true},
		{"vsftpd", "vsftpd", (*ftpd).vsftpdTLS, false},
		{"proftpd TLS 1.3", "proftpd", func(s *ftpd) []string { return s.proftpdTLS("TLSv1.3") }, false},
		{"proftpd TLS 1.2", "proftpd", func(s *ftpd) []string { return s.proftpdTLS("TLSv1.2") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newFTPDWith(t, c.kind, c.lines)
			var w wire
			sendAndSee(t, s, s.url("crash"), targets.Options{Dial: w.dial})
			sent := w.bytes.Bytes()
			if w.conns < 5 || len(sent) < 3<<20 {
				t.Fatalf("only %d connections with %d bytes", w.conns, len(sent))
			}
			for what, secret := range map[string][]byte{
				"the password": []byte(sshPassword), "a file's name": []byte("vmcore"), "a file's bytes": pattern(200)[100:164],
			} {
				if found := bytes.Contains(sent, secret); found != c.open {
					t.Errorf("%s on the wire: %v, want %v", what, found, c.open)
				}
			}
		})
	}
}

func TestFTPSImplicit(t *testing.T) {
	t.Parallel()
	s := newFTPDWith(t, "vsftpd", func(s *ftpd) []string { return append(s.vsftpdTLS(), "implicit_ssl=YES") })
	sendAndSee(t, s, s.url("crash", "password-file="+s.file("password"), "fingerprint="+s.pin(t, "server"), "implicit=1"), targets.Options{})
}

// Pins are of the certificate, as openssl shows it, and one of several may do.
func TestFTPSFingerprint(t *testing.T) {
	t.Parallel()
	s := newFTPDWith(t, "vsftpd", (*ftpd).vsftpdTLS)
	pin := strings.ToUpper(s.pin(t, "server"))
	sendAndSee(t, s, s.url("crash", "password-file="+s.file("password"), "fingerprint="+s.pin(t, "other")+","+pin), targets.Options{})

	_, err := targets.Open(t.Context(), s.url("crash", "password-file="+s.file("password"), "fingerprint="+s.pin(t, "other")), targets.Options{})
	if err == nil {
		t.Fatal("a certificate that is not pinned was accepted")
	}
	shown := regexp.MustCompile(`fingerprint=(SHA256:[0-9A-F:]+)$`).FindStringSubmatch(err.Error())
	if shown == nil {
		t.Fatalf("%v: shows no fingerprint", err)
	}
	if shown[1] != "SHA256:"+colons(pin) {
		t.Errorf("shows %s, and openssl %s", shown[1], pin)
	}
}

// colons is a fingerprint as openssl writes it.
func colons(pin string) string {
	digits := strings.TrimPrefix(pin, "SHA256:")
	var pairs []string
	for ; digits != ""; digits = digits[2:] {
		pairs = append(pairs, digits[:2])
	}
	return strings.Join(pairs, ":")
}

// Anonymous users who may change what they wrote.
func TestFTPAnonymous(t *testing.T) {
	t.Parallel()
	s := newFTPD(t, "vsftpd", "anonymous_enable=YES", "anon_upload_enable=YES", "anon_mkdir_write_enable=YES", "anon_other_write_enable=YES",
		"anon_umask=022", "anon_world_readable_only=NO", "no_anon_password=NO")
	sendAndSee(t, s, "ftp://"+s.addr()+"/crash", targets.Options{})
}

// Where anonymous users may not change what they sent, the first file tells.
func TestFTPUploadOnly(t *testing.T) {
	t.Parallel()
	s := newFTPD(t, "vsftpd", "anonymous_enable=YES", "anon_upload_enable=YES", "anon_mkdir_write_enable=YES", "anon_umask=022")
	tg := openWith(t, t.Context(), "ftp://"+s.addr()+"/crash", targets.Options{Log: t.Logf})
	defer tg.Close()
	_, err := tg.Create(t.Context(), "vmcore")
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "may user anonymous make, overwrite, rename and delete files in /crash") {
		t.Errorf("Create: %v", err)
	}
}

// How much the server has is asked on a second connection while it is sent more.
// Where there is no answer the transfer is ended now and then; a cut is got over
// both ways.
func TestFTPSizes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, line string
		asks       bool
	}{
		{"plain", "", true},
		{"one connection", "max_per_ip=1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var lines []string
			if c.line != "" {
				lines = append(lines, c.line)
			}
			s := newFTPD(t, "vsftpd", lines...)
			line := targetstest.NewLine(t)
			var mu sync.Mutex
			var log strings.Builder
			printf := func(format string, a ...any) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(&log, format+"\n", a...)
			}
			// The server may still count the connection that found it listening.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			tg := openWith(t, ctx, s.url("crash"), targets.Options{Dial: line.Dial, Log: printf})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "vmcore")
			if err != nil {
				t.Fatal(err)
			}
			all := pattern(48 << 20)
			for _, part := range [][]byte{all[:40<<20], all[40<<20:]} {
				if _, err := f.Write(part); err != nil {
					t.Fatal(err)
				}
				line.Cut()
			}
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(s.root, "crash/vmcore"))
			if err != nil || !bytes.Equal(got, all) {
				t.Errorf("%d bytes arrived, %v", len(got), err)
			}
			if said := strings.Contains(log.String(), "does not say how much it has"); said == c.asks {
				t.Errorf("log:\n%s", log.String())
			}
			// Three find out whether the server can restart; one is the beginning, and two
			// go on after a cut.
			if stores := strings.Count(s.text(t, "log"), "FTP command: Client \"127.0.0.1\", \"STOR "); c.asks && stores > 8 {
				t.Errorf("%d transfers", stores)
			}
		})
	}
}

// What a server takes within one call of a file is told while it does: a gap that is
// filled with zeros, and the bytes that wait when a file is committed.
func TestMoved(t *testing.T) {
	t.Parallel()
	const gap = 48 << 20
	ftp, ssh := newFTPD(t, "vsftpd"), newSSHD(t)
	for name, open := range map[string]func(targets.Options) targets.Target{
		"ftp":  func(o targets.Options) targets.Target { return openWith(t, t.Context(), ftp.url("crash"), o) },
		"sftp": func(o targets.Options) targets.Target { return ssh.open(t, ssh.url("crash"), o) },
	} {
		var moved atomic.Int64
		tg := open(targets.Options{Log: t.Logf, Moved: func() { moved.Add(1) }})
		defer tg.Close()
		f, err := tg.Create(t.Context(), "vmcore")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.(io.WriterAt).WriteAt([]byte{1}, gap); err != nil {
			t.Fatal(err)
		}
		if n := moved.Load(); name == "ftp" && n < gap>>20 {
			t.Errorf("%s: told %d times within a call that sent %d MiB", name, n, gap>>20)
		}
		before := moved.Load()
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		if moved.Load() == before {
			t.Errorf("%s: not told of what a commit sends", name)
		}
	}
}

// A server whose program hangs: what it does not take is noticed, and so is
// that it does not answer, be it in the middle of a file or behind its last byte,
// when all of it waits in sockets.
func TestFTPServerStopped(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]int{"in the middle": 64, "at the end": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFTPD(t, "vsftpd")
			const stall, reconnect = time.Second, 2 * time.Second
			var moved atomic.Int64
			tg := openWith(t, t.Context(), s.url("crash"), targets.Options{Log: t.Logf, Stall: stall, Reconnect: reconnect, Moved: func() { moved.Add(1) }})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "vmcore")
			if err != nil {
				t.Fatal(err)
			}
			b := pattern(1 << 20)
			if _, err := f.Write(b); err != nil {
				t.Fatal(err)
			}
			processes := s.processes(t)
			for _, pid := range processes {
				syscall.Kill(pid, syscall.SIGSTOP)
			}
			defer func() {
				for _, pid := range processes {
					syscall.Kill(pid, syscall.SIGCONT)
				}
			}()
			start := time.Now()
			for n := 0; n < more && err == nil; n++ {
				_, err = f.Write(b)
			}
			if err == nil {
				err = f.Commit()
			}
			var e *targets.Error
			if !errors.As(err, &e) || !e.Temporary {
				t.Errorf("%v: want a temporary error", err)
			}
			if n := moved.Load(); n > 80 { // 20 MiB: more than two sockets hold
				t.Errorf("told %d times that it has taken something", n)
			}
			if took := time.Since(start); took < stall/2 || took > 2*stall+reconnect+20*time.Second {
				t.Errorf("took %v", took)
			}
			t.Logf("%.1f s: %v", time.Since(start).Seconds(), err)
		})
	}
}
