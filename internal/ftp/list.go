package ftp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Entry is one name in a directory.
type Entry struct {
	Name    string
	Dir     bool
	Size    int64
	ModTime time.Time // zero: not known
}

// maxList bounds a listing: 10,000 names, as nobody keeps so many dumps.
const maxList = 10_000

// Stat looks at one name. fs.ErrNotExist says that the server shows nothing
// there; without MLST it cannot be told from what may not be seen.
func (c *Conn) Stat(name string) (Entry, error) {
	if _, ok := c.features["MLST"]; ok {
		return c.mlst(name)
	}
	size, err := c.Size(name)
	if err == nil {
		return Entry{Name: path.Base(name), Size: size}, nil
	}
	if c.broken != nil {
		return Entry{}, err
	}
	noSize := isUnknown(err)
	err = c.Enter(name)
	switch {
	case err == nil:
		return Entry{Name: path.Base(name), Dir: true}, nil
	case c.broken != nil:
		return Entry{}, err
	case noSize:
		return c.find(name)
	}
	return Entry{}, fs.ErrNotExist
}

func (c *Conn) mlst(name string) (Entry, error) {
	r, err := c.Command(2, "MLST", name)
	if err != nil {
		var e *Error
		if errors.As(err, &e) && e.Reply.first() == 5 && e.cause() == nil {
			err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
		}
		return Entry{}, err
	}
	for _, line := range r.Text {
		if e, _, ok := parseFacts(strings.TrimPrefix(line, " ")); ok {
			e.Name = path.Base(name)
			return e, nil
		}
	}
	return Entry{}, &Error{"MLST " + name, r, name}
}

// find is for a server that has no SIZE.
func (c *Conn) find(name string) (Entry, error) {
	entries, err := c.List(context.Background(), path.Dir(name))
	if err != nil {
		return Entry{}, err
	}
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == path.Base(name) })
	if i < 0 {
		return Entry{}, fs.ErrNotExist
	}
	return entries[i], nil
}

// List is what is in a directory, hidden files included where the server shows
// them.
func (c *Conn) List(ctx context.Context, dir string) ([]Entry, error) {
	// vsftpd lists nothing, without an error, for a directory that is not there;
	// and a name given to LIST may be taken for an option or a pattern.
	if err := c.Enter(dir); err != nil {
		return nil, err
	}
	if !c.noMLSD {
		entries, err := c.list(ctx, "MLSD", "", parseMLSD)
		if !isUnknown(err) {
			return entries, err
		}
		c.noMLSD = true
	}
	parse := func(line string) (Entry, bool, error) { return parseLIST(line, time.Now()) }
	entries, err := c.list(ctx, "LIST", "-a", parse)
	var refused *Error
	if errors.As(err, &refused) && c.broken == nil || err == nil && len(entries) == 0 {
		entries, err = c.list(ctx, "LIST", "", parse) // "-a" may have been a name to it
	}
	if errors.Is(err, errFormat) && c.broken == nil {
		return c.names(ctx, dir)
	}
	return entries, err
}

// names is for lists of no form that is known.
func (c *Conn) names(ctx context.Context, dir string) ([]Entry, error) {
	entries, err := c.list(ctx, "NLST", "", func(line string) (Entry, bool, error) {
		return Entry{Name: path.Base(line)}, true, nil
	})
	for i := range entries {
		if err != nil {
			return nil, err
		}
		name := entries[i].Name
		entries[i], err = c.Stat(path.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			entries[i], err = Entry{Name: name}, nil
		}
	}
	return entries, err
}

const errFormat constError = "a directory listing of a form that is not known"

// list runs a command that answers with lines. Those that are no entries are
// left out; a line that cannot be understood ends in errFormat, after the
// transfer.
func (c *Conn) list(ctx context.Context, verb, arg string, parse func(line string) (e Entry, ok bool, err error)) ([]Entry, error) {
	data, err := c.open(ctx, verb, arg, 0)
	if err != nil {
		var refused *Error
		if errors.As(err, &refused) && (refused.Reply.Code == 550 || refused.Reply.Code == 450) && refused.cause() == nil && verb == "NLST" {
			return nil, nil // so some say of an empty directory
		}
		return nil, err
	}
	d := &Download{c: c, path: arg, data: data}
	defer d.Close()
	r := bufio.NewReaderSize(d, maxLine)
	var entries []Entry
	var unknown error
	for total := 0; ; total = 0 {
		line, err := readLine(r, &total)
		if errors.Is(err, io.EOF) {
			return entries, unknown
		}
		if err != nil {
			return nil, err
		}
		e, ok, err := parse(line)
		if err != nil {
			unknown = err
		}
		if !ok || err != nil || e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "/") || e.Name == "" {
			continue
		}
		if entries = append(entries, e); len(entries) > maxList {
			return nil, fmt.Errorf("more than %d names", maxList)
		}
	}
}

func parseMLSD(line string) (Entry, bool, error) {
	e, listed, ok := parseFacts(line)
	if !ok {
		return e, false, fmt.Errorf("%w: %q", errFormat, printable(line))
	}
	return e, listed, nil
}

// parseFacts reads "fact=value;fact=value; NAME" (RFC 3659, 7.2). listed is
// false for the directory itself and the one above it.
func parseFacts(line string) (e Entry, listed, ok bool) {
	facts, name, ok := strings.Cut(line, " ")
	if !ok || name == "" || !strings.HasSuffix(facts, ";") {
		return Entry{}, false, false
	}
	e, listed = Entry{Name: name}, true
	for fact := range strings.SplitSeq(strings.TrimSuffix(facts, ";"), ";") {
		key, value, ok := strings.Cut(fact, "=")
		if !ok {
			return Entry{}, false, false
		}
		switch strings.ToLower(key) {
		case "type":
			kind := strings.ToLower(value)
			e.Dir = kind == "dir" || kind == "cdir" || kind == "pdir"
			listed = kind != "cdir" && kind != "pdir"
		case "size":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
				e.Size = n
			}
		case "modify":
			value, _, _ = strings.Cut(value, ".")
			if t, err := time.Parse("20060102150405", value); err == nil {
				e.ModTime = t
			}
		}
	}
	return e, listed, true
}

// parseLIST reads a line of LIST as Unix servers, or those of Windows, write
// it. now is for times without a year.
func parseLIST(line string, now time.Time) (e Entry, ok bool, err error) {
	switch {
	case line == "" || strings.HasPrefix(line, "total "):
		return Entry{}, false, nil
	case line[0] >= '0' && line[0] <= '9':
		e, ok = parseDOS(line)
	default:
		e, ok = parseUnix(line, now)
	}
	if !ok {
		return Entry{}, false, fmt.Errorf("%w: %q", errFormat, printable(line))
	}
	return e, true, nil
}

// field cuts the first word off.
func field(line string) (word, rest string) {
	line = strings.TrimLeft(line, " ")
	word, rest, _ = strings.Cut(line, " ")
	return word, rest
}

// parseDOS reads "11-21-26  10:24AM  <DIR>  NAME".
func parseDOS(line string) (Entry, bool) {
	date, rest := field(line)
	clock, rest := field(rest)
	size, rest := field(rest)
	e := Entry{Name: strings.TrimLeft(rest, " "), Dir: size == "<DIR>"}
	for _, form := range []string{"01-02-06 03:04PM", "01-02-2006 03:04PM", "2006-01-02 15:04"} {
		if t, err := time.Parse(form, date+" "+clock); err == nil {
			e.ModTime = t
		}
	}
	if !e.Dir {
		n, err := strconv.ParseInt(size, 10, 64)
		if e.Size = n; err != nil || n < 0 {
			return Entry{}, false
		}
	}
	return e, e.Name != "" && !e.ModTime.IsZero()
}

// parseUnix reads "-rw-r--r-- 1 OWNER GROUP SIZE Nov 21 10:24 NAME", in which
// owner or group may be missing, or "Nov 21  2025".
func parseUnix(line string, now time.Time) (Entry, bool) {
	kind := line[0]
	if !strings.ContainsRune("-dlbcps", rune(kind)) {
		return Entry{}, false
	}
	_, rest := field(line)
	before := ""
	for rest != "" {
		var word string
		word, rest = field(rest)
		size, err := strconv.ParseInt(before, 10, 64)
		before = word
		if err != nil || size < 0 {
			continue
		}
		day, more := field(rest)
		clock, name := field(more)
		when, ok := parseWhen(word, day, clock, now)
		if !ok {
			continue
		}
		e := Entry{Name: name, Dir: kind == 'd', Size: size, ModTime: when}
		if kind == 'l' {
			e.Name, _, _ = strings.Cut(name, " -> ")
		}
		return e, e.Name != ""
	}
	return Entry{}, false
}

func parseWhen(month, day, clock string, now time.Time) (time.Time, bool) {
	if t, err := time.Parse("Jan 2 2006", month+" "+day+" "+clock); err == nil {
		return t, true
	}
	// The year first: the 29th of February does not exist in the year 0.
	for _, year := range []int{now.Year(), now.Year() - 1} {
		t, err := time.Parse("2006 Jan 2 15:04", fmt.Sprintf("%04d %s %s %s", year, month, day, clock))
		if err == nil && t.Before(now.Add(48*time.Hour)) {
			return t, true
		}
	}
	// A clock that is years behind must not make a file disappear.
	t, err := time.Parse("2006 Jan 2 15:04", fmt.Sprintf("2000 %s %s %s", month, day, clock))
	return t, err == nil
}
