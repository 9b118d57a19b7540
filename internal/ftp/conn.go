// Package ftp is a client of FTP (RFC 959) for storing dumps: passive transfers
// over IPv4 and IPv6 (RFC 2428), restarts, sizes and machine readable lists
// (RFC 3659), and privacy (RFC 4217).
//
// Use Dial, then the commands of Conn, one at a time; a transfer that Store or
// Retrieve has begun must be ended before the next command. A Conn that met an
// error of the network is broken: every later call returns that error.
//
// The package knows nothing of TLS, and waits for ever: both are up to the
// functions in Config. It neither retries nor reconnects, has no active
// transfers and no ASCII mode.
package ftp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Config is what a Conn needs to know.
type Config struct {
	Addr     string // HOST:PORT
	User     string
	Password string

	// Connect opens a TCP connection. Its Read and Write shall end by
	// themselves when the peer does nothing.
	Connect func(ctx context.Context, addr string) (net.Conn, error)

	// Secure makes a connection private, those for data too. What it returns
	// should have CloseWrite. nil: everything is sent in the clear.
	Secure func(c net.Conn) (net.Conn, error)

	// Implicit: the server expects TLS at once, without being asked for it.
	Implicit bool
}

// Conn is a control connection, logged in.
type Conn struct {
	config Config
	c      net.Conn
	r      *bufio.Reader
	host   string // of the server, as connected: data connections go there too
	broken error  // sticky

	fastest time.Duration // of the answers; 0: there was none

	features map[string]string // by name, in capitals
	pasv     bool              // the server has no EPSV
	noMLSD   bool
	noSpace  bool // the server does not tell
}

// LoginError is the error of Dial when the server refused the user.
type LoginError struct{ Refusal *Error }

func (e *LoginError) Error() string { return e.Refusal.Error() }
func (e *LoginError) Unwrap() error { return e.Refusal }

// Dial connects and logs in. When ctx ends before, so does the connection.
func Dial(ctx context.Context, config Config) (*Conn, error) {
	nc, err := config.Connect(ctx, config.Addr)
	if err != nil {
		return nil, err
	}
	c := &Conn{config: config, c: nc}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	err = c.start()
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) start() error {
	c.host, _, _ = net.SplitHostPort(c.config.Addr)
	if a, ok := c.c.RemoteAddr().(*net.TCPAddr); ok {
		c.host = a.AddrPort().Addr().Unmap().String()
	}
	if c.config.Implicit {
		if err := c.secure(); err != nil {
			return err
		}
	}
	c.r = bufio.NewReaderSize(c.c, maxLine)
	greeting, err := c.reply()
	if err != nil {
		return err
	}
	if greeting.first() != 2 {
		return &Error{"connect", greeting, ""}
	}
	if c.config.Secure != nil && !c.config.Implicit {
		if _, err := c.Command(2, "AUTH", "TLS"); err != nil {
			return err
		}
		// What came before the handshake was not said by who will have been
		// authenticated.
		if c.r.Buffered() > 0 {
			return errors.New("the server sent data in the clear before the TLS handshake")
		}
		if err := c.secure(); err != nil {
			return err
		}
		c.r.Reset(c.c)
	}
	if err := c.login(); err != nil {
		return err
	}
	return c.settings()
}

func (c *Conn) secure() error {
	s, err := c.config.Secure(c.c)
	if err != nil {
		return err
	}
	c.c = s
	return nil
}

func (c *Conn) login() error {
	r, err := c.exchange("USER", c.config.User)
	if err == nil && r.Code == 331 {
		r, err = c.exchange("PASS", c.config.Password)
	}
	if err != nil {
		return err
	}
	if r.first() != 2 {
		return &LoginError{&Error{"the login of " + c.config.User, r, ""}}
	}
	return nil
}

// settings asks what the server can, and makes data private and binary.
func (c *Conn) settings() error {
	r, err := c.exchange("FEAT", "")
	if err != nil {
		return err
	}
	c.features = make(map[string]string)
	if r.first() == 2 {
		for _, line := range r.Text {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			c.features[strings.ToUpper(name)] = value
		}
	}
	_, mlst := c.features["MLST"]
	_, mlsd := c.features["MLSD"]
	c.noMLSD = !mlst && !mlsd
	if c.config.Secure != nil {
		// Implicit TLS has servers that know neither and protect data all the same.
		if _, err := c.Command(2, "PBSZ", "0"); err != nil && !(c.config.Implicit && isUnknown(err)) {
			return err
		}
		if _, err := c.Command(2, "PROT", "P"); err != nil && !(c.config.Implicit && isUnknown(err)) {
			return err
		}
	}
	_, err = c.Command(2, "TYPE", "I")
	return err
}

func isUnknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Unknown()
}

// Broken is why the connection is of no use any more; nil: it may be.
func (c *Conn) Broken() error { return c.broken }

func (c *Conn) fail(err error) error {
	if c.broken == nil {
		c.broken = err
		c.c.Close()
	}
	return err
}

// Abort ends the connection at once; calls that wait return.
func (c *Conn) Abort() { c.c.Close() }

// Close says goodbye, and does not wait for the answer.
func (c *Conn) Close() {
	if c.broken == nil {
		c.send("QUIT", "")
	}
	c.c.Close()
}

func (c *Conn) send(verb, arg string) error {
	if strings.ContainsAny(arg, "\r\n\x00") {
		if verb == "PASS" {
			arg = "..."
		}
		return fmt.Errorf("%s %q: FTP has nothing with line ends in it", verb, arg)
	}
	if c.broken != nil {
		return c.broken
	}
	line := verb + "\r\n"
	if arg != "" {
		line = verb + " " + arg + "\r\n"
	}
	if _, err := c.c.Write([]byte(line)); err != nil {
		return c.fail(err)
	}
	return nil
}

// reply waits for an answer; 421 is the last one before the server hangs up,
// and may come at any time.
func (c *Conn) reply() (Reply, error) {
	if c.broken != nil {
		return Reply{}, c.broken
	}
	r, err := readReply(c.r)
	if err != nil {
		return Reply{}, c.fail(err)
	}
	if r.Code == 421 {
		return r, c.fail(&Error{"a command", r, ""})
	}
	return r, nil
}

// exchange sends a command and waits for the answer, whatever that is.
func (c *Conn) exchange(verb, arg string) (Reply, error) {
	asked := time.Now()
	if err := c.send(verb, arg); err != nil {
		return Reply{}, err
	}
	r, err := c.reply()
	if took := time.Since(asked); err == nil && (c.fastest == 0 || took < c.fastest) {
		c.fastest = took
	}
	return r, err
}

// RoundTrip is how long the fastest answer took: a slow server, or a busy machine,
// has made others late.
func (c *Conn) RoundTrip() time.Duration { return c.fastest }

// Command is exchange; an answer that does not begin with the digit want is an
// *Error.
func (c *Conn) Command(want int, verb, arg string) (Reply, error) {
	r, err := c.exchange(verb, arg)
	if err == nil && r.first() != want {
		err = &Error{strings.TrimSpace(verb + " " + arg), r, arg}
	}
	return r, err
}

// MakeDir, RemoveDir and Delete take absolute paths, as everything does here.
func (c *Conn) MakeDir(path string) error   { return c.simple("MKD", path) }
func (c *Conn) RemoveDir(path string) error { return c.simple("RMD", path) }
func (c *Conn) Delete(path string) error    { return c.simple("DELE", path) }

func (c *Conn) simple(verb, arg string) error {
	_, err := c.Command(2, verb, arg)
	return err
}

// Enter makes path the working directory: it is there, and it is a directory.
func (c *Conn) Enter(path string) error { return c.simple("CWD", path) }

// Rename replaces what is at to on many servers.
func (c *Conn) Rename(from, to string) error {
	if _, err := c.Command(3, "RNFR", from); err != nil {
		return err
	}
	return c.simple("RNTO", to)
}

// Size is a file's, in bytes (RFC 3659, 4).
func (c *Conn) Size(path string) (int64, error) {
	r, err := c.Command(2, "SIZE", path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(r.Text[len(r.Text)-1]), 10, 64)
	if err != nil || n < 0 {
		return 0, &Error{"SIZE " + path, r, path}
	}
	return n, nil
}

// Space is how many bytes fit into the directory path
// (draft-peterson-streamlined-ftp-command-extensions). ok is false where the
// server does not tell.
func (c *Conn) Space(path string) (free uint64, ok bool, err error) {
	if c.noSpace {
		return 0, false, nil
	}
	r, err := c.exchange("AVBL", path)
	if err != nil {
		return 0, false, err
	}
	if r.Code == 213 {
		free, err = strconv.ParseUint(strings.TrimSpace(r.Text[len(r.Text)-1]), 10, 64)
		return free, err == nil, nil
	}
	c.noSpace = true
	return 0, false, nil
}
