package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connectPatience bounds one attempt to connect, the question to DNS included;
// Options.Stall does too where it is shorter.
const connectPatience = 15 * time.Second

// dial connects to the server of s. The connection has rolling deadlines: see
// conn. Its errors say what to do.
func (o Options) dial(ctx context.Context, s Spec, defaultPort int) (net.Conn, error) {
	return o.dialAddr(ctx, s.addr(defaultPort))
}

// addr is the server as net.Dial wants it.
func (s Spec) addr(defaultPort int) string {
	return net.JoinHostPort(s.Host, strconv.Itoa(cmp.Or(s.Port, defaultPort)))
}

func (o Options) dialAddr(ctx context.Context, addr string) (net.Conn, error) {
	within := min(connectPatience, o.stall())
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: -1}).DialContext // rolling has its own
	}
	start := time.Now()
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, connectError(addr, time.Since(start), err)
	}
	return rolling(c, o.stall()), nil
}

// conn is a connection whose peer has to do something within stall: each Read
// has that long, and so has a Write from one byte taken to the next. Both are
// given more as long as the peer's TCP acknowledges what was sent before: on a
// slow line an answer waits behind all that the socket holds.
//
// A connection that is allowed to be silent must send something that is
// answered more often than that.
type conn struct {
	net.Conn
	raw    syscall.RawConn // nil where it is no socket
	stall  time.Duration
	gaveUp atomic.Bool
}

// rolling leaves it to the deadlines when to give up, but for a peer that is gone while
// nobody reads or writes. TCP_USER_TIMEOUT is not for that: it also ends the connection
// to a peer that reads slowly, whose window is closed time and again (tcp_probe_timer,
// net/ipv4/tcp_timer.c).
func rolling(c net.Conn, stall time.Duration) *conn {
	r := &conn{Conn: c, stall: stall}
	if s, ok := c.(syscall.Conn); ok {
		r.raw, _ = s.SyscallConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		// Errors: the deadlines are there without it.
		t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: stall / 3, Interval: max(time.Second, stall/6), Count: 4})
	}
	return r
}

// Close drops what the socket holds, if the connection was given up: it must not come
// to the server after what the next connection brings.
func (c *conn) Close() error {
	if t, ok := c.Conn.(*net.TCPConn); ok && c.gaveUp.Load() {
		t.SetLinger(0) // error: it is closed already
	}
	return c.Conn.Close()
}

func (c *conn) control(f func(fd int) error) error {
	if c.raw == nil {
		return errors.ErrUnsupported
	}
	var err error
	if e := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

func (c *conn) Read(p []byte) (int, error) {
	for quiet := c.silence(); ; {
		if err := c.SetReadDeadline(time.Now().Add(c.stall / 4)); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || quiet.over(false) {
			return n, c.explain(err)
		}
	}
}

// Write has no need of small pieces: a part of p that was taken is progress.
func (c *conn) Write(p []byte) (done int, err error) {
	for quiet := c.silence(); ; {
		if err := c.SetWriteDeadline(time.Now().Add(c.stall / 4)); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(p[done:])
		done += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || quiet.over(n > 0) {
			return done, c.explain(err)
		}
	}
}

// silence is the time in which nothing has moved.
type silence struct {
	c     *conn
	since time.Time
	acked uint64 // by then
}

func (c *conn) silence() silence { return silence{c: c, since: time.Now(), acked: math.MaxUint64} }

// over tells whether it is longer than stall. moved: something was read or written.
func (s *silence) over(moved bool) bool {
	acked := s.c.acked()
	if moved || acked > s.acked {
		s.since = time.Now()
	}
	s.acked = acked
	return time.Since(s.since) >= s.c.stall
}

// acked is how many bytes the peer's TCP has acknowledged in all; 0 where that
// cannot be known.
func (c *conn) acked() uint64 {
	var info *unix.TCPInfo
	err := c.control(func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}

// explain says what has happened whether our deadline or TCP's own limit passed
// first. They stay apart: after that of TCP the connection is gone.
func (c *conn) explain(err error) error {
	for _, over := range []error{os.ErrDeadlineExceeded, syscall.ETIMEDOUT} {
		if errors.Is(err, over) {
			c.gaveUp.Store(true)
			return fmt.Errorf("no progress for %v: %w", c.stall, over)
		}
	}
	return err
}

// connectError says what the errors of connect(2) and of DNS mean to an
// operator.
func connectError(addr string, after time.Duration, err error) error {
	var dns *net.DNSError
	advice := ""
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return permanent(fmt.Errorf("connect to %s: no such host", addr), "check the name, or write the address")
	case errors.As(err, &dns):
		advice = "no name server answered: is nameserver= set, or write the address"
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "is the server running, and on that port"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = "no route: is the network up, and is there a gateway"
	case errors.Is(err, syscall.EHOSTUNREACH):
		advice = "nobody answers at that address: is the server up, and in this network"
	case isTimeout(err):
		return transient(fmt.Errorf("connect to %s: no answer in %.1f s", addr, after.Seconds()), "is the server up, or does a firewall drop it")
	}
	return transient(fmt.Errorf("connect to %s: %w", addr, bare(err)), advice)
}

// bare is the errno in an error of package net, which would tell the address
// once more.
func bare(err error) error {
	var errno syscall.Errno
	var op *net.OpError
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &op):
		return op.Err
	}
	return err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// isBroken is true for what says that a connection is gone, so that another one
// may do.
func isBroken(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || isTimeout(err) {
		return true
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT, syscall.ENOTCONN,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.ENETRESET, syscall.EHOSTDOWN:
		return true
	}
	return false
}
