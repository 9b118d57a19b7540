package targets

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestSSHCiphers(t *testing.T) {
	all := sshCiphers()
	for _, c := range []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR} {
		if !slices.Contains(all, c) {
			t.Errorf("%s is missing in %v", c, all)
		}
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip(err)
	}
	aes := bytes.Contains(info, []byte(" aes ")) && bytes.Contains(info, []byte(" pclmulqdq ")) || bytes.Contains(info, []byte(" pmull "))
	if want := map[bool]string{true: ssh.CipherAES128GCM, false: ssh.CipherChaCha20Poly1305}[aes]; all[0] != want {
		t.Errorf("first is %s on a CPU with AES: %v", all[0], aes)
	}
}

func testHostKey(f *testing.F) string {
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, 32)).Public())
	if err != nil {
		f.Fatal(err)
	}
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(key.Marshal())
}

// Any known_hosts gives an error, or some algorithms to ask for.
func FuzzKnownHosts(f *testing.F) {
	key := testHostKey(f)
	for _, line := range []string{"h " + key, "# c\n\n[h]:22 " + key, "@cert-authority * " + key, "@revoked h " + key, "|1|AAAA|AAAA " + key, "h\t" + key + "\r\n", "!h " + key, "@x h " + key} {
		f.Add([]byte(line + "\n"))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(dir, "known_hosts")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l := &sshLogin{addr: "h:22"}
		err := l.addHosts(Spec{Host: "h", params: []param{{"known_hosts", name}}})
		if (err == nil) != (len(l.hosts.algorithms) > 0 && l.hosts.check != nil) {
			t.Errorf("%v, %+v", err, l.hosts)
		}
	})
}

// pipeOf is an SSH channel that gives out what a server is to have said.
type pipeOf struct {
	ssh.Channel
	io.Reader
}

func (p pipeOf) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p pipeOf) Write(b []byte) (int, error) { return len(b), nil }

// Whatever a server says first, the library gets to read its VERSION as it was.
func FuzzGreet(f *testing.F) {
	version := []byte("\x02\x00\x00\x00\x03\x00\x00\x00\x12limits@openssh.com\x00\x00\x00\x011")
	limits := binary.BigEndian.AppendUint64([]byte("\xc9\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x03\xfc\x00"), 261120)
	limits = binary.BigEndian.AppendUint64(limits, 0)
	f.Add(version, limits)
	f.Add(version, []byte("\x65\x00\x00\x00\x00\x00\x00\x00\x08"))
	f.Add([]byte("\x02\x00\x00\x00\x03"), []byte{})
	f.Add([]byte("Welcome"), []byte{})
	f.Fuzz(func(t *testing.T, version, reply []byte) {
		var said []byte
		for _, p := range [][]byte{version, reply} {
			said = append(binary.BigEndian.AppendUint32(said, uint32(len(p))), p...)
		}
		var s sftpSession
		p := &sftpPipe{Channel: pipeOf{Reader: bytes.NewReader(said)}, last: &s.moved}
		limit, _, err := p.greet()
		if err != nil {
			return
		}
		if limit != 0 && len(reply) < 37 {
			t.Errorf("limit %d out of %q", limit, reply)
		}
		got := make([]byte, 4+len(version))
		if _, err := io.ReadFull(p, got); err != nil || !bytes.Equal(got[4:], version) || binary.BigEndian.Uint32(got) != uint32(len(version)) {
			t.Errorf("%q, %v; want %q", got, err, version)
		}
		if n, err := p.Write([]byte("\x00\x00\x00\x05\x01\x00\x00\x00\x03")); n != 9 || err != nil || p.swallow != 0 {
			t.Errorf("the library's INIT: %d, %v, %d left", n, err, p.swallow)
		}
	})
}

// lengths is an SSH channel that notes what it is given at once.
type lengths struct {
	ssh.Channel
	n   []int
	all bytes.Buffer
}

func (l *lengths) Write(b []byte) (int, error) {
	l.n = append(l.n, len(b))
	return l.all.Write(b)
}

// The header of a large write, which the library writes by itself, is no SSH
// packet of its own; all other requests go as they are.
func TestPipeJoinsHeaders(t *testing.T) {
	c, _ := connectedPair(t, 5*time.Second)
	header := func(length int) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(length)), "head"...) }
	for _, test := range []struct{ payload, first, second int }{
		{1, 9, 0}, {packet - 9, packet - 1, 0}, {packet - 8, packet, 0}, {packet - 7, packet, 1}, {largePacket, packet, largePacket + 8 - packet},
	} {
		l := new(lengths)
		p := &sftpPipe{Channel: l, wire: newBatched(c), begun: make([]byte, 0, packet), last: new(atomic.Int64)}
		payload := bytes.Repeat([]byte("payload "), test.payload/8+1)[:test.payload]
		want := slices.Concat(header(4), header(4+test.payload), payload, header(4))
		n0, e0 := p.Write(header(4))
		n1, e1 := p.Write(header(4 + test.payload))
		n2, e2 := p.Write(payload)
		n3, e3 := p.Write(header(4))
		if err := errors.Join(e0, e1, e2, e3); err != nil || n0 != 8 || n1 != 8 || n2 != test.payload || n3 != 8 {
			t.Errorf("%d: wrote %d, %d, %d, %d: %v", test.payload, n0, n1, n2, n3, err)
		}
		sizes := slices.DeleteFunc(l.n, func(n int) bool { return n == 0 })
		if !slices.Equal(sizes, slices.DeleteFunc([]int{8, test.first, test.second, 8}, func(n int) bool { return n == 0 })) || !bytes.Equal(l.all.Bytes(), want) {
			t.Errorf("%d: in pieces of %d", test.payload, sizes)
		}
	}
}
