package targets

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/cpu"
)

// errHostKey marks the one error that no waiting helps against.
const errHostKey constError = "host key refused"

const sshPort = 22

// maxKeyFile is far more than a key, a password or a list of hosts takes.
const maxKeyFile = 1 << 20

// sshLogin is how the client shows who it is, and knows who the server is. All
// of it is read once: a lost connection is made again without any file.
type sshLogin struct {
	addr    string // HOST:PORT
	user    string
	auth    []ssh.AuthMethod
	with    string // what auth is made of, for an operator,
	advice  string // and where to look when it was refused
	ciphers []string

	hosts hostKeys
}

// hostKeys decides whether a server is the right one.
type hostKeys struct {
	source     string              // the word of the URL, for messages
	check      ssh.HostKeyCallback // nil: by fingerprint
	pinned     []string            // "SHA256:..."
	algorithms []string            // to ask the server for, the best first
}

func newSSHLogin(s Spec) (*sshLogin, error) {
	l := &sshLogin{addr: s.addr(sshPort), user: s.User, ciphers: sshCiphers()}
	for _, add := range []func(Spec) error{l.addKey, l.addPassword, l.addHosts} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// sshCiphers puts first what this CPU is fast at: AES-GCM needs instructions
// for both AES and the carry-less product, else it is ten times slower than
// ChaCha20. CTR with a MAC comes last: it costs four times the CPU of GCM.
func sshCiphers() []string {
	gcm := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	cha := []string{ssh.CipherChaCha20Poly1305}
	ctr := []string{ssh.CipherAES128CTR, ssh.CipherAES256CTR}
	aes := cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM
	if aes {
		return slices.Concat(gcm, cha, ctr)
	}
	return slices.Concat(cha, gcm, ctr)
}

func readSmall(key, name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, permanent(fmt.Errorf("%s=%s: %w", key, name, err), "")
	}
	defer f.Close()
	b := make([]byte, maxKeyFile+1)
	n := 0
	for n < len(b) {
		m, err := f.Read(b[n:])
		n += m
		if m == 0 || err != nil {
			break
		}
	}
	if n == 0 || n > maxKeyFile {
		return nil, permanent(fmt.Errorf("%s=%s: cannot be read, is empty or has more than %d bytes", key, name, maxKeyFile), "")
	}
	return b[:n:n], nil
}

// maxPassword is CIFS_MAX_PASSWORD_LEN without its NUL; for FTP it is plenty.
const maxPassword = 512

// readPassword is for protocols in which a password is a part of a line or of a list.
func readPassword(s Spec) (string, error) {
	name := s.param("password-file")
	text, err := readSmall("password-file", name)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || len(password) > maxPassword || strings.ContainsFunc(password, isControl) {
		return "", permanent(fmt.Errorf("password-file=%s: want one line of at most %d characters", name, maxPassword), "")
	}
	return password, nil
}

func (l *sshLogin) addKey(s Spec) error {
	name := s.param("key")
	if name == "" {
		return nil
	}
	text, err := readSmall("key", name)
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return permanent(fmt.Errorf("key=%s: has a passphrase", name), "nobody is there to type it: make a key without, for a restricted account")
	case err != nil:
		return permanent(fmt.Errorf("key=%s: not a private key that SSH knows", name), "want the file that ssh-keygen -t ed25519 writes, not its .pub")
	}
	l.auth = append(l.auth, ssh.PublicKeys(signer))
	l.with = fmt.Sprintf("key %s (%s %s)", name, signer.PublicKey().Type(), ssh.FingerprintSHA256(signer.PublicKey()))
	l.advice = "is its public half in the account's authorized_keys"
	return nil
}

func (l *sshLogin) addPassword(s Spec) error {
	name := s.param("password-file")
	if name == "" {
		return nil
	}
	text, err := readSmall("password-file", name)
	if err != nil {
		return err
	}
	password := strings.TrimRight(string(text), "\r\n")
	// PAM servers often know keyboard-interactive alone.
	answer := func(_, _ string, questions []string, _ []bool) ([]string, error) {
		return slices.Repeat([]string{password}, len(questions)), nil
	}
	l.auth = append(l.auth, ssh.Password(password), ssh.KeyboardInteractive(answer))
	l.with = strings.TrimPrefix(l.with+" and the password in "+name, " and ")
	l.advice = strings.TrimPrefix(l.advice+", or may the account log in with a password", ", or ")
	return nil
}

func (l *sshLogin) addHosts(s Spec) error {
	if pins := s.param("fingerprint"); pins != "" {
		l.hosts = hostKeys{source: "fingerprint=" + pins, pinned: strings.Split(pins, ","), algorithms: plainAlgorithms()}
		return nil
	}
	name := s.param("known_hosts")
	text, err := readSmall("known_hosts", name)
	if err != nil {
		return err
	}
	check, err := knownhosts.New(name)
	if err != nil {
		return permanent(fmt.Errorf("known_hosts=%s: %w", name, err), "want lines as ssh-keyscan writes them")
	}
	l.hosts = hostKeys{source: "known_hosts=" + name}
	// As ssh does, a line for the bare host holds for its other ports too.
	for _, addr := range []string{l.addr, net.JoinHostPort(s.Host, strconv.Itoa(sshPort))} {
		if l.hosts.algorithms = knownAlgorithms(check, addr, text); l.hosts.algorithms != nil {
			l.hosts.check = func(_ string, _ net.Addr, key ssh.PublicKey) error { return check(addr, nowhere(), key) }
			return nil
		}
	}
	// Nothing can be right, but the server shall show its key for the message.
	l.hosts.algorithms = plainAlgorithms()
	l.hosts.check = func(_ string, _ net.Addr, key ssh.PublicKey) error { return check(l.addr, nowhere(), key) }
	return nil
}

// nowhere is an address that no list of hosts has: the name in the URL alone
// decides.
func nowhere() net.Addr { return &net.TCPAddr{IP: net.IPv6unspecified, Port: 1} }

// plainAlgorithms are those without certificates, grouped by type of key.
func plainAlgorithms() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
}

// noKey is a key that no list of hosts can hold.
type noKey struct{ ssh.PublicKey }

func (noKey) Type() string    { return "none" }
func (noKey) Marshal() []byte { return nil }

// knownAlgorithms are those of the keys that the list has for the server. A
// server with several keys is asked for one of them: else it shows the one that
// x/crypto likes best, and that is not the one that is known.
func knownAlgorithms(check ssh.HostKeyCallback, addr string, text []byte) []string {
	var known *knownhosts.KeyError
	if !errors.As(check(addr, nowhere(), noKey{}), &known) || len(known.Want) == 0 {
		return nil
	}
	lines := bytes.Split(text, []byte("\n"))
	var certs, plain []string
	for _, k := range known.Want {
		authority := bytes.HasPrefix(bytes.TrimLeft(lines[k.Line-1], " \t"), []byte("@cert-authority"))
		switch {
		case authority && certs == nil:
			certs = []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
				ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01}
		case !authority:
			plain = append(plain, k.Key.Type())
		}
	}
	var algorithms []string
	for _, a := range plainAlgorithms() {
		keyType := a
		if strings.HasPrefix(a, "rsa-") {
			keyType = ssh.KeyAlgoRSA
		}
		if slices.Contains(plain, keyType) {
			algorithms = append(algorithms, a)
		}
	}
	return append(certs, algorithms...)
}

// verdict is what came of a server's key.
type verdict struct {
	ok    bool
	shown ssh.PublicKey
	err   error
}

func (v *verdict) of(h hostKeys, addr string, key ssh.PublicKey) error {
	v.shown = key
	if h.check != nil {
		v.err = h.check(addr, nowhere(), key)
	} else if !slices.Contains(h.pinned, ssh.FingerprintSHA256(key)) {
		v.err = &knownhosts.KeyError{}
	}
	v.ok = v.err == nil
	return v.err
}

// refusal names the key that the server showed: an operator compares it with
// the server's own, and then knows whether to write it down or to be alarmed.
func (v *verdict) refusal(h hostKeys, addr string) error {
	if v.err == nil {
		return nil
	}
	shown := fmt.Sprintf("%s showed %s %s", addr, v.shown.Type(), ssh.FingerprintSHA256(v.shown))
	var known *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(v.err, &revoked):
		return permanent(fmt.Errorf("%w: %s, which %s:%d has revoked", errHostKey, shown, revoked.Revoked.Filename, revoked.Revoked.Line), "")
	case errors.As(v.err, &known) && len(known.Want) > 0 || h.pinned != nil:
		return permanent(fmt.Errorf("%w: %s, not the one of %s", errHostKey, shown, h.source), "another server answers there, or its key was changed: compare with ssh-keygen -lf on the server")
	case errors.As(v.err, &known):
		return permanent(fmt.Errorf("%w: %s, and %s has no line for it", errHostKey, shown, h.source), "if that is the server's key, add: "+knownhosts.Line([]string{addr}, v.shown))
	}
	return permanent(fmt.Errorf("%w: %s: %w", errHostKey, shown, v.err), "")
}

// connect does the handshake on c, which it closes on errors. A pinned
// fingerprint does not tell of which type the key is, so each type is asked for
// in turn, on a connection of its own.
func (l *sshLogin) connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	ask := l.hosts.algorithms
	var refused error
	for len(ask) > 0 {
		c, err := dial(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		var v verdict
		conn, chans, reqs, err := l.handshake(ctx, c, ask, &v)
		if err == nil {
			l.hosts.algorithms = ask // the next connection begins with them
			return conn, chans, reqs, nil
		}
		var none *ssh.AlgorithmNegotiationError
		switch refusal := v.refusal(l.hosts, l.addr); {
		case refusal != nil && l.hosts.pinned != nil:
			refused = cmpOr(refused, refusal)
			ask = withoutType(ask, v.shown.Type())
			continue
		case refusal != nil:
			return nil, nil, nil, refusal
		case errors.As(err, &none) && refused != nil:
			return nil, nil, nil, refused
		case errors.As(err, &none):
			return nil, nil, nil, permanent(fmt.Errorf("no common %s: the server has %s; known here: %s", none.What,
				strings.Join(none.RequestedAlgorithms, ", "), strings.Join(none.SupportedAlgorithms, ", ")), l.hosts.source)
		}
		return nil, nil, nil, l.explain(err, v.ok)
	}
	return nil, nil, nil, refused
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func withoutType(algorithms []string, keyType string) []string {
	return slices.DeleteFunc(slices.Clone(algorithms), func(a string) bool {
		return a == keyType || keyType == ssh.KeyAlgoRSA && strings.HasPrefix(a, "rsa-")
	})
}

// handshake is bounded by ctx: the library knows none.
func (l *sshLogin) handshake(ctx context.Context, c net.Conn, ask []string, v *verdict) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	conn, chans, reqs, err := ssh.NewClientConn(c, l.addr, &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: l.ciphers},
		User:              l.user,
		Auth:              l.auth,
		HostKeyAlgorithms: ask,
		HostKeyCallback:   func(_ string, _ net.Addr, key ssh.PublicKey) error { return v.of(l.hosts, l.addr, key) },
		ClientVersion:     "SSH-2.0-ukdump",
	})
	if ctx.Err() != nil {
		advice := ""
		if isTimeout(ctx.Err()) { // else somebody has told us to end
			advice = "the server accepts connections and does not speak"
		}
		return nil, nil, nil, transient(fmt.Errorf("SSH handshake with %s: %w", l.addr, context.Cause(ctx)), advice)
	}
	return conn, chans, reqs, err
}

// explain is for errors after the server's key was looked at, or before.
func (l *sshLogin) explain(err error, trusted bool) error {
	var rc *remoteCause
	switch {
	case errors.As(err, &rc):
		return err
	case trusted && (strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "unexpected message type 51")):
		// 51 is USERAUTH_FAILURE, where the library expects a question.
		return permanent(fmt.Errorf("%s refused user %s with %s", l.addr, l.user, l.with), l.advice)
	case trusted && strings.Contains(err.Error(), "Too many authentication failures"):
		return permanent(fmt.Errorf("%s refused user %s with %s: %w", l.addr, l.user, l.with, err), l.advice)
	case isTimeout(err):
		return transient(fmt.Errorf("%s: %w", l.addr, err), "the server accepts connections and does not speak")
	case isBroken(err):
		return transient(fmt.Errorf("%s: %w", l.addr, err), "the server ended it: see its log")
	}
	return permanent(fmt.Errorf("%s: %w", l.addr, err), "is that an SSH server")
}

// parseSFTP wants all that an unattended login needs.
func parseSFTP(u *rawURL) (Spec, error) {
	const form = "sftp://USER@HOST/DIR?key=FILE&known_hosts=FILE"
	s, err := u.server(form, "key", "password-file", "known_hosts", "fingerprint")
	switch {
	case err != nil:
		return Spec{}, err
	case s.User == "":
		return Spec{}, fmt.Errorf("no user: want %s", form)
	case s.param("key") == "" && s.param("password-file") == "":
		return Spec{}, fmt.Errorf("no way to log in: want key=FILE with a private key, or password-file=FILE")
	case s.param("known_hosts") == "" && s.param("fingerprint") == "":
		return Spec{}, fmt.Errorf("the server would not be known: want known_hosts=FILE, or fingerprint=SHA256:SUM")
	case s.param("known_hosts") != "" && s.param("fingerprint") != "":
		return Spec{}, fmt.Errorf("known_hosts and fingerprint: want one of them")
	}
	return s, checkFingerprints(s.param("fingerprint"))
}

func checkFingerprints(list string) error {
	if list == "" {
		return nil
	}
	for pin := range strings.SplitSeq(list, ",") {
		sum, ok := strings.CutPrefix(pin, "SHA256:")
		if b, err := base64.RawStdEncoding.DecodeString(sum); !ok || err != nil || len(b) != 32 {
			return fmt.Errorf("fingerprint=%s: want SHA256: and 43 characters, as ssh-keygen -l shows it", clip(pin))
		}
	}
	return nil
}
