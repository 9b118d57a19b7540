package targets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

const (
	// packet bounds a write or read where the server does not tell its limits:
	// every server has to take as much. packetsInFlight of them fill the 2 MiB
	// that OpenSSH lets a channel have under way (CHAN_SES_WINDOW_DEFAULT in
	// its channels.h).
	packet          = 32 << 10
	packetsInFlight = 64

	// largePacket is what OpenSSH takes since 8.5 (SFTP_MAX_MSG_LENGTH less
	// 1024, in its sftp-server.c, process_extended_limits).
	largePacket          = 261120
	largePacketsInFlight = 8
)

// errLost marks that the connection ended before the server's answer: whether
// the server has done what it was asked is not known.
const errLost constError = "the connection was lost"

// sftpSession is one SSH connection that speaks SFTP. It ends once: because the
// server went away, because nothing moved for the time of Options.Stall, or by
// end. All calls that wait for an answer return then.
type sftpSession struct {
	*sftp.Client
	conn     ssh.Conn
	wire     *batched // below conn
	stall    time.Duration
	packet   int          // most bytes of a write
	inFlight int          // writes
	moved    atomic.Int64 // when anything did, either way, in ns since 1970

	mu    sync.Mutex
	lanes []*sftp.Client         // for writes, Client being the first of them
	calls map[*sftpCall]struct{} // that wait for an answer
	idle  sync.Cond              // calls is empty
	cause error                  // why it ended
	ended chan struct{}

	told bool // that it is lost; its owner's
}

type sftpCall struct {
	since    time.Time
	patience time.Duration
}

// newSFTPSession returns an error that tells whether to try again.
func newSFTPSession(ctx context.Context, spec Spec, l *sshLogin, opts Options) (*sftpSession, error) {
	ctx, cancel := context.WithTimeout(ctx, max(opts.stall(), connectPatience))
	defer cancel()
	var wire *batched
	conn, chans, reqs, err := l.connect(ctx, func(ctx context.Context) (net.Conn, error) {
		c, err := opts.dial(ctx, spec, sshPort)
		if err != nil {
			return nil, err
		}
		wire = newBatched(c)
		return wire, nil
	})
	if err != nil {
		return nil, err
	}
	go ssh.DiscardRequests(reqs)
	go func() {
		for c := range chans {
			c.Reject(ssh.Prohibited, "")
		}
	}()
	s := &sftpSession{conn: conn, wire: wire, stall: opts.stall(), calls: make(map[*sftpCall]struct{}), ended: make(chan struct{})}
	s.idle.L = &s.mu
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = s.start(l)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = transient(fmt.Errorf("SFTP on %s: %w", l.addr, cause), "the server let the user in and then did nothing")
		}
		return nil, err
	}
	go s.watch()
	return s, nil
}

const (
	// farAway is the round trip from which on the window of one channel holds
	// the transfer up: OpenSSH opens 2 MiB of it, which is 400 MB/s at 5 ms.
	farAway = 5 * time.Millisecond

	// farLanes is how many channels, each with a window of its own, such a
	// server gets: at 20 ms three are twice as fast as OpenSSH's own clients,
	// which have one.
	farLanes = 3
)

// start asks for SFTP, and for more channels where the server is far away.
// One that gives no more is left in peace.
func (s *sftpSession) start(l *sshLogin) error {
	first, err := s.channel(l)
	if err != nil {
		return err
	}
	s.Client = first.Client
	s.lanes = []*sftp.Client{first.Client}
	s.packet, s.inFlight = packet, packetsInFlight
	if first.limit >= largePacket {
		s.packet, s.inFlight = largePacket, largePacketsInFlight
	}
	if first.roundTrip < farAway {
		return nil
	}
	s.inFlight *= farLanes
	for range farLanes - 1 {
		s.later(func() {
			if c, err := s.channel(l); err == nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.lanes = append(s.lanes, c.Client)
			}
		})
	}
	return nil
}

// lane is the channel on which a worker writes; there may be more later on.
func (s *sftpSession) lane(worker int) (n int, c *sftp.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = worker % len(s.lanes)
	return n, s.lanes[n]
}

// sftpChannel is one SFTP server process on the other side.
type sftpChannel struct {
	*sftp.Client
	limit     uint64 // the longest write that it takes; 0: it does not say
	roundTrip time.Duration
}

func (s *sftpSession) channel(l *sshLogin) (c sftpChannel, err error) {
	const noSFTP = "has the account SFTP? sshd_config wants: Subsystem sftp internal-sftp"
	const ended = "the server let the user in and ended the connection: is it on its way up"
	ch, reqs, err := s.conn.OpenChannel("session", nil)
	var rejected *ssh.OpenChannelError
	if err != nil && !errors.As(err, &rejected) {
		return c, transient(fmt.Errorf("%s: open a session: no answer", l.addr), ended)
	}
	if err != nil {
		return c, permanent(fmt.Errorf("%s: open a session: %w", l.addr, err), noSFTP)
	}
	go ssh.DiscardRequests(reqs)
	go io.Copy(io.Discard, ch.Stderr())
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err != nil {
		return c, transient(fmt.Errorf("%s: start SFTP: %w", l.addr, err), ended)
	}
	if !ok {
		return c, permanent(fmt.Errorf("%s refuses user %s the subsystem sftp", l.addr, l.user), noSFTP)
	}
	pipe := &sftpPipe{Channel: ch, wire: s.wire, begun: make([]byte, 0, packet), last: &s.moved}
	c.limit, c.roundTrip, err = pipe.greet()
	if err != nil && !s.answers() {
		return c, transient(fmt.Errorf("%s: start SFTP: %w", l.addr, err), ended)
	}
	if err != nil {
		return c, permanent(fmt.Errorf("%s: start SFTP: %w", l.addr, err), noSFTP+"; a shell start file that prints something breaks it too")
	}
	size := packet
	if c.limit >= largePacket {
		size = largePacket
	}
	c.Client, err = sftp.NewClientPipe(pipe, pipe, sftp.MaxPacketUnchecked(size))
	if err != nil {
		return c, permanent(fmt.Errorf("%s: start SFTP: %w", l.addr, err), noSFTP)
	}
	go s.wait(c.Client)
	return c, nil
}

// answers is true while the server's SSH does.
func (s *sftpSession) answers() bool {
	_, _, err := s.conn.SendRequest("keepalive@openssh.com", true, nil)
	return err == nil
}

// wait finds out why SFTP ended: with its connection, or alone.
func (s *sftpSession) wait(c *sftp.Client) {
	c.Wait()
	s.conn.Close()
	err := s.conn.Wait()
	if err == nil || errors.Is(err, net.ErrClosed) {
		err = errors.New("the server ended SFTP")
	}
	s.end(err)
}

// call runs fn, which waits for the server. The error is errLost where the
// connection is what failed. When ctx ends first so does the connection, which
// is what makes fn return.
func (s *sftpSession) call(ctx context.Context, patience time.Duration, fn func() error) error {
	defer context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })()
	c := s.begin(patience)
	if c == nil {
		return s.lost()
	}
	defer s.finish(c)
	err := fn()
	if err == nil || answered(err) {
		return err
	}
	s.conn.Close()
	<-s.ended
	return s.lost()
}

// later runs fn, whose success nothing depends on, beside other calls.
func (s *sftpSession) later(fn func()) {
	if c := s.begin(0); c != nil {
		go func() {
			defer s.finish(c)
			fn()
		}()
	}
}

// begin is nil when the session has ended.
func (s *sftpSession) begin(patience time.Duration) *sftpCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return nil
	}
	c := &sftpCall{time.Now(), max(patience, s.stall)}
	s.calls[c] = struct{}{}
	return c
}

func (s *sftpSession) finish(c *sftpCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, c)
	if len(s.calls) == 0 {
		s.idle.Broadcast()
	}
}

// answered is true for an error that the server told, or that was made of its
// answers: all others are of the connection.
func answered(err error) bool {
	var status *sftp.StatusError
	var cause *remoteCause
	var errno syscall.Errno
	if isBroken(err) {
		return false
	}
	return errors.As(err, &status) || errors.As(err, &cause) || errors.As(err, &errno) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist)
}

func (s *sftpSession) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("%w: %w", errLost, s.cause)
}

// end gives the connection up; the first cause stays.
func (s *sftpSession) end(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return
	}
	s.cause = cause
	close(s.ended)
	s.conn.Close()
}

func (s *sftpSession) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// drain waits until no call is left that could still take an answer of this
// session for valid.
func (s *sftpSession) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.calls) > 0 {
		s.idle.Wait()
	}
}

// watch keeps a silent connection alive, and ends one whose SFTP server does
// not answer although its SSH server does: its disk hangs.
func (s *sftpSession) watch() {
	tick := time.NewTicker(s.stall / 4)
	defer tick.Stop()
	for {
		select {
		case <-s.ended:
			return
		case now := <-tick.C:
			if waited, ok := s.stalled(now); ok {
				s.end(fmt.Errorf("no answer from the SFTP server for %v", waited.Round(time.Second)))
				return
			}
			// The answer, or its absence, is for the deadlines of conn.
			if !s.answers() {
				s.conn.Close() // its own error is the cause, see wait
				return
			}
		}
	}
}

// stalled is true when calls wait, and nothing has moved in either direction
// for as long as the most patient one of them allows.
func (s *sftpSession) stalled(now time.Time) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	moved := time.Unix(0, s.moved.Load())
	var patience, waited time.Duration
	for c := range s.calls {
		since := c.since
		if moved.After(since) {
			since = moved
		}
		waited = max(waited, now.Sub(since))
		patience = max(patience, c.patience)
	}
	return waited, len(s.calls) > 0 && waited >= patience
}

// sftpPipe is the SSH channel below the SFTP library. It asks the server for
// its limits, which the library does not, before that sees the channel: so the
// greeting has happened when the library sends its own.
type sftpPipe struct {
	ssh.Channel
	welcome bytes.Reader // the server's VERSION, for the library
	swallow int          // bytes of the library's INIT that stay here
	wire    *batched
	begun   []byte // of a packet that the library writes in two parts
	last    *atomic.Int64
}

func (p *sftpPipe) Read(b []byte) (int, error) {
	if p.welcome.Len() > 0 {
		return p.welcome.Read(b)
	}
	n, err := p.Channel.Read(b)
	p.last.Store(time.Now().UnixNano())
	return n, err
}

func (p *sftpPipe) Write(b []byte) (int, error) {
	if n := min(p.swallow, len(b)); n > 0 {
		p.swallow -= n
		if n == len(b) {
			return n, nil
		}
		m, err := p.Write(b[n:])
		return n + m, err
	}
	if len(p.begun) == 0 && len(b) > 4 && int(binary.BigEndian.Uint32(b)) > len(b)-4 {
		p.begun = append(p.begun, b...) // a header, which would go as an SSH packet of its own
		return len(b), nil
	}
	n, err := p.writeRest(b)
	p.last.Store(time.Now().UnixNano())
	return n, err
}

// writeRest writes what was begun and b, which ends it.
func (p *sftpPipe) writeRest(b []byte) (n int, err error) {
	if len(p.begun) == 0 {
		return p.Channel.Write(b)
	}
	defer p.wire.hold()()
	n = min(len(b), packet-len(p.begun)) // of SSH, this time
	_, err = p.Channel.Write(append(p.begun, b[:n]...))
	p.begun = p.begun[:0]
	if err != nil {
		return 0, err
	}
	m, err := p.Channel.Write(b[n:])
	return n + m, err
}

// Packet types of draft-ietf-secsh-filexfer-02.
const (
	fxpInit          = 1
	fxpVersion       = 2
	fxpExtended      = 200
	fxpExtendedReply = 201

	sftpVersion = 3
)

// greet returns the longest write that the server says it takes, 0 where it
// does not say, and how long it took to answer that. What is answered first
// takes longer, because a process starts.
func (p *sftpPipe) greet() (limit uint64, roundTrip time.Duration, err error) {
	initial := binary.BigEndian.AppendUint32([]byte{fxpInit}, sftpVersion)
	version, _, err := p.ask(initial)
	if err != nil {
		return 0, 0, err
	}
	if len(version) < 5 || version[0] != fxpVersion {
		return 0, 0, fmt.Errorf("the server does not speak SFTP: it said %q", version[:min(len(version), 40)])
	}
	p.welcome.Reset(append(binary.BigEndian.AppendUint32(nil, uint32(len(version))), version...))
	p.swallow = 4 + len(initial)
	if !bytes.Contains(version, []byte("limits@openssh.com")) {
		return 0, 0, nil
	}
	request := binary.BigEndian.AppendUint32([]byte{fxpExtended}, 0)
	request = append(binary.BigEndian.AppendUint32(request, uint32(len("limits@openssh.com"))), "limits@openssh.com"...)
	reply, roundTrip, err := p.ask(request)
	// type, id, then the longest packet, read and write, and the open handles
	if err != nil || len(reply) < 5+4*8 || reply[0] != fxpExtendedReply {
		return 0, roundTrip, err
	}
	return binary.BigEndian.Uint64(reply[5+2*8:]), roundTrip, nil
}

func (p *sftpPipe) ask(packet []byte) ([]byte, time.Duration, error) {
	start := time.Now()
	if err := p.send(packet); err != nil {
		return nil, 0, err
	}
	reply, err := p.receive()
	return reply, time.Since(start), err
}

func (p *sftpPipe) send(packet []byte) error {
	_, err := p.Channel.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(packet))), packet...))
	return err
}

func (p *sftpPipe) receive() ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(p.Channel, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > packet {
		return nil, fmt.Errorf("the server does not speak SFTP: it began with %q", length[:])
	}
	b := make([]byte, n)
	_, err := io.ReadFull(p.Channel, b)
	return b, err
}
