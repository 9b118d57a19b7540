package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ukdump/ukdump/initramfs/cpio"
)

// keys are a private key, the same with a passphrase, and its public half.
type keys struct{ private, locked, public []byte }

func newKeys(t *testing.T) keys {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	private, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return keys{pem.EncodeToMemory(private), pem.EncodeToMemory(locked), ssh.MarshalAuthorizedKey(public)}
}

func (k keys) knownHosts(hosts string) []byte { return append([]byte(hosts+" "), k.public...) }

// What cannot log in is found when the image is built. A text that is no key at all
// is noted: the image may be finished by somebody else.
func TestLoginFiles(t *testing.T) {
	k := newKeys(t)
	const placeholder = "placeholder: the true file was not put over it\n"
	for _, tt := range []struct {
		name       string
		host       string
		key, hosts []byte
		err, note  string
	}{
		{"right", "10.0.0.9", k.private, k.knownHosts("10.0.0.9"), "", ""},
		{"right, one of many", "h", k.private, append([]byte("# comment\n"), k.knownHosts("a,h,[10.0.0.9]:2222")...), "", ""},
		{"right, a port", "h:2222", k.private, k.knownHosts("[h]:2222"), "", ""},
		{"right, the bare host for any port", "h:2222", k.private, k.knownHosts("h"), "", ""},
		{"right, IPv6", "[fd77::1]", k.private, k.knownHosts("fd77::1"), "", ""},
		{"right, an authority", "h.example", k.private, append([]byte("@cert-authority *.example "), k.public...), "", ""},
		{"a passphrase", "h", k.locked, k.knownHosts("h"), "has a passphrase", ""},
		{"the public half", "h", k.public, k.knownHosts("h"), "a public key: want the file without .pub", ""},
		{"another server", "h", k.private, k.knownHosts("h2"), "has no line for the server", ""},
		{"another port", "h", k.private, k.knownHosts("[h]:2222"), "has no line for the server", ""},
		{"comments alone", "h", k.private, []byte("# later\n"), "has no line for the server", ""},
		{"a placeholder as key", "h", []byte(placeholder), k.knownHosts("h"), "", "not a private key that SSH knows"},
		{"a placeholder as hosts", "h", k.private, []byte(placeholder), "", "not a list of known hosts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "key"), tt.key)
			writeFile(t, filepath.Join(dir, "a b"), tt.hosts)
			c := parts(t, "target = sftp://u@"+tt.host+"/d?key=/k/key&known_hosts=/k/a%20b\n")
			c.files = []string{dir + ":/k"}
			_, err := c.assemble()
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%v, want %q", err, tt.err)
			}
			notes := strings.Join(c.notes, "\n")
			if tt.note == "" && notes != "" || !strings.Contains(notes, tt.note) {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
		})
	}
}

// A link of a folder that -files has put there may lead out of the image.
func TestLinksInTheImage(t *testing.T) {
	for to, want := range map[string]string{
		"real": "", "/k/real": "", "../k/real": "", "/other/real": "", "/run/later": "",
		"/root/.ssh/id":  "/k/pw: in the image a symbolic link leads to /root/.ssh/id, which is not in it",
		"nowhere":        "leads to /k/nowhere, which is not in it",
		"pw":             "too many symbolic links",
		"/other/nowhere": "leads to /k/nowhere, which is not in it",
		"empty":          "is empty",
	} {
		t.Run(strings.ReplaceAll(to, "/", "_"), func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "k/real"), []byte("secret\n"))
			writeFile(t, filepath.Join(dir, "k/empty"), []byte("\n"))
			if err := os.Symlink(to, filepath.Join(dir, "k/pw")); err != nil {
				t.Fatal(err)
			}
			c := parts(t, "target = ftp://u@h/d?password-file=/k/pw\n")
			a := &cpio.Archive{}
			if err := addTree(a, filepath.Join(dir, "k"), "k"); err != nil {
				t.Fatal(err)
			}
			if err := a.Add(symlink("other", "k")); err != nil {
				t.Fatal(err)
			}
			err := c.addSecrets(a)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

// What the kernel does not run is no hook.
func TestHooksRun(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a script", "#!/bin/sh\necho\n", ""},
		{"a script with flags", "#! /bin/sh -eu\necho\n", ""},
		{"line ends of others further down", "#!/bin/sh\necho\r\n", ""},
		{"a program", "\x7fELF and more", ""},
		{"line ends of others", "#!/bin/sh\r\necho\r\n", "hook /hooks/x has a carriage return in its first line"},
		{"no first line", "echo x\n", "hook /hooks/x is neither a static program nor a script: want #!/bin/sh as its first line"},
		{"empty", "", "hook /hooks/x is neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"x", "unused"} {
				writeFile(t, filepath.Join(dir, name), []byte(tt.text))
				if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			c := parts(t, "pre = /hooks/x\n", shellName)
			c.files = []string{dir + ":/hooks"}
			if _, err := c.assemble(); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			c.settings.config.Pre = nil
			if _, err := c.assemble(); err != nil {
				t.Errorf("nobody runs it: %v", err)
			}
		})
	}
}

// A command of the busybox is a link, and so may a hook be.
func TestHookLinks(t *testing.T) {
	for to, want := range map[string]string{"../bbin/savecore": "", "/bbin/nothing": "hook /hooks/x is not a program in the image: ", "plain": "hook /hooks/x is not a program"} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "plain"), []byte("#!/bin/sh\n"))
		if err := os.Symlink(to, filepath.Join(dir, "x")); err != nil {
			t.Fatal(err)
		}
		c := parts(t, "post = /hooks/x\n", "savecore", shellName)
		c.files = []string{dir + ":/hooks"}
		if _, err := c.assemble(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", to, err, want)
		}
	}
}
