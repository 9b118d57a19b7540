package targets

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writebackEvery is how many bytes are written between two calls that start
// writing them to the disk, and wait until those are there that were started
// two calls ago. So at most three times as many of this file are dirty, the last
// fsync has little to do, and an error of the disk is seen here instead of at
// the end of the dump.
const writebackEvery = 4 << 20

// pacer is for one file or device.
type pacer struct {
	written atomic.Int64 // since the last writeback
	waiting sync.Mutex   // held by the one that waits for the disk
	started [2]int64     // the end when writing was started, before and last; under waiting
}

// pace is called after n more bytes were written; end is one past the last
// byte of f that matters.
func (p *pacer) pace(f *os.File, n int, end int64) error {
	if p.written.Add(int64(n)) < writebackEvery || !p.waiting.TryLock() {
		return nil
	}
	defer p.waiting.Unlock()
	p.written.Store(0)
	fd := int(f.Fd())
	err := unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	if wait := p.started[0]; err == nil && wait > 0 {
		err = unix.SyncFileRange(fd, 0, wait, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
	}
	p.started = [2]int64{p.started[1], end}
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESPIPE):
		return nil
	}
	return err
}
