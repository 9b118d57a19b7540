package ftp

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// What a server quotes of our own path is not what it says.
func TestErrorQuotesPath(t *testing.T) {
	for _, c := range []struct {
		arg  string
		code int
		text string
		is   error
	}{
		{"/quota/vmcore", 550, "/quota/vmcore: No such file or directory", fs.ErrNotExist},
		{"/Quota/vmcore", 550, "/Quota/vmcore: No such file or directory", fs.ErrNotExist},
		{"/no space/vmcore", 550, "/no space/vmcore: No such file or directory", fs.ErrNotExist},
		{"/dumps/quota", 550, "quota: No such file or directory", fs.ErrNotExist},
		{"/dumps/quota", 550, "Can't open \"quota\": No such file or directory", fs.ErrNotExist},
		{"/dumps/quota", 550, "'quota' was not found", fs.ErrNotExist},
		{"/dumps/quota-1-2", 550, "cannot find quota-1-2 here", fs.ErrNotExist},
		{"/quota/vmcore", 550, "/srv/ftp/quota/vmcore: No such file or directory", fs.ErrNotExist},
		{"/quota/vmcore", 550, "Can't open \"/srv/ftp/quota/vmcore\": File exists", fs.ErrExist},
		{"/denied/vmcore", 550, "/denied/vmcore: Is a directory", nil},
		{"/forbidden", 553, "Rename /forbidden: Invalid argument", nil},
		{"/x/quota/vmcore", 451, "/x/quota/vmcore: Disk quota exceeded", syscall.ENOSPC},
		{"/dumps/quota", 552, "Disk quota exceeded", syscall.ENOSPC},
		{"/dumps/quota", 451, "quota: Disk quota exceeded", syscall.ENOSPC},
		{"/denied", 550, "Permission denied.", fs.ErrPermission},
		{"/denied", 550, "/denied: Permission denied", fs.ErrPermission},
		{"/d", 550, "/d: Permission denied", fs.ErrPermission},
		{"/", 550, "/: Permission denied", fs.ErrPermission},
		{"", 550, "Access denied", fs.ErrPermission},
	} {
		e := &Error{"MLST " + c.arg, Reply{c.code, []string{c.text}}, c.arg}
		for _, known := range []error{fs.ErrNotExist, fs.ErrPermission, fs.ErrExist, syscall.EROFS, syscall.ENOSPC} {
			if errors.Is(e, known) != (known == c.is) {
				t.Errorf("%v: is %v: %v", e, known, errors.Is(e, known))
			}
		}
	}
}
