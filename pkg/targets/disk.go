package targets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/blockdev"
)

// mountOptions splits options as fstab has them into the flags of mount(2) and
// the text that goes to the file system. Nothing on a target is ever executed,
// so nosuid, nodev and noexec are always on; noatime unless another atime
// option is given.
func mountOptions(opts string) (flags uintptr, data string, err error) {
	flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	atime := uintptr(unix.MS_NOATIME)
	var rest []string
	if opts == "" {
		return flags | atime, "", nil
	}
	for o := range strings.SplitSeq(opts, ",") {
		switch o {
		case "":
			return 0, "", fmt.Errorf("opts=%s: an option is empty: want NAME or NAME=VALUE, joined by commas", opts)
		case "ro", "remount", "bind", "rbind":
			return 0, "", fmt.Errorf("opts=%s: %q: a target is mounted to be written to", opts, o)
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "dirsync":
			flags |= unix.MS_DIRSYNC
		case "lazytime":
			flags |= unix.MS_LAZYTIME
		case "nodiratime":
			flags |= unix.MS_NODIRATIME
		case "silent":
			flags |= unix.MS_SILENT
		case "atime", "relatime":
			atime = unix.MS_RELATIME
		case "strictatime":
			atime = unix.MS_STRICTATIME
		case "noatime", "rw", "nosuid", "nodev", "noexec":
		default:
			if !forUserSpace(o) {
				rest = append(rest, o)
			}
		}
	}
	return flags | atime, strings.Join(rest, ","), nil
}

// forUserSpace is true for words of an fstab line that mean something to
// mount(8) or systemd and would be refused by the kernel.
func forUserSpace(o string) bool {
	switch o {
	case "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group", "exec", "suid", "dev", "async":
		return true
	}
	return strings.HasPrefix(o, "x-") || strings.HasPrefix(o, "X-") || strings.HasPrefix(o, "comment=")
}

// disk is a local target on a file system of its own.
type disk struct {
	*local
	mount mountpoint
}

// mountpoint is a directory to mount on.
type mountpoint struct {
	dir  string
	made bool // for this, and removed with it
}

func newMountpoint(opts Options) (m mountpoint, err error) {
	m.dir = opts.MountDir
	if m.dir == "" {
		m.dir, err = os.MkdirTemp("", "ukdump-")
		m.made = true
	} else {
		err = os.MkdirAll(m.dir, 0o700)
	}
	return m, err
}

func (m mountpoint) remove() {
	if m.made {
		os.Remove(m.dir)
	}
}

func openDisk(ctx context.Context, s Spec, opts Options) (Target, error) {
	spec, err := blockdev.ParseSpec(s.Device)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	dev, err := blockdev.Find(ctx, spec, opts.logf)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	d := &disk{}
	if d.mount, err = newMountpoint(opts); err != nil {
		return nil, newError("make mount point of", "", s.String(), err)
	}
	start := time.Now()
	fstype, err := mountDevice(ctx, dev, s, d.mount.dir, opts)
	if err != nil {
		d.mount.remove()
		return nil, newError("mount", "", s.String(), err)
	}
	opts.logf("mounted %s (%s) at %s in %v", dev.Path, fstype, d.mount.dir, time.Since(start).Round(time.Millisecond))
	root, err := openBelow(d.mount.dir, s.Path)
	d.local = &local{root: root, url: s.String(), logf: opts.logf}
	if err != nil {
		d.mount.unmount(opts.logf)
		return nil, newError("make directory of", "", s.String(), err)
	}
	return d, nil
}

// openBelow makes dir on the file system and opens it. A link there that leads
// away from the file system is an error: its target is not what is mounted.
func openBelow(mountpoint, dir string) (*os.Root, error) {
	root, err := os.OpenRoot(mountpoint)
	if err != nil || dir == "/" {
		return root, err
	}
	defer root.Close()
	dir = strings.TrimPrefix(dir, "/")
	if err := mkdirs(dir, rootDirs{root}); err != nil {
		return nil, err
	}
	return root.OpenRoot(dir)
}

// mountDevice returns the type as which the device was mounted.
func mountDevice(ctx context.Context, dev blockdev.Device, s Spec, mountpoint string, opts Options) (string, error) {
	fstype := s.FSType
	if fstype == "" {
		fstype = dev.Type
	}
	switch {
	case fstype == "":
		return "", fmt.Errorf("%s holds no file system that is known: want one of %s", dev.Path, strings.Join(blockdev.Mountable(), ", "))
	case !slices.Contains(blockdev.Mountable(), fstype):
		return "", fmt.Errorf("%s holds %s: want one of %s", dev.Path, fstype, strings.Join(blockdev.Mountable(), ", "))
	}
	flags, data, err := mountOptions(s.Opts)
	if err != nil {
		return "", err
	}
	opts.driver(ctx, fstype)
	for _, m := range dev.Members { // btrfs has to be told of its other devices
		data = strings.TrimPrefix(data+",device="+m, ",")
	}
	if strings.HasPrefix(fstype, "ext") && !strings.Contains(data, "errors=") {
		// mkfs leaves it at errors=continue, where Commit can succeed on a
		// file system that is falling apart.
		data = strings.TrimPrefix(data+",errors=remount-ro", ",")
	}
	err = unix.Mount(dev.Path, mountpoint, fstype, flags, data)
	if err == unix.ENODEV && (fstype == "ext2" || fstype == "ext3") { // ext4's driver mounts them too
		opts.driver(ctx, "ext4")
		if unix.Mount(dev.Path, mountpoint, "ext4", flags, data) == nil {
			return "ext4", nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s as %s: %w%s", dev.Path, fstype, err, mountHint(err, dev, fstype, s.Opts))
	}
	return fstype, nil
}

// mountHint is what an errno of mount(2) means here; its own words often
// mislead.
func mountHint(err error, dev blockdev.Device, fstype, opts string) string {
	switch {
	case err == unix.ENODEV:
		return ": the kernel does not know " + fstype + ": its module is not in the image"
	case err == unix.EBUSY && dev.Holder != "":
		return ": it is part of " + dev.Holder
	case err == unix.EBUSY:
		return ": it is in use, or mounted with other options"
	case err == unix.EROFS || err == unix.EACCES:
		return ": the device is write-protected"
	case err == unix.EUCLEAN || err == unix.EBADMSG || err == unix.EIO:
		return ": damaged: see the kernel's log, and run fsck"
	case err == unix.EPERM:
		return ": needs root"
	case err != unix.EINVAL && err != unix.ENOENT:
		return ""
	case dev.Type != "" && dev.Type != fstype:
		return ": it holds " + dev.Type
	case fstype == "vfat":
		return ": an unknown option, damage, or a character set (nls_cp437, nls_ascii, nls_iso8859-1, nls_utf8) that is not in the image: see the kernel's log"
	}
	return fmt.Sprintf(": an unknown option in %q, or damage: see the kernel's log", opts)
}

// Close also unmounts. A file that was neither committed nor closed keeps the
// file system busy: then it is detached, after it was synced.
func (d *disk) Close() (err error) {
	d.closing.Do(func() {
		err = errors.Join(
			newError("sync", "", d.url, d.close()),
			newError("unmount", "", d.url, d.mount.unmount(d.logf)))
	})
	return err
}

// unmount detaches what is still in use; it was synced before.
func (m mountpoint) unmount(logf func(string, ...any)) error {
	const patience, step = time.Second, 50 * time.Millisecond
	var err error
	for waited := time.Duration(0); waited <= patience; waited += step {
		err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
		if err != unix.EBUSY {
			break
		}
		time.Sleep(step)
	}
	if err == unix.EBUSY {
		logf("%s is still in use after %v: detaching it, already synced", m.dir, patience)
		err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == nil {
		m.remove()
	}
	return err
}
