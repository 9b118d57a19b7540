package blockdev

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Tag is the kind of name a Spec looks for.
type Tag string

const (
	Path      Tag = ""
	Label     Tag = "LABEL"
	UUID      Tag = "UUID"
	PartLabel Tag = "PARTLABEL"
	PartUUID  Tag = "PARTUUID"
)

// Spec names one block device.
type Spec struct {
	Tag   Tag
	Value string // for Path: a clean absolute path below /dev
}

func (s Spec) String() string {
	if s.Tag == Path {
		return s.Value
	}
	return string(s.Tag) + "=" + s.Value
}

// ParseSpec reads "/dev/NAME", "LABEL=", "UUID=", "PARTLABEL=" or "PARTUUID=".
// The links that udev makes for these four are understood as what they mean,
// since nothing makes them in a capture kernel; its other links are refused for
// the same reason.
func ParseSpec(text string) (Spec, error) {
	const want = "want /dev/NAME, LABEL=NAME, UUID=ID, PARTLABEL=NAME or PARTUUID=ID"
	if strings.HasPrefix(text, "/") {
		return parsePath(text, want)
	}
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return Spec{}, fmt.Errorf("device %q: %s", text, want)
	}
	s := Spec{Tag: Tag(key), Value: value}
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' { // as fstab allows
		s.Value = value[1 : len(value)-1]
	}
	switch s.Tag {
	case Label, UUID, PartLabel, PartUUID:
	default:
		return Spec{}, fmt.Errorf("device %q: unknown tag %q: %s", text, key, want)
	}
	return s, s.check()
}

// check refuses values that no device can have.
func (s Spec) check() error {
	v := s.Value
	switch {
	case v == "":
		return fmt.Errorf("device %s: the value is empty", s)
	case s.Tag == Label && len(v) > 255: // btrfs has the longest
		return fmt.Errorf("device %s=...: %d bytes: no file system has a label above 255", s.Tag, len(v))
	case s.Tag == PartLabel && utf8.RuneCountInString(v) > 36:
		return fmt.Errorf("device %s=...: %d characters: a partition's name has at most 36", s.Tag, utf8.RuneCountInString(v))
	}
	for _, r := range v {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("device %q: control character in the value", s)
		}
		if (s.Tag == UUID || s.Tag == PartUUID) && !strings.ContainsRune("0123456789abcdefABCDEF-", r) {
			return fmt.Errorf("device %s: character %q: an ID is made of hexadecimal digits and '-'", s, r)
		}
	}
	if len(v) > 255 {
		return fmt.Errorf("device %s=...: %d bytes: too long", s.Tag, len(v))
	}
	return nil
}

func parsePath(text, want string) (Spec, error) {
	p := path.Clean(text)
	rest, ok := strings.CutPrefix(p, "/dev/")
	if !ok || len(p) > 255 || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return Spec{}, fmt.Errorf("device %q: %s", text, want)
	}
	link, ok := strings.CutPrefix(rest, "disk/by-")
	if !ok {
		return Spec{Value: p}, nil
	}
	kind, value, _ := strings.Cut(link, "/")
	s := Spec{Tag: Tag(strings.ToUpper(kind)), Value: unescapeUdev(value)}
	switch s.Tag {
	case Label, UUID, PartLabel, PartUUID:
		return s, s.check()
	}
	return Spec{}, fmt.Errorf("device %q: udev makes such links and a capture kernel has no udev: %s", text, want)
}

// unescapeUdev undoes the \xHH that udev puts into the names of its links for
// bytes it does not want there.
func unescapeUdev(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\x`) && len(s) >= i+4 {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
