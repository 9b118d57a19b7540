package targets

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// This file is all that needs TLS.

// errCertificate marks that no waiting helps.
const errCertificate constError = "certificate refused"

func parseFTPS(u *rawURL) (Spec, error) {
	const form = "ftps://USER@HOST/DIR?password-file=FILE&fingerprint=SHA256:SUM"
	s, err := u.server(form, "password-file", "ca", "fingerprint", "implicit")
	if err == nil {
		err = checkFTPUser(s)
	}
	pins, ca := s.param("fingerprint"), s.param("ca")
	switch {
	case err != nil:
		return Spec{}, err
	case pins == "" && ca == "":
		return Spec{}, fmt.Errorf("the server would not be known: want fingerprint=SHA256:SUM of its certificate, or ca=FILE with the certificate of its authority")
	case pins != "" && ca != "":
		return Spec{}, fmt.Errorf("ca and fingerprint: want one of them")
	}
	switch s.param("implicit") {
	case "", "0", "1":
	default:
		return Spec{}, fmt.Errorf("implicit=%s: want 1, where TLS begins without being asked for, or 0", clip(s.param("implicit")))
	}
	if pins != "" {
		_, err = parsePins(pins)
	}
	return s, err
}

// parsePins reads "SHA256:" and the digits that openssl x509 -fingerprint
// -sha256 shows, with colons or without; several are separated by commas.
func parsePins(text string) ([][sha256.Size]byte, error) {
	var pins [][sha256.Size]byte
	for one := range strings.SplitSeq(text, ",") {
		digits, ok := strings.CutPrefix(one, "SHA256:")
		b, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
		if !ok || err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("fingerprint=%s: want SHA256: and 64 hexadecimal digits, as openssl x509 -noout -fingerprint -sha256 shows them", clip(one))
		}
		pins = append(pins, [sha256.Size]byte(b))
	}
	return pins, nil
}

const ftpsImplicitPort = 990

func openFTPS(ctx context.Context, s Spec, opts Options) (Target, error) {
	implicit := s.param("implicit") == "1" || s.Port == ftpsImplicitPort && s.param("implicit") == ""
	if implicit && s.Port == 0 {
		s.Port = ftpsImplicitPort
	}
	config, err := tlsConfig(s)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	t, err := newFTPTarget(s, opts)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	t.login.Implicit = implicit
	t.secure = func() func(net.Conn) (net.Conn, error) {
		own := config.Clone()
		own.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		return func(c net.Conn) (net.Conn, error) { return secure(c, own) }
	}
	return t.start(ctx)
}

// tlsConfig knows the server by its certificate. The data connections have to
// resume the session of their own control connection, which servers want for a
// proof that both are of one client: so each of those has a cache of its own,
// where the session is found by the server's name.
func tlsConfig(s Spec) (*tls.Config, error) {
	config := &tls.Config{
		ServerName:                  s.Host,
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, // VerifyConnection does it: for sessions that are resumed, too
	}
	if text := s.param("fingerprint"); text != "" {
		pins, err := parsePins(text)
		config.VerifyConnection = func(cs tls.ConnectionState) error { return checkPins(cs, pins) }
		return config, err
	}
	name := s.param("ca")
	text, err := readSmall("ca", name)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, permanent(fmt.Errorf("ca=%s: holds no certificate", name), "want PEM: -----BEGIN CERTIFICATE-----")
	}
	host, _, _ := strings.Cut(s.Host, "%") // certificates have no zones
	config.VerifyConnection = func(cs tls.ConnectionState) error { return checkChain(cs, roots, host, name) }
	return config, nil
}

func checkPins(cs tls.ConnectionState, pins [][sha256.Size]byte) error {
	shown := sha256.Sum256(cs.PeerCertificates[0].Raw)
	for _, p := range pins {
		if p == shown {
			return nil
		}
	}
	return refused(cs, fmt.Errorf("not the one of fingerprint="))
}

// checkChain looks whether an authority of ca= vouches for the server's name or
// address; cs.ServerName is what was sent to the server, which no address is.
// The clock of a capture kernel can be years behind: a certificate that is not
// valid yet makes it now.
func checkChain(cs tls.ConnectionState, roots *x509.CertPool, host, file string) error {
	o := x509.VerifyOptions{Roots: roots, DNSName: host, Intermediates: x509.NewCertPool(), CurrentTime: time.Now()}
	for i, c := range cs.PeerCertificates {
		if o.CurrentTime.Before(c.NotBefore) {
			o.CurrentTime = c.NotBefore
		}
		if i > 0 {
			o.Intermediates.AddCert(c)
		}
	}
	if _, err := cs.PeerCertificates[0].Verify(o); err != nil {
		return refused(cs, fmt.Errorf("ca=%s: %w", file, err))
	}
	return nil
}

// refused shows what could be pinned.
func refused(cs tls.ConnectionState, err error) error {
	leaf := cs.PeerCertificates[0]
	pin := fingerprint(leaf.Raw)
	return permanent(fmt.Errorf("%w%w: the server's certificate is %s of %q", hidden{errCertificate}, err, pin, leaf.Subject.CommonName),
		"if that is the server, write fingerprint="+pin)
}

func fingerprint(cert []byte) string {
	var b strings.Builder
	for i, c := range sha256.Sum256(cert) {
		if i > 0 {
			b.WriteByte(':')
		}
		fmt.Fprintf(&b, "%02X", c)
	}
	return "SHA256:" + b.String()
}

// secure does the handshake at once, so that its errors are its own.
func secure(c net.Conn, config *tls.Config) (net.Conn, error) {
	wide := &wideConn{Conn: c}
	wide.w = bufio.NewWriterSize(c, tailBlock)
	t := tls.Client(wide, config)
	if err := t.Handshake(); err != nil {
		var told *remoteCause
		var alert tls.AlertError
		var header tls.RecordHeaderError
		switch {
		case errors.As(err, &told):
			return nil, told
		case errors.As(err, &alert):
			return nil, permanent(fmt.Errorf("TLS: the server ends it: %w", err), "which versions and ciphers does it have")
		case errors.As(err, &header):
			return nil, permanent(fmt.Errorf("TLS: %w", err), "is it implicit=1 here, or the other way round")
		}
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secureConn{t, wide}, nil
}

// wideConn is below TLS and collects its records, of 16 KiB each, so that they
// are not written one by one.
type wideConn struct {
	net.Conn
	w    *bufio.Writer
	hold bool // a Write of many records is under way
}

func (w *wideConn) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err == nil && !w.hold {
		err = w.w.Flush()
	}
	return n, err
}

type secureConn struct {
	*tls.Conn
	wide *wideConn
}

// Close may come from another goroutine to end a Write, and does not say goodbye
// for that: CloseWrite does.
func (s secureConn) Close() error { return s.wide.Close() }

func (s secureConn) Remaining(n int64) {
	if r, ok := s.wide.Conn.(interface{ Remaining(n int64) }); ok {
		r.Remaining(n)
	}
}

func (s secureConn) Ended() bool {
	e, ok := s.wide.Conn.(interface{ Ended() bool })
	return ok && e.Ended()
}

func (s secureConn) Write(p []byte) (int, error) {
	s.wide.hold = true
	n, err := s.Conn.Write(p)
	s.wide.hold = false
	if e := s.wide.w.Flush(); err == nil {
		err = e
	}
	return n, err
}
