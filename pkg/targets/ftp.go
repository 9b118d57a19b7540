package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ukdump/ukdump/internal/ftp"
	"golang.org/x/sys/unix"
)

// ftpTarget is a directory on an FTP server. A control connection has one
// transfer at a time: a file takes one for itself while it sends, and everything
// else uses, or makes, another one. So there is one as long as nothing is done
// at the same time.
type ftpTarget struct {
	spec  Spec
	url   string // without secrets
	opts  Options
	login ftp.Config

	// secure makes what login.Secure is on one control connection. nil: no TLS.
	secure func() func(net.Conn) (net.Conn, error)

	mu        sync.Mutex
	idle      *ftp.Conn              // nobody uses it; nil: none
	all       map[*ftp.Conn]struct{} // idle or not
	backoff   time.Duration
	notBefore time.Time // the next try to connect
	refused   error     // what the last one met

	restarts ability      // whether the server writes into the middle of a file
	sizes    ability      // whether it tells the size of a file that is being sent
	good     atomic.Int64 // when the server last did what it was asked, in ns since 1970
	hasData  atomic.Bool  // a data connection has worked

	closing   sync.Once
	closed    context.Context
	setClosed context.CancelCauseFunc
}

// ability is what is known of a server: it can do something, or refuses.
type ability struct{ state atomic.Int32 }

const (
	works = iota + 1
	refuses
)

func (a *ability) works() bool   { return a.state.Load() == works }
func (a *ability) refuses() bool { return a.state.Load() == refuses }
func (a *ability) known() bool   { return a.state.Load() != 0 }
func (a *ability) set(state int) { a.state.Store(int32(state)) }

// errNoConnection marks that there was nobody to ask.
const errNoConnection constError = "no connection"

const ftpPort = 21

func parseFTP(u *rawURL) (Spec, error) {
	s, err := u.server("ftp://USER@HOST/DIR?password-file=FILE", "password-file")
	if err != nil {
		return Spec{}, err
	}
	return s, checkFTPUser(s)
}

func checkFTPUser(s Spec) error {
	anonymous := s.User == "" || s.User == "anonymous" || s.User == "ftp"
	if hasPassword := s.param("password-file") != ""; anonymous == hasPassword {
		return fmt.Errorf("user %q: want USER@ with password-file=FILE, or neither of them for an anonymous upload", s.User)
	}
	return nil
}

func openFTP(ctx context.Context, s Spec, opts Options) (Target, error) {
	t, err := newFTPTarget(s, opts)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	return t.start(ctx)
}

func newFTPTarget(s Spec, opts Options) (*ftpTarget, error) {
	t := &ftpTarget{spec: s, url: s.String(), opts: opts, all: make(map[*ftp.Conn]struct{})}
	t.login = ftp.Config{
		Addr:     net.JoinHostPort(s.Host, strconv.Itoa(cmp.Or(s.Port, ftpPort))),
		User:     cmp.Or(s.User, "anonymous"),
		Password: "kdump@",
		Connect: func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := opts.dialAddr(ctx, addr)
			if err != nil {
				return nil, err
			}
			return newFTPLine(c, opts), nil
		},
	}
	if s.param("password-file") != "" {
		var err error
		if t.login.Password, err = readPassword(s); err != nil {
			return nil, err
		}
	}
	t.closed, t.setClosed = context.WithCancelCause(context.Background())
	return t, nil
}

// start connects, again and again as long as ctx allows and the server may be
// on its way up, and makes the directory that the URL names.
func (t *ftpTarget) start(ctx context.Context) (Target, error) {
	_, limited := ctx.Deadline()
	for {
		c, err := t.take(ctx)
		if err == nil {
			t.give(c)
			break
		}
		if !newError("", "", "", err).(*Error).Temporary || !limited || ctx.Err() != nil {
			t.Close()
			return nil, newError("open", "", t.url, err)
		}
	}
	if err := t.on(ctx, func(c *ftp.Conn) error { return t.mkdirs(c, t.spec.Path) }); err != nil {
		t.Close()
		return nil, newError("open", "", t.url, t.advise(err, ""))
	}
	return t, nil
}

// ftpLine is a connection on which all that was written comes before an answer.
type ftpLine struct {
	*conn
	wrote atomic.Int64 // and is perhaps not read yet
}

// What was written can be acknowledged and still wait in front of the server's
// disk, so a Read is patient: as much as most may be on its way, and goes on
// with no less than slowest bytes a second.
const (
	mostOnItsWay = 16 << 20
	slowest      = 256 << 10
)

func newFTPLine(c net.Conn, opts Options) net.Conn {
	already, ok := c.(*conn)
	if !ok {
		already = rolling(c, opts.stall())
	}
	l := &ftpLine{conn: already}
	// A transfer that was given up still ends on the server as soon as the network
	// is back: before that, vsftpd keeps the file locked. Errors: it is not a
	// socket then.
	l.control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((opts.stall() + opts.reconnect()).Milliseconds()))
	})
	return l
}

// Close is not conn's: what the socket holds has to come to the server, see newFTPLine.
func (l *ftpLine) Close() error { return l.Conn.Close() }

func (l *ftpLine) Read(p []byte) (n int, err error) {
	patience := time.Duration(min(l.wrote.Load(), mostOnItsWay)) * time.Second / slowest
	for begin := time.Now(); ; {
		n, err = l.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) > patience {
			return n, err
		}
	}
}

func (l *ftpLine) Write(p []byte) (done int, err error) {
	done, err = l.conn.Write(p)
	l.wrote.Add(int64(done))
	return done, err
}

// Remaining: the peer has read all but n bytes of what was written.
func (l *ftpLine) Remaining(n int64) { l.wrote.Store(n) }

// Ended is true when the peer has closed its end, or all of the connection.
func (l *ftpLine) Ended() bool {
	const over = unix.POLLRDHUP | unix.POLLHUP | unix.POLLERR
	fds := []unix.PollFd{{Events: over}}
	err := l.control(func(fd int) error {
		fds[0].Fd = int32(fd)
		_, err := unix.Poll(fds, 0)
		return err
	})
	return err == nil && fds[0].Revents&over != 0
}

func (l *ftpLine) CloseWrite() error {
	if h, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// take returns a connection that is the caller's until give.
func (t *ftpTarget) take(ctx context.Context) (*ftp.Conn, error) {
	t.mu.Lock()
	c, notBefore, refused := t.idle, t.notBefore, t.refused
	t.idle = nil
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.closed, func() { cancel(os.ErrClosed) })()
	if err := sleep(ctx, time.Until(notBefore)); err != nil {
		return nil, cmpOr(refused, err) // what was seen says more than that time is over
	}
	patient, stop := context.WithTimeout(ctx, max(2*t.opts.stall(), connectPatience))
	defer stop()
	login := t.login
	if t.secure != nil {
		login.Secure = t.secure()
	}
	c, err := ftp.Dial(patient, login)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && t.closed.Err() != nil {
		c.Close()
		err = os.ErrClosed
	}
	if err != nil {
		t.backoff = min(max(2*t.backoff, firstBackoff), lastBackoff)
		t.notBefore = time.Now().Add(t.backoff)
		t.refused = fmt.Errorf("%w%w", hidden{errNoConnection}, t.explainLogin(err))
		if t.good.Load() > 0 || newError("", "", "", t.refused).(*Error).Temporary { // else it is given up, and the caller says why
			t.opts.logf("%s: %v", t.url, t.refused)
		}
		return nil, t.refused
	}
	t.backoff, t.notBefore, t.refused = 0, time.Time{}, nil
	t.all[c] = struct{}{}
	return c, nil
}

// hidden is an error that errors.Is finds and nobody reads.
type hidden struct{ error }

func (hidden) Error() string         { return "" }
func (h hidden) Unwrap() error       { return h.error }
func (t *ftpTarget) answered()       { t.good.Store(time.Now().UnixNano()) }
func (t *ftpTarget) last() time.Time { return time.Unix(0, t.good.Load()) }

// progress is for bytes of a file that were not there before.
func (t *ftpTarget) progress() {
	t.answered()
	t.opts.moved()
}

// give is the end of take. One connection is kept for the next.
func (t *ftpTarget) give(c *ftp.Conn) {
	t.mu.Lock()
	keep := c.Broken() == nil && t.idle == nil && t.closed.Err() == nil
	if keep {
		t.idle = c
	} else {
		delete(t.all, c)
	}
	t.mu.Unlock()
	if !keep {
		c.Close()
	}
}

// explainLogin adds what an operator can do.
func (t *ftpTarget) explainLogin(err error) error {
	var login *ftp.LoginError
	var refused *ftp.Error
	var garbage *ftp.GarbageError
	var told *remoteCause
	switch {
	case errors.As(err, &told):
		return err
	case errors.As(err, &login) && login.Refusal.Reply.Code/100 == 5:
		from := "may anonymous users log in"
		if name := t.spec.param("password-file"); name != "" {
			from = "is the password in " + name + " right, and may the user log in"
		}
		return permanent(fmt.Errorf("%s: %w", t.login.Addr, err), from)
	case errors.As(err, &refused) && refused.Command == "AUTH TLS" && refused.Reply.Code/100 == 5:
		return permanent(fmt.Errorf("%s: %w", t.login.Addr, err), "has the server TLS? ftp:// does without")
	case errors.As(err, &refused) && refused.Reply.Code/100 == 5:
		return permanent(fmt.Errorf("%s: %w", t.login.Addr, err), "")
	case errors.As(err, &refused):
		return transient(fmt.Errorf("%s: %w", t.login.Addr, err), "")
	case errors.As(err, &garbage):
		return permanent(fmt.Errorf("%s: %w", t.login.Addr, err), "is that the port of FTP")
	case errors.Is(err, context.DeadlineExceeded):
		return transient(fmt.Errorf("log in to %s: no answer in time", t.login.Addr), "")
	case isBroken(err):
		return transient(fmt.Errorf("log in to %s: %w", t.login.Addr, bare(err)), "")
	}
	return fmt.Errorf("log in to %s: %w", t.login.Addr, err)
}

// on runs op with a connection of its own. When that is lost meanwhile op runs
// again on the next one: it must come to the same when it was half done before.
func (t *ftpTarget) on(ctx context.Context, op func(c *ftp.Conn) error) error {
	return t.again(ctx, func(soon context.Context) (*ftp.Conn, error) {
		c, err := t.take(soon)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, c.Abort)
		err = op(c)
		if !stop() {
			c.Close()
			err = cmpOr(err, context.Cause(ctx))
		}
		t.give(c)
		return c, err
	})
}

// again runs try until it says something else than that its connection is lost.
// That goes on until ctx ends, or the server did nothing at all for
// Options.Reconnect: a new connection has to be there soon, before that is over.
func (t *ftpTarget) again(ctx context.Context, try func(soon context.Context) (*ftp.Conn, error)) error {
	var since time.Time // the connection was lost without anything done after
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		soon, cancel := ctx, context.CancelFunc(func() {})
		if !since.IsZero() && !t.last().After(since) {
			soon, cancel = context.WithDeadline(ctx, since.Add(t.opts.reconnect()))
		}
		c, err := try(soon)
		cancel()
		if err == nil {
			t.answered()
			return nil
		}
		if err := ctx.Err(); err != nil {
			return cmpOr(context.Cause(ctx), err)
		}
		if !t.isLost(c, err) {
			return err
		}
		if since.IsZero() || t.last().After(since) {
			since = time.Now()
			t.opts.logf("%s: connection lost: %v", t.url, err)
		}
		if lost := time.Since(since); lost > t.opts.reconnect() {
			return transient(fmt.Errorf("%w; no way to go on for %v", err, lost.Round(time.Second)), "")
		}
		// A server that refuses each transfer must not be asked in a loop.
		if err := sleep(ctx, firstBackoff); err != nil {
			return err
		}
	}
}

// isLost is true for an error with which another connection may help.
func (t *ftpTarget) isLost(c *ftp.Conn, err error) bool {
	var data *ftp.DataError
	var refused *ftp.Error
	switch {
	case errors.Is(err, errCertificate):
		return false
	case errors.As(err, &data) && !t.hasData.Load():
		return false // a firewall: it will not go away
	case errors.Is(err, errNoConnection), errors.Is(err, errLost):
		return true // a server that is booting refuses what it accepts later, logins too
	case errors.As(err, &refused):
		return refused.Gone() || c != nil && c.Broken() != nil
	}
	return c != nil && c.Broken() != nil
}

// remote is the path on the server.
func (t *ftpTarget) remote(name string) string { return path.Join(t.spec.Path, name) }

// mkdirs makes an absolute directory and what is missing above it.
func (t *ftpTarget) mkdirs(c *ftp.Conn, dir string) error {
	err := c.Enter(dir)
	if err == nil || c.Broken() != nil || dir == "/" {
		return err
	}
	if err := t.mkdirs(c, path.Dir(dir)); err != nil {
		return err
	}
	made := c.MakeDir(dir)
	if made == nil || c.Broken() != nil {
		return made
	}
	if c.Enter(dir) == nil { // by somebody else, or by us before the connection was lost
		return nil
	}
	if _, err := c.Stat(dir); err == nil {
		return fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
	}
	return refusal(made)
}

// refusal is for what the server does not want although everything that it
// needs is there: with 550 and 553 alone servers say that it is not allowed.
func refusal(err error) error {
	var e *ftp.Error
	if !errors.As(err, &e) || e.Reply.Code/100 != 5 || e.Unknown() {
		return err
	}
	for _, known := range []error{fs.ErrPermission, fs.ErrExist, fs.ErrNotExist, syscall.ENOSPC, syscall.EROFS} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", err, fs.ErrPermission)
}

// diagnose finds out whether a transfer failed because the file system is full:
// of that vsftpd says "Failure writing to local file", and proftpd "Input/output
// error".
func (t *ftpTarget) diagnose(c *ftp.Conn, dir string, err error) error {
	var refused *ftp.Error
	if c == nil || c.Broken() != nil || !errors.As(err, &refused) || refused.Reply.Code != 451 || errors.Is(err, syscall.ENOSPC) {
		return err
	}
	name := path.Join(dir, IncompleteName("space"))
	up, e := c.Store(t.closed, name, 0)
	if e != nil {
		return err
	}
	zeros := make([]byte, littleSpace)
	if _, e = up.Write(zeros); e == nil {
		e = up.Finish()
	}
	c.Delete(name)
	if errors.Is(e, syscall.ENOSPC) || errors.As(e, &refused) && refused.Reply.Code == 451 {
		return permanent(fmt.Errorf("%w: %w", err, syscall.ENOSPC), "")
	}
	return err
}

// advise adds what to do to an error that the server told.
func (t *ftpTarget) advise(err error, name string) error {
	var rc *remoteCause
	var data *ftp.DataError
	var refused *ftp.Error
	switch {
	case err == nil, errors.As(err, &rc):
		return err
	case errors.As(err, &data):
		return transient(err, "are the server's passive ports open in its firewall")
	case errors.Is(err, syscall.EROFS):
		return permanent(err, "")
	case errors.Is(err, fs.ErrPermission):
		return permanent(err, fmt.Sprintf("may user %s make, overwrite, rename and delete files in %s", t.login.User, t.remote(path.Dir(name))))
	case errors.As(err, &refused) && refused.Temporary():
		return transient(err, "")
	}
	return err
}

func (t *ftpTarget) Space(ctx context.Context) (free uint64, err error) {
	err = t.on(ctx, func(c *ftp.Conn) error {
		n, ok, err := c.Space(t.spec.Path)
		if err == nil && !ok {
			return permanent(ErrSpaceUnknown, "")
		}
		free = n
		return err
	})
	return free, newError("ask free space of", "", t.url, err)
}

func (t *ftpTarget) List(ctx context.Context, dir string) ([]Entry, error) {
	var entries []Entry
	err := ctx.Err()
	if err == nil && dir != "" {
		err = checkPath(dir)
	}
	if err == nil {
		err = t.on(ctx, func(c *ftp.Conn) error {
			list, err := t.list(ctx, c, t.remote(dir))
			entries = make([]Entry, 0, len(list))
			for _, e := range list {
				entries = append(entries, Entry(e))
			}
			return err
		})
	}
	if err != nil {
		return nil, newError("list", dir, t.url, t.advise(err, dir))
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// list tells a missing directory from other reasons.
func (t *ftpTarget) list(ctx context.Context, c *ftp.Conn, dir string) ([]ftp.Entry, error) {
	entries, err := c.List(ctx, dir)
	if err == nil {
		t.hasData.Store(true)
	}
	var refused *ftp.Error
	if !errors.As(err, &refused) || c.Broken() != nil || refused.Reply.Code/100 != 5 {
		return entries, err
	}
	switch e, stat := c.Stat(dir); {
	case errors.Is(stat, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	case stat == nil && !e.Dir:
		return nil, fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
	}
	return nil, refusal(err)
}

func (t *ftpTarget) Remove(ctx context.Context, name string) error {
	err := errors.Join(ctx.Err(), checkPath(name))
	if err == nil {
		err = t.on(ctx, func(c *ftp.Conn) error {
			full := t.remote(name)
			// From the list above it, and not by asking: that would follow a link.
			entries, err := t.list(ctx, c, path.Dir(full))
			for _, e := range entries {
				if err == nil && e.Name == path.Base(full) {
					err = t.removeAll(ctx, c, full, e)
				}
			}
			return missingIsFine(err)
		})
	}
	return newError("remove", name, t.url, t.advise(err, name))
}

func (t *ftpTarget) removeAll(ctx context.Context, c *ftp.Conn, name string, e ftp.Entry) error {
	if !e.Dir {
		return refusal(c.Delete(name))
	}
	entries, err := t.list(ctx, c, name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := missingIsFine(t.removeAll(ctx, c, path.Join(name, e.Name), e)); err != nil {
			return err
		}
	}
	if err := c.Enter("/"); err != nil && c.Broken() != nil { // not to stand in what is removed
		return err
	}
	return refusal(c.RemoveDir(name))
}

func (t *ftpTarget) Rename(ctx context.Context, from, to string) error {
	err := errors.Join(ctx.Err(), checkPath(from), checkName(to))
	if err == nil {
		again := false
		err = t.on(ctx, func(c *ftp.Conn) error {
			defer func() { again = true }()
			if err := t.mkdirs(c, path.Dir(t.remote(to))); err != nil {
				return err
			}
			return renameFTP(c, t.remote(from), t.remote(to), again)
		})
	}
	return newError("rename "+from+" to", to, t.url, t.advise(err, to))
}

// renameFTP never replaces, as far as looking before can do that: servers
// replace without a word.
//
// again tells that the connection was lost during an earlier try, which may
// have been done all the same.
func renameFTP(c *ftp.Conn, from, to string, again bool) error {
	_, err := c.Stat(to)
	_, source := c.Stat(from)
	switch {
	case c.Broken() != nil:
		return c.Broken()
	case err == nil && again && errors.Is(source, fs.ErrNotExist):
		return nil
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case source != nil:
		return source
	}
	return refusal(c.Rename(from, to))
}

func (t *ftpTarget) Close() error {
	t.closing.Do(func() {
		t.setClosed(os.ErrClosed)
		t.mu.Lock()
		idle, all := t.idle, t.all
		t.idle, t.all = nil, make(map[*ftp.Conn]struct{})
		t.mu.Unlock()
		if idle != nil {
			idle.Close()
		}
		for c := range all {
			if c != idle {
				c.Abort()
			}
		}
	})
	return nil
}
