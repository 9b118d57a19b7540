package targets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// netMount is a directory of a server that the kernel mounts: nfs:// and
// cifs://. The kernel's own time limits bound each answer of the server; they
// are set from Options.Stall.
type netMount struct {
	*local
	mount mountpoint
	stall time.Duration
	gone  atomic.Bool // the server has not answered in time

	detached atomic.Bool // by force, while a call was under way
}

// checkedOptions are flags and data of opts=. wrong says what is wrong with an
// option that is decided elsewhere, and how it is said there; or nothing.
func checkedOptions(opts string, wrong func(key, value, option string) string) (flags uintptr, data string, err error) {
	flags, data, err = mountOptions(opts)
	if err != nil || data == "" {
		return flags, data, err
	}
	for o := range strings.SplitSeq(data, ",") {
		key, value, _ := strings.Cut(o, "=")
		says := wrong(key, value, o)
		if key == "hard" {
			says = o + ": a server that is gone would hold up the reboot"
		}
		if says != "" {
			return 0, "", fmt.Errorf("%s: %s", Redacted("?opts=" + opts)[1:], says)
		}
	}
	return flags, data, nil
}

// peer is the server, as it was just reached.
type peer struct {
	addr  netip.Addr // of the server
	local netip.Addr // ours on the way to it
}

// reachPeer connects once and lets go, so that what can be told of a server
// that is not there is told, and within the time that there is: mount(2) would
// wait for minutes and say little.
func reachPeer(ctx context.Context, s Spec, opts Options, defaultPort int) (peer, error) {
	c, err := opts.dial(ctx, s, defaultPort)
	if err != nil {
		return peer{}, err
	}
	defer c.Close()
	p := peer{addr: addrOf(c.RemoteAddr()), local: addrOf(c.LocalAddr())}
	if !p.addr.IsValid() {
		return peer{}, fmt.Errorf("connected to %v: want an IP address", c.RemoteAddr())
	}
	return p, nil
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// mounter mounts what the URL names of the server, or a directory above that
// where it is missing, and gives the one that was mounted.
type mounter func(ctx context.Context, p peer, on string) (dir string, err error)

// openNetMount reaches the server, as long as ctx allows and it may be on its
// way up, and mounts. What is missing of s.Path is made. cause is that of local.
func openNetMount(ctx context.Context, s Spec, opts Options, port int, mount mounter, cause func(error) error) (Target, error) {
	m := &netMount{stall: opts.stall()}
	var err error
	if m.mount, err = newMountpoint(opts); err != nil {
		return nil, newError("make mount point of", "", s.String(), err)
	}
	start := time.Now()
	dir, err := m.attach(ctx, s, opts, port, mount)
	if err != nil {
		m.mount.remove()
		return nil, newError("mount", "", s.String(), err)
	}
	opts.logf("mounted %s at %s in %v", s, m.mount.dir, time.Since(start).Round(time.Millisecond))
	root, err := openBelow(m.mount.dir, path.Join("/", strings.TrimPrefix(s.Path, dir)))
	told := func(err error) error {
		err = cause(err)
		if temporary(err) {
			m.gone.Store(true)
		}
		return err
	}
	m.local = &local{root: root, url: s.String(), logf: opts.logf, cause: told, clings: s.Scheme == "cifs"}
	if err != nil {
		m.end()
		return nil, newError("make directory of", "", m.url, fmt.Errorf("below %s: %w", dir, cause(err)))
	}
	return m, nil
}

func (m *netMount) attach(ctx context.Context, s Spec, opts Options, port int, mount mounter) (dir string, err error) {
	_, limited := ctx.Deadline()
	const again = time.Second
	for {
		last := err
		var p peer
		if p, err = reachPeer(ctx, s, opts, port); err == nil {
			dir, err = mount(ctx, p, m.mount.dir)
		}
		if err == nil || !temporary(err) || !limited {
			return dir, err
		}
		if ctx.Err() != nil && last != nil {
			return "", last // this one was cut short
		}
		if sleep(ctx, again) != nil {
			return "", err
		}
		opts.logf("mount %s: %v: trying again", s, err)
	}
}

// mountWithin is mount(2) for no longer than ctx allows. A mount that comes too
// late is undone by itself; the thread that waits for it ends with the process,
// as the kernel waits for servers in a way that SIGKILL ends.
func mountWithin(ctx context.Context, source, on, fstype string, flags uintptr, data string) error {
	if len(data) >= 4096 { // a page, of which the kernel takes all but the last byte
		return fmt.Errorf("mount options of %d bytes: want less than 4096", len(data))
	}
	done := make(chan error, 1)
	go func() { done <- unix.Mount(source, on, fstype, flags, data) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	go func() {
		if <-done == nil {
			unix.Unmount(on, unix.MNT_DETACH|unix.MNT_FORCE)
		}
	}()
	return transient(fmt.Errorf("mount %s: no answer in time: %w", source, context.Cause(ctx)), "")
}

// Space takes one unit off what NFS says, whose kernel rounds up, to units of
// up to 1 MiB (nfs_statfs, fs/nfs/super.c).
func (m *netMount) Space(ctx context.Context) (uint64, error) {
	defer m.watch()()
	st, err := m.statfs()
	if err == nil && st.Type != unix.NFS_SUPER_MAGIC {
		return m.local.Space(ctx)
	}
	if err != nil {
		return 0, m.fail("ask free space of", "", err)
	}
	return (max(1, st.Bavail) - 1) * uint64(st.Bsize), ctx.Err()
}

// Remove waits for the space of a file, where there is little beside it: the
// kernel's NFS server has the file open for a while after it was removed.
func (m *netMount) Remove(ctx context.Context, name string) error {
	const patience, step = 5 * time.Second, 100 * time.Millisecond
	var size uint64
	if checkPath(name) == nil {
		if fi, err := m.root.Lstat(name); err == nil && fi.Mode().IsRegular() {
			size = uint64(fi.Size())
		}
	}
	before, _ := m.Space(ctx)
	done := m.watch()
	err := m.local.Remove(ctx, name)
	done()
	if err != nil || size <= before {
		return err
	}
	for waited := time.Duration(0); waited < patience; waited += step {
		if free, err := m.Space(ctx); err != nil || free >= before+size/2 || sleep(ctx, step) != nil {
			break
		}
	}
	return nil
}

// Close syncs and unmounts. A server that goes away meanwhile costs at most three
// times Stall, one that has gone away before costs Stall once: then it is unmounted by
// force.
func (m *netMount) Close() (err error) {
	m.closing.Do(func() {
		err = m.end()
	})
	return err
}

func (m *netMount) sync() error {
	defer m.watch()() // not beyond this: once the root is closed, giving up unmounts
	return m.syncAll()
}

func (m *netMount) end() error {
	done := make(chan error, 1)
	go func() {
		var err error
		if m.root != nil {
			err = m.fail("sync", "", m.sync())
			err = errors.Join(err, m.fail("close", "", m.root.Close()))
		}
		done <- errors.Join(err, m.fail("unmount", "", m.mount.unmount(m.logf)))
	}()
	patience := 3 * m.stall
	if m.gone.Load() {
		patience = m.stall
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
	}
	// Force makes the requests that wait fail, detach takes it out of the way
	// whether they do or not.
	m.detached.Store(true)
	gone := make(chan struct{})
	go func() {
		unix.Unmount(m.mount.dir, unix.MNT_FORCE)
		unix.Unmount(m.mount.dir, unix.MNT_DETACH|unix.MNT_FORCE)
		close(gone)
	}()
	select {
	case <-gone:
		m.mount.remove()
	case <-time.After(time.Second):
	}
	return newError("sync", "", m.url, transient(fmt.Errorf("the server did not answer for %v", patience), "unmounted by force"))
}

const (
	// restartSys is ERESTARTSYS of include/linux/errno.h, which is not for programs, but
	// NFS hands it out for requests that umount_begin has ended (rpc_killall_tasks).
	restartSys = unix.Errno(512)

	errNoAnswer constError = "the server did not answer in time"
)

// netCause says what the errno of a mounted server's files mean. denied and
// readOnly are what to do about EACCES and EROFS.
func netCause(err error, denied, readOnly string) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case restartSys:
		return transient(errNoAnswer, "")
	case unix.EIO, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.ENETDOWN, unix.ECONNABORTED, unix.ECONNRESET, unix.EAGAIN, unix.ENOTCONN, unix.EPIPE, unix.EINTR:
		return transient(errno, "the server did not answer in time, or its disk fails")
	case unix.ESTALE:
		return transient(errno, "the server no longer knows the file: was it restarted, or the directory replaced")
	case unix.EROFS:
		return permanent(errno, readOnly)
	case unix.EACCES, unix.EPERM:
		return permanent(errno, denied)
	}
	return err
}
