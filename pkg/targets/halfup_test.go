package targets_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// halfUp is a server that was rebooted: it answers, and its disk is not mounted yet.
type halfUp struct {
	url, root string
	line      *targetstest.Line
}

func halfUpServers() map[string]func(t *testing.T) halfUp {
	return map[string]func(t *testing.T) halfUp{
		"OpenSSH": func(t *testing.T) halfUp {
			s := newSSHD(t)
			return halfUp{s.url("crash"), s.root, targetstest.NewLine(t)}
		},
		"vsftpd": func(t *testing.T) halfUp {
			s := newFTPD(t, "vsftpd")
			return halfUp{s.url("crash"), s.root, targetstest.NewLine(t)}
		},
		"proftpd": func(t *testing.T) halfUp {
			s := newFTPD(t, "proftpd")
			return halfUp{s.url("crash"), s.root, targetstest.NewLine(t)}
		},
	}
}

// reboot cuts all connections and takes the disk away.
func (h halfUp) reboot(t *testing.T) {
	t.Helper()
	h.line.Down(true)
	h.line.Cut()
	if err := os.Rename(h.root+"/crash", h.root+"/unmounted"); err != nil {
		t.Fatal(err)
	}
	h.line.Down(false)
}

func (h halfUp) mounted() error { return os.Rename(h.root+"/unmounted", h.root+"/crash") }

func (h halfUp) open(t *testing.T, o targets.Options) targets.Target {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o.Log, o.Dial = t.Logf, h.line.Dial
	return openWith(t, ctx, h.url, o)
}

// A server that is back before its disk is waited for, in the middle of a file, while it
// is read back, and at its end.
func TestServerHalfUp(t *testing.T) {
	t.Parallel()
	for name, server := range halfUpServers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := server(t)
			tg := h.open(t, targets.Options{Stall: 10 * time.Second, Reconnect: time.Minute})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "d/vmcore")
			if err != nil {
				t.Fatal(err)
			}
			all, back := pattern(24<<20), make([]byte, 100)
			for _, step := range []struct {
				name string
				do   func() error
			}{
				{"write", func() error { _, err := f.Write(all[12<<20:]); return err }},
				{"patch", func() error {
					_, err := f.(io.WriterAt).WriteAt(all[1<<20:1<<20+5000], 1<<20)
					if err == nil {
						_, err = f.(io.ReaderAt).ReadAt(back, 0)
					}
					return err
				}},
				{"read", func() error { _, err := f.(io.ReaderAt).ReadAt(back, 6<<20); return err }},
				{"commit", f.Commit},
			} {
				if step.name == "write" {
					if _, err := f.Write(all[:12<<20]); err != nil {
						t.Fatal(err)
					}
				}
				h.reboot(t)
				mounted := make(chan error, 1)
				time.AfterFunc(2*time.Second, func() { mounted <- h.mounted() })
				if err := errors.Join(step.do(), <-mounted); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
			}
			if got, err := os.ReadFile(h.root + "/crash/d/vmcore"); err != nil || !bytes.Equal(got, all) {
				t.Errorf("%d bytes arrived of %d, %v", len(got), len(all), err)
			}
		})
	}
}

// One whose disk stays away is given up after Options.Reconnect, and the error says what
// was seen; that it does other things meanwhile does not count.
func TestServerHalfUpForEver(t *testing.T) {
	t.Parallel()
	for name, server := range halfUpServers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := server(t)
			const reconnect = 4 * time.Second
			tg := h.open(t, targets.Options{Stall: 10 * time.Second, Reconnect: reconnect})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "d/vmcore")
			if err == nil {
				_, err = f.Write(pattern(1 << 20))
			}
			if err == nil { // all of it is there
				_, err = f.(io.ReaderAt).ReadAt(make([]byte, 100), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			h.reboot(t)
			defer h.mounted()
			start := time.Now()
			err = f.Commit()
			var e *targets.Error
			if !errors.As(err, &e) || !e.Temporary || !strings.Contains(err.Error(), "no way to go on for ") ||
				!strings.Contains(err.Error(), "is gone") && !strings.Contains(err.Error(), "not exist") {
				t.Errorf("%v: want a temporary error that says that the file is not there", err)
			}
			if took := time.Since(start); took < reconnect-time.Second || took > reconnect+30*time.Second {
				t.Errorf("given up after %v", took)
			}
			t.Log(err)
		})
	}
}

// newHangUp is an SSH server with the host key of s that lets users in and hangs up.
func newHangUp(t *testing.T, s *sshd) (addr string, met *atomic.Int32) {
	t.Helper()
	key, err := ssh.ParsePrivateKey([]byte(s.text(t, "host_ed25519")))
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	met = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if in, _, _, err := ssh.NewServerConn(c, config); err == nil {
				met.Add(1)
				in.Close()
			}
			c.Close()
		}
	}()
	return l.Addr().String(), met
}

// A server that lets the user in and hangs up, be it before or after it was asked for
// SFTP, is on its way up: it is asked again.
func TestSFTPServerHangsUp(t *testing.T) {
	t.Parallel()
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		s := newSSHD(t)
		hangUp, met := newHangUp(t, s)
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			if met.Load() < 2 {
				addr = hangUp
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		s.open(t, s.url("crash", "key="+s.file("user_ed25519"), "fingerprint="+s.fingerprint(t, "host_ed25519")), targets.Options{Log: t.Logf, Dial: dial}).Close()
		if met.Load() != 2 {
			t.Errorf("met the server that hangs up %d times", met.Load())
		}
	})
	t.Run("after", func(t *testing.T) {
		t.Parallel()
		s := newSSHDWith(t, func(s *sshd) []string {
			// The shell's parent is the process of sshd that has the connection.
			return []string{"ChrootDirectory none", "ForceCommand if mkdir " + s.root + "/crash/once; then kill -9 $PPID; else exec /usr/lib/openssh/sftp-server; fi"}
		})
		s.open(t, s.url(s.root[1:]+"/crash"), targets.Options{Log: t.Logf}).Close()
	})
}
