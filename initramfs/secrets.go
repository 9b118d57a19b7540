package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/ukdump/ukdump/initramfs/cpio"
	"github.com/ukdump/ukdump/pkg/targets"
)

// addSecrets adds the files that target URLs name: keys, passwords, what servers
// are known by. They come from the same place of this machine, unless -files has
// put them there. What cannot work would be found out after the crash.
func (c *contentsOf) addSecrets(a *cpio.Archive) error {
	for _, spec := range c.settings.targets {
		for _, name := range spec.Files() {
			if err := addSecret(a, name); err != nil {
				return fmt.Errorf("target %v: %w; want the file here, or -files FILE:%s", spec, err, name)
			}
		}
		note, err := checkLogin(a, spec)
		if err != nil {
			return fmt.Errorf("target %v: %w", spec, err)
		}
		if note != "" {
			c.notes = append(c.notes, fmt.Sprintf("target %v: %s", spec, note))
		}
	}
	return nil
}

func addSecret(a *cpio.Archive, name string) error {
	e, there, err := follow(a, name)
	if err != nil {
		return err
	}
	if !there {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		e = cpio.Entry{Name: inArchive(name), Mode: cpio.Regular | 0o600, Data: data}
	}
	if e.Mode&cpio.TypeMask == cpio.Regular && len(bytes.TrimSpace(e.Data)) == 0 {
		return fmt.Errorf("%s is empty", name)
	}
	if there {
		return nil
	}
	return a.Add(e)
}

// maxLinks is how many symbolic links the kernel follows (MAXSYMLINKS).
const maxLinks = 40

// follow finds the file of an archive that a path leads to, over symbolic links. The
// error is a link that leads nowhere. One that leads where files come to be in the
// capture kernel alone is returned as it is.
func follow(a *cpio.Archive, name string) (e cpio.Entry, there bool, err error) {
	at, links := inArchive(name), 0
	for {
		link, rest := firstLink(a, at)
		if link.Name == "" {
			break
		}
		to := string(link.Data)
		if !path.IsAbs(to) {
			to = path.Join("/", path.Dir(link.Name), to)
		}
		at = inArchive(path.Join(to, rest))
		first, _, _ := strings.Cut(at, "/")
		if slices.Contains([]string{"dev", "mnt", "proc", "run", "sys", "tmp"}, first) {
			return link, true, nil
		}
		if links++; links > maxLinks {
			return e, false, fmt.Errorf("%s: too many symbolic links in the image", name)
		}
	}
	e, there = a.Get(at)
	if !there && links > 0 {
		return e, false, fmt.Errorf("%s: in the image a symbolic link leads to /%s, which is not in it", name, at)
	}
	return e, there, nil
}

// firstLink is the first symbolic link on a way, and what of the way is behind it.
func firstLink(a *cpio.Archive, name string) (link cpio.Entry, rest string) {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if e, ok := a.Get(name[:i]); ok && e.Mode&cpio.TypeMask == cpio.Symlink {
			return e, name[i:]
		}
	}
	return cpio.Entry{}, ""
}

// checkLogin looks at the files of an SFTP target as pkg/targets will in the capture
// kernel. What is known to be the wrong thing is an error; what cannot be read is a
// note, as it may be there in place of what is put into the image later.
func checkLogin(a *cpio.Archive, spec targets.Spec) (note string, err error) {
	if spec.Scheme != "sftp" {
		return "", nil
	}
	for _, k := range []struct {
		key   string
		check func(text []byte, spec targets.Spec) (note string, err error)
	}{{"key", checkKey}, {"known_hosts", checkHosts}} {
		name := param(spec, k.key)
		e, ok, err := follow(a, name)
		if name == "" || err != nil || !ok || e.Mode&cpio.TypeMask != cpio.Regular {
			continue // addSecret has looked whether it is there
		}
		n, err := k.check(e.Data, spec)
		if err != nil {
			return "", fmt.Errorf("%s=%s: %w", k.key, name, err)
		}
		if n != "" {
			note = fmt.Sprintf("%s=%s: %s", k.key, name, n)
		}
	}
	return note, nil
}

// param is a word of a target's query.
func param(spec targets.Spec, key string) string {
	_, query, _ := strings.Cut(spec.String(), "?")
	for word := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(word, "="); k == key {
			if value, err := url.PathUnescape(v); err == nil {
				return value
			}
		}
	}
	return ""
}

type loginError string

func (e loginError) Error() string { return string(e) }

const (
	errPassphrase loginError = "has a passphrase, and nobody is there to type it: want a key without, for a restricted account"
	errPublic     loginError = "a public key: want the file without .pub"
	errNoHost     loginError = "has no line for the server: want one as ssh-keyscan writes it"
)

func checkKey(text []byte, _ targets.Spec) (note string, err error) {
	_, err = ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if err == nil {
		return "", nil
	}
	if errors.As(err, &locked) {
		return "", errPassphrase
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return "", errPublic
	}
	return "not a private key that SSH knows: the server will not be reached with it", nil
}

// noKey is a key that no list of hosts can hold: the answer tells those it has.
type noKey struct{ ssh.PublicKey }

func (noKey) Type() string    { return "none" }
func (noKey) Marshal() []byte { return nil }

func checkHosts(text []byte, spec targets.Spec) (note string, err error) {
	f, err := os.CreateTemp("", "known_hosts-") // the library reads files only
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	check, err := knownhosts.New(f.Name())
	if err != nil {
		return "not a list of known hosts: the server will not be known", nil
	}
	nowhere := &net.TCPAddr{IP: net.IPv6unspecified, Port: 1} // the name alone decides
	for _, port := range []int{spec.ServerPort(), 22} {
		err := check(net.JoinHostPort(spec.Host, strconv.Itoa(port)), nowhere, noKey{})
		var known *knownhosts.KeyError
		if !errors.As(err, &known) || len(known.Want) > 0 {
			return "", nil
		}
	}
	return "", errNoHost
}
