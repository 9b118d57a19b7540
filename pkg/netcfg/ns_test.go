package netcfg

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/cmdline"
)

// The real tests: this test binary again, in a network namespace of its own,
// with a server's namespace at the other end of the cable.

const inside = "NETCFG_TEST_NAMESPACE"

// namespace runs the calling test again in a new namespace, and returns true
// there. Outside it returns false, with the test's result taken over.
func namespace(t *testing.T, programs ...string) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		enter(t)
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("want root: a network namespace is made")
	}
	for _, p := range append(programs, "ip", "nsenter") {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("UKDUMP_CACHE") != "" { // make has put it there
				t.Fatalf("want %s: %v", p, err)
			}
			t.Skipf("want %s: %v", p, err)
		}
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	// A namespace of processes too: whatever was started in it ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil {
		t.Errorf("in the namespace: %v\n%s", err, text)
	} else if strings.Contains(text, "--- SKIP") {
		t.Skip(text)
	} else if testing.Verbose() {
		t.Log(text)
	}
	return false
}

func enter(t *testing.T) {
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
	must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
	sh(t, "ip link set lo up")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// A peer is the other end of cables: a namespace with servers in it.
type peer struct {
	t   *testing.T
	pid string
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p := &peer{t, strconv.Itoa(cmd.Process.Pid)}
	p.sh("ip link set lo up; sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 || :")
	return p
}

// cable joins our interface dev with the peer's of the name port.
func (p *peer) cable(dev, port string) {
	p.t.Helper()
	sh(p.t, fmt.Sprintf("ip link add %s type veth peer name %s netns %s", dev, port, p.pid))
	p.sh("ip link set " + port + " up")
}

func (p *peer) sh(script string) string {
	p.t.Helper()
	out, err := exec.Command("nsenter", "-t", p.pid, "-n", "sh", "-ec", script).CombinedOutput()
	if err != nil {
		p.t.Fatalf("peer: %s: %v\n%s", script, err, out)
	}
	return string(out)
}

// in runs f on a thread that is in the peer's namespace.
func (p *peer) in(f func()) {
	p.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		ns, err := os.Open("/proc/" + p.pid + "/ns/net")
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	must(p.t, <-done)
}

// listen accepts connections on a port of the peer.
func (p *peer) listen(address string) {
	p.t.Helper()
	p.in(func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			p.t.Errorf("peer: %v", err)
			return
		}
		p.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	})
}

// echo sends back what it gets, on a port of the peer.
func (p *peer) echo(address string) {
	p.t.Helper()
	p.in(func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			p.t.Errorf("peer: %v", err)
			return
		}
		p.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					io.Copy(c, c)
					c.Close()
				}()
			}
		}()
	})
}

// dnsmasq runs in the peer's namespace. What it says is in its log. It ends with
// the test or by the function that is returned.
func (p *peer) dnsmasq(args ...string) (kill func(), output *lines) {
	p.t.Helper()
	dir := p.t.TempDir()
	args = append([]string{"-t", p.pid, "-n", "dnsmasq", "-d", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--no-ping", "--log-dhcp", "--log-queries",
		"--user=root", "--dhcp-authoritative", "--bind-dynamic", "--except-interface=lo", "--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file="}, args...)
	cmd := exec.Command("nsenter", args...)
	out, err := cmd.StderrPipe()
	must(p.t, err)
	cmd.Stdout = os.Stdout
	must(p.t, cmd.Start())
	output = &lines{t: p.t}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			output.add("%s", s.Text())
		}
	}()
	kill = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	p.t.Cleanup(func() {
		kill()
		if p.t.Failed() {
			p.t.Logf("dnsmasq:\n%s", output)
		}
	})
	return kill, output
}

// lines are what somebody has said.
type lines struct {
	t    *testing.T
	mu   sync.Mutex
	list []string
	show bool
}

func (l *lines) add(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, fmt.Sprintf(format, a...))
	if l.show {
		fmt.Printf("    "+format+"\n", a...)
	}
}

func (l *lines) count(pattern string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(regexp.MustCompile(pattern).FindAllString(strings.Join(l.list, "\n"), -1))
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.list, "\n")
}

// busy is what everything may take longer where other tests run beside it.
const busy = 20 * time.Second

// await waits until pattern has been said n times. 0: it has been by now.
func (l *lines) await(pattern string, n int, within time.Duration) {
	l.t.Helper()
	if within > 0 {
		within += busy
	}
	for until := time.Now().Add(within); l.count(pattern) < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			l.t.Fatalf("nobody said %q %d times in %s:\n%s", pattern, n, within, l)
		}
	}
}

// words are those of a line, which have no mistake.
func plan(t *testing.T, line string) Plan {
	t.Helper()
	p, errs := Parse(cmdline.Words(line))
	for _, err := range errs {
		t.Fatal(err)
	}
	return p
}

// client is one process that brings the network up.
type client struct {
	t    *testing.T
	log  *lines
	root string
}

func newClient(t *testing.T) *client {
	return &client{t, &lines{t: t, show: true}, t.TempDir()}
}

func (c *client) try(line, host string, within time.Duration) (*Network, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	start := time.Now()
	n, err := plan(c.t, line).Up(ctx, host, Options{Log: c.log.add, Root: c.root})
	if late := time.Since(start) - within; late > busy {
		c.t.Errorf("Up ended %s after its deadline", late)
	}
	if n != nil {
		c.t.Cleanup(n.Close)
	}
	return n, err
}

func (c *client) up(line, host string, within time.Duration) *Network {
	c.t.Helper()
	n, err := c.try(line, host, within+busy)
	must(c.t, err)
	return n
}

// fails brings a network up that does not come, and compares the error.
func (c *client) fails(line, host string, within time.Duration, pattern string) {
	c.t.Helper()
	n, err := c.try(line, host, within)
	if err == nil {
		n.Close()
		c.t.Fatalf("%s: came up", line)
	}
	c.t.Log(err)
	if !regexp.MustCompile(pattern).MatchString(err.Error()) {
		c.t.Errorf("%s: got %v\nwant %s", line, err, pattern)
	}
}

func (c *client) reach(n *Network, host string, port int, within time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), within+busy)
	defer cancel()
	must(c.t, n.Reach(ctx, host, port))
}

// has looks at what a command says.
func has(t *testing.T, command, pattern string) {
	t.Helper()
	if out := sh(t, command); !regexp.MustCompile(pattern).MatchString(out) {
		t.Errorf("%s:\n%swant %s", command, out, pattern)
	}
}

func hasNot(t *testing.T, command, pattern string) {
	t.Helper()
	if out := sh(t, command); regexp.MustCompile(pattern).MatchString(out) {
		t.Errorf("%s:\n%sdo not want %s", command, out, pattern)
	}
}

// lossy is a cable that loses a part of the frames, made of two TAP devices.
func (p *peer) lossy(dev, port string, loss float64) {
	p.t.Helper()
	ours, err := tap(dev)
	must(p.t, err)
	var theirs *os.File
	p.in(func() { theirs, err = tap(port) })
	must(p.t, err)
	p.sh("ip link set " + port + " up")
	p.t.Cleanup(func() { ours.Close(); theirs.Close() })
	dice := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	relay := func(from, to *os.File) {
		frame := make([]byte, 2048)
		for {
			n, err := from.Read(frame)
			if err != nil {
				return
			}
			mu.Lock()
			drop := dice.Float64() < loss
			mu.Unlock()
			if !drop {
				to.Write(frame[:n]) // EIO while it is down: lost as well
			}
		}
	}
	go relay(ours, theirs)
	go relay(theirs, ours)
}

func tap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], name)
	req.flags = unix.IFF_TAP | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return nil, errno
	}
	return os.NewFile(uintptr(fd), name), nil
}

// The tests in namespaces wait more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		f.Value.Set("8")
	}
	os.Exit(m.Run())
}
