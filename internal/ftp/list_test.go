package ftp

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestParseLIST(t *testing.T) {
	now := at("2026-02-01 00:00:00")
	for in, want := range map[string]Entry{
		// vsftpd
		"-rw-r--r--    1 59999    59999        1234 Jan 21 10:24 vmcore":          {"vmcore", false, 1234, at("2026-01-21 10:24:00")},
		"drwxr-xr-x    2 0        0            4096 Nov 21 10:24 host-2026":       {"host-2026", true, 4096, at("2025-11-21 10:24:00")},
		"-rw-r--r--    1 0        0     17179869184 Feb 29  2024 a b  c":          {"a b  c", false, 17179869184, at("2024-02-29 00:00:00")},
		"-rw-r--r--    1 0        0               1 Jan 21 10:24  leading":        {" leading", false, 1, at("2026-01-21 10:24:00")},
		"lrwxrwxrwx    1 0        0               4 Jan 21 10:24 link -> /etc":    {"link", false, 4, at("2026-01-21 10:24:00")},
		"drwxr-xr-x    2 0        0            4096 Jan 21 10:24 .":               {".", true, 4096, at("2026-01-21 10:24:00")},
		"-rw-r--r--    1 0        0               1 Feb 02 10:24 tomorrow":        {"tomorrow", false, 1, at("2026-02-02 10:24:00")},
		"-rw-r--r--+   1 0        0               1 Jan 21 10:24 acl":             {"acl", false, 1, at("2026-01-21 10:24:00")},
		"-rw-r--r--   1 only-owner          1234 Jan 21 10:24 no group":           {"no group", false, 1234, at("2026-01-21 10:24:00")},
		"-rw-r--r--   1 Jan 5 99 1234 Jan 21 10:24 owner is a month":              {"owner is a month", false, 1234, at("2026-01-21 10:24:00")},
		"01-21-26  10:24AM       <DIR>          host":                             {"host", true, 0, at("2026-01-21 10:24:00")},
		"01-21-2026  10:24PM            1234567 a b":                              {"a b", false, 1234567, at("2026-01-21 22:24:00")},
		"2026-01-21  22:24            1 iso":                                      {"iso", false, 1, at("2026-01-21 22:24:00")},
		"-rw-r--r--    1 0        0               1 Feb 29 10:24 clock is behind": {"clock is behind", false, 1, at("2000-02-29 10:24:00")},
	} {
		e, ok, err := parseLIST(in, now)
		if err != nil || !ok || e != want {
			t.Errorf("%q: %+v, %v, %v; want %+v", in, e, ok, err, want)
		}
	}
	for _, in := range []string{"", "total 4"} {
		if e, ok, err := parseLIST(in, now); ok || err != nil {
			t.Errorf("%q: %+v, %v, %v", in, e, ok, err)
		}
	}
	for _, in := range []string{
		"vmcore", "-", "-rw-r--r--", "-rw-r--r-- 1 0 0 1234 Jan 21 10:24", "-rw-r--r-- 1 0 0 1234 Jan 21 10:24 ", "-rw-r--r-- 1 0 0 x Jan 21 10:24 y",
		"-rw-r--r-- 1 0 0 -4 Jan 21 10:24 y", "01-21-26 10:24AM <DIR>", "01-21-26 10:24AM -1 x", "99-99-99 10:24AM 1 x", "?rw 1 0 0 1 Jan 21 10:24 x",
	} {
		if e, ok, err := parseLIST(in, now); ok || !errors.Is(err, errFormat) {
			t.Errorf("%q: %+v, %v, %v", in, e, ok, err)
		}
	}
}

func TestParseMLSD(t *testing.T) {
	for in, want := range map[string]Entry{
		"type=file;size=1234;modify=20260121102400; vmcore":       {"vmcore", false, 1234, at("2026-01-21 10:24:00")},
		"Type=dir;Modify=20260121102400.123;UNIX.mode=0755; a; b": {"a; b", true, 0, at("2026-01-21 10:24:00")},
		"modify=x;size=-1;type=OS.unix=slink:/etc;  link":         {" link", false, 0, time.Time{}},
	} {
		e, ok, err := parseMLSD(in)
		if err != nil || !ok || e != want {
			t.Errorf("%q: %+v, %v, %v; want %+v", in, e, ok, err, want)
		}
	}
	for _, in := range []string{"type=cdir;modify=20260121102400; .", "type=pdir; .."} {
		if e, ok, err := parseMLSD(in); ok || err != nil {
			t.Errorf("%q: %+v, %v, %v", in, e, ok, err)
		}
	}
	for _, in := range []string{"", "vmcore", "type=file;", "type=file; ", "type=file vmcore", "type; vmcore"} {
		if e, ok, err := parseMLSD(in); ok || !errors.Is(err, errFormat) {
			t.Errorf("%q: %+v, %v, %v", in, e, ok, err)
		}
	}
}

// FuzzList wants that whatever is taken for an entry stands in the line, and
// that no time makes it panic.
func FuzzList(f *testing.F) {
	f.Add("-rw-r--r--    1 59999    59999        1234 Jan 21 10:24 vmcore", int64(1769990400))
	f.Add("drwxr-xr-x 2 0 0 4096 Feb 29  2024 d", int64(0))
	f.Add("lrwxrwxrwx 1 0 0 4 Jan 21 10:24 link -> /etc", int64(-1<<40))
	f.Add("01-21-26  10:24AM       <DIR>          host", int64(1<<40))
	f.Add("type=file;size=1234;modify=20260121102400; vmcore", int64(0))
	f.Fuzz(func(t *testing.T, line string, now int64) {
		if strings.Contains(line, "\n") {
			return
		}
		e, ok, err := parseLIST(line, time.Unix(now, 0).UTC())
		m, listed, merr := parseMLSD(line)
		for _, got := range []struct {
			e   Entry
			ok  bool
			err error
		}{{e, ok, err}, {m, listed, merr}} {
			if got.err == nil && got.ok && (got.e.Name == "" || got.e.Size < 0 || !strings.Contains(line, got.e.Name)) {
				t.Errorf("%q: %+v", line, got.e)
			}
		}
	})
}
