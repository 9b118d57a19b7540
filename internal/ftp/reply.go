package ftp

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

const (
	// maxLine is how much of a line is kept.
	maxLine = 4 << 10

	// maxReply bounds a reply, lines that are too long included: a few lines of
	// greeting are usual, and a feature list of 2 KiB.
	maxReply = 64 << 10
)

// Reply is what a server answers: a code and one or more lines of text
// (RFC 959, 4.2).
type Reply struct {
	Code int
	Text []string // without the code where a line begins with it
}

// first is the digit that says how it went: 1 to 5.
func (r Reply) first() int { return r.Code / 100 }

// String is for people: one line, and not a long one.
func (r Reply) String() string {
	text := ""
	if n := len(r.Text); n > 0 {
		text = printable(r.Text[n-1])
		for i := 0; i < n-1 && text == ""; i++ {
			text = printable(r.Text[i])
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%03d %s", r.Code, text))
}

func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}

// readReply reads one reply. Errors that are not the connection's mean that
// nothing sensible can follow.
func readReply(r *bufio.Reader) (Reply, error) {
	total := 0
	line, err := readLine(r, &total)
	if err != nil {
		return Reply{}, err
	}
	code, more, ok := parseCode(line)
	if !ok {
		return Reply{}, &GarbageError{line}
	}
	reply := Reply{Code: code, Text: []string{rest(line)}}
	for more {
		if line, err = readLine(r, &total); err != nil {
			return Reply{}, err
		}
		// The last line repeats the code; the others may begin with anything, the
		// code included.
		c, m, ok := parseCode(line)
		if ok && c == code {
			line, more = rest(line), m
		}
		reply.Text = append(reply.Text, line)
	}
	return reply, nil
}

// readLine reads a line and keeps the beginning of it, without its end.
func readLine(r *bufio.Reader, total *int) (string, error) {
	var kept []byte
	for {
		part, err := r.ReadSlice('\n')
		kept = append(kept, part[:min(len(part), maxLine-len(kept))]...)
		if *total += len(part); *total > maxReply {
			return "", &GarbageError{string(kept)}
		}
		switch {
		case err == nil:
			return strings.TrimRight(string(kept), "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

// parseCode looks at the beginning of a line: three digits, then a dash where
// more lines follow.
func parseCode(line string) (code int, more, ok bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = 10*code + int(c-'0')
	}
	return code, len(line) > 3 && line[3] == '-', code >= 100 && code < 600
}

func rest(line string) string { return line[min(len(line), 4):] }

// GarbageError is the error of a peer that does not speak FTP.
type GarbageError struct{ line string }

func (e *GarbageError) Error() string {
	return fmt.Sprintf("the server does not speak FTP: it said %q", printable(e.line))
}

// Error is a refusal: the server's answer to a command.
type Error struct {
	Command string // without secrets
	Reply   Reply

	arg string // of the command: a path, which servers quote
}

func (e *Error) Error() string {
	return fmt.Sprintf("the server answers %q to %s", e.Reply, e.Command)
}

// Temporary is what the server thinks of it: the same command may work later.
func (e *Error) Temporary() bool { return e.Reply.first() == 4 && e.cause() == nil }

// Gone is true where the server, or the way to it, has ended a connection:
// another one may do.
func (e *Error) Gone() bool {
	switch e.Reply.Code {
	case 421, 425, 426:
		return e.cause() != syscall.ENOSPC
	}
	return false
}

// Unknown is true where the server does not have the command at all.
func (e *Error) Unknown() bool {
	switch e.Reply.Code {
	case 500, 501, 502, 504:
		return true
	}
	return false
}

func (e *Error) Is(target error) bool {
	cause := e.cause()
	return cause != nil && target == cause
}

// words is the text of the answer in lower case, without the paths and names that it
// quotes: a directory named quota says nothing of the disk. proftpd answers
// "550 /dir/file: Permission denied".
func (e *Error) words() string {
	const gone = "\x00"
	text := strings.ToLower(strings.Join(e.Reply.Text, "\n"))
	if base := strings.ToLower(path.Base(e.arg)); strings.HasPrefix(e.arg, "/") && base != "/" {
		text = strings.ReplaceAll(text, strings.ToLower(e.arg), gone)
		for _, form := range []string{"%s:", "\"%s\"", "'%s'", "<%s>", "(%s)", "[%s]"} {
			text = strings.ReplaceAll(text, fmt.Sprintf(form, base), gone)
		}
		if strings.ContainsAny(base, "0123456789-_.") { // not a word of the answer's own
			text = strings.ReplaceAll(text, base, gone)
		}
	}
	words := strings.Fields(text)
	for i, w := range words { // as the server itself sees them, from its own root
		if strings.HasPrefix(strings.TrimLeft(w, "\"'<(["), "/") {
			words[i] = gone
		}
	}
	return strings.Join(words, " ")
}

// cause is what the words of the answer mean, as one of the errors that
// [Error.Is] knows: the codes alone tell hardly more than that it was refused.
// nil: the words say nothing.
func (e *Error) cause() error {
	if e.Reply.first() < 4 {
		return nil
	}
	text := e.words()
	for _, k := range []struct {
		err   error
		words []string
	}{
		{syscall.ENOSPC, []string{"no space", "disk full", "disc full", "quota", "not enough space", "insufficient", "exceeded storage", "file too large"}},
		{syscall.EROFS, []string{"read-only file", "read only file"}},
		{fs.ErrExist, []string{"file exists", "already exist"}},
		{fs.ErrNotExist, []string{"no such file", "not found", "does not exist", "doesn't exist", "cannot find"}},
		{fs.ErrPermission, []string{"permission", "denied", "not permitted", "not allowed", "forbidden"}},
	} {
		for _, w := range k.words {
			// "Operation not permitted" of proftpd's 425 is about TLS.
			if strings.Contains(text, w) && (k.err != fs.ErrPermission || e.Reply.first() == 5) {
				return k.err
			}
		}
	}
	if e.Reply.Code == 452 || e.Reply.Code == 552 {
		return syscall.ENOSPC
	}
	return nil
}
