package targets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ukdump/ukdump/internal/ftp"
)

// ftpFile sends a stream in one long transfer. What cannot be sent in order
// waits in patches, and is written into the middle of the file with transfers of
// its own (REST, STOR), for which the stream is interrupted.
//
// The server acknowledges bytes only at the end of a transfer. So the file asks
// for its size now and then, or ends the transfer where that does not tell, and
// keeps the tail of the stream; after a lost connection it goes on there, if the
// server has all that was before it. The memory is that of tail and patches:
// 12 MiB, and less for a short file.
type ftpFile struct {
	t    *ftpTarget
	name string // final, relative to the target
	size atomic.Int64

	mu    sync.Mutex
	pos   int64 // of Write
	ended bool  // committed or closed
	err   error // the first one

	tail      tail
	patches   patches
	most      int64 // all that ever was sent of the stream
	confirmed int64 // the server has said that it has these

	mark  []byte // the content of the file before anything is sent; nil: not known
	begun bool   // the mark may be overwritten
	first byte   // of the file

	seen   *ftp.Conn // the last one on which the file was there
	afresh bool      // conn is another one
	conn   *ftp.Conn // while something is under way
	up     *ftp.Upload
	watch  ftpWatch  // of up
	sent   int64     // of the stream, by up
	opened time.Time // when up began
	down   *ftp.Download
	downAt int64
}

// patchedFile is for servers that write into the middle of a file.
type patchedFile struct{ *ftpFile }

func (f patchedFile) WriteAt(p []byte, off int64) (int, error) { return f.writeAt(p, off) }

func (t *ftpTarget) Create(ctx context.Context, name string) (File, error) {
	err := errors.Join(ctx.Err(), checkName(name))
	f := &ftpFile{t: t, name: name}
	f.watch = ftpWatch{t: t, path: f.incomplete()}
	if err == nil {
		err = t.on(ctx, func(c *ftp.Conn) error { return f.create(ctx, c) })
	}
	if err != nil {
		return nil, newError("create", name, t.url, t.advise(err, name))
	}
	if t.restarts.works() {
		return patchedFile{f}, nil
	}
	return f, nil
}

func (f *ftpFile) final() string      { return f.t.remote(f.name) }
func (f *ftpFile) incomplete() string { return f.t.remote(IncompleteName(f.name)) }

// create makes a new file rather than emptying the old one: an abandoned
// attempt may still write to that.
func (f *ftpFile) create(ctx context.Context, c *ftp.Conn) error {
	if err := f.t.mkdirs(c, path.Dir(f.final())); err != nil {
		return err
	}
	if _, err := c.Stat(f.final()); !errors.Is(err, fs.ErrNotExist) {
		return cmpOr(err, fs.ErrExist)
	}
	if _, err := c.Stat(f.incomplete()); err == nil {
		if err := c.Delete(f.incomplete()); err != nil {
			return refusal(err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.seen = c
	f.mark = fmt.Appendf(nil, "ukdump has sent nothing of this file yet: %016x\n", rand.Uint64())
	if !f.t.restarts.known() {
		if err := f.tryRestarts(ctx, c); err != nil || f.t.restarts.works() {
			return err
		}
	}
	return refusal(f.put(ctx, c, f.mark, 0))
}

// put writes b into the file in a transfer of its own.
func (f *ftpFile) put(ctx context.Context, c *ftp.Conn, b []byte, off int64) error {
	up, err := c.Store(ctx, f.incomplete(), off)
	if err != nil {
		return err
	}
	if _, err := up.Write(b); err != nil {
		return err
	}
	if err := up.Finish(); err != nil {
		return err
	}
	f.t.hasData.Store(true)
	return nil
}

// tryRestarts writes the mark in pieces, over the end of the file and into its
// middle, and looks at what came of it.
func (f *ftpFile) tryRestarts(ctx context.Context, c *ftp.Conn) error {
	half := len(f.mark) / 2
	draft := bytes.Clone(f.mark[:half])
	clear(draft[1:8]) // a first byte is not written twice, see put
	if err := f.put(ctx, c, draft, 0); err != nil {
		return refusal(err)
	}
	err := f.put(ctx, c, f.mark[half-4:], int64(half-4))
	if err == nil {
		err = f.put(ctx, c, f.mark[1:8], 1)
	}
	var got []byte
	if err == nil {
		got, err = f.get(ctx, c, int64(len(f.mark)))
	}
	result, why := works, ""
	switch {
	case err == nil && bytes.Equal(got, f.mark):
	case err == nil:
		result, why = refuses, fmt.Sprintf("after writing into the middle of a file it has %q", got)
	case isRefusal(c, err):
		result, why = refuses, err.Error()
	default:
		return err
	}
	if why != "" {
		f.t.opts.logf("%s: the server cannot write into the middle of a file: %s", f.t.url, why)
	}
	f.t.restarts.set(result)
	return nil
}

// isRefusal is true where the server said no, and would again.
func isRefusal(c *ftp.Conn, err error) bool {
	var refused *ftp.Error
	return errors.As(err, &refused) && !refused.Gone() && c.Broken() == nil && !errors.Is(err, syscall.ENOSPC)
}

// get reads the beginning of the file as it is on the server, and one byte more
// than n where there are more.
func (f *ftpFile) get(ctx context.Context, c *ftp.Conn, n int64) ([]byte, error) {
	down, err := c.Retrieve(ctx, f.incomplete(), 0)
	if err != nil {
		return nil, err
	}
	defer down.Close()
	return io.ReadAll(io.LimitReader(down, n+1))
}

func (f *ftpFile) Size() int64 { return f.size.Load() }

func (f *ftpFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.writeLocked(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *ftpFile) writeAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeLocked(p, off)
}

// writeLocked takes pieces no larger than what a buffer may grow by.
func (f *ftpFile) writeLocked(p []byte, off int64) (done int, err error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	for f.tail.end < off && err == nil { // servers have no holes: proftpd refuses a REST behind the end
		zeros := make([]byte, min(tailBlock, off-f.tail.end))
		err = f.extend(zeros)
	}
	for done < len(p) && err == nil {
		piece := p[done:min(len(p), done+tailBlock)]
		if behind := f.tail.end - (off + int64(done)); behind > 0 {
			piece = piece[:min(int64(len(piece)), behind)]
			err = f.change(piece, off+int64(done))
		} else {
			err = f.extend(piece)
		}
		if err == nil {
			done += len(piece)
		}
	}
	return done, err
}

// usable needs mu.
func (f *ftpFile) usable() error {
	if f.err == nil && f.ended {
		return newError("write", f.name, f.t.url, os.ErrClosed)
	}
	return f.err
}

// fail keeps the first error and returns it.
func (f *ftpFile) fail(op string, err error) error {
	if f.err == nil {
		err = f.t.diagnose(f.conn, path.Dir(f.final()), err)
		f.err = newError(op, f.name, f.t.url, f.t.advise(err, f.name))
	}
	f.release()
	return f.err
}

// extend appends to the stream, and sends what fills a block.
func (f *ftpFile) extend(p []byte) error {
	if f.tail.end == 0 && len(p) > 0 {
		f.first = p[0]
	}
	for len(p) > 0 {
		p = p[f.tail.append(p):]
		f.size.Store(max(f.size.Load(), f.tail.end))
		if !f.tail.full() {
			continue
		}
		if err := f.run(f.send); err != nil {
			return f.fail("write", err)
		}
	}
	return nil
}

// change writes over bytes of the stream, of which some may have been sent.
func (f *ftpFile) change(p []byte, off int64) error {
	if off == 0 && f.most > 0 && p[0] != f.first {
		// A transfer that begins at 0 empties the file.
		return f.fail("write", permanent(errors.New("FTP cannot change the first byte of a file"), "want its beginning written before anything else"))
	}
	if off == 0 {
		f.first = p[0]
	}
	f.tail.overwrite(p, off)
	sent := p[:min(int64(len(p)), max(0, f.most-off))]
	if off == 0 && len(sent) > 0 {
		sent, off = sent[1:], 1
	}
	if len(sent) == 0 {
		return nil
	}
	if f.patches.full(len(sent)) {
		if err := f.run(f.flush); err != nil {
			return f.fail("write", err)
		}
	}
	f.patches.add(sent, off)
	return nil
}

// run runs op on the file's connection, and again on the next one where that is
// lost.
func (f *ftpFile) run(op func(c *ftp.Conn) error) error {
	if f.down != nil {
		f.release() // the connection is full of what nobody reads any more
	}
	return f.runReading(op)
}

func (f *ftpFile) runReading(op func(c *ftp.Conn) error) error {
	return f.t.again(f.t.closed, func(soon context.Context) (*ftp.Conn, error) {
		if f.conn == nil {
			c, err := f.t.take(soon)
			if err != nil {
				return nil, err
			}
			f.conn = c
		}
		c := f.conn
		f.afresh = c != f.seen
		err := op(c)
		if err == nil {
			f.seen = c
		} else if f.afresh && !errors.Is(err, errLost) {
			err = notYet(err)
		}
		if err != nil && (c.Broken() != nil || f.t.isLost(c, err)) {
			f.release()
		}
		return c, err
	})
}

// release gives the connection back; what was under way on it is broken off.
func (f *ftpFile) release() {
	if f.up != nil {
		f.up.Abort()
	}
	if f.down != nil {
		f.down.Close()
	}
	f.up, f.down = nil, nil
	f.watch.release()
	if f.conn != nil {
		f.t.give(f.conn)
	}
	f.conn = nil
}

// send brings what the server was sent up to the end of the stream.
func (f *ftpFile) send(c *ftp.Conn) error {
	if err := f.resume(c); err != nil {
		return err
	}
	for f.sent < f.tail.end {
		b := f.tail.at(f.sent)
		if _, err := f.up.Write(b); err != nil {
			f.up = nil
			return err
		}
		f.sent += int64(len(b))
		if f.sent > f.most {
			f.most = f.sent
			f.t.progress()
		}
	}
	// Once the tail does not reach back to confirmed, going on after a lost
	// connection is not certain any more. But with a long round trip a transfer
	// takes its time to begin, and a question its own.
	if !f.t.restarts.works() || f.sent-f.confirmed <= (tailBlocks-1)*tailBlock {
		return nil
	}
	err := f.look(c.RoundTrip())
	if !errors.Is(err, errSizeUnknown) {
		return err
	}
	if worthWhile(roundTripsToBegin*c.RoundTrip(), f.opened) {
		return f.confirm()
	}
	return nil
}

const (
	// cheap is what beginning a transfer, or asking for a size, may always take.
	cheap = 20 * time.Millisecond

	// costShare of the time is for sending where it takes more, and one is for
	// that.
	costShare = 12

	// roundTripsToBegin a transfer: Stat, EPSV, connect, REST, STOR.
	roundTripsToBegin = 5
)

// worthWhile is true for what takes that long and was last done then.
func worthWhile(cost time.Duration, last time.Time) bool {
	return cost < cheap || time.Since(last) > costShare*cost
}

// confirm ends the transfer.
func (f *ftpFile) confirm() error {
	if err := f.settle(); err != nil {
		return err
	}
	up := f.up
	f.up = nil
	if err := up.Finish(); err != nil {
		return err
	}
	f.confirmed = f.sent
	f.t.hasData.Store(true)
	f.t.progress()
	return nil
}

// resume has a transfer of the stream under way, at sent.
func (f *ftpFile) resume(c *ftp.Conn) error {
	if f.up != nil {
		return nil
	}
	from := max(f.tail.low, f.confirmed)
	e, err := c.Stat(f.incomplete())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.gone()
	case err != nil:
		return err
	case !f.begun:
		if err := f.isOurs(c); err != nil {
			return err
		}
	case from == 0:
	case !f.t.restarts.works():
		return transient(fmt.Errorf("the transfer was interrupted after %d bytes, and the server cannot go on in the middle of a file", f.most), "")
	case e.Size < from:
		return transient(fmt.Errorf("the server has %d bytes, and those from there to %d are no longer here", e.Size, from), "it was restarted before they were on its disk: a new attempt may do")
	case e.Size > f.most:
		return permanent(fmt.Errorf("%s has %d bytes, and %d were sent", f.incomplete(), e.Size, f.most), "it is the file of another attempt")
	}
	f.begun = true // whether it is done or not shall not matter when the connection breaks now
	up, err := c.Store(f.t.closed, f.incomplete(), from)
	if isRefusal(c, err) && f.most > f.confirmed {
		// A Windows server lets nobody write while the transfer that was broken off
		// still is open there.
		return fmt.Errorf("%w%w", hidden{errLost}, refusal(err))
	}
	if err != nil {
		return refusal(err)
	}
	if from > 0 && f.sent > from {
		f.t.opts.logf("%s: %s goes on at byte %d", f.t.url, f.name, from)
	}
	f.up, f.sent, f.opened = up, from, time.Now()
	f.watch.grown = f.opened
	return nil
}

// gone is the error of a file that is not there. On another connection than before it may
// be a server that has restarted, and answers before the disk is mounted that has it.
func (f *ftpFile) gone() error {
	err := fmt.Errorf("%w%s is gone", hidden{fs.ErrNotExist}, f.incomplete())
	if f.afresh {
		return notYet(err)
	}
	return permanent(err, "another attempt took it away")
}

// there comes before a transfer that resume does not begin: on another connection than
// before that could make a new file.
func (f *ftpFile) there(c *ftp.Conn) error {
	if !f.afresh {
		return nil
	}
	_, err := c.Stat(f.incomplete())
	if errors.Is(err, fs.ErrNotExist) {
		return f.gone()
	}
	return err
}

// isOurs looks for the mark: FTP has nothing else by which the file of a later
// attempt could be told from this one. Where that may not be read it is not.
func (f *ftpFile) isOurs(c *ftp.Conn) error {
	got, err := f.get(f.t.closed, c, int64(len(f.mark)))
	switch {
	case err != nil && !isRefusal(c, err):
		return err
	case err == nil && !bytes.Equal(got, f.mark):
		return permanent(fmt.Errorf("%s now is the file of another attempt", f.incomplete()), "")
	}
	return nil
}

// flush has the server take everything, and confirm it.
func (f *ftpFile) flush(c *ftp.Conn) error {
	if f.sent < f.tail.end || f.confirmed < f.most || !f.begun || f.up != nil {
		if err := f.send(c); err != nil {
			return err
		}
		if f.up != nil {
			if err := f.confirm(); err != nil {
				return err
			}
		}
	}
	for {
		p, ok := f.patches.last()
		if !ok {
			return nil
		}
		if err := f.there(c); err != nil {
			return err
		}
		if err := f.put(f.t.closed, c, p.b, p.off); err != nil {
			return err
		}
		f.seen, f.afresh = c, false
		f.patches.drop()
		f.t.progress()
	}
}

// ReadAt fails without consequences, except for errors of earlier writes. Reading
// on where the last one ended goes on with one transfer.
func (f *ftpFile) ReadAt(p []byte, off int64) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, err
	}
	size := f.size.Load()
	if off >= size {
		return 0, io.EOF
	}
	if f.unsent() {
		if err := f.run(f.flush); err != nil {
			return 0, f.fail("write", err)
		}
	}
	if f.down != nil && f.downAt != off {
		f.release()
	}
	want := p[:min(int64(len(p)), size-off)]
	err = f.runReading(func(c *ftp.Conn) error {
		for n < len(want) {
			m, err := f.read(c, want[n:], off+int64(n))
			n += m
			if err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil:
		f.release()
		return n, newError("read", f.name, f.t.url, f.t.advise(err, f.name))
	case n < len(p):
		return n, io.EOF
	}
	return n, nil
}

// read reads some, and at the end of the file the server's word for it.
func (f *ftpFile) read(c *ftp.Conn, p []byte, off int64) (n int, err error) {
	if f.down == nil {
		if err := f.there(c); err != nil {
			return 0, err
		}
		f.down, err = c.Retrieve(f.t.closed, f.incomplete(), off)
		f.downAt = off
		if errors.Is(err, fs.ErrNotExist) || err != nil && !isRefusal(c, err) {
			return 0, refusal(err)
		}
		if err != nil {
			return 0, permanent(fmt.Errorf("%w: %w", ErrReadRefused, err), "")
		}
	}
	n, err = f.down.Read(p)
	f.downAt += int64(n)
	if err == nil && f.downAt == f.size.Load() {
		var more [1]byte
		if _, err = f.down.Read(more[:]); err == nil {
			f.down.Close()
		}
	}
	if n > 0 {
		f.t.progress()
	}
	if err != nil || f.downAt == f.size.Load() {
		f.down = nil
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if f.downAt < f.size.Load() {
			err = permanent(fmt.Errorf("%d of %d bytes: %w", f.downAt, f.size.Load(), io.ErrUnexpectedEOF), "is the file shorter on the server")
		}
	}
	return n, err
}

// unsent is true where flush has something to do.
func (f *ftpFile) unsent() bool {
	return f.up != nil || !f.begun || f.confirmed < f.tail.end || len(f.patches.list) > 0
}

func (f *ftpFile) Commit() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	if f.unsent() {
		if err := f.run(f.flush); err != nil {
			return f.fail("write", err)
		}
	}
	again := false
	err := f.run(func(c *ftp.Conn) error {
		if err := f.verify(c); err != nil && !again {
			return err
		}
		defer func() { again = true }()
		return renameFTP(c, f.incomplete(), f.final(), again)
	})
	if err != nil {
		return f.fail("commit", err)
	}
	f.ended = true
	f.release()
	return nil
}

func (f *ftpFile) verify(c *ftp.Conn) error {
	e, err := c.Stat(f.incomplete())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.gone()
	case err == nil && e.Size != f.size.Load():
		return transient(fmt.Errorf("the server has %d bytes, %d were written", e.Size, f.size.Load()), "does something else write there")
	}
	return err
}

func (f *ftpFile) unconfirmed() string {
	return "FTP has no word for sync: the server has all bytes, perhaps not yet on its disk"
}

// Close of a file that was not committed sends what is still here.
func (f *ftpFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil
	}
	f.ended = true
	var err error
	if f.err == nil && f.unsent() {
		err = f.run(f.flush)
	}
	f.release()
	return newError("close", f.name, f.t.url, f.t.advise(err, f.name))
}
