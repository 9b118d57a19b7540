package targets_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/targetstest"
)

// BenchmarkSFTP sends a file that does not compress to an OpenSSH server whose
// disk is memory, as we do it and as OpenSSH's own clients do: on loopback, and
// on a line with 20 ms of round trip. cpu-s/GB is the client's CPU time.
//
//	go test ./pkg/targets -run '^$' -bench SFTP -benchtime 3x
func BenchmarkSFTP(b *testing.B) {
	for _, line := range []struct {
		name  string
		delay time.Duration
		size  int
	}{{"loopback", 0, 512 << 20}, {"20ms", 10 * time.Millisecond, 512 << 20}} {
		b.Run(line.name, func(b *testing.B) {
			u := newUpload(b, line.size, line.delay)
			b.Run("ukdump", u.ours)
			b.Run("sftp", func(b *testing.B) { u.sftp(b) })
			b.Run("sftp-B261120", func(b *testing.B) { u.sftp(b, "-B", "261120") })
			b.Run("scp", u.scp)
			b.Run("ssh-cat", u.cat)
		})
	}
}

// BenchmarkSFTPCiphers has the server offer one cipher at a time, after all of
// them, of which the first in sshCiphers is taken.
func BenchmarkSFTPCiphers(b *testing.B) {
	for _, c := range []struct{ name, ciphers string }{
		{"as it comes", "+aes128-ctr"},
		{"aes128-gcm", "aes128-gcm@openssh.com"},
		{"aes256-gcm", "aes256-gcm@openssh.com"},
		{"chacha20-poly1305", "chacha20-poly1305@openssh.com"},
		{"aes128-ctr with hmac-sha2-256-etm", "aes128-ctr"},
	} {
		b.Run(c.name, newUpload(b, 256<<20, 0, "Ciphers "+c.ciphers, "MACs hmac-sha2-256-etm@openssh.com").ours)
	}
}

type upload struct {
	*sshd
	server func() *exec.Cmd
	data   []byte
	copy   string // the same in a file, for other programs
	out    string // where they send it
	line   *targetstest.Line
	port   int // where the line begins
}

func newUpload(b testing.TB, size int, delay time.Duration, lines ...string) *upload {
	u := &upload{sshd: newSSHD(b, append(lines, "ChrootDirectory none", "ForceCommand none")...), data: make([]byte, size)}
	u.server = func() *exec.Cmd { return u.sshd.cmd }
	u.out = filepath.Join(u.top, "out")
	u.makeDir(b, u.out, sshUID, 0o700)
	rng := rand.NewChaCha8([32]byte{})
	rng.Read(u.data)
	u.copy = filepath.Join(u.top, "data")
	if err := os.WriteFile(u.copy, u.data, 0o644); err != nil {
		b.Fatal(err)
	}
	u.write(b, "known_any", "* "+u.text(b, "host_ed25519.pub"))
	u.line = targetstest.NewLine(b)
	u.line.Delay(delay)
	u.port = u.sshd.port
	if delay > 0 {
		addr := u.line.Addr(u.addr())
		fmt.Sscanf(addr[strings.LastIndexByte(addr, ':'):], ":%d", &u.port)
	}
	return u
}

// touch has the machine's memory given to it that the files will take: where it
// is a virtual one, that is slower than anything that is measured here.
func (u *upload) touch(b testing.TB) {
	for range 2 {
		if err := errors.Join(os.WriteFile(u.out+"/x", u.data, 0o600), os.Remove(u.out+"/x")); err != nil {
			b.Fatal(err)
		}
	}
}

// cpu is the time the children have used that have ended.
func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_CHILDREN, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// familyCPU is the time that a process and all that it started have used.
func familyCPU(first int) (sum time.Duration) {
	const tick = time.Second / 100 // USER_HZ
	for _, pid := range family(first) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(text), ") ")
		for i, f := range strings.Fields(rest) { // from field 3 on: utime, stime, cutime, cstime are 14 to 17
			if i >= 11 && i <= 14 {
				n, _ := strconv.Atoi(f)
				sum += time.Duration(n) * tick
			}
		}
	}
	return sum
}

func (u *upload) measure(b *testing.B, send func()) {
	b.SetBytes(int64(len(u.data)))
	u.touch(b)
	server := u.server().Process.Pid
	client, served := cpu(), familyCPU(server)
	for b.Loop() {
		os.Remove(u.out + "/x")
		send()
	}
	perGB := func(d time.Duration) float64 { return d.Seconds() / float64(b.N) / float64(len(u.data)) * 1e9 }
	b.ReportMetric(perGB(cpu()-client), "cpu-s/GB")
	b.ReportMetric(perGB(familyCPU(server)-served), "server-s/GB")
	b.ReportMetric(0, "ns/op")
	b.StopTimer()
	got, err := os.ReadFile(u.out + "/x")
	if err != nil || string(got) != string(u.data) {
		b.Errorf("%d bytes arrived, %v", len(got), err)
	}
	os.Remove(u.out + "/x")
}

// ours is a process of its own, as the others are: it reads the file and sends
// it.
func (u *upload) ours(b *testing.B) {
	url := fmt.Sprintf("sftp://%s@127.0.0.1:%d%s?key=%s&known_hosts=%s", sshUser, u.port, u.out, u.file("user_ed25519"), u.file("known_any"))
	u.measure(b, func() {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUpload$", "-test.v")
		cmd.Env = append(os.Environ(), "UKDUMP_TEST_UPLOAD="+u.copy, "UKDUMP_TEST_URL="+url)
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

// TestUpload is the process that BenchmarkSFTP starts.
func TestUpload(t *testing.T) {
	name := os.Getenv("UKDUMP_TEST_UPLOAD")
	if name == "" {
		t.Skip("this is a part of BenchmarkSFTP")
	}
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	tg := open(t, os.Getenv("UKDUMP_TEST_URL"))
	defer tg.Close()
	f, err := tg.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{in}, make([]byte, 256<<10)); err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	t.Logf("heap %.1f MiB", float64(m.HeapInuse)/(1<<20))
}

func (u *upload) options() []string {
	return []string{"-q", "-i", u.file("user_ed25519"), "-o", "UserKnownHostsFile=" + u.file("known_any"), "-o", "BatchMode=yes",
		"-o", "Ciphers=aes128-gcm@openssh.com", "-F", "none"}
}

func (u *upload) run(b *testing.B, stdin, name string, args ...string) {
	cmd := exec.Command(name, args...)
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (u *upload) sftp(b *testing.B, more ...string) {
	batch := u.write(b, "batch", "put "+u.copy+" "+u.out+"/x\n")
	u.measure(b, func() {
		args := append(append(u.options(), more...), "-b", batch, "-P", fmt.Sprint(u.port), sshUser+"@127.0.0.1")
		u.run(b, "", "sftp", args...)
	})
}

func (u *upload) scp(b *testing.B) {
	u.measure(b, func() {
		u.run(b, "", "scp", append(u.options(), "-P", fmt.Sprint(u.port), u.copy, sshUser+"@127.0.0.1:"+u.out+"/x")...)
	})
}

func (u *upload) cat(b *testing.B) {
	u.measure(b, func() {
		u.run(b, u.copy, "ssh", append(u.options(), "-p", fmt.Sprint(u.port), sshUser+"@127.0.0.1", "cat > "+u.out+"/x")...)
	})
}
