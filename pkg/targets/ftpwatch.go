package targets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ukdump/ukdump/internal/ftp"
)

// ftpWatch asks how much of a file the server has while a transfer into it is
// under way: on a control connection of its own, as that of the transfer is
// busy.
type ftpWatch struct {
	t     *ftpTarget
	path  string
	conn  *ftp.Conn // nil: none yet, or it was lost
	asked time.Time // the last time
	grown time.Time // when the transfer began, or was seen to go on
	tries int       // to connect, in a row, that met nobody
}

const (
	// watchPatience bounds the way to a second connection, and watchTries are made:
	// a server or a firewall may allow only one.
	watchPatience = 5 * time.Second
	watchTries    = 2

	// sizePatience is how long a file may stay as it is while there is something
	// to write into it, until its size counts as unknown.
	sizePatience = time.Second

	// mostUnread is how much a server may have to read until a file that waits
	// for it goes on: enough to keep it busy, and less than the tail holds.
	mostUnread = (tailBlocks - 8) * tailBlock

	// littleUnread is what a transfer's end may wait for.
	littleUnread = 1 << 20
)

// size is what the server says that the file has. Its error is errSizeUnknown
// where it does not say; everything else is the network, and the transfer then
// has it too.
func (w *ftpWatch) size() (n int64, err error) {
	for range 2 { // a connection that had nothing to do may be gone
		if w.t.sizes.refuses() {
			return 0, errSizeUnknown
		}
		if err := w.connect(); err != nil {
			return 0, err
		}
		w.asked = time.Now()
		n, err = w.conn.Size(w.path)
		switch {
		case err == nil:
			w.tries = 0
			return n, nil
		case isRefusal(w.conn, err):
			return 0, w.refuse(err)
		}
		w.release()
		if isTimeout(err) {
			break
		}
	}
	return 0, fmt.Errorf("%w%w", hidden{errLost}, err)
}

const errSizeUnknown constError = "size unknown"

func (w *ftpWatch) connect() (err error) {
	if w.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.t.closed, watchPatience)
	defer cancel()
	if w.conn, err = w.t.take(ctx); err == nil {
		return nil
	}
	var refused *ftp.Error
	if w.tries++; w.tries == watchTries || errors.As(err, &refused) {
		return w.refuse(err)
	}
	return err
}

func (w *ftpWatch) refuse(err error) error {
	w.t.sizes.set(refuses)
	w.t.opts.logf("%s: the server does not say how much it has while it is sent more (%v): the transfer is ended now and then instead", w.t.url, err)
	return errSizeUnknown
}

func (w *ftpWatch) release() {
	if w.conn != nil {
		w.t.give(w.conn)
	}
	w.conn = nil
}

// settle waits until the server has all of a transfer that is to end, as long as
// it takes some: an end is acknowledged behind all that waits for its disk, and
// a server that is dead looks like a slow one.
func (f *ftpFile) settle() error {
	f.watch.grown = time.Now()
	for pause := time.Millisecond; f.sent-f.confirmed > littleUnread && !f.up.Ended(); pause = min(2*pause, sizePatience/4) {
		n, err := f.watch.size()
		switch {
		case errors.Is(err, errSizeUnknown):
			return nil
		case err != nil:
			return err
		}
		f.saw(n)
		switch still := time.Since(f.watch.grown); {
		case still > sizePatience && !f.t.sizes.works():
			f.watch.refuse(fmt.Errorf("SIZE stays at %d", n))
			return nil
		case still > f.t.opts.stall():
			return fmt.Errorf("%wthe server has taken nothing for %.0f s", hidden{errLost}, still.Seconds())
		}
		if err := sleep(f.t.closed, pause); err != nil {
			return err
		}
	}
	return nil
}

// saw is for what the server has said that it has.
func (f *ftpFile) saw(n int64) {
	if n = min(n, f.sent); n > f.confirmed {
		f.confirmed, f.watch.grown = n, time.Now()
		f.t.sizes.set(works)
		f.t.progress()
		f.up.Remaining(f.sent - n)
	}
}

// look finds out how much of the stream the server has, and waits until that is
// enough for the tail to reach back to it, or asks once where an answer takes
// long. errSizeUnknown: only the end of the transfer tells.
func (f *ftpFile) look(roundTrip time.Duration) error {
	w := &f.watch
	if !worthWhile(roundTrip, w.asked) {
		return nil
	}
	for pause := time.Millisecond; ; pause = min(2*pause, sizePatience/4) {
		n, err := w.size()
		if err != nil {
			return err
		}
		f.saw(n)
		switch {
		case f.sent-f.confirmed <= mostUnread:
			return nil
		case time.Since(w.grown) > sizePatience:
			if !f.t.sizes.works() {
				w.refuse(fmt.Errorf("SIZE stays at %d", n))
			}
			return errSizeUnknown
		case roundTrip >= cheap:
			return nil
		}
		if err := sleep(f.t.closed, pause); err != nil {
			return err
		}
	}
}
