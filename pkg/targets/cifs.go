package targets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cifsForm = "cifs://USER@HOST/SHARE/DIR?password-file=FILE"
	cifsPort = 445
)

func parseCIFS(u *rawURL) (Spec, error) {
	s, err := u.server(cifsForm, "password-file", "vers", "domain", "seal", "opts")
	if err != nil {
		return Spec{}, err
	}
	share, _ := cifsShare(s.Path)
	switch {
	case s.User == "" || s.param("password-file") == "":
		return Spec{}, fmt.Errorf("no user or no password: want %s", cifsForm)
	case len(s.User) > 255 || strings.ContainsAny(s.User, `,\/`):
		return Spec{}, fmt.Errorf("user %q: want a name without commas and slashes; what stands before a backslash goes to domain=", clip(s.User))
	case share == "" || strings.ContainsAny(s.Path, `\,`):
		return Spec{}, fmt.Errorf("path %q: want /SHARE or /SHARE/DIR, without commas and backslashes", clip(s.Path))
	case strings.ContainsAny(s.param("domain"), `,\/`):
		return Spec{}, fmt.Errorf("domain=%s: want a name without commas and slashes", clip(s.param("domain")))
	}
	if v := s.param("seal"); v != "" && v != "0" && v != "1" {
		return Spec{}, fmt.Errorf("seal=%s: want 1 to encrypt, or 0", clip(v))
	}
	switch v := s.param("vers"); v {
	case "", "2.1", "3", "3.0", "3.0.2", "3.1.1":
	case "1.0", "1", "2.0", "2":
		return Spec{}, fmt.Errorf("vers=%s: too old to be safe, and servers no longer speak it: want 2.1, 3.0, 3.0.2 or 3.1.1", v)
	default:
		return Spec{}, fmt.Errorf("vers=%s: want 2.1, 3.0, 3.0.2 or 3.1.1, or leave it out to have it found", clip(v))
	}
	s.Opts = s.param("opts")
	_, _, err = cifsOptions(s.Opts)
	return s, err
}

// cifsShare splits the path of a URL.
func cifsShare(p string) (share, dir string) {
	share, dir, _ = strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return share, "/" + dir
}

func cifsOptions(opts string) (flags uintptr, data string, err error) {
	return checkedOptions(opts, func(key, value, option string) string {
		switch key {
		case "pass", "password", "pass2", "password2", "credentials", "cred":
			return key + ": want password-file=FILE in the query of the URL"
		case "user", "username", "domain", "dom", "workgroup", "vers", "seal", "port", "unc", "ip", "addr":
			return option + ": want " + cifsForm + ", and vers=, domain=, seal=1 in its query"
		case "sec":
			if strings.HasPrefix(value, "krb5") {
				return option + ": needs cifs.upcall, which a capture image does not have: want sec=ntlmssp"
			}
		}
		return ""
	})
}

// cifsModules has the ciphers too, as the crypto API finds them: the kernel
// loads them in user space, which a capture image does not have, and without
// them mount(2) fails with ENOENT. Some kernels have them in no module or under
// no such name.
func cifsModules(Spec) []string {
	mods := []string{"cifs"}
	for _, alg := range []string{"aes", "cmac", "ccm", "ctr", "gcm", "ghash", "seqiv", "ecb", "hmac", "md4", "md5", "sha256", "sha512"} {
		mods = append(mods, "crypto-"+alg)
	}
	return mods
}

// cifsData is the text for mount(2), as smb3_fs_context_parse_monolithic takes
// it (fs/smb/client/fs_context.c). The password is only here; /proc/mounts does
// not show it. A connection is given up after three echoes without an answer.
func cifsData(p peer, s Spec, password string, stall time.Duration, extra string) string {
	echo := max(1, min(stall/3, 600*time.Second)/time.Second)
	// A comma within a value is written twice.
	data := fmt.Sprintf("ip=%s,user=%s,pass=%s,soft,cache=none,echo_interval=%d,uid=0,gid=0,file_mode=0600,dir_mode=0700",
		numberZone(p.addr), s.User, strings.ReplaceAll(password, ",", ",,"), echo)
	vers := s.param("vers")
	if vers == "" {
		vers = "default" // 2.1 or the best above it
	}
	data += ",vers=" + vers
	if s.Port != 0 {
		data += fmt.Sprintf(",port=%d", s.Port)
	}
	if d := s.param("domain"); d != "" {
		data += ",domain=" + d
	}
	if s.param("seal") == "1" {
		data += ",seal"
	}
	if extra != "" {
		data += "," + extra
	}
	return data
}

// numberZone writes the zone of a link-local address as the index of its interface:
// cifs_convert_address knows no names (fs/smb/client/netmisc.c).
func numberZone(a netip.Addr) netip.Addr {
	if link, err := net.InterfaceByName(a.Zone()); a.Zone() != "" && err == nil {
		return a.WithZone(strconv.Itoa(link.Index))
	}
	return a
}

func openCIFS(ctx context.Context, s Spec, opts Options) (Target, error) {
	flags, extra, err := cifsOptions(s.Opts)
	if err != nil {
		return nil, newError("mount", "", s.String(), err)
	}
	password, err := readPassword(s)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	opts.driver(ctx, "cifs")
	share, _ := cifsShare(s.Path)
	mount := func(ctx context.Context, p peer, on string) (string, error) {
		source := "//" + s.Host + "/" + share
		err := mountWithin(ctx, source, on, "cifs", flags, cifsData(p, s, password, opts.stall(), extra))
		return "/" + share, cifsMountError(s, err)
	}
	return openNetMount(ctx, s, opts, cifsPort, mount, func(err error) error {
		return netCause(err, "the user may not write there: look at the share's write list and at the directory's owner", "the share is read-only")
	})
}

// cifsMountError says what an errno of mount(2) means; see
// fs/smb/client/smb2maperror.c.
func cifsMountError(s Spec, err error) error {
	var errno unix.Errno
	if err == nil || !errors.As(err, &errno) {
		return err
	}
	share, _ := cifsShare(s.Path)
	switch {
	case errno == unix.ENODEV:
		return permanent(errno, "the kernel does not know cifs: its modules are not in the image")
	case errno == unix.EACCES || errno == unix.EPERM || errno == unix.EKEYREJECTED || errno == unix.EKEYEXPIRED || errno == unix.EKEYREVOKED:
		return permanent(errno, fmt.Sprintf("is the password in %s right, and may %s use the share %s", s.param("password-file"), s.User, share))
	case errno == unix.ENOENT || errno == unix.ENXIO:
		return permanent(errno, fmt.Sprintf("the server has no share %s, or the image lacks the modules of a cipher: see the kernel's log", share))
	case errno == unix.EOPNOTSUPP || errno == unix.EPROTONOSUPPORT || errno == unix.EPROTO || int(errno) == 524: // ENOTSUPP of the kernel
		return permanent(errno, "server and client have no dialect or cipher in common: see vers= and seal=")
	case errno == unix.EINVAL:
		return permanent(errno, "an unknown option in opts=: see the kernel's log")
	case slices.Contains([]unix.Errno{unix.EHOSTDOWN, unix.ECONNREFUSED, unix.ECONNRESET, unix.ECONNABORTED, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EAGAIN, unix.EIO, unix.EINTR}, errno):
		return transient(errno, "the server let the connection go: see its log")
	}
	return err
}
