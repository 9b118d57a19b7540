package targets

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel bounds each request to a server. A call may wait for many requests, one
// after the other, and each of those that come later for as long: minutes, of which
// the next target has nothing. So the calls are bounded too.

// netFile is a file of a server that the kernel has mounted.
type netFile struct {
	*localFile
	on *netMount
}

func (f netFile) Write(p []byte) (int, error) {
	defer f.on.watch()()
	return f.localFile.Write(p)
}

func (f netFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.on.watch()()
	return f.localFile.WriteAt(p, off)
}

func (f netFile) Commit() error {
	defer f.on.watch()()
	return f.localFile.Commit()
}

func (f netFile) Close() error {
	defer f.on.watch()()
	return f.localFile.Close()
}

func (m *netMount) Create(ctx context.Context, name string) (File, error) {
	defer m.watch()()
	f, err := m.create(ctx, name)
	if err != nil {
		return nil, m.fail("create", name, err)
	}
	return netFile{f, m}, nil
}

func (m *netMount) List(ctx context.Context, dir string) ([]Entry, error) {
	defer m.watch()()
	return m.local.List(ctx, dir)
}

func (m *netMount) Rename(ctx context.Context, from, to string) error {
	defer m.watch()()
	return m.local.Rename(ctx, from, to)
}

// patience is how long a call may take: the kernel gives up a request after Stall, or
// twice that where the connection has to be made anew first. A server that was too
// late before gets less.
func (m *netMount) patience() time.Duration {
	if m.gone.Load() {
		return m.stall / 2
	}
	return 2 * m.stall
}

// watch begins a call. When it takes too long, what it waits for is given up, again
// and again until done is called.
func (m *netMount) watch() (done func()) {
	var mu sync.Mutex
	var over bool
	var timer *time.Timer
	patience := m.patience()
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		m.giveUp(patience)
		timer.Reset(m.stall / 4)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

// giveUp has the kernel answer all that waits for the server with an error (umount_begin
// of fs/nfs/super.c and fs/smb/client/cifsfs.c). The mount itself stays as long as its
// root is open. When it has been detached, what is mounted there is another's.
func (m *netMount) giveUp(waited time.Duration) {
	if m.detached.Load() {
		return
	}
	if !m.gone.Swap(true) {
		m.logf("%s: no answer for %v: giving up what waits for it", m.url, waited.Round(time.Second))
	}
	_ = unix.Unmount(m.mount.dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
}
