package targets

import (
	"errors"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

type localFile struct {
	f    *os.File
	dir  *os.File // the directory that holds it
	name string   // final, relative to the target
	on   *local

	position sync.Mutex // of Write
	pos      int64

	size  atomic.Int64
	pacer pacer

	mu    sync.Mutex
	err   error // the first one; kept because the kernel tells it once only
	ended bool  // committed or closed
}

func (l *localFile) Size() int64 { return l.size.Load() }

func (l *localFile) Write(p []byte) (int, error) {
	l.position.Lock()
	defer l.position.Unlock()
	n, err := l.WriteAt(p, l.pos)
	l.pos += int64(n)
	return n, err
}

func (l *localFile) WriteAt(p []byte, off int64) (int, error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	n, err := l.f.WriteAt(p, off)
	if n > 0 {
		l.grow(off + int64(n))
	}
	if err != nil {
		return n, l.fail("write", err)
	}
	if err := l.pacer.pace(l.f, n, l.size.Load()); err != nil {
		return n, l.fail("write back", err)
	}
	return n, nil
}

// ReadAt fails without consequences: what was written is as good as before.
func (l *localFile) ReadAt(p []byte, off int64) (int, error) {
	return l.f.ReadAt(p, off)
}

func (l *localFile) grow(end int64) {
	for {
		old := l.size.Load()
		if end <= old || l.size.CompareAndSwap(old, end) {
			return
		}
	}
}

// fail keeps the first error and returns it.
func (l *localFile) fail(op string, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = l.on.fail(op, l.name, err)
	}
	return l.err
}

func (l *localFile) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && l.ended {
		return l.on.fail("write", l.name, os.ErrClosed)
	}
	return l.err
}

func (l *localFile) Commit() error {
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.f.Sync(); err != nil {
		return l.fail("sync", err)
	}
	if err := l.ours(); err != nil {
		return l.fail("commit", err)
	}
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	defer l.dir.Close()
	if err := l.f.Close(); err != nil {
		return l.fail("close", err)
	}
	base := path.Base(l.name)
	if err := renameNoReplace(l.dir, IncompleteName(base), l.dir, base); err != nil {
		return l.fail("commit", err)
	}
	if err := l.settle(base); err != nil {
		return l.fail("commit (the file is whole, its name may not be durable)", err)
	}
	return nil
}

// ours makes sure that the incomplete name still is this file, and not one that
// a later attempt created while this one was stuck.
func (l *localFile) ours() error {
	var mine, there unix.Stat_t
	if err := unix.Fstat(int(l.f.Fd()), &mine); err != nil {
		return err
	}
	temp := IncompleteName(path.Base(l.name))
	if err := unix.Fstatat(int(l.dir.Fd()), temp, &there, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if mine.Dev != there.Dev || mine.Ino != there.Ino {
		return errors.New(temp + " now is the file of another attempt")
	}
	return nil
}

// settle makes the new name durable. The file is synced once more by its new
// name because vfat writes a directory entry of size 0 in a rename, and puts
// the size and first cluster into it when the file's inode is written
// (fs/fat/namei_vfat.c, vfat_rename).
func (l *localFile) settle(base string) error {
	fd, err := unix.Openat(int(l.dir.Fd()), base, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return syncDir(l.dir)
}

func (l *localFile) Close() error {
	l.mu.Lock()
	ended := l.ended
	l.ended = true
	l.mu.Unlock()
	if ended {
		return nil
	}
	l.dir.Close()
	return l.on.fail("close", l.name, l.f.Close())
}
