package targets

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
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
			return 0, "", fmt.Errorf("opts=%s: an option is empty: want NAME,NAME=VALUE,...", opts)
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

func openDisk(ctx context.Context, s Spec, opts Options) (Target, error) {
	return nil, newError("mount", "", s.String(), ErrUnsupported)
}
