package targets

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

type constError string

func (e constError) Error() string { return string(e) }

const (
	// ErrNoSpace is what errors.Is finds in the error of a file that outgrew
	// its target: ENOSPC, a quota (EDQUOT), or a file larger than the file
	// system's format allows (EFBIG; vfat ends at 4 GiB). A smaller file may
	// still fit.
	ErrNoSpace constError = "no space left on the target"

	// ErrSpaceUnknown is returned by Space where the protocol cannot tell.
	ErrSpaceUnknown constError = "the target cannot tell its free space"

	// ErrReadRefused is in the error of a ReadAt where the server lets nobody
	// read the file back. What was written is not in doubt.
	ErrReadRefused constError = "the server does not let it be read back"

	// ErrUnsupported is returned for a scheme that is known but not part of
	// this build.
	ErrUnsupported constError = "not supported by this build"
)

// Error is the error of every operation on a target.
type Error struct {
	Op   string // "open", "create", "write", "sync", "commit", ...
	Name string // the file or directory, as the caller named it; may be empty
	URL  string // the target's URL without its secrets
	Err  error

	// Temporary is set when the same operation may succeed later without
	// anything being changed by hand: the connection broke, or the device was
	// busy.
	Temporary bool
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Name != "" {
		b.WriteString(" " + e.Name + " on")
	}
	b.WriteString(" " + e.URL + ": " + e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrNoSpace) true for the errno values that mean it.
func (e *Error) Is(target error) bool {
	if target != ErrNoSpace {
		return false
	}
	return errors.Is(e.Err, syscall.ENOSPC) || errors.Is(e.Err, syscall.EDQUOT) || errors.Is(e.Err, syscall.EFBIG)
}

// newError strips the path that package os puts around an errno: it is one
// inside the target and not the name the caller knows.
func newError(op, name, url string, err error) error {
	if err == nil {
		return nil
	}
	cause := err
	var rc *remoteCause
	var pe *fs.PathError
	var le *os.LinkError
	var se *os.SyscallError
	switch {
	case errors.As(err, &rc):
		return &Error{Op: op, Name: name, URL: url, Err: err, Temporary: rc.temporary}
	case errors.As(err, &pe):
		cause = pe.Err
	case errors.As(err, &le):
		cause = le.Err
	case errors.As(err, &se):
		cause = se.Err
	}
	return &Error{Op: op, Name: name, URL: url, Err: cause, Temporary: temporary(cause)}
}

// remoteCause is a cause that knows whether it will pass, and what to do about
// it. The code of a protocol makes it where that is known; newError finds it.
type remoteCause struct {
	err       error
	advice    string // what an operator can do; may be empty
	temporary bool
}

func (c *remoteCause) Error() string {
	if c.advice == "" {
		return c.err.Error()
	}
	return c.err.Error() + ": " + c.advice
}

func (c *remoteCause) Unwrap() error { return c.err }

// permanent is the cause of an error that stays until somebody changes
// something: wrong credentials, a host key, a permission.
func permanent(err error, advice string) error { return &remoteCause{err, advice, false} }

// transient is the cause of an error that may pass: nobody there, a connection
// that broke.
func transient(err error, advice string) error { return &remoteCause{err, advice, true} }

func temporary(err error) bool {
	var rc *remoteCause
	if errors.As(err, &rc) {
		return rc.temporary
	}
	if errors.Is(err, context.DeadlineExceeded) || isBroken(err) {
		return true
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.EBUSY, syscall.EAGAIN, syscall.EINTR, syscall.ENOMEM, syscall.ETIMEDOUT:
		return true
	}
	return false
}
