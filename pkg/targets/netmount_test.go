package targets

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func v4Peer() peer {
	return peer{addr: netip.MustParseAddr("192.0.2.1"), local: netip.MustParseAddr("192.0.2.9")}
}

func v6Peer() peer {
	return peer{addr: netip.MustParseAddr("fe80::1%eth0"), local: netip.MustParseAddr("fe80::9%eth0")}
}

func mustParse(t *testing.T, url string) Spec {
	t.Helper()
	s, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The strings that kernels were seen to take; see the end-to-end tests.
func TestNFSData(t *testing.T) {
	for _, c := range []struct {
		url, version string
		p            peer
		stall        time.Duration
		want         string
	}{
		{"nfs://h/x", "4.2", v4Peer(), 30 * time.Second, "vers=4.2,addr=192.0.2.1,proto=tcp,port=2049,sec=sys,soft,timeo=100,retrans=2,clientaddr=192.0.2.9"},
		{"nfs://h:12049/x", "4.0", v6Peer(), 90 * time.Second, "vers=4.0,addr=fe80::1%eth0,proto=tcp6,port=12049,sec=sys,soft,timeo=300,retrans=2,clientaddr=fe80::9"},
		{"nfs://h/x?vers=3", "3", v4Peer(), time.Second, "vers=3,addr=192.0.2.1,proto=tcp,port=2049,sec=sys,soft,timeo=5,retrans=2,mountproto=tcp,mountvers=3,mountaddr=192.0.2.1,nolock"},
		{"nfs://h/x?vers=3&mountport=20048", "3", v6Peer(), time.Hour, "vers=3,addr=fe80::1%eth0,proto=tcp6,port=2049,sec=sys,soft,timeo=6000,retrans=2,mountproto=tcp6,mountvers=3,mountaddr=fe80::1%eth0,nolock,mountport=20048"},
		{"nfs://h/x?opts=wsize=65536,noatime,_netdev,nconnect=2", "4.1", v4Peer(), 30 * time.Second, "vers=4.1,addr=192.0.2.1,proto=tcp,port=2049,sec=sys,soft,timeo=100,retrans=2,clientaddr=192.0.2.9,wsize=65536,nconnect=2"},
	} {
		s := mustParse(t, c.url)
		_, extra, err := nfsOptions(s.Opts)
		if got := nfsData(c.version, c.p, s, c.stall, extra); err != nil || got != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.url, err, got, c.want)
		}
	}
	if got := nfsSource(v6Peer().addr, "/a b"); got != "[fe80::1%eth0]:/a b" {
		t.Error(got)
	}
	if got := nfsSource(v4Peer().addr, "/"); got != "192.0.2.1:/" {
		t.Error(got)
	}
}

func TestCIFSData(t *testing.T) {
	for _, c := range []struct{ url, password, want string }{
		{"cifs://u@h/s?password-file=/p", "pw", "ip=192.0.2.1,user=u,pass=pw,soft,cache=none,echo_interval=10,uid=0,gid=0,file_mode=0600,dir_mode=0700,vers=default"},
		{"cifs://u%20v@h:1445/s/d?password-file=/p&vers=3.1.1&domain=KDUMP&seal=1&opts=nobrl", "a,b,,=", "ip=192.0.2.1,user=u v,pass=a,,b,,,,=,soft,cache=none,echo_interval=10,uid=0,gid=0,file_mode=0600,dir_mode=0700,vers=3.1.1,port=1445,domain=KDUMP,seal,nobrl"},
	} {
		s := mustParse(t, c.url)
		_, extra, err := cifsOptions(s.Opts)
		if got := cifsData(v4Peer(), s, c.password, 30*time.Second, extra); err != nil || got != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.url, err, got, c.want)
		}
	}
}

func TestMountURLs(t *testing.T) {
	for url, want := range map[string]string{
		"nfs://h/":                       "",
		"nfs://[2001:db8::1]:2049/x":     "",
		"nfs://h/x?vers=4":               "",
		"nfs://h/x?vers=4.2&opts=ro":     `"ro": a target is mounted to be written to`,
		"nfs://h/x?vers=2":               "vers=2: want 4, 4.2, 4.1, 4.0 or 3",
		"nfs://u@h/x":                    `user "u": NFS knows numbers`,
		"nfs:///x":                       "no server",
		"nfs://h/x?opts=hard":            "would hold up the reboot",
		"nfs://h/x?opts=vers=3":          "want vers= and mountport= in the query",
		"nfs://h/x?opts=nfsvers=3":       "want vers= and mountport= in the query",
		"nfs://h/x?opts=port=1":          "want nfs://HOST:1/",
		"nfs://h/x?opts=addr=1.2.3.4":    "is found by itself",
		"nfs://h/x?opts=sec=krb5p":       "needs rpc.gssd",
		"nfs://h/x?mountport=5":          "want vers=3 beside it",
		"nfs://h/x?mountport=0&vers=3":   "want 1 to 65535",
		"nfs://h/x?mountport=700&vers=3": "",
		"nfs://h/x?key=/k":               `unknown query key "key"`,

		"cifs://u@h/s?password-file=/p":                        "",
		"cifs://u@h/s/d/e?password-file=/p&seal=0&vers=2.1":    "",
		"cifs://h/s?password-file=/p":                          "no user or no password",
		"cifs://u@h/s":                                         "no user or no password",
		"cifs://u:pw@h/s":                                      "password-file=",
		"cifs://u@h/?password-file=/p":                         "want /SHARE or /SHARE/DIR",
		"cifs://u@h/s%5cx?password-file=/p":                    "backslashes",
		"cifs://u@h/s,ro?password-file=/p":                     "without commas",
		"cifs://u,ro@h/s?password-file=/p":                     "without commas",
		"cifs://D%5cu@h/s?password-file=/p":                    "goes to domain=",
		"cifs://u@h/s?password-file=/p&domain=a,b":             "domain=a,b: want a name",
		"cifs://u@h/s?password-file=/p&vers=1.0":               "too old to be safe",
		"cifs://u@h/s?password-file=/p&vers=2.0":               "too old to be safe",
		"cifs://u@h/s?password-file=/p&vers=4":                 "want 2.1, 3.0, 3.0.2 or 3.1.1",
		"cifs://u@h/s?password-file=/p&seal=yes":               "seal=yes: want 1",
		"cifs://u@h/s?password-file=/p&opts=password=secret":   "want password-file=FILE",
		"cifs://u@h/s?password-file=/p&opts=username=x":        "want cifs://USER@HOST",
		"cifs://u@h/s?password-file=/p&opts=hard":              "would hold up the reboot",
		"cifs://u@h/s?password-file=/p&opts=sec=krb5":          "needs cifs.upcall",
		"cifs://u@h/s?password-file=/p&opts=credentials=/cred": "want password-file=FILE",
	} {
		_, err := Parse(url)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v: want %q", url, err, want)
		}
	}
}

func TestMountModules(t *testing.T) {
	for url, want := range map[string][]string{
		"nfs://h/x":          {"nfs", "nfsv4", "nfsv3"},
		"nfs://h/x?vers=4.1": {"nfs", "nfsv4"},
		"nfs://h/x?vers=4":   {"nfs", "nfsv4"},
		"nfs://h/x?vers=3":   {"nfs", "nfsv3"},
	} {
		if got := mustParse(t, url).Modules(); !slices.Equal(got, want) {
			t.Errorf("%s: %q", url, got)
		}
	}
	if got := mustParse(t, "cifs://u@h/s?password-file=/p").Modules(); got[0] != "cifs" || !slices.Contains(got, "crypto-gcm") {
		t.Errorf("%q", got)
	}
}

// Of a directory that is missing the nearest one above is mounted.
func TestClimb(t *testing.T) {
	for _, c := range []struct {
		dir    string
		answer map[string]error // else ENOENT
		want   string
		err    error
	}{
		{"/a/b", map[string]error{"/a/b": nil}, "/a/b", nil},
		{"/a/b/c", map[string]error{"/a": nil}, "/a", nil},
		{"/a/b", map[string]error{"/": nil}, "/", nil},
		{"/", nil, "/", unix.ENOENT},
		{"/a/b", nil, "/a/b", unix.ENOENT},
		{"/a/b", map[string]error{"/a": unix.EACCES, "/": nil}, "/a/b", unix.ENOENT},
		{"/a/b", map[string]error{"/a/b": unix.EACCES, "/a": nil}, "/a/b", unix.EACCES},
		{"/a/b", map[string]error{"/a": unix.ETIMEDOUT}, "/a", unix.ETIMEDOUT},
	} {
		got, err := climb(c.dir, func(dir string) error {
			if e, ok := c.answer[dir]; ok {
				return e
			}
			return permanent(unix.ENOENT, "")
		})
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %s, %v; want %s, %v", c.dir, got, err, c.want, c.err)
		}
	}
}

func TestNFSVersions(t *testing.T) {
	for _, c := range []struct {
		vers   string
		answer map[string]error // else EPROTONOSUPPORT
		tried  []string
		says   string
		passes bool
	}{
		{"", map[string]error{"4.2": nil}, []string{"4.2"}, "", false},
		{"", map[string]error{"4.2": unix.EINVAL, "4.1": nil}, []string{"4.2", "4.1"}, "", false},
		{"", map[string]error{"3": nil}, []string{"4.2", "4.1", "4.0", "3"}, "", false},
		{"", map[string]error{"3": unix.ECONNREFUSED}, []string{"4.2", "4.1", "4.0", "3"}, "rpcbind or mountd", true},
		{"", nil, []string{"4.2", "4.1", "4.0", "3"}, "NFS 4.2: protocol not supported: the server does not have this version", false},
		{"4", nil, []string{"4.2", "4.1", "4.0"}, "NFS 4.0: protocol not supported", false},
		{"3", nil, []string{"3"}, "NFS 3: protocol not supported", false},
		{"4.1", map[string]error{"4.1": unix.EACCES}, []string{"4.1"}, "does not export it to this machine", false},
		{"", map[string]error{"4.2": unix.ENODEV}, []string{"4.2"}, "modules are not in the image", false},
		{"", map[string]error{"4.2": unix.ETIMEDOUT}, []string{"4.2"}, "no answer in time", true},
	} {
		var tried []string
		err := mountNFS(nfsVersions(c.vers), func(v string) error {
			tried = append(tried, v)
			if e, ok := c.answer[v]; ok {
				return e
			}
			return unix.EPROTONOSUPPORT
		})
		if !slices.Equal(tried, c.tried) || (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || temporary(err) != c.passes) {
			t.Errorf("vers=%s: tried %q, %v; want %q, %q", c.vers, tried, err, c.tried, c.says)
		}
	}
}

func TestCIFSPassword(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"pw\n": "pw", "p w ,\r\n": "p w ,", strings.Repeat("x", 512): strings.Repeat("x", 512),
		"\n": "", "a\nb\n": "", strings.Repeat("x", 513): "",
	} {
		name := filepath.Join(dir, "pw")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassword(mustParse(t, "cifs://u@h/s?password-file="+name))
		if got != want || (err == nil) != (want != "") || err != nil && strings.Contains(err.Error(), "a\nb") {
			t.Errorf("%.20q: %.20q, %v", text, got, err)
		}
	}
}

// What an operator reads when the server says no; and whether to come again.
func TestMountErrors(t *testing.T) {
	s := mustParse(t, "cifs://u@h/s?password-file=/p")
	for errno, want := range map[unix.Errno]struct {
		says   string
		passes bool
	}{
		unix.EACCES:     {"is the password in /p right, and may u use the share s", false},
		unix.ENOENT:     {"no share s", false},
		unix.EHOSTDOWN:  {"let the connection go", true},
		unix.EOPNOTSUPP: {"no dialect or cipher in common", false},
		unix.Errno(524): {"no dialect or cipher in common", false},
		unix.ENODEV:     {"modules are not in the image", false},
	} {
		if err := cifsMountError(s, errno); !strings.Contains(err.Error(), want.says) || temporary(err) != want.passes {
			t.Errorf("cifs %d: %v, temporary %v", errno, err, temporary(err))
		}
	}
	for errno, passes := range map[unix.Errno]bool{
		unix.EIO: true, unix.ESTALE: true, unix.EHOSTDOWN: true, unix.EACCES: false, unix.EROFS: false, unix.ENOSPC: false,
	} {
		err := newError("write", "vmcore", "nfs://h/x", netCause(&os.PathError{Op: "write", Path: "/mnt/x", Err: errno}, "see exports", "read-only"))
		var e *Error
		if !errors.As(err, &e) || e.Temporary != passes || !errors.Is(err, errno) || strings.Contains(err.Error(), "/mnt") {
			t.Errorf("%d: %+v", errno, err)
		}
		if (errno == unix.ENOSPC) != errors.Is(err, ErrNoSpace) {
			t.Errorf("%d: no space: %v", errno, err)
		}
	}
}
