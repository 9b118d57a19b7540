package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
	"unicode/utf16"

	//lint:ignore SA1019 SMB hashes passwords with it
	"golang.org/x/crypto/md4"
	"golang.org/x/crypto/ssh"
)

// secrets are made anew for each server; nothing of them is ever kept.
type secrets struct {
	hostKeys map[string]string // by the name of their file in /etc/ssh
	hosts    []string          // the public host keys, as in authorized_keys
	client   string            // private key of the user crash, OpenSSH's form
	public   string            // its public key
	wrong    string            // public host key that no server has
	ftp, smb string            // passwords
	tlsPair  string            // certificate and key of the FTP server
	tlsCert  string
}

func newSecrets() (*secrets, error) {
	s := &secrets{hostKeys: map[string]string{}}
	for _, name := range []string{"ed25519", "ecdsa", "rsa"} {
		key, err := newKey(name)
		if err != nil {
			return nil, err
		}
		private, public, err := sshKey(key)
		if err != nil {
			return nil, err
		}
		s.hostKeys["ssh_host_"+name+"_key"] = private
		s.hosts = append(s.hosts, public)
	}
	key, err := newKey("ed25519")
	if err != nil {
		return nil, err
	}
	if s.client, s.public, err = sshKey(key); err != nil {
		return nil, err
	}
	if key, err = newKey("ed25519"); err != nil {
		return nil, err
	}
	if _, s.wrong, err = sshKey(key); err != nil {
		return nil, err
	}
	random := make([]byte, 24)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	s.ftp, s.smb = hex.EncodeToString(random[:12]), hex.EncodeToString(random[12:])
	s.tlsCert, s.tlsPair, err = certificate()
	return s, err
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "ecdsa":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// sshKey returns both halves as OpenSSH's files have them.
func sshKey(key crypto.Signer) (private, public string, err error) {
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return "", "", err
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(block)), string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(pub))), nil
}

// certificate is for the FTP server, signed by itself.
func certificate() (cert, pair string, err error) {
	key, err := newKey("rsa")
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: Name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		DNSNames: []string{Name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range addresses() {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return cert, cert + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), nil
}

// knownHosts has the keys for all the server's names and addresses.
func (s *secrets) knownHosts(keys ...string) string {
	names := strings.Join(append(addresses(), Name, VLANName), ",")
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "%s %s\n", names, key)
	}
	return b.String()
}

// smbpasswd is samba's file of passwords: MD4 of the password in UTF-16.
func (s *secrets) smbpasswd() (string, error) {
	h := md4.New()
	var err error
	for _, unit := range utf16.Encode([]rune(s.smb)) {
		_, e := h.Write([]byte{byte(unit), byte(unit >> 8)})
		err = errors.Join(err, e)
	}
	return fmt.Sprintf("smbdump:1002:%s:%X:[U          ]:LCT-65000000:\n", strings.Repeat("X", 32), h.Sum(nil)), err
}
