package targets_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// BenchmarkFTP sends a file that does not compress to a real server whose disk
// is memory, as we do it and as curl -T does: on loopback, and on a line with
// 20 ms of round trip. cpu-s/GB is the client's CPU time.
//
//	go test ./pkg/targets -run '^$' -bench FTP/ -benchtime 3x
func BenchmarkFTP(b *testing.B) {
	for _, c := range []struct {
		name, kind string
		tls        func(s *ftpd) []string
		delay      time.Duration
		size       int
	}{
		{"vsftpd", "vsftpd", nil, 0, 512 << 20},
		{"proftpd", "proftpd", nil, 0, 512 << 20},
		{"vsftpd-tls", "vsftpd", func(s *ftpd) []string { return s.vsftpdTLS() }, 0, 512 << 20},
		{"proftpd-tls1.3", "proftpd", func(s *ftpd) []string { return s.proftpdTLS("TLSv1.3") }, 0, 512 << 20},
		{"proftpd-tls1.2", "proftpd", func(s *ftpd) []string { return s.proftpdTLS("TLSv1.2") }, 0, 512 << 20},
		{"vsftpd-20ms", "vsftpd", nil, 10 * time.Millisecond, 128 << 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			u := newFTPUpload(b, c.kind, c.tls, c.size, c.delay)
			b.Run("ukdump", u.ours)
			if c.delay == 0 { // curl does not take the port of the line for its data
				b.Run("curl", u.curl)
			}
		})
	}
}

type ftpUpload struct {
	*ftpd
	up   upload
	line *targetstest.Line // nil: none
}

func newFTPUpload(b *testing.B, kind string, tls func(*ftpd) []string, size int, delay time.Duration) *ftpUpload {
	s := newFTPDWith(b, kind, tls)
	u := &ftpUpload{ftpd: s, up: upload{data: make([]byte, size), copy: filepath.Join(s.top, "data"), out: filepath.Join(s.root, "out"), server: func() *exec.Cmd { return s.cmd }}}
	u.makeDir(b, u.up.out, sshUID, 0o700)
	rng := rand.NewChaCha8([32]byte{})
	rng.Read(u.up.data)
	if err := os.WriteFile(u.up.copy, u.up.data, 0o644); err != nil {
		b.Fatal(err)
	}
	if delay > 0 {
		u.line = targetstest.NewLine(b)
		u.line.Delay(delay)
	}
	return u
}

// ours is a process of its own, as curl is; but not behind a line, which is
// here.
func (u *ftpUpload) ours(b *testing.B) {
	if u.line != nil {
		u.up.measure(b, func() { u.here(b) })
		return
	}
	u.up.measure(b, func() {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUpload$", "-test.v")
		cmd.Env = append(os.Environ(), "UKDUMP_TEST_UPLOAD="+u.up.copy, "UKDUMP_TEST_URL="+u.url("out"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		if _, rest, ok := strings.Cut(string(out), "heap "); ok {
			var mib float64
			fmt.Sscan(rest, &mib)
			b.ReportMetric(mib, "MiB-heap")
		}
	})
}

func (u *ftpUpload) here(b *testing.B) {
	tg := openWith(b, b.Context(), u.url("out"), targets.Options{Dial: u.line.Dial})
	defer tg.Close()
	tg.Remove(b.Context(), "x")
	f, err := tg.Create(b.Context(), "x")
	if err != nil {
		b.Fatal(err)
	}
	for off := 0; off < len(u.up.data); off += 1 << 20 {
		if _, err := f.Write(u.up.data[off : off+1<<20]); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Commit(); err != nil {
		b.Fatal(err)
	}
}

func (u *ftpUpload) curl(b *testing.B) {
	if _, err := exec.LookPath("curl"); err != nil {
		b.Skip("curl is missing")
	}
	args := []string{"-sS", "-u", sshUser + ":" + sshPassword, "-T", u.up.copy, fmt.Sprintf("ftp://%s/out/x", u.addr())}
	if u.tls {
		args = append(args, "--ssl-reqd", "--cacert", u.file("server.crt"))
	}
	u.up.measure(b, func() {
		if out, err := exec.Command("curl", args...).CombinedOutput(); err != nil {
			b.Fatalf("curl: %v\n%s", err, out)
		}
	})
}
