package targets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nfsForm = "nfs://HOST/EXPORT/DIR"
	nfsPort = 2049
)

// parseNFS checks what the kernel would refuse without a word.
func parseNFS(u *rawURL) (Spec, error) {
	s, err := u.server(nfsForm, "vers", "mountport", "opts")
	if err != nil {
		return Spec{}, err
	}
	if s.User != "" {
		return Spec{}, fmt.Errorf("user %q: NFS knows numbers and no names: want %s", clip(s.User), nfsForm)
	}
	if v := s.param("vers"); v != "" && !slices.Contains(nfsVersions("4", "3"), v) && v != "4" {
		return Spec{}, fmt.Errorf("vers=%s: want 4, 4.2, 4.1, 4.0 or 3, or leave it out to have it found", clip(v))
	}
	if text := s.param("mountport"); text != "" {
		if n, err := strconv.ParseUint(text, 10, 16); err != nil || n == 0 {
			return Spec{}, fmt.Errorf("mountport=%s: want 1 to 65535", clip(text))
		}
		if s.param("vers") != "3" {
			return Spec{}, fmt.Errorf("mountport=%s: only version 3 has it: want vers=3 beside it", text)
		}
	}
	s.Opts = s.param("opts")
	_, _, err = nfsOptions(s.Opts)
	return s, err
}

// nfsVersions are those to try, in order: for "" and "4" the newest that the
// server and this kernel both have.
func nfsVersions(wanted ...string) (all []string) {
	for _, w := range wanted {
		switch w {
		case "":
			all = append(all, "4.2", "4.1", "4.0", "3")
		case "4":
			all = append(all, "4.2", "4.1", "4.0")
		default:
			all = append(all, w)
		}
	}
	return all
}

// nfsOptions are flags and data of opts=, without what is decided here.
func nfsOptions(opts string) (flags uintptr, data string, err error) {
	return checkedOptions(opts, func(key, value, option string) string {
		switch key {
		case "vers", "nfsvers", "minorversion", "v3", "v4", "v4.0", "v4.1", "v4.2", "mountport":
			return option + ": want vers= and mountport= in the query of the URL"
		case "port":
			return option + ": want nfs://HOST:" + value + "/"
		case "addr", "mountaddr", "clientaddr", "mounthost":
			return option + ": is found by itself"
		case "sec":
			if strings.HasPrefix(value, "krb5") {
				return option + ": needs rpc.gssd, which a capture image does not have: want sec=sys"
			}
		}
		return ""
	})
}

// nfsModules are what mount(2) needs; the rest is found as what these depend on.
func nfsModules(s Spec) []string {
	mods := []string{"nfs"}
	versions := nfsVersions(s.param("vers"))
	if slices.ContainsFunc(versions, func(v string) bool { return strings.HasPrefix(v, "4") }) {
		mods = append(mods, "nfsv4")
	}
	if slices.Contains(versions, "3") {
		mods = append(mods, "nfsv3")
	}
	return mods
}

// nfsData is the text for mount(2), as nfs_fs_context_parse_monolithic takes
// it (fs/nfs/fs_context.c). With retrans=2 the kernel gives up after three
// times timeo, which is in tenths of a second; so the three are stall.
func nfsData(version string, p peer, s Spec, stall time.Duration, extra string) string {
	proto := "tcp"
	if p.addr.Is6() {
		proto = "tcp6"
	}
	port := s.Port
	if port == 0 {
		port = nfsPort
	}
	tenths := max(5, min(stall/3, 600*time.Second)/(100*time.Millisecond))
	data := fmt.Sprintf("vers=%s,addr=%s,proto=%s,port=%d,sec=sys,soft,timeo=%d,retrans=2", version, p.addr, proto, port, tenths)
	if version == "3" {
		data += ",mountproto=" + proto + ",mountvers=3,mountaddr=" + p.addr.String() + ",nolock"
		if mp := s.param("mountport"); mp != "" {
			data += ",mountport=" + mp
		}
	} else if p.local.IsValid() {
		data += ",clientaddr=" + p.local.WithZone("").String()
	}
	if extra != "" {
		data += "," + extra
	}
	return data
}

// nfsSource is the server and its directory as /proc/mounts shows them.
func nfsSource(addr netip.Addr, dir string) string {
	if addr.Is6() {
		return "[" + addr.String() + "]:" + dir
	}
	return addr.String() + ":" + dir
}

func openNFS(ctx context.Context, s Spec, opts Options) (Target, error) {
	flags, extra, err := nfsOptions(s.Opts)
	if err != nil {
		return nil, newError("mount", "", s.String(), err)
	}
	opts.driver(ctx, "nfs")
	mount := func(ctx context.Context, p peer, on string) (string, error) {
		return climb(s.Path, func(dir string) error {
			return mountNFS(nfsVersions(s.param("vers")), func(version string) error {
				return mountWithin(ctx, nfsSource(p.addr, dir), on, "nfs", flags, nfsData(version, p, s, opts.stall(), extra))
			})
		})
	}
	return openNetMount(ctx, s, opts, nfsPort, mount, func(err error) error {
		return netCause(err, "root may not write there: give the directory to nobody, or export it with no_root_squash or anonuid=",
			"it is exported read-only, or not at all: see exportfs -v on the server")
	})
}

// climb mounts dir, or where there is none the directory above it, and so on:
// what is missing below that can then be made. What the server says of a
// directory above counts only where it may pass.
func climb(dir string, mount func(dir string) error) (string, error) {
	err := mount(dir)
	for up := dir; errors.Is(err, unix.ENOENT) && up != "/"; {
		up = path.Dir(up)
		switch e := mount(up); {
		case e == nil:
			return up, nil
		case temporary(e):
			return up, e
		case !errors.Is(e, unix.ENOENT):
			return dir, err
		}
	}
	return dir, err
}

// mountNFS tries versions until one is mounted. What a server says to a newer
// version is worth more than what it says to an older one, where they differ.
func mountNFS(versions []string, mount func(version string) error) error {
	var errs []error
	for _, v := range versions {
		err := mount(v)
		if err == nil {
			return nil
		}
		told := nfsMountError(v, err)
		if !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.EINVAL) {
			return told
		}
		errs = append(errs, told)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return permanent(errors.Join(errs...), "")
}

// nfsMountError says what an errno of mount(2) means.
func nfsMountError(version string, err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	said := fmt.Errorf("NFS %s: %w", version, errno)
	switch errno {
	case unix.ENODEV:
		return permanent(said, "the kernel does not know nfs: its modules are not in the image")
	case unix.EPROTONOSUPPORT:
		return permanent(said, "the server does not have this version, or the image not its module (nfsv3, nfsv4)")
	case unix.EINVAL:
		return permanent(said, "an unknown option in opts=, or a version that the kernel was built without: see its log")
	case unix.EACCES, unix.EPERM:
		return permanent(said, "the server does not export it to this machine: see exportfs -v there")
	case unix.ENOENT:
		return permanent(said, "the server exports no such directory: see exportfs -v there")
	case unix.ENOTDIR:
		return permanent(said, "it is a file on the server")
	case unix.ECONNREFUSED:
		if version == "3" {
			return transient(said, "rpcbind or mountd do not listen there: start them, or want mountport=PORT")
		}
		return transient(said, "does nfsd run there")
	case unix.EIO, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNRESET, unix.EHOSTDOWN, unix.EAGAIN, unix.EINTR:
		if version == "3" {
			return transient(said, "no answer in time: are rpcbind (port 111) and mountd open in its firewall, or want mountport=PORT")
		}
		return transient(said, "no answer in time")
	case unix.EBUSY:
		return transient(said, "the mount point is in use")
	}
	return said
}
