package targets

import (
	"bytes"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/internal/blockdev"
)

// maxURL is far more than any target needs.
const maxURL = 4096

// Spec is a checked target URL.
type Spec struct {
	Scheme string
	User   string // on the server; empty: the scheme's own
	Host   string // the server's name, or its IP address without brackets; empty: no server
	Port   int    // 0: the scheme's own
	Path   string // absolute and clean; of disk://: below the root of that file system
	Device string // disk: "/dev/NAME", "LABEL=NAME", "UUID=ID", ...
	FSType string // disk: what fstype= says; empty: found by probing
	Opts   string // disk: comma separated mount options

	params []param // all words of the query
	text   string  // as given
}

// String is the URL without its secrets.
func (s Spec) String() string { return Redacted(s.text) }

// Network tells that the target is on a server.
func (s Spec) Network() bool { return s.Host != "" }

// ServerPort is the TCP port of the server, 0 for a target without one.
func (s Spec) ServerPort() int {
	switch {
	case s.Port != 0:
		return s.Port
	case s.Scheme == "ftps" && s.param("implicit") == "1":
		return ftpsImplicitPort
	}
	i := slices.IndexFunc(schemes(), func(sc scheme) bool { return sc.name == s.Scheme })
	return schemes()[i].port
}

// Files are the local files that the URL names: keys, passwords, what a server
// is known by. An image for this target has to hold them, mode 0600.
func (s Spec) Files() []string {
	var files []string
	for _, p := range s.params {
		if isFileKey(p.key) {
			files = append(files, p.value)
		}
	}
	return files
}

// Modules are the kernel modules without which the target cannot be reached,
// besides those of the network; none where the kernel needs no help.
func (s Spec) Modules() []string {
	for _, sc := range schemes() {
		if sc.name == s.Scheme && sc.modules != nil {
			return sc.modules(s)
		}
	}
	return nil
}

// isFileKey is true for the query keys whose value is the name of a file on
// this machine. Secrets stand in such files and never in a URL.
func isFileKey(key string) bool {
	switch key {
	case "key", "known_hosts", "password-file", "ca":
		return true
	}
	return false
}

// param is what stands behind a key of the query; empty: nothing does.
func (s Spec) param(key string) string { return valueOf(s.params, key) }

type param struct{ key, value string }

// rawURL is a URL whose syntax is right and whose words nobody has looked at.
type rawURL struct {
	*url.URL
	params []param
}

// Parse checks a target URL without touching the target. Its errors name the
// URL (without secrets), the word that is wrong and what would be right.
func Parse(text string) (Spec, error) {
	s, err := parse(text)
	if err != nil {
		return Spec{}, fmt.Errorf("target %q: %w", clip(Redacted(text)), err)
	}
	return s, nil
}

func parse(text string) (Spec, error) {
	if len(text) > maxURL {
		return Spec{}, fmt.Errorf("%d bytes: want at most %d", len(text), maxURL)
	}
	name, _, ok := strings.Cut(text, "://")
	if !ok {
		return Spec{}, fmt.Errorf("no scheme: want %s", forms())
	}
	i := slices.IndexFunc(schemes(), func(s scheme) bool { return s.name == name })
	if i < 0 {
		return Spec{}, fmt.Errorf("unknown scheme %q: want %s", clip(name), forms())
	}
	sc := schemes()[i]
	if sc.parse == nil {
		return Spec{}, fmt.Errorf("scheme %q: %w: want %s", name, ErrUnsupported, forms())
	}
	u, err := splitURL(text, sc.form)
	if err != nil {
		return Spec{}, err
	}
	s, err := sc.parse(u)
	s.Scheme, s.text = sc.name, text
	return s, err
}

// forms is the list of what this build supports.
func forms() string {
	var f []string
	for _, s := range schemes() {
		if s.form != "" {
			f = append(f, s.form)
		}
	}
	return strings.Join(f, " or ")
}

func splitURL(text, form string) (*rawURL, error) {
	if strings.Contains(text, "#") {
		return nil, fmt.Errorf("has a '#': write it as %%23")
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" {
		// The parser's own words can quote a piece of a password.
		return nil, fmt.Errorf("malformed, or a %% without two digits behind it: want %s", form)
	}
	raw := &rawURL{URL: u}
	if u.RawQuery == "" {
		return raw, nil
	}
	for p := range strings.SplitSeq(u.RawQuery, "&") {
		// Not url.ParseQuery: it makes a space of '+', and labels have '+'.
		k, v, ok := strings.Cut(p, "=")
		value, err := url.PathUnescape(v)
		switch {
		case !ok || k == "":
			return nil, fmt.Errorf("query %q: want key=value, joined by '&'", redactWord(p))
		case err != nil:
			return nil, fmt.Errorf("query key %q: %% without two hexadecimal digits behind it", k)
		case value == "":
			return nil, fmt.Errorf("query key %q: the value is empty", k)
		case strings.ContainsFunc(value, isControl):
			return nil, fmt.Errorf("query key %q: control character in the value", k)
		case slices.ContainsFunc(raw.params, func(p param) bool { return p.key == k }):
			return nil, fmt.Errorf("query key %q: given twice", k)
		}
		raw.params = append(raw.params, param{k, value})
	}
	return raw, nil
}

// local checks what all URLs without a server have in common, and that no query
// key is there but those allowed. It returns the clean path.
func (u *rawURL) local(form string, keys ...string) (string, error) {
	if u.Host != "" || u.User != nil {
		return "", fmt.Errorf("%q stands where a server would: want three slashes, %s", u.Host, form)
	}
	if err := checkDir(u.Path); err != nil {
		return "", err
	}
	return path.Clean(u.Path), u.check(keys)
}

// server checks what all URLs with a server have in common, and that no query
// key is there but those allowed.
func (u *rawURL) server(form string, keys ...string) (Spec, error) {
	s := Spec{User: u.User.Username(), Host: u.Hostname(), Path: path.Clean(u.Path), params: u.params}
	if _, ok := u.User.Password(); ok {
		return Spec{}, fmt.Errorf("a password in a URL shows in logs: write it in a file and want %s", passwordForm(keys))
	}
	if strings.ContainsFunc(s.User, isControl) {
		return Spec{}, fmt.Errorf("user %q: control character", clip(s.User))
	}
	if err := checkHost(s.Host, form); err != nil {
		return Spec{}, err
	}
	if text := u.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return Spec{}, fmt.Errorf("port %q: want 1 to 65535", clip(text))
		}
		s.Port = int(n)
	} else if strings.HasSuffix(u.Host, ":") {
		return Spec{}, fmt.Errorf("port is empty: want %s", form)
	}
	if err := checkDir(u.Path); err != nil {
		return Spec{}, err
	}
	return s, u.check(keys)
}

func passwordForm(keys []string) string {
	if slices.Contains(keys, "password-file") {
		return "password-file=/etc/kdump/pw"
	}
	return "none in the URL: this protocol takes no password"
}

// checkHost wants a name as DNS has them, or an IP address. A link-local one
// needs its zone: fe80::1%25eth0 in a URL.
func checkHost(host, form string) error {
	if host == "" {
		return fmt.Errorf("no server: want %s", form)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Is6() && ip.IsLinkLocalUnicast() && ip.Zone() == "" {
			return fmt.Errorf("server %s: a link-local address needs its interface: want [%s%%25eth0]", host, host)
		}
		return nil
	}
	if len(host) > 253 || strings.Trim(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._") != "" ||
		strings.HasPrefix(host, "-") || strings.HasPrefix(host, ".") || strings.Contains(host, "..") {
		return fmt.Errorf("server %q: want a host name, an IPv4 address, or an IPv6 address in brackets", clip(host))
	}
	return nil
}

// check looks at the words of the query.
func (u *rawURL) check(keys []string) error {
	for _, p := range u.params {
		if !slices.Contains(keys, p.key) {
			want := "none"
			if len(keys) > 0 {
				want = strings.Join(keys, ", ")
			}
			return fmt.Errorf("unknown query key %q: want %s", clip(p.key), want)
		}
		if isFileKey(p.key) && (!path.IsAbs(p.value) || path.Clean(p.value) != p.value) {
			return fmt.Errorf("%s=%s: want the absolute path of a file, without \"..\" and double slashes", p.key, clip(p.value))
		}
	}
	return nil
}

func (u *rawURL) param(key string) string { return valueOf(u.params, key) }

func valueOf(params []param, key string) string {
	for _, p := range params {
		if p.key == key {
			return p.value
		}
	}
	return ""
}

func checkDir(dir string) error {
	switch {
	case !strings.HasPrefix(dir, "/"):
		return fmt.Errorf("path %q: want an absolute path", dir)
	case len(dir) > maxName:
		return fmt.Errorf("path of %d bytes: want at most %d", len(dir), maxName)
	case strings.ContainsFunc(dir, isControl):
		return fmt.Errorf("path %q: control character", dir)
	}
	for elem := range strings.SplitSeq(dir, "/") {
		if elem == ".." {
			return fmt.Errorf("path %q: want one without \"..\"", dir)
		}
		if len(elem) > 255 {
			return fmt.Errorf("path: element of %d bytes: want at most 255", len(elem))
		}
	}
	return nil
}

func parseFile(u *rawURL) (Spec, error) {
	p, err := u.local("file:///DIR")
	return Spec{Path: p, params: u.params}, err
}

func parseDisk(u *rawURL) (Spec, error) {
	p, err := u.local("disk:///DIR?dev=LABEL=NAME", "dev", "fstype", "opts")
	if err != nil {
		return Spec{}, err
	}
	s := Spec{Path: p, FSType: u.param("fstype"), Opts: u.param("opts"), params: u.params}
	dev := u.param("dev")
	if dev == "" {
		return Spec{}, fmt.Errorf("dev is missing: want dev=/dev/NAME, dev=LABEL=NAME, dev=UUID=ID, dev=PARTLABEL=NAME or dev=PARTUUID=ID")
	}
	bs, err := blockdev.ParseSpec(dev)
	if err != nil {
		return Spec{}, err
	}
	s.Device = bs.String()
	if s.FSType != "" {
		if err := checkFSType(s.FSType, bs); err != nil {
			return Spec{}, err
		}
	}
	_, _, err = mountOptions(s.Opts)
	return s, err
}

// checkFSType also finds labels that the file system cannot hold: such a
// device would be waited for in vain.
func checkFSType(fstype string, dev blockdev.Spec) error {
	i := slices.Index(blockdev.Mountable(), fstype)
	if i < 0 {
		return fmt.Errorf("unknown fstype %q: want one of %s, or leave it out to have it found", clip(fstype), strings.Join(blockdev.Mountable(), ", "))
	}
	if limit := blockdev.MaxLabel(fstype); dev.Tag == blockdev.Label && len(dev.Value) > limit {
		return fmt.Errorf("dev %s: label of %d bytes: %s has at most %d", dev, len(dev.Value), fstype, limit)
	}
	return nil
}

// Redacted is the URL as it may be shown: without a password, also where the
// URL is malformed.
func Redacted(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", text
	}
	rest, query, hasQuery := strings.Cut(redactUser(rest), "?")
	if !hasQuery {
		return scheme + rest
	}
	words := strings.Split(query, "&")
	for i, w := range words {
		words[i] = redactWord(w)
	}
	return scheme + rest + "?" + strings.Join(words, "&")
}

// redactUser blanks the password in USER:PASSWORD@HOST/... A password may hold
// characters that should have been escaped, so all up to the last '@' is taken
// for one, unless it is clear that the colon stands before a port.
func redactUser(rest string) string {
	authority := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
	}
	if isBracketed(authority) {
		return rest // the colons are those of an IPv6 address
	}
	colon, end := strings.IndexByte(authority, ':'), strings.LastIndexByte(rest, '@')
	if colon < 0 || end < colon {
		return rest
	}
	port := strings.Trim(authority[colon+1:], "0123456789") == ""
	if port && strings.Contains(authority[:colon], "@") {
		return rest
	}
	return rest[:colon] + ":xxxxx" + rest[end:]
}

// isBracketed is true where no password can be: HOST or USER@HOST with an IPv6
// address in brackets.
func isBracketed(authority string) bool {
	user, host, ok := strings.Cut(authority, "@[")
	if !ok {
		user, host, ok = "", strings.TrimPrefix(authority, "["), strings.HasPrefix(authority, "[")
	}
	address, port, closed := strings.Cut(host, "]")
	return ok && closed && !strings.ContainsAny(user, ":@") && strings.Trim(address, "0123456789abcdefABCDEF:.") == "" && strings.Trim(port, ":0123456789") == ""
}

// redactWord blanks what stands behind a key that names a secret, in key=value
// or in a list of options as in opts=uid=0,pass=x.
func redactWord(w string) string {
	if strings.HasPrefix(w, "password-file=/") {
		return w // where it stands is none
	}
	if plain, err := url.PathUnescape(w); err == nil && plain != w && secretAt(plain) >= 0 && secretAt(w) < 0 {
		return "xxxxx"
	}
	parts := strings.Split(w, ",")
	for i, p := range parts {
		if k := secretAt(p); k >= 0 {
			parts[i] = p[:k] + "xxxxx"
		}
	}
	return strings.Join(parts, ",")
}

// secretAt is where the value of a secret begins in text, or -1.
func secretAt(text string) int {
	lower := []byte(text) // not strings.ToLower: offsets have to stay
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	first := -1
	for _, word := range []string{"pass", "secret", "token"} {
		k := bytes.Index(lower, []byte(word))
		if k < 0 {
			continue
		}
		if eq := bytes.IndexByte(lower[k:], '='); eq >= 0 && (first < 0 || k+eq+1 < first) {
			first = k + eq + 1
		}
	}
	return first
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// clip keeps a message readable whatever the input was.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
