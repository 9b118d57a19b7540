package ftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// parseEPSV reads the port out of an answer as "Entering Extended Passive Mode
// (|||6446|)" (RFC 2428, 3); any character may stand for the bars.
func parseEPSV(text string) (port int, ok bool) {
	open := strings.LastIndexByte(text, '(')
	if open < 0 {
		return 0, false
	}
	text = text[open+1:]
	end := strings.IndexByte(text, ')')
	if end < 5 {
		return 0, false
	}
	text = text[:end]
	bar := text[0]
	if bar < 33 || bar > 126 || bar >= '0' && bar <= '9' || text[1] != bar || text[2] != bar || text[end-1] != bar {
		return 0, false
	}
	return parsePort(text[3 : end-1])
}

func parsePort(text string) (port int, ok bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), err == nil && n > 0
}

// parsePASV reads the port out of an answer as "Entering Passive Mode
// (127,0,0,1,4,5)". The brackets may be missing (RFC 1123, 4.1.2.6). The
// address does not matter: behind a NAT it is wrong, and a bad server could
// send the dump to a third party with it.
func parsePASV(text string) (port int, ok bool) {
	for start := 0; start < len(text); start++ {
		if text[start] < '0' || text[start] > '9' {
			continue
		}
		end := start
		for end < len(text) && (text[end] >= '0' && text[end] <= '9' || text[end] == ',') {
			end++
		}
		fields := strings.Split(text[start:end], ",")
		start = end
		if len(fields) != 6 {
			continue
		}
		var n [6]uint64
		var err error
		for i, f := range fields {
			v, e := strconv.ParseUint(f, 10, 8)
			n[i], err = v, errors.Join(err, e)
		}
		if port = int(n[4]<<8 | n[5]); err == nil && port > 0 {
			return port, true
		}
	}
	return 0, false
}

// passive asks the server to listen for a data connection.
func (c *Conn) passive() (addr string, err error) {
	port, ok := 0, false
	if !c.pasv {
		r, err := c.exchange("EPSV", "")
		switch {
		case err != nil:
			return "", err
		case r.Code == 229:
			if port, ok = parseEPSV(strings.Join(r.Text, " ")); !ok {
				return "", c.fail(&Error{"EPSV", r, ""})
			}
		case r.first() == 4:
			return "", &Error{"EPSV", r, ""}
		default: // it does not know it, or is told not to
			c.pasv = true
		}
	}
	if c.pasv {
		r, err := c.Command(2, "PASV", "")
		if err != nil {
			return "", err
		}
		if port, ok = parsePASV(strings.Join(r.Text, " ")); !ok {
			return "", c.fail(&Error{"PASV", r, ""})
		}
	}
	return net.JoinHostPort(c.host, strconv.Itoa(port)), nil
}

// DataError is the error of a data connection that could not be opened
// although the control connection works.
type DataError struct {
	Addr string
	Err  error
}

func (e *DataError) Error() string { return fmt.Sprintf("data connection to %s: %v", e.Addr, e.Err) }
func (e *DataError) Unwrap() error { return e.Err }

// open begins a transfer from offset on.
func (c *Conn) open(ctx context.Context, verb, path string, offset int64) (net.Conn, error) {
	addr, err := c.passive()
	if err != nil {
		return nil, err
	}
	data, err := c.config.Connect(ctx, addr)
	if err != nil {
		// The server still waits for it and would take the next command for a part
		// of this one.
		return nil, c.fail(&DataError{addr, err})
	}
	if err := c.begin(verb, path, offset); err != nil {
		data.Close()
		return nil, err
	}
	if c.config.Secure != nil {
		private, err := c.config.Secure(data)
		if err != nil {
			data.Close()
			return nil, c.fail(c.orReply(&DataError{addr, err}, path))
		}
		data = private
	}
	return data, nil
}

func (c *Conn) begin(verb, path string, offset int64) error {
	if offset > 0 {
		if _, err := c.Command(3, "REST", strconv.FormatInt(offset, 10)); err != nil {
			return err
		}
	}
	_, err := c.Command(1, verb, path)
	return err
}

// orReply is for an error of a data connection: where the server has ended that
// it tells why, and that is the better error.
func (c *Conn) orReply(err error, path string) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	if r, e := c.reply(); e == nil && r.first() >= 4 {
		return &Error{"the transfer", r, path}
	}
	return err
}

// Upload is a file on its way to the server. It must be ended with Finish, or
// with Abort, which breaks the connection.
type Upload struct {
	c    *Conn
	path string
	data net.Conn
	err  error // sticky
}

// Store begins to write a file. With an offset of 0 it replaces what is there;
// else what is before the offset stays, and what is behind it is written over.
func (c *Conn) Store(ctx context.Context, path string, offset int64) (*Upload, error) {
	data, err := c.open(ctx, "STOR", path, offset)
	if err != nil {
		return nil, err
	}
	return &Upload{c: c, path: path, data: data}, nil
}

// Write returns an *Error where the server ended the transfer and said why: its
// disk is full. The connection is fine then, and the Upload has ended.
func (u *Upload) Write(p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	n, err := u.data.Write(p)
	if err != nil {
		u.data.Close()
		if u.err = u.c.orReply(err, u.path); u.err == err {
			u.c.fail(err)
		}
	}
	return n, u.err
}

// Remaining tells a data connection that wants to know it, by a method of that
// name, that the server has taken all but n bytes of what was written.
func (u *Upload) Remaining(n int64) {
	if r, ok := u.data.(interface{ Remaining(n int64) }); ok {
		r.Remaining(n)
	}
}

// Ended asks a data connection, by a method of that name, whether the server has
// closed it: Finish tells why.
func (u *Upload) Ended() bool {
	e, ok := u.data.(interface{ Ended() bool })
	return ok && e.Ended()
}

// Finish returns nil once the server has said that it has taken all of it.
func (u *Upload) Finish() error {
	if u.err != nil {
		return u.err
	}
	u.err = errEnded
	// The server closes its end when it has read ours, so that a slow line is
	// waited for here, where its progress is seen. For TLS 1.3 it is more: a server
	// that still writes session tickets to a closed connection loses the end of
	// the file, and says 426.
	if h, ok := u.data.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
		io.CopyN(io.Discard, u.data, maxReply)
	}
	u.data.Close()
	r, err := u.c.reply()
	if err == nil && r.first() != 2 {
		err = &Error{"the transfer", r, u.path}
	}
	return err
}

// Abort ends the transfer and the control connection with it.
func (u *Upload) Abort() {
	u.err = errEnded
	u.data.Close()
	u.c.fail(errEnded)
}

type constError string

func (e constError) Error() string { return string(e) }

const errEnded constError = "the transfer has ended"

// Download is a file on its way here. It must be read to its end, or closed,
// which breaks the connection before that.
type Download struct {
	c    *Conn
	path string
	data net.Conn
	err  error // sticky; io.EOF when the server has confirmed the end
}

// Retrieve begins to read a file at an offset.
func (c *Conn) Retrieve(ctx context.Context, path string, offset int64) (*Download, error) {
	data, err := c.open(ctx, "RETR", path, offset)
	if err != nil {
		return nil, err
	}
	return &Download{c: c, path: path, data: data}, nil
}

func (d *Download) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.data.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		d.err = d.end()
	default:
		d.data.Close()
		if d.err = d.c.orReply(err, d.path); d.err == err {
			d.c.fail(err)
		}
	}
	return n, d.err
}

// end is at the end of the data, which is that of the file if the server says so.
func (d *Download) end() error {
	d.data.Close()
	r, err := d.c.reply()
	switch {
	case err != nil:
		return err
	case r.first() != 2:
		return &Error{"the transfer", r, d.path}
	}
	return io.EOF
}

// Close ends it; the connection stays good only at the end of the file.
func (d *Download) Close() {
	if d.err == nil {
		d.err = errEnded
		d.data.Close()
		d.c.fail(errEnded)
	}
}
