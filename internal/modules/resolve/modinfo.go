package resolve

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"strings"
)

// Info is what a module says of itself in its section .modinfo: NUL-ended
// strings "tag=value", see include/linux/module.h. Names are as written there.
type Info struct {
	Name     string
	Vermagic string   // the release it is made for, then flags
	Depends  []string // modules whose symbols it uses
	Pre      []string // soft dependencies to load before it
	Post     []string // and after it
	Aliases  []string // patterns
	Firmware []string // files it may ask for
}

// maxModinfo bounds a .modinfo; the largest real ones have 50 kB, of aliases.
const maxModinfo = 4 << 20

// ReadInfo reads the .modinfo of a module, which must not be compressed.
func ReadInfo(r io.ReaderAt) (Info, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return Info{}, err
	}
	s := f.Section(".modinfo")
	switch {
	case s == nil || s.Type != elf.SHT_PROGBITS:
		return Info{}, errNoModinfo
	case s.Flags&elf.SHF_COMPRESSED != 0 || s.Size > maxModinfo:
		return Info{}, fmt.Errorf("section .modinfo: %d bytes, flags %v", s.Size, s.Flags)
	}
	data, err := s.Data()
	if err != nil {
		return Info{}, fmt.Errorf("section .modinfo: %w", err)
	}
	return parseInfo(data), nil
}

const errNoModinfo Error = "no section .modinfo: not a kernel module"

// Error is an error that callers may test for.
type Error string

func (e Error) Error() string { return string(e) }

func parseInfo(data []byte) Info {
	var info Info
	for field := range bytes.SplitSeq(data, []byte{0}) {
		tag, value, ok := strings.Cut(string(field), "=")
		if !ok {
			continue
		}
		switch tag {
		case "name":
			info.Name = value
		case "vermagic":
			info.Vermagic = value
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					info.Depends = append(info.Depends, name)
				}
			}
		case "softdep":
			pre, post := parseSoftdep(value)
			info.Pre, info.Post = append(info.Pre, pre...), append(info.Post, post...)
		case "alias":
			info.Aliases = append(info.Aliases, value)
		case "firmware":
			info.Firmware = append(info.Firmware, value)
		}
	}
	return info
}

// parseSoftdep reads "pre: a b post: c". Words before the first of the two
// count as pre: modprobe drops them, but it is how cifs names its ciphers.
func parseSoftdep(value string) (pre, post []string) {
	to := &pre
	for word := range strings.FieldsSeq(value) {
		switch word {
		case "pre:":
			to = &pre
		case "post:":
			to = &post
		default:
			*to = append(*to, word)
		}
	}
	return pre, post
}
