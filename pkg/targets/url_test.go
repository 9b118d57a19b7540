package targets

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Spec{
		"file:///var/crash":   {Scheme: "file", Path: "/var/crash"},
		"file:///var//crash/": {Scheme: "file", Path: "/var/crash"},
		"file:///a%20b":       {Scheme: "file", Path: "/a b"},
		"file:///":            {Scheme: "file", Path: "/"},
		"disk:///crash?dev=LABEL=CRASH&fstype=ext4&opts=noatime": {Scheme: "disk", Path: "/crash", Device: "LABEL=CRASH", FSType: "ext4", Opts: "noatime"},
		"disk:///?dev=/dev/vda1":                                 {Scheme: "disk", Path: "/", Device: "/dev/vda1"},
		"disk:///?dev=LABEL%3DA%20B+C":                           {Scheme: "disk", Path: "/", Device: "LABEL=A B+C"},
		"disk:///?dev=UUID=0A1B-2C3D&fstype=vfat":                {Scheme: "disk", Path: "/", Device: "UUID=0A1B-2C3D", FSType: "vfat"},
		"disk:///x?opts=data=journal,commit=1&dev=PARTLABEL=a=b": {Scheme: "disk", Path: "/x", Device: "PARTLABEL=a=b", Opts: "data=journal,commit=1"},
		"disk:///?dev=/dev/disk/by-label/CRASH":                  {Scheme: "disk", Path: "/", Device: "LABEL=CRASH"},
	} {
		got, err := Parse(text)
		if got.text != text {
			t.Errorf("text %q", got.text)
		}
		got.text, got.params = "", nil
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", text, got, err, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "no scheme: want disk:///DIR?dev=LABEL=NAME or file:///DIR",
		"/var/crash":                      "no scheme",
		"file:/var/crash":                 "no scheme",
		"http://server/x":                 `unknown scheme "http": want disk:///`,
		"FILE:///x":                       `unknown scheme "FILE"`,
		"file://var/crash":                `"var" stands where a server would: want three slashes, file:///DIR`,
		"file://user@/x":                  "three slashes",
		"file://":                         "want an absolute path",
		"file:///a/../b":                  `without ".."`,
		"file:///a%00b":                   "control character",
		"file:///a%zz":                    "malformed",
		"file:///a\nb":                    "malformed",
		"file:///x?dev=/dev/sda":          `unknown query key "dev": want none`,
		"file:///x#y":                     "%23",
		"disk:///x":                       "dev is missing: want dev=",
		"disk:///x?dev=":                  `query key "dev": the value is empty`,
		"disk:///x?dev":                   "want key=value",
		"disk:///x?dev=sda":               "want /dev/NAME, LABEL=NAME",
		"disk:///x?dev=LABEL=a&dev=b":     `"dev": given twice`,
		"disk:///x?dev=/dev/a&type=ext4":  `unknown query key "type": want dev, fstype, opts`,
		"disk:///x?dev=/dev/a&fstype=zfs": `unknown fstype "zfs": want one of ext2, ext3, ext4, xfs, vfat, btrfs`,
		"disk:///x?dev=/dev/a&opts=a,,b":  "an option is empty",
		"disk:///x?dev=/dev/a&opts=ro":    "mounted to be written to",
		"disk:///x?dev=%zz":               `query key "dev": %`,
		"disk:///x?dev=LABEL=a%0ab":       `query key "dev": control character`,
		"disk:///x?dev=LABEL=seventeen-letters&fstype=ext4": "ext4 has at most 16",
		"disk:///x?dev=LABEL=thirteen-chars&fstype=xfs":     "xfs has at most 12",
		"file:///" + strings.Repeat("x/", 2100):             "want at most 4096",
		"file:///" + strings.Repeat("x/", 600):              "want at most 1024",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `target "`) {
			t.Errorf("%.60s:\n got %v\nwant %s", text, err, want)
		}
	}
	for _, sc := range schemes() {
		if _, err := Parse(sc.name + ":///x"); errors.Is(err, ErrUnsupported) != (sc.parse == nil) {
			t.Errorf("%s: %v", sc.name, err)
		}
	}
}

func TestRedacted(t *testing.T) {
	for text, want := range map[string]string{
		"sftp://user:pw@host/x":             "sftp://user:xxxxx@host/x",
		"sftp://user@host:22/x":             "sftp://user@host:22/x",
		"sftp://user:p/w@host/x":            "sftp://user:xxxxx@host/x",
		"sftp://user:p?w@host/x":            "sftp://user:xxxxx@host/x",
		"sftp://user:12/w@host/x":           "sftp://user:xxxxx@host/x",
		"sftp://user@host:22/x@y":           "sftp://user@host:22/x@y",
		"disk:///x?dev=PARTLABEL=a:b@c":     "disk:///x?dev=PARTLABEL=a:b@c",
		"sftp://user:p@w@host/x":            "sftp://user:xxxxx@host/x",
		"ftp://u:p%40w@h/?a=b":              "ftp://u:xxxxx@h/?a=b",
		"cifs://h/s?password=abc&vers=3":    "cifs://h/s?password=xxxxx&vers=3",
		"cifs://h/s?PassWord=a=b":           "cifs://h/s?PassWord=xxxxx",
		"cifs://h/s?password-file=/a/b":     "cifs://h/s?password-file=/a/b",
		"cifs://h/s?password-file=secret":   "cifs://h/s?password-file=xxxxx",
		"nfs://h/s?opts=uid=0,pass=abc,x=1": "nfs://h/s?opts=uid=0,pass=xxxxx,x=1",
		"nfs://h/s?opts=uid=0%2Cpass%3Dabc": "nfs://h/s?xxxxx",
		"user:pw@host":                      "user:xxxxx@host",
		"sftp://u@[2001:db8::1]:22/x@y":     "sftp://u@[2001:db8::1]:22/x@y",
		"sftp://[2001:db8::1]/x@y":          "sftp://[2001:db8::1]/x@y",
		"sftp://u:p@[2001:db8::1]:22/x":     "sftp://u:xxxxx@[2001:db8::1]:22/x",
		"sftp://u:[p]w@h/x":                 "sftp://u:xxxxx@h/x",
		"sftp://[:secret]@h/x":              "sftp://[:xxxxx@h/x",
		"sftp://u@[a:secret@h/x":            "sftp://u@[a:xxxxx@h/x",
		"disk:///x?dev=LABEL=a":             "disk:///x?dev=LABEL=a",
		"":                                  "",
	} {
		if got := Redacted(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestServerURL(t *testing.T) {
	for text, want := range map[string]Spec{
		"x://host/":                        {Host: "host", Path: "/"},
		"x://user@host:2222//a/b/":         {User: "user", Host: "host", Port: 2222, Path: "/a/b"},
		"x://us%40er@192.0.2.7/a%20b":      {User: "us@er", Host: "192.0.2.7", Path: "/a b"},
		"x://u@[2001:db8::1]:65535/x":      {User: "u", Host: "2001:db8::1", Port: 65535, Path: "/x"},
		"x://u@[fe80::1%25eth0]/x":         {User: "u", Host: "fe80::1%eth0", Path: "/x"},
		"x://h/x?key=/etc/kdump/key&a=b":   {Host: "h", Path: "/x"},
		"x://crash-1.example.com:22/x?a=b": {Host: "crash-1.example.com", Port: 22, Path: "/x"},
	} {
		u, err := splitURL(text, "x://HOST/DIR")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := u.server("x://HOST/DIR", "key", "a", "password-file")
		if !slices.Equal(got.params, u.params) {
			t.Errorf("%s: params %v", text, got.params)
		}
		got.params = nil
		if err != nil || !reflect.DeepEqual(got, want) || !got.Network() {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"x:///x":                        "no server: want x://HOST/DIR",
		"x://u@/x":                      "no server",
		"x://:22/x":                     "no server",
		"x://h":                         "want an absolute path",
		"x://h:/x":                      "port is empty",
		"x://h:0/x":                     "want 1 to 65535",
		"x://h:65536/x":                 "want 1 to 65535",
		"x://u:secret@h/x":              "password-file=/etc/kdump/pw",
		"x://u:@h/x":                    "password-file=/etc/kdump/pw",
		"x://h_/../x":                   `without ".."`,
		"x://h!/x":                      "want a host name",
		"x://-h/x":                      "want a host name",
		"x://a..b/x":                    "want a host name",
		"x://fe80::1/x":                 "IPv6 address in brackets",
		"x://[fe80::1]/x":               "want [fe80::1%25eth0]",
		"x://u%0a@h/x":                  "control character",
		"x://h/x?key=id":                "key=id: want the absolute path of a file",
		"x://h/x?password-file=/a/../b": "want the absolute path of a file",
		"x://h/x?ca=/b":                 `unknown query key "ca": want key, a, password-file`,
	} {
		u, err := splitURL(text, "x://HOST/DIR")
		if err == nil {
			_, err = u.server("x://HOST/DIR", "key", "a", "password-file")
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestFilesOfURL(t *testing.T) {
	u, err := splitURL("x://h/x?key=/k&a=/not&known_hosts=/h&password-file=/p&ca=/c&dev=/dev/x", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := (Spec{params: u.params}).Files(); !slices.Equal(got, []string{"/k", "/h", "/p", "/c"}) {
		t.Errorf("%q", got)
	}
}

func TestMountOptions(t *testing.T) {
	const always = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for opts, want := range map[string]struct {
		flags uintptr
		data  string
	}{
		"":                                {always | unix.MS_NOATIME, ""},
		"rw,noatime":                      {always | unix.MS_NOATIME, ""},
		"relatime":                        {always | unix.MS_RELATIME, ""},
		"strictatime,lazytime":            {always | unix.MS_STRICTATIME | unix.MS_LAZYTIME, ""},
		"sync,dirsync":                    {always | unix.MS_NOATIME | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC, ""},
		"defaults,x-a=b,_netdev,commit=1": {always | unix.MS_NOATIME, "commit=1"},
		"exec,suid,dev":                   {always | unix.MS_NOATIME, ""},
		"compress=zstd:1,subvol=/a":       {always | unix.MS_NOATIME, "compress=zstd:1,subvol=/a"},
	} {
		flags, data, err := mountOptions(opts)
		if err != nil || flags != want.flags || data != want.data {
			t.Errorf("%s: %#x %q %v, want %#x %q", opts, flags, data, err, want.flags, want.data)
		}
	}
}

// Every opener has a parser and a form to show, and every scheme stands once.
func TestTableOfSchemes(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range schemes() {
		if seen[s.name] || (s.parse == nil) != (s.open == nil) || (s.parse == nil) != (s.form == "") {
			t.Errorf("%+v", s)
		}
		seen[s.name] = true
		if s.form != "" && !strings.HasPrefix(s.form, s.name+"://") {
			t.Errorf("form %s", s.form)
		}
	}
}

func TestErrorText(t *testing.T) {
	err := newError("write", "d/vmcore", "disk:///x", unix.ENOSPC)
	if err.Error() != "write d/vmcore on disk:///x: no space left on device" || !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	for errno, want := range map[error]bool{unix.EDQUOT: true, unix.EFBIG: true, unix.EIO: false, unix.EROFS: false} {
		if got := errors.Is(newError("write", "x", "y", errno), ErrNoSpace); got != want {
			t.Errorf("%v: %v", errno, got)
		}
	}
	if newError("write", "x", "y", nil) != nil {
		t.Error("an error out of nothing")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"file:///var/crash", "disk:///crash?dev=LABEL=CRASH&fstype=ext4&opts=noatime,data=journal", "sftp://user:pw@host:22/x",
		"cifs://u@h/s?opts=pass=x", "disk:///?dev=/dev/disk/by-uuid/ab%20", "file://x", "://", "disk:///?dev=%00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if len(err.Error()) > 3*maxURL {
				t.Errorf("message of %d bytes", len(err.Error()))
			}
			return
		}
		if !strings.HasPrefix(s.Path, "/") || strings.Contains(s.Path+"/", "/../") || strings.ContainsRune(s.Path, 0) {
			t.Errorf("%q: path %q", text, s.Path)
		}
		if s.Scheme == "disk" && s.Device == "" {
			t.Errorf("%q: %+v", text, s)
		}
		if hostless := []string{"disk", "file", "raw"}; s.Network() == slices.Contains(hostless, s.Scheme) {
			t.Errorf("%q: %+v", text, s)
		}
		for _, f := range s.Files() {
			if !strings.HasPrefix(f, "/") {
				t.Errorf("%q: file %q", text, f)
			}
		}
	})
}

func FuzzRedacted(f *testing.F) {
	f.Add("sftp", "user", "pw", "host/x?a=b")
	f.Add("", "u", "p/w@?:", "?pass=1,token=2")
	f.Fuzz(func(t *testing.T, scheme, user, password, rest string) {
		if strings.ContainsAny(user, "/?@:") || strings.ContainsAny(scheme, ":/") || len(password) < 3 ||
			strings.Contains(scheme+"://"+user+":xxxxx@"+rest, password) {
			return // no secret, or one that stands elsewhere too
		}
		if got := Redacted(scheme + "://" + user + ":" + password + "@" + rest); strings.Contains(got, password) {
			t.Errorf("%q in %q", password, got)
		}
	})
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"vmcore", "a/b.txt", ".x", "a-incomplete", "../x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		temp := IncompleteName(name)
		if final, ok := FinalName(temp); !ok || final != name {
			t.Errorf("%q: %q: %q, %v", name, temp, final, ok)
		}
		if checkPath(temp) != nil || checkName(temp) == nil {
			t.Errorf("%q: incomplete name %q", name, temp)
		}
	})
}

func TestServerPort(t *testing.T) {
	for url, want := range map[string]int{
		"file:///x":                                      0,
		"sftp://u@h/x?key=/k&known_hosts=/h":             22,
		"sftp://u@h:2222/x?key=/k&known_hosts=/h":        2222,
		"nfs://h/x":                                      2049,
		"cifs://u@h/s?password-file=/p":                  445,
		"ftp://u@h/x?password-file=/p":                   21,
		"ftps://u@h/x?password-file=/p&ca=/c":            21,
		"ftps://u@h/x?password-file=/p&ca=/c&implicit=1": 990,
	} {
		s, err := Parse(url)
		if got := s.ServerPort(); err != nil || got != want {
			t.Errorf("%s: port %d, %v; want %d", url, got, err, want)
		}
	}
}
