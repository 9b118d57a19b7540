package ftp

import (
	"bufio"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func reader(text string) *bufio.Reader {
	return bufio.NewReaderSize(strings.NewReader(text), maxLine)
}

func TestReadReply(t *testing.T) {
	for _, c := range []struct {
		in   string
		code int
		text []string // nil: an error
	}{
		{"220 (vsFTPd 3.0.3)\r\n", 220, []string{"(vsFTPd 3.0.3)"}},
		{"220\r\n", 220, []string{""}},
		{"220 \n", 220, []string{""}},
		{"211-Features:\r\n EPSV\r\n MLST type*;size*;\r\n211 End\r\n", 211, []string{"Features:", " EPSV", " MLST type*;size*;", "End"}},
		// A line of the text may begin with digits, or with the code and a dash.
		{"230-Welcome\r\n230-still\r\n550 not the end\r\n230 end\r\n", 230, []string{"Welcome", "still", "550 not the end", "end"}},
		{"230-a\r\n2300 b\r\n230 c\r\n", 230, []string{"a", "2300 b", "c"}},
		{"", 0, nil},
		{"220 no end of line", 0, nil},
		{"211-Features:\r\n EPSV\r\n", 0, nil},
		{"SSH-2.0-OpenSSH_9.2\r\n", 0, nil},
		{"22 too short\r\n", 0, nil},
		{"2200 too long\r\n", 0, nil},
		{"099 no such code\r\n", 0, nil},
		{"600 no such code\r\n", 0, nil},
	} {
		r, err := readReply(reader(c.in))
		if (err != nil) != (c.text == nil) || err == nil && (r.Code != c.code || !slices.Equal(r.Text, c.text)) {
			t.Errorf("%q: %d %q, %v", c.in, r.Code, r.Text, err)
		}
	}
}

// Replies at the limits: the memory that a server can take is bounded, and what
// follows a long line is read as it should be.
func TestReadReplyLimits(t *testing.T) {
	for _, n := range []int{maxLine - 6, maxLine - 5, maxLine - 4, maxLine - 2, maxLine, maxLine + 1, 3 * maxLine} {
		in := reader("220 " + strings.Repeat("x", n) + "\r\n331 next\r\n")
		r, err := readReply(in)
		if err != nil || len(r.Text[0]) > maxLine || len(r.Text[0]) < min(n, maxLine-6) {
			t.Errorf("%d: %d bytes, %v", n, len(r.Text[0]), err)
		}
		if next, err := readReply(in); err != nil || next.Code != 331 {
			t.Errorf("%d: then %v, %v", n, next, err)
		}
	}
	for _, in := range []string{"220 " + strings.Repeat("x", maxReply) + "\r\n", "220-\r\n" + strings.Repeat("x\r\n", maxReply/3) + "220 \r\n"} {
		var garbage *GarbageError
		if _, err := readReply(reader(in)); !errors.As(err, &garbage) {
			t.Errorf("%d bytes: %v", len(in), err)
		}
	}
}

func TestErrorMeaning(t *testing.T) {
	for _, c := range []struct {
		reply     Reply
		is        error
		temporary bool
		gone      bool
	}{
		{Reply{550, []string{"x: No such file or directory"}}, fs.ErrNotExist, false, false},
		{Reply{550, []string{"x: Permission denied"}}, fs.ErrPermission, false, false},
		{Reply{550, []string{"Access is denied."}}, fs.ErrPermission, false, false},
		{Reply{550, []string{"x: File exists"}}, fs.ErrExist, false, false},
		{Reply{550, []string{"x: Read-only file system"}}, syscall.EROFS, false, false},
		{Reply{552, []string{"Transfer aborted."}}, syscall.ENOSPC, false, false},
		{Reply{452, []string{"Transfer aborted."}}, syscall.ENOSPC, false, false},
		{Reply{451, []string{"Transfer aborted. Disk quota exceeded"}}, syscall.ENOSPC, false, false},
		{Reply{426, []string{"Transfer aborted. No space left on device"}}, syscall.ENOSPC, false, false},
		// What proftpd says of a TLS session that is not the right one passes.
		{Reply{425, []string{"Unable to build data connection: Operation not permitted"}}, nil, true, true},
		{Reply{426, []string{"Failure reading network stream."}}, nil, true, true},
		{Reply{451, []string{"Failure writing to local file."}}, nil, true, false},
		{Reply{421, []string{"Timeout."}}, nil, true, true},
		{Reply{530, []string{"Login incorrect."}}, nil, false, false},
		{Reply{226, []string{"No such file"}}, nil, false, false},
	} {
		e := &Error{"X", c.reply, ""}
		for _, known := range []error{fs.ErrNotExist, fs.ErrPermission, fs.ErrExist, syscall.EROFS, syscall.ENOSPC} {
			if errors.Is(e, known) != (known == c.is) {
				t.Errorf("%v: is %v: %v", e, known, errors.Is(e, known))
			}
		}
		if e.Temporary() != c.temporary || e.Gone() != c.gone {
			t.Errorf("%v: temporary %v, gone %v", e, e.Temporary(), e.Gone())
		}
	}
}

// FuzzReadReply wants bounded memory, sane codes and text without line ends.
func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"220 x\r\n", "211-a\r\n b\r\n211 c\r\n", "230-a\n230-b\n2300 c\n230\n", "421 \x00\r\n", "220-\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := readReply(reader(in))
		if err != nil {
			return
		}
		total := 0
		for _, line := range r.Text {
			total += len(line)
			if strings.Contains(line, "\n") {
				t.Errorf("%q has a line end", line)
			}
		}
		if r.Code < 100 || r.Code > 599 || len(r.Text) == 0 || total > maxReply {
			t.Errorf("%d, %d lines, %d bytes", r.Code, len(r.Text), total)
		}
		if s := r.String(); len(s) > 210 || strings.ContainsAny(s, "\r\n\x1b\x00") {
			t.Errorf("%q is not for people", s)
		}
	})
}
