package targets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
)

// sftpTarget is a directory on an SSH server. The connection below it may end
// and be made again; files and callers do not notice, see on.
type sftpTarget struct {
	spec  Spec
	url   string // without secrets
	opts  Options
	login *sshLogin

	connecting chan struct{} // of capacity 1: held by whoever looks for a session, and guards:
	session    *sftpSession
	backoff    time.Duration
	notBefore  time.Time // the next try to connect
	refused    error     // what the last one met

	mu   sync.Mutex
	dirs map[string]bool // that are known to be there; one entry a dump

	lost atomic.Int64 // since when the server has done nothing that it was asked, in ns since 1970; 0: it has

	closing   sync.Once
	closed    context.Context
	setClosed context.CancelCauseFunc
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second

	// fsyncRate in bytes a second is what the slowest disk of a server does; the
	// answer to a sync is waited for accordingly.
	fsyncRate = 4 << 20
)

func openSFTP(ctx context.Context, s Spec, opts Options) (Target, error) {
	t, err := newSFTPTarget(s, opts)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	if err := t.reach(ctx); err != nil {
		t.Close()
		return nil, newError("open", "", t.url, err)
	}
	return t, nil
}

func newSFTPTarget(s Spec, opts Options) (*sftpTarget, error) {
	login, err := newSSHLogin(s)
	if err != nil {
		return nil, err
	}
	t := &sftpTarget{spec: s, url: s.String(), opts: opts, login: login, connecting: make(chan struct{}, 1), dirs: make(map[string]bool)}
	t.closed, t.setClosed = context.WithCancelCause(context.Background())
	return t, nil
}

// reach connects, again and again as long as ctx allows and the server may be
// on its way up, and makes the directory that the URL names.
func (t *sftpTarget) reach(ctx context.Context) error {
	_, limited := ctx.Deadline()
	for {
		_, err := t.connected(ctx)
		if err == nil {
			break
		}
		if !temporary(err) || !limited || ctx.Err() != nil {
			return err
		}
	}
	return t.on(ctx, func(s *sftpSession) error {
		_, err := t.mkdirs(s, t.spec.Path)
		return err
	})
}

func sleep(ctx context.Context, d time.Duration) error {
	if err := context.Cause(ctx); err != nil || d <= 0 {
		return err
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connected returns the session, a new one where the last has ended. It returns
// only when nothing of the last one can come in any more. It tries once, but
// not too soon after the last try.
func (t *sftpTarget) connected(ctx context.Context) (*sftpSession, error) {
	select {
	case t.connecting <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-t.connecting }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.closed, func() { cancel(os.ErrClosed) })()
	if t.session != nil && t.session.alive() {
		return t.session, context.Cause(ctx)
	}
	if t.session != nil && !t.session.told {
		t.session.told = true
		t.opts.logf("%s: %v", t.login.addr, t.session.lost())
	}
	if err := sleep(ctx, time.Until(t.notBefore)); err != nil {
		return nil, cmpOr(t.refused, err) // what was seen says more than that time is over
	}
	if t.session != nil {
		t.session.drain()
	}
	s, err := newSFTPSession(ctx, t.spec, t.login, t.opts)
	if err != nil {
		t.backoff = min(max(2*t.backoff, firstBackoff), lastBackoff)
		t.notBefore, t.refused = time.Now().Add(t.backoff), err
		if t.session != nil || temporary(err) { // else it is given up, and the caller says why
			t.opts.logf("%v", err)
		}
		return nil, err
	}
	// One that connects and then dies at once is not asked in a loop either.
	t.session, t.backoff, t.notBefore, t.refused = s, 0, time.Now().Add(firstBackoff), nil
	t.opts.logf("%s: logged in as %s, %d writes of %d bytes in flight", t.login.addr, t.spec.User, s.inFlight, s.packet)
	return s, nil
}

func (t *sftpTarget) progress() { t.lost.Store(0) }

// lostFor is how long there has been no connection, at the time of a call that met
// it. One clock for all: the workers of a file try to connect one after the other, and
// each would count from its first try.
func (t *sftpTarget) lostFor() time.Duration {
	now := time.Now().UnixNano()
	t.lost.CompareAndSwap(0, now)
	since := t.lost.Load()
	if since == 0 { // it has done something just now
		return 0
	}
	return time.Duration(now - since)
}

// on runs op, which asks the server for something. When the connection is lost
// meanwhile op runs again on the next one: it must come to the same when it
// was half done before. That goes on until ctx ends, or the server did nothing
// at all for Options.Reconnect.
func (t *sftpTarget) on(ctx context.Context, op func(s *sftpSession) error) error {
	return t.onPatient(ctx, 0, op)
}

// onPatient is on for what the server may take longer to do than
// Options.Stall.
func (t *sftpTarget) onPatient(ctx context.Context, patience time.Duration, op func(s *sftpSession) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := t.connected(ctx)
		if err == nil {
			err = s.call(ctx, patience, func() error { return op(s) })
		}
		if err == nil {
			t.progress()
			return nil
		}
		// A server that is booting refuses what it accepts later, logins too.
		again := errors.Is(err, errLost) || s == nil && !errors.Is(err, errHostKey)
		if !again || t.closed.Err() != nil || ctx.Err() != nil {
			return err
		}
		if lost := t.lostFor(); lost > t.opts.reconnect() {
			return transient(fmt.Errorf("%w; no way to go on for %v", err, lost.Round(time.Second)), "")
		}
		// A server that answers, and lacks what it had, must not be asked in a loop.
		if s != nil && s.alive() {
			if err := sleep(ctx, firstBackoff); err != nil {
				return err
			}
		}
	}
}

// notYet is for what was there before the connection was lost. A server that restarts
// may answer before the disk is mounted that has it, so it counts as lost too, for as
// long as a connection may be.
func notYet(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w%w", hidden{errLost}, err)
}

// remote is the path on the server.
func (t *sftpTarget) remote(name string) string { return path.Join(t.spec.Path, name) }

func (t *sftpTarget) Space(ctx context.Context) (free uint64, err error) {
	err = t.on(ctx, func(s *sftpSession) error {
		if _, ok := s.HasExtension("statvfs@openssh.com"); !ok {
			return permanent(ErrSpaceUnknown, "")
		}
		v, err := s.StatVFS(t.spec.Path)
		switch {
		case err == nil:
			free = v.Bavail * v.Frsize
		case answered(err):
			return permanent(fmt.Errorf("%w: %w", ErrSpaceUnknown, err), "")
		}
		return err
	})
	return free, newError("ask free space of", "", t.url, err)
}

func (t *sftpTarget) List(ctx context.Context, dir string) ([]Entry, error) {
	var entries []Entry
	err := ctx.Err()
	if err == nil && dir != "" {
		err = checkPath(dir)
	}
	if err == nil {
		err = t.on(ctx, func(s *sftpSession) error {
			infos, err := s.ReadDir(t.remote(dir))
			entries = make([]Entry, 0, len(infos))
			for _, i := range infos {
				entries = append(entries, Entry{Name: i.Name(), Dir: i.IsDir(), Size: i.Size(), ModTime: i.ModTime()})
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

func (t *sftpTarget) Remove(ctx context.Context, name string) error {
	err := errors.Join(ctx.Err(), checkPath(name))
	if err == nil {
		err = t.on(ctx, func(s *sftpSession) error {
			t.forgetDirs()
			if err := removeAll(s, t.remote(name)); err != nil {
				return err
			}
			syncRemoteDir(s, path.Dir(t.remote(name)))
			return nil
		})
	}
	return newError("remove", name, t.url, t.advise(err, name))
}

// removeAll does not follow links.
func removeAll(s *sftpSession, name string) error {
	info, err := s.Lstat(name)
	if err == nil && info.IsDir() {
		var infos []os.FileInfo
		if infos, err = s.ReadDir(name); err != nil {
			return missingIsFine(err)
		}
		for _, i := range infos {
			if err := removeAll(s, path.Join(name, i.Name())); err != nil {
				return err
			}
		}
		return missingIsFine(s.RemoveDirectory(name))
	}
	if err == nil {
		err = s.Client.Remove(name)
	}
	return missingIsFine(err)
}

func missingIsFine(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (t *sftpTarget) Rename(ctx context.Context, from, to string) error {
	err := errors.Join(ctx.Err(), checkPath(from), checkName(to))
	if err == nil {
		again := false
		err = t.on(ctx, func(s *sftpSession) error {
			defer func() { again = true }()
			t.forgetDirs()
			if _, err := t.mkdirs(s, path.Dir(t.remote(to))); err != nil {
				return err
			}
			return rename(s, t.remote(from), t.remote(to), again)
		})
	}
	return newError("rename "+from+" to", to, t.url, t.advise(err, to))
}

// rename never replaces. OpenSSH's own rename links and unlinks a file, which
// cannot replace, and looks first where that is not possible; other servers may
// do less, so it is looked for here too. Where the server's rename fails
// although nothing is in the way, posix-rename@openssh.com may work.
//
// again tells that the connection was lost during an earlier try, which may
// have been done all the same.
func rename(s *sftpSession, from, to string, again bool) error {
	_, err := s.Lstat(to)
	switch {
	case err == nil && again:
		if _, err := s.Lstat(from); !errors.Is(err, fs.ErrNotExist) {
			return cmpOr(err, fs.ErrExist)
		}
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default:
		if err := s.Client.Rename(from, to); err != nil {
			if _, there := s.Lstat(to); !errors.Is(there, fs.ErrNotExist) || s.PosixRename(from, to) != nil {
				return err
			}
		}
	}
	syncRemoteDir(s, path.Dir(to))
	if path.Dir(from) != path.Dir(to) {
		syncRemoteDir(s, path.Dir(from))
	}
	return nil
}

// syncRemoteDir makes names durable, which SFTP has no request for: OpenSSH
// opens a directory like a file, and syncs it. Others refuse: then the server's
// file system does it in its own time.
func syncRemoteDir(s *sftpSession, dir string) {
	d, err := s.OpenFile(dir, os.O_RDONLY)
	if err != nil {
		return
	}
	d.Sync()
	s.later(func() { d.Close() })
}

// mkdirs makes an absolute directory and what is missing above it. What is
// there is not looked into: in a chroot not even the top may be listed.
func (t *sftpTarget) mkdirs(s *sftpSession, dir string) (made bool, err error) {
	if t.knows(dir) {
		return false, nil
	}
	info, err := s.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return false, fmt.Errorf("%s: %w", dir, syscall.ENOTDIR)
	case err == nil || dir == "/":
		t.know(dir)
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%s: %w", dir, err)
	}
	if _, err := t.mkdirs(s, path.Dir(dir)); err != nil {
		return false, err
	}
	if err := s.Mkdir(dir); err != nil {
		if info, e := s.Stat(dir); e == nil && info.IsDir() {
			return false, nil // by somebody else, or by us before the connection was lost
		}
		return false, t.diagnose(s, path.Dir(dir), fmt.Errorf("make directory %s: %w", dir, err))
	}
	if err := s.Chmod(dir, dirMode); err != nil && !answered(err) {
		return false, err
	}
	s.later(func() { syncRemoteDir(s, path.Dir(dir)) })
	t.know(dir)
	return true, nil
}

// Directories that are there are remembered: on a long line each look is a
// round trip.
func (t *sftpTarget) knows(dir string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dirs[dir]
}

func (t *sftpTarget) know(dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirs[dir] = true
}

func (t *sftpTarget) forgetDirs() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.dirs)
}

// littleSpace is what a failed write may have left on a full file system.
const littleSpace = 4 << 20

// isFailure is true where the server has said "Failure" and no more.
func isFailure(err error) bool {
	var status *sftp.StatusError
	return errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxFailure
}

// diagnose finds out what the server calls just "Failure": version 3 of SFTP has
// no words for a full or a read-only file system.
func (t *sftpTarget) diagnose(s *sftpSession, dir string, err error) error {
	if !isFailure(err) {
		return err
	}
	if _, ok := s.HasExtension("statvfs@openssh.com"); !ok {
		return err
	}
	v, statErr := s.StatVFS(dir)
	const readOnly = 1 // SSH2_FXE_STATVFS_ST_RDONLY
	switch {
	case statErr != nil:
		return err
	case v.Flag&readOnly != 0:
		return permanent(fmt.Errorf("%w: %w", err, syscall.EROFS), "")
	case v.Bavail*v.Frsize < littleSpace, v.Files > 0 && v.Favail == 0:
		return permanent(fmt.Errorf("%w: %w", err, syscall.ENOSPC), "")
	}
	return err
}

// probe finds out whether a write that ended at byte end met a limit that statvfs
// does not show: a quota, if as little as another file may have left does not fit
// either; or a limit for each file, if no other file may become so long. The first
// one needs no space beyond that, the second one none where files have holes.
func (t *sftpTarget) probe(s *sftpSession, dir string, end int64, err error) error {
	name := path.Join(dir, IncompleteName("space"))
	h, e := s.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if e != nil {
		return cmpOr(unanswered(e), err)
	}
	limit := syscall.ENOSPC
	zeros := make([]byte, s.packet)
	for off := 0; off < littleSpace && e == nil; off += len(zeros) {
		_, e = h.WriteAt(zeros, int64(off))
	}
	if e == nil {
		limit = syscall.EFBIG
		e = h.Truncate(end)
	}
	closed := h.Close()
	removed := s.Client.Remove(name)
	if lost := errors.Join(unanswered(e), unanswered(closed), unanswered(removed)); lost != nil {
		return lost
	}
	if isFailure(e) || isFailure(closed) {
		return permanent(fmt.Errorf("%w: %w", err, limit), "")
	}
	return err
}

// unanswered is err unless the server told it.
func unanswered(err error) error {
	if err == nil || answered(err) {
		return nil
	}
	return err
}

// advise adds what to do to an error that the server told.
func (t *sftpTarget) advise(err error, name string) error {
	var status *sftp.StatusError
	var rc *remoteCause
	switch {
	case err == nil, errors.As(err, &rc):
		return err
	case errors.Is(err, fs.ErrPermission):
		return permanent(err, fmt.Sprintf("may user %s write to %s", t.spec.User, t.remote(path.Dir(name))))
	case errors.As(err, &status):
		return permanent(err, "the server says no more: a quota, a name in the way, a broken disk? Its log may tell")
	}
	return err
}

// Close waits for what the server is still asked to sync.
func (t *sftpTarget) Close() error {
	t.closing.Do(func() {
		t.setClosed(os.ErrClosed)
		t.connecting <- struct{}{} // connecting has bounds of its own
		defer func() { <-t.connecting }()
		if t.session != nil {
			t.session.drain()
			t.session.end(os.ErrClosed)
		}
	})
	return nil
}
