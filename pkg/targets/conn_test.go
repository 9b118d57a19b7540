package targets

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connectedPair is a rolling connection and its silent peer.
func connectedPair(t *testing.T, stall time.Duration) (*conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Options{Stall: stall}.dialAddr(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return c.(*conn), peer.(*net.TCPConn)
}

func timedOut(t *testing.T, what string, err error, took, least, stall time.Duration) {
	t.Helper()
	if !isTimeout(err) || !temporary(err) || !strings.Contains(err.Error(), "no progress for "+stall.String()) {
		t.Errorf("%s: %v", what, err)
	}
	if most := stall + 20*time.Second; took < least || took > most { // a busy machine is slow
		t.Errorf("%s: after %v, want %v to %v", what, took, least, most)
	}
}

func TestConnStalls(t *testing.T) {
	const stall = 800 * time.Millisecond
	c, _ := connectedPair(t, stall)
	start := time.Now()
	_, err := c.Read(make([]byte, 1))
	timedOut(t, "read", err, time.Since(start), stall, stall)

	c, peer := connectedPair(t, stall)
	peer.SetReadBuffer(4096)
	buf := make([]byte, 100_000)
	start = time.Now()
	for err = nil; err == nil; {
		_, err = c.Write(buf)
	}
	// TCP counts from what was acknowledged last, before the socket was full.
	timedOut(t, "write", err, time.Since(start), stall/2, stall)
}

// Where TCP's own limit passes before ours, the error says the same.
func TestConnTCPGivesUpFirst(t *testing.T) {
	const stall = 5 * time.Second
	c, peer := connectedPair(t, stall)
	peer.SetReadBuffer(4096)
	if err := c.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 500)
	}); err != nil {
		t.Fatal(err)
	}
	var err error
	start := time.Now()
	for buf := make([]byte, 100_000); err == nil; {
		_, err = c.Write(buf)
	}
	timedOut(t, "write", err, time.Since(start), 0, stall)
	if !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("%v: want TCP's own, after which no call need wait any more", err)
	}
}

// A peer that says nothing but takes what was sent before is not stalled: its
// answer comes behind all of that.
func TestConnWaitsForASlowLine(t *testing.T) {
	t.Parallel()
	const stall = 5 * time.Second
	c, peer := connectedPair(t, stall)
	peer.SetReadBuffer(16 << 10)
	var both sync.WaitGroup
	both.Go(func() {
		for range 20 { // the socket takes all of it
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				t.Error(err)
			}
		}
	})
	both.Go(func() {
		buf := make([]byte, 32<<10) // 40 reads, or more
		for got := 0; got < 20*64<<10; {
			time.Sleep(300 * time.Millisecond)
			n, err := peer.Read(buf)
			if got += n; err != nil {
				t.Error(err)
				return
			}
		}
		peer.Write([]byte("x"))
	})
	start := time.Now()
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d, %v after %v", n, err, time.Since(start))
	}
	if took := time.Since(start); took < 2*stall {
		t.Errorf("answered after %v: that proves nothing", took)
	}
	c.Close()
	both.Wait()
}

// What a connection that was given up still holds does not come to the server later.
func TestConnGivenUpIsDropped(t *testing.T) {
	c, peer := connectedPair(t, 300*time.Millisecond)
	peer.SetReadBuffer(4096)
	var err error
	for buf := make([]byte, 100_000); err == nil; {
		_, err = c.Write(buf)
	}
	c.Close()
	peer.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, peer); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer has read all of it: %v", err)
	}
}

func TestConnectErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	dns := func(notFound bool) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "x", Name: "h", IsNotFound: notFound, IsTimeout: !notFound}}
		}
	}
	fails := func(errno syscall.Errno) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}
		}
	}
	for _, c := range []struct {
		o         Options
		want      string
		temporary bool
	}{
		{Options{}, "connect to " + closed + ": connection refused: is the server running", true},
		{Options{Dial: dns(true)}, "no such host: check the name", false},
		{Options{Dial: dns(false)}, "no name server answered", true},
		{Options{Dial: fails(syscall.EHOSTUNREACH)}, "no route to host: nobody answers", true},
		{Options{Dial: fails(syscall.ENETUNREACH)}, "network is unreachable: no route: is the network up", true},
		{Options{Stall: 100 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, "no answer in 0.1 s: is the server up, or does a firewall drop it", true},
	} {
		_, err := c.o.dialAddr(t.Context(), closed)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
			continue
		}
		var e *Error
		if !errors.As(newError("open", "", "x://h", err), &e) || e.Temporary != c.temporary {
			t.Errorf("%v: temporary %v", err, e.Temporary)
		}
	}
}

// What is written comes out as it was, whatever the sizes; a peer that goes
// away is an error of a later Write, and Close ends a Write that waits.
func TestBatched(t *testing.T) {
	c, peer := connectedPair(t, 5*time.Second)
	b := newBatched(c)
	var want []byte
	go func() {
		for _, n := range []int{1, 0, 4096, 28000, batchSize - 1, batchSize, batchSize + 1, 3*batchSize + 7, 5} {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(i ^ n)
			}
			if m, err := b.Write(p); m != n || err != nil {
				t.Errorf("%d of %d, %v", m, n, err)
			}
			clear(p)
		}
	}()
	for _, n := range []int{1, 0, 4096, 28000, batchSize - 1, batchSize, batchSize + 1, 3*batchSize + 7, 5} {
		for i := range n {
			want = append(want, byte(i^n))
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("not what was written: %v", err)
	}
	waiting := make(chan error)
	go func() {
		for {
			if _, err := b.Write(make([]byte, batchSize)); err != nil {
				waiting <- err
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	b.Close()
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write that waits: %v", err)
	}

	c, peer = connectedPair(t, 5*time.Second)
	b = newBatched(c)
	peer.SetLinger(0)
	peer.Close()
	var err error
	for range 1000 {
		if _, err = b.Write(make([]byte, batchSize)); err != nil {
			break
		}
	}
	if err == nil || !isBroken(err) {
		t.Errorf("after the peer has gone: %v", err)
	}
}

// What is held back for more is written all the same, as an answer to it may be
// what the writer waits for.
func TestBatchedHold(t *testing.T) {
	c, peer := connectedPair(t, 5*time.Second)
	b := newBatched(c)
	release := b.hold()
	got := make([]byte, 3)
	for range 3 {
		b.Write([]byte("a"))
		b.Write([]byte("bc"))
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != "abc" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	b.Write([]byte("def"))
	release()
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "def" {
		t.Errorf("%q, %v", got, err)
	}
}
