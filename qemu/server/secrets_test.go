package server

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"os"
	"path/filepath"
)

// samba takes no other form, and a wrong hash looks like a wrong password.
func TestSMBPassword(t *testing.T) {
	s := &secrets{smb: "password"}
	got, err := s.smbpasswd()
	if err != nil {
		t.Fatal(err)
	}
	if want := ":8846F7EAEE8FB117AD06BDD830B7586C:"; !strings.Contains(got, want) {
		t.Errorf("%q has no %s", got, want)
	}
}

func TestSecretsAreReadable(t *testing.T) {
	s, err := newSecrets()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey([]byte(s.client))
	if err != nil {
		t.Fatal(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.public))
	if err != nil || string(public.Marshal()) != string(key.PublicKey().Marshal()) {
		t.Errorf("the public key is another's (%v)", err)
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(s.knownHosts(s.hosts...)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := knownhosts.New(file); err != nil {
		t.Error(err)
	}
}
