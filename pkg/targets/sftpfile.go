package targets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/pkg/sftp"
)

// spareChunks are filled while all the others are in flight.
const spareChunks = 2

// sftpFile copies what it is given into chunks, each the size of one packet,
// and has several of them under way. A chunk belongs to the file until the
// server has acknowledged it: so it can be sent again when the connection was
// lost. The chunks are all the memory there is: 10 of 255 KiB, 26 where the
// server is far away, or 66 and 194 of 32 KiB.
type sftpFile struct {
	t    *sftpTarget
	name string // final, relative to the target

	live   context.Context // of the workers
	giveUp context.CancelFunc

	position sync.Mutex // of Write
	pos      int64

	mu      sync.Mutex
	changed sync.Cond // anything below, but
	queued  sync.Cond // for workers: queue, err or ended
	workers int
	size    int64
	writes  int      // calls of WriteAt
	filling *chunk   // not yet queued
	free    []*chunk // made as they are needed, up to limit
	made    int
	limit   int
	packet  int
	queue   []*chunk // in the order of the writes
	flying  []*chunk
	err     error // the first one
	ended   bool  // committed or closed

	acked int64 // one past the highest byte acknowledged

	probing sync.Mutex // held by the one that looks for a limit, see limited

	opening sync.Mutex
	session *sftpSession // on which the file is open,
	handles []*sftp.File // on each of its lanes; nil: not yet
	missing absence

	reading     sync.Mutex
	readNext    int64  // where one that reads in order goes on
	ahead       []byte // of the file, from aheadOff
	aheadOff    int64
	aheadWrites int // the value of writes when that was so

	settled  *sftpSession // on which Commit has found all of the file
	unsynced string       // why it could not sync
}

// absence is that a file is not there after a lost connection.
type absence struct {
	since, asked time.Time // asked: the last time
	err          error     // what the server said; nil: it is there
}

// askAgain is how often all workers together look whether the file is back.
const askAgain = 500 * time.Millisecond

// chunk is a piece of the file that the server has not acknowledged yet.
type chunk struct {
	b   []byte
	off int64
}

func (c *chunk) end() int64 { return c.off + int64(len(c.b)) }

func (c *chunk) overlaps(d *chunk) bool { return c.off < d.end() && d.off < c.end() }

func (t *sftpTarget) Create(ctx context.Context, name string) (File, error) {
	err := errors.Join(ctx.Err(), checkName(name))
	f := &sftpFile{t: t, name: name, readNext: -1}
	f.live, f.giveUp = context.WithCancel(t.closed)
	f.changed.L, f.queued.L = &f.mu, &f.mu
	if err == nil {
		err = t.on(ctx, f.create)
	}
	if err != nil {
		f.giveUp()
		return nil, newError("create", name, t.url, t.advise(err, name))
	}
	// Over a bad line what waits to be sent would hold up whoever was told to end.
	context.AfterFunc(ctx, func() { f.abandon(context.Cause(ctx)) })
	return f, nil
}

func (f *sftpFile) final() string      { return f.t.remote(f.name) }
func (f *sftpFile) incomplete() string { return f.t.remote(IncompleteName(f.name)) }

// create makes a new file rather than emptying the old one: an abandoned
// attempt may still write to that.
func (f *sftpFile) create(s *sftpSession) error {
	fresh, err := f.t.mkdirs(s, path.Dir(f.final()))
	if err != nil {
		return err
	}
	if !fresh { // else nothing is there
		if _, err := s.Lstat(f.final()); !errors.Is(err, fs.ErrNotExist) {
			return cmpOr(err, fs.ErrExist)
		}
	}
	const anew = os.O_RDWR | os.O_CREATE | os.O_EXCL
	h, err := s.OpenFile(f.incomplete(), anew)
	if err != nil {
		f.t.forgetDirs() // somebody may have taken one away
		if _, err := f.t.mkdirs(s, path.Dir(f.final())); err != nil {
			return err
		}
		if err := missingIsFine(s.Client.Remove(f.incomplete())); err != nil {
			return f.t.diagnose(s, path.Dir(f.final()), err)
		}
		h, err = s.OpenFile(f.incomplete(), anew)
	}
	if err != nil {
		return f.t.diagnose(s, path.Dir(f.final()), err)
	}
	if err := h.Chmod(fileMode); err != nil && !answered(err) {
		return err
	}
	f.packet, f.limit = s.packet, s.inFlight+spareChunks
	f.session, f.handles = s, []*sftp.File{h}
	return nil
}

func (f *sftpFile) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

func (f *sftpFile) Write(p []byte) (int, error) {
	f.position.Lock()
	defer f.position.Unlock()
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *sftpFile) WriteAt(p []byte, off int64) (done int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	for {
		if err := f.usable(); err != nil {
			return done, err
		}
		if len(p) == 0 {
			return done, nil
		}
		c := f.room(off)
		if c == nil {
			f.changed.Wait()
			continue
		}
		n := min(len(p), f.packet-len(c.b))
		c.b = append(c.b, p[:n]...)
		p, off, done = p[n:], off+int64(n), done+n
		f.size = max(f.size, off)
		if len(c.b) == f.packet {
			f.push()
		}
	}
}

// usable needs mu.
func (f *sftpFile) usable() error {
	if f.err == nil && f.ended {
		return newError("write", f.name, f.t.url, os.ErrClosed)
	}
	return f.err
}

// room is the chunk to which a byte at off is appended; nil: none is free. It
// needs mu.
func (f *sftpFile) room(off int64) *chunk {
	if f.filling != nil && f.filling.end() != off {
		f.push()
	}
	if f.filling != nil {
		return f.filling
	}
	var c *chunk
	switch n := len(f.free); {
	case n > 0:
		c, f.free = f.free[n-1], f.free[:n-1]
	case f.made < f.limit:
		c = &chunk{b: make([]byte, 0, f.packet)}
		f.made++
	default:
		return nil
	}
	c.b, c.off = c.b[:0], off
	f.filling = c
	return c
}

// push lets the chunk go that is being filled. It needs mu.
func (f *sftpFile) push() {
	if f.filling == nil {
		return
	}
	f.queue = append(f.queue, f.filling)
	f.filling = nil
	if f.workers < f.limit-spareChunks && f.workers < len(f.queue)+len(f.flying) {
		go f.work(f.workers)
		f.workers++
	} else {
		f.queued.Signal()
	}
}

// work sends chunks, one at a time, until the file has ended or failed.
func (f *sftpFile) work(n int) {
	for c := f.take(); c != nil; c = f.take() {
		err := f.t.on(f.live, func(s *sftpSession) error { return f.send(s, n, c) })
		if err != nil {
			f.fail("write", f.limited(err, c.end()))
		}
	}
}

// take waits for a chunk that no other overlaps which was written before it and
// is not acknowledged yet: those overtake each other on the way.
func (f *sftpFile) take() *chunk {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.err != nil || f.ended && f.filling == nil && len(f.queue) == 0 {
			return nil
		}
		for i, c := range f.queue {
			if !slices.ContainsFunc(f.flying, c.overlaps) && !slices.ContainsFunc(f.queue[:i], c.overlaps) {
				f.queue = slices.Delete(f.queue, i, i+1)
				f.flying = append(f.flying, c)
				return c
			}
		}
		f.queued.Wait()
	}
}

// send writes the chunk, and gives it back before the session can be drained:
// what was acknowledged is then neither sent again nor cut off.
func (f *sftpFile) send(s *sftpSession, worker int, c *chunk) error {
	h, err := f.opened(s, worker)
	if err != nil {
		return err
	}
	if _, err := h.WriteAt(c.b, c.off); err != nil {
		return f.t.diagnose(s, path.Dir(f.final()), err)
	}
	f.t.progress()
	f.t.opts.moved()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked = max(f.acked, c.end())
	f.flying = slices.DeleteFunc(f.flying, func(d *chunk) bool { return d == c })
	f.free = append(f.free, c)
	f.changed.Broadcast()
	if len(f.queue) > 0 { // perhaps because c was in the way
		f.queued.Broadcast()
	}
	return nil
}

// opened is the file as it is open on s. After a lost connection it is opened
// again, and cut back to the acknowledged bytes: what was written behind them
// may be half a chunk. All chunks that were not acknowledged are sent again.
func (f *sftpFile) opened(s *sftpSession, worker int) (*sftp.File, error) {
	f.opening.Lock()
	defer f.opening.Unlock()
	if f.session != s {
		if err := f.reopen(s); err != nil {
			return nil, err
		}
	}
	n, c := s.lane(worker)
	for len(f.handles) <= n {
		f.handles = append(f.handles, nil)
	}
	if f.handles[n] == nil {
		h, err := c.OpenFile(f.incomplete(), os.O_RDWR)
		if err != nil {
			return nil, err
		}
		f.handles[n] = h
	}
	return f.handles[n], nil
}

func (f *sftpFile) reopen(s *sftpSession) error {
	if f.missing.err != nil && time.Since(f.missing.asked) < askAgain {
		return f.notYet(f.missing.err)
	}
	h, err := s.OpenFile(f.incomplete(), os.O_RDWR)
	f.missing.asked = time.Now()
	if err != nil {
		return f.notYet(fmt.Errorf("open again after a lost connection: %w", err))
	}
	f.missing.err = nil
	info, err := h.Stat()
	if err != nil {
		return err
	}
	f.mu.Lock()
	acked := f.acked
	f.mu.Unlock()
	if info.Size() < acked {
		return transient(fmt.Errorf("the server has %d bytes of %d that it had acknowledged", info.Size(), acked), "it was restarted before they were on its disk: a new attempt may do")
	}
	// Chunks are acknowledged in any order: what lies below that and is not,
	// is here and will be sent again.
	if info.Size() > acked {
		if err := h.Truncate(acked); err != nil {
			return err
		}
	}
	f.t.opts.logf("%s: %s goes on at byte %d", f.t.login.addr, f.name, f.prefix())
	f.session, f.handles = s, []*sftp.File{h}
	return nil
}

// notYet bounds the wait for each file by itself: that the server does other things
// meanwhile is no progress here. It needs opening.
func (f *sftpFile) notYet(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if f.missing.err == nil {
		f.missing.since = time.Now()
	}
	f.missing.err = err
	if since := time.Since(f.missing.since); since > f.t.opts.reconnect() {
		return transient(fmt.Errorf("%w; no way to go on for %v", err, since.Round(time.Second)), "")
	}
	return notYet(err)
}

// release closes the file where it is open. It needs opening.
func (f *sftpFile) release() error {
	var closes []func() error
	for _, h := range f.handles {
		if h != nil {
			closes = append(closes, h.Close)
		}
	}
	f.session, f.handles = nil, nil
	return atOnce(closes...)
}

// atOnce waits one round trip for several answers. It returns the first error.
func atOnce(asks ...func() error) error {
	errs := make([]error, len(asks))
	var all sync.WaitGroup
	for i, ask := range asks {
		all.Go(func() { errs[i] = ask() })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// prefix is where the first byte belongs that will be sent again.
func (f *sftpFile) prefix() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	low := f.acked
	for _, c := range slices.Concat(f.queue, f.flying) {
		low = min(low, c.off)
	}
	return low
}

// limited finds out, where the server has said no more than that something has
// failed with the bytes before end, whether they met a limit. Only the first to
// fail asks, and not for long.
func (f *sftpFile) limited(err error, end int64) error {
	var known *remoteCause
	if !isFailure(err) || errors.As(err, &known) {
		return err
	}
	f.probing.Lock()
	defer f.probing.Unlock()
	f.mu.Lock()
	late := f.err != nil
	f.mu.Unlock()
	if late {
		return err
	}
	ctx, cancel := context.WithTimeout(f.live, f.t.opts.stall())
	defer cancel()
	found := f.t.on(ctx, func(s *sftpSession) error { return f.t.probe(s, path.Dir(f.final()), end, err) })
	if !isFailure(found) { // nobody answers any more
		return err
	}
	return found
}

// fail keeps the first error and returns it.
func (f *sftpFile) fail(op string, err error) error {
	if !answered(err) { // the workers that wait for a connection stand in the way of who comes next
		f.giveUp()
	}
	err = f.t.advise(err, f.name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = newError(op, f.name, f.t.url, err)
	}
	f.changed.Broadcast()
	f.queued.Broadcast()
	return f.err
}

// abandon fails the file unless all of it is acknowledged, or it has ended.
func (f *sftpFile) abandon(why error) {
	f.mu.Lock()
	idle := f.ended || f.filling == nil && len(f.queue)+len(f.flying) == 0
	f.mu.Unlock()
	if !idle {
		f.fail("write", why)
	}
}

// flush waits until the server has acknowledged everything.
func (f *sftpFile) flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.push()
	for f.err == nil && len(f.queue)+len(f.flying) > 0 {
		f.changed.Wait()
	}
	return f.usable()
}

// readAhead is what one that reads in order gets from the server at once, in as
// many requests as that takes. The memory is that of the chunks, which nobody
// needs then.
const readAhead = 8 * largePacket

// ReadAt fails without consequences, except for errors of earlier writes.
func (f *sftpFile) ReadAt(p []byte, off int64) (n int, err error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	f.mu.Lock()
	size, writes := f.size, f.writes
	f.mu.Unlock()
	if writes != f.aheadWrites {
		f.ahead, f.aheadWrites = f.ahead[:0], writes
	}
	for n < len(p) && off < size {
		if n > 0 || off == f.readNext {
			err = f.loadAhead(off, size)
		}
		m := 0
		if skip := off - f.aheadOff; err == nil && skip >= 0 && skip < int64(len(f.ahead)) {
			m = copy(p[n:], f.ahead[skip:])
		} else if err == nil {
			m, err = f.fetch(p[n:min(int64(len(p)), int64(n)+size-off)], off)
		}
		n, off = n+m, off+int64(m)
		if err != nil {
			return n, newError("read", f.name, f.t.url, f.t.advise(err, f.name))
		}
	}
	f.readNext = off
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// loadAhead gets what begins at off, if it is not there. It needs reading.
func (f *sftpFile) loadAhead(off, size int64) error {
	if off >= f.aheadOff && off < f.aheadOff+int64(len(f.ahead)) {
		return nil
	}
	if f.ahead == nil {
		f.mu.Lock()
		f.made, f.free = f.made-len(f.free), nil
		f.mu.Unlock()
		f.ahead = make([]byte, 0, readAhead)
	}
	f.ahead, f.aheadOff = f.ahead[:0], off
	n, err := f.fetch(f.ahead[:min(readAhead, size-off)], off)
	f.ahead = f.ahead[:n]
	return err
}

// fetch asks the server for all of p.
func (f *sftpFile) fetch(p []byte, off int64) (n int, err error) {
	err = f.t.on(f.t.closed, func(s *sftpSession) error {
		h, err := f.opened(s, 0)
		if err != nil {
			return err
		}
		n, err = h.ReadAt(p, off)
		var status *sftp.StatusError
		switch {
		case err == io.EOF: // the server's answer: a broken connection is another
			err = nil
		case errors.Is(err, fs.ErrPermission), errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported:
			err = permanent(fmt.Errorf("%w: %w", ErrReadRefused, err), "")
		}
		return err
	})
	if err == nil && n < len(p) {
		err = permanent(fmt.Errorf("%d of %d bytes at %d: %w", n, len(p), off, io.ErrUnexpectedEOF), "is the file shorter on the server")
	}
	return n, err
}

func (f *sftpFile) Commit() error {
	defer f.giveUp()
	if err := f.flush(); err != nil {
		return err
	}
	ctx := f.t.closed
	if err := f.t.onPatient(ctx, f.syncTime(), f.settle); err != nil {
		return f.fail("sync", f.limited(err, f.Size()))
	}
	f.mu.Lock()
	f.ended = true
	f.changed.Broadcast()
	f.queued.Broadcast()
	f.mu.Unlock()
	again := false
	err := f.t.on(ctx, func(s *sftpSession) error {
		defer func() { again = true }()
		err := rename(s, f.incomplete(), f.final(), again)
		if s == f.settled {
			return err
		}
		f.opening.Lock()
		defer f.opening.Unlock()
		return f.notYet(err)
	})
	if err != nil {
		return f.fail("commit", err)
	}
	return nil
}

func (f *sftpFile) syncTime() time.Duration {
	return f.t.opts.stall() + time.Duration(f.Size()/fsyncRate)*time.Second
}

// settle makes the bytes durable, as far as the server can, and makes sure that
// all of them are in the file of that name.
func (f *sftpFile) settle(s *sftpSession) error {
	h, err := f.opened(s, 0)
	if err != nil {
		return err
	}
	var info os.FileInfo
	stat := func() (err error) { info, err = s.Lstat(f.incomplete()); return err } // h would wait for its Sync
	if v, _ := s.HasExtension("fsync@openssh.com"); v == "1" {
		err = atOnce(stat, h.Sync)
	} else {
		f.unsynced = "the server has no fsync@openssh.com: it has all bytes, perhaps not yet on its disk"
		err = stat()
	}
	if err != nil {
		return f.t.diagnose(s, path.Dir(f.final()), err)
	}
	if info.Size() != f.Size() {
		return transient(fmt.Errorf("the server has %d bytes, %d were written", info.Size(), f.Size()), "does something else write there")
	}
	setTime, err := f.ours(s, h, info.ModTime())
	if err != nil {
		return err
	}
	f.settled = s
	f.opening.Lock()
	defer f.opening.Unlock()
	return atOnce(setTime, f.release)
}

// ours makes sure that the incomplete name still is this file, and not one that
// a later attempt created while this one was stuck. SFTP tells no inode: so the
// time of the name is changed, and looked at through the open file. A server that
// keeps times as they are, and may say that it does not, tells nothing. What it
// returns sets the time back.
func (f *sftpFile) ours(s *sftpSession, h *sftp.File, mtime time.Time) (setTime func() error, err error) {
	mark := mtime.Add(-24 * time.Hour).Truncate(2 * time.Second) // vfat counts in these
	err = s.Chtimes(f.incomplete(), mark, mark)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, permanent(fmt.Errorf("%s is gone", f.incomplete()), "another attempt took it away")
	case err != nil && answered(err): // not everybody may set times
		return func() error { return nil }, nil
	case err != nil:
		return nil, err
	}
	marked, err := h.Stat()
	if err != nil {
		return nil, err
	}
	if !marked.ModTime().Equal(mark) {
		named, err := s.Lstat(f.incomplete())
		if err != nil {
			return nil, err
		}
		if named.ModTime().Equal(mark) {
			return nil, permanent(fmt.Errorf("%s now is the file of another attempt", f.incomplete()), "")
		}
	}
	return func() error { return missingIsFine(s.Chtimes(f.incomplete(), mtime, mtime)) }, nil
}

func (f *sftpFile) unconfirmed() string { return f.unsynced }

// Close of a file that was not committed sends what is still here.
func (f *sftpFile) Close() error {
	defer f.giveUp()
	f.mu.Lock()
	ended, failed := f.ended, f.err != nil
	f.mu.Unlock()
	if ended {
		return nil
	}
	err := f.flush()
	if failed {
		err = nil // it was told before
	}
	f.mu.Lock()
	f.ended = true
	f.changed.Broadcast()
	f.queued.Broadcast()
	f.mu.Unlock()
	f.opening.Lock()
	defer f.opening.Unlock()
	if s := f.session; s != nil && s.alive() {
		if closed := s.call(f.t.closed, 0, f.release); err == nil && !failed {
			err = newError("close", f.name, f.t.url, closed)
		}
	}
	return err
}
