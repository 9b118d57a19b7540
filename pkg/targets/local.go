package targets

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The core of the production kernel is in these files: not for everybody.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// local is a directory of this machine. Nothing is reached outside of it: a
// symbolic link on the disk that leads out is an error.
type local struct {
	root *os.Root
	url  string // without secrets
	logf func(format string, a ...any)

	// cause says what an errno means on this file system; nil: what it says.
	cause func(error) error

	// clings is set where a file that somebody has open keeps its name when it
	// is removed.
	clings bool

	closing sync.Once
}

func (l *local) fail(op, name string, err error) error {
	if err != nil && l.cause != nil {
		err = l.cause(err)
	}
	return newError(op, name, l.url, err)
}

func openFile(ctx context.Context, s Spec, opts Options) (Target, error) {
	if err := ctx.Err(); err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	if err := mkdirs(s.Path, hostDirs{}); err != nil {
		return nil, newError("make directory of", "", s.String(), err)
	}
	root, err := os.OpenRoot(s.Path)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	return &local{root: root, url: s.String(), logf: opts.logf}, nil
}

func (l *local) Space(ctx context.Context) (uint64, error) {
	st, err := l.statfs()
	if err != nil {
		return 0, l.fail("ask free space of", "", err)
	}
	unit := uint64(st.Frsize)
	if unit == 0 { // some FUSE file systems
		unit = uint64(st.Bsize)
	}
	return st.Bavail * unit, ctx.Err()
}

func (l *local) maxFileSize() int64 {
	if st, err := l.statfs(); err == nil && st.Type == unix.MSDOS_SUPER_MAGIC {
		return math.MaxUint32
	}
	return math.MaxInt64
}

func (l *local) statfs() (st unix.Statfs_t, err error) {
	d, err := l.root.Open(".")
	if err != nil {
		return st, err
	}
	defer d.Close()
	return st, unix.Fstatfs(int(d.Fd()), &st)
}

func (l *local) Create(ctx context.Context, name string) (File, error) {
	f, err := l.create(ctx, name)
	if err != nil {
		return nil, l.fail("create", name, err)
	}
	return f, nil
}

func (l *local) create(ctx context.Context, name string) (*localFile, error) {
	if err := errors.Join(ctx.Err(), checkName(name)); err != nil {
		return nil, err
	}
	parent := path.Dir(name)
	if err := mkdirs(parent, rootDirs{l.root}); err != nil {
		return nil, err
	}
	if _, err := l.root.Lstat(name); err == nil {
		return nil, fs.ErrExist
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, err := l.root.Open(parent)
	if err != nil {
		return nil, err
	}
	// A new inode, not a truncated one: an abandoned attempt that is stuck in
	// the kernel may still write to the old one.
	temp := IncompleteName(name)
	err = l.discard(temp)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		var f *os.File
		f, err = l.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
		if err == nil {
			return &localFile{f: f, dir: dir, name: name, on: l}, nil
		}
	}
	dir.Close()
	return nil, err
}

func (l *local) discard(name string) error {
	if l.clings && l.root.Rename(name, name+"~") == nil {
		name += "~"
	}
	return l.root.Remove(name)
}

func (l *local) List(ctx context.Context, dir string) ([]Entry, error) {
	entries, err := l.list(ctx, dir)
	return entries, l.fail("list", dir, err)
}

func (l *local) list(ctx context.Context, dir string) ([]Entry, error) {
	if dir == "" {
		dir = "."
	} else if err := checkPath(dir); err != nil {
		return nil, err
	}
	d, err := l.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	infos, err := d.Readdir(-1)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(infos))
	for _, i := range infos {
		entries = append(entries, Entry{Name: i.Name(), Dir: i.IsDir(), Size: i.Size(), ModTime: i.ModTime()})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, ctx.Err()
}

// Remove syncs the whole file system: btrfs gives the space back only then, and
// it may be needed for the next, smaller dump.
func (l *local) Remove(ctx context.Context, name string) error {
	err := errors.Join(ctx.Err(), checkPath(name))
	if err == nil {
		err = l.root.RemoveAll(name)
	}
	// The first sync may tell of bytes of earlier files that could not be
	// written. Those files have told of it too.
	if err == nil && l.syncAll() != nil {
		err = l.syncAll()
	}
	return l.fail("remove", name, err)
}

func (l *local) Rename(ctx context.Context, from, to string) error {
	err := errors.Join(ctx.Err(), checkPath(from), checkName(to))
	if err == nil {
		err = l.rename(from, to)
	}
	return l.fail("rename "+from+" to", to, err)
}

func (l *local) rename(from, to string) error {
	if err := mkdirs(path.Dir(to), rootDirs{l.root}); err != nil {
		return err
	}
	fromDir, err := l.root.Open(path.Dir(from))
	if err != nil {
		return err
	}
	defer fromDir.Close()
	toDir, err := l.root.Open(path.Dir(to))
	if err != nil {
		return err
	}
	defer toDir.Close()
	if err := renameNoReplace(fromDir, path.Base(from), toDir, path.Base(to)); err != nil {
		return err
	}
	return errors.Join(syncDir(toDir), syncDir(fromDir))
}

// Close writes out the whole file system, so that incomplete files are there
// after the reboot too.
func (l *local) Close() (err error) {
	l.closing.Do(func() { err = l.fail("sync", "", l.close()) })
	return err
}

func (l *local) close() error {
	return errors.Join(l.syncAll(), l.root.Close())
}

func (l *local) syncAll() error {
	d, err := l.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// renameNoReplace gives up atomicity against other writers only where the file
// system (NFS, 9p) does not know the flag.
func renameNoReplace(fromDir *os.File, from string, toDir *os.File, to string) error {
	err := unix.Renameat2(int(fromDir.Fd()), from, int(toDir.Fd()), to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(toDir.Fd()), to, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return unix.EEXIST
	} else if err != unix.ENOENT {
		return err
	}
	return unix.Renameat(int(fromDir.Fd()), from, int(toDir.Fd()), to)
}

// dirs makes directories and makes them durable: below an os.Root, or, for the
// directory that the URL names, anywhere.
type dirs interface {
	mkdir(name string) error
	sync(name string) error
}

type hostDirs struct{}

func (hostDirs) mkdir(name string) error { return os.Mkdir(name, dirMode) }
func (hostDirs) sync(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDir(d)
}

type rootDirs struct{ root *os.Root }

func (r rootDirs) mkdir(name string) error { return r.root.Mkdir(name, dirMode) }
func (r rootDirs) sync(name string) error {
	d, err := r.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDir(d)
}

// mkdirs makes name and what is missing above it, and syncs the parent of each
// directory that it made.
func mkdirs(name string, d dirs) error {
	if name == "/" || name == "." {
		return nil
	}
	for i := 1; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		err := d.mkdir(name[:i])
		if err == nil {
			err = d.sync(path.Dir(name[:i]))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// syncDir lets pass what says that this file system has no such call.
func syncDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	return err
}
