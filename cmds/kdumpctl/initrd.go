package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/internal/unpack"
)

// contents is what load looks for in an initramfs.
type contents struct {
	names    map[string]string // of all entries, without a slash before them; of symbolic links where they lead
	hasConf  bool
	conf     []byte   // its /etc/kdump.conf, if it has one
	releases []string // of the kernels it has modules for
	unpacked int64    // bytes of the pages that its files fill
}

const (
	maxUnpacked = 2 << 30  // no capture kernel could unpack as much
	maxConf     = 64 << 10 // bounds what is kept of a kdump.conf, as pkg/config does
	maxNames    = 16 << 20 // bounds all names, in bytes; ours have some 10 KiB
	maxLinks    = 40       // on the way to a file, as the kernel (MAXSYMLINKS)
)

// has tells whether there is a file of this absolute path, following links. Where the
// names are too many to be kept, everything is.
func (c contents) has(name string) bool {
	if c.names == nil {
		return true
	}
	for range maxLinks {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		next, ok := c.follow(name)
		if !ok {
			_, ok = c.names[name]
			return ok
		}
		name = next
	}
	return false
}

// follow goes the first symbolic link on the way to a file.
func (c contents) follow(name string) (string, bool) {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		to := c.names[name[:i]]
		if to == "" {
			continue
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(name[:i]), to)
		}
		return path.Join(to, name[i:]), true
	}
	return "", false
}

// inspect reads an initramfs through, whatever its compression, and keeps no
// more of it than contents. Memory is bounded by the decompressor's window and
// maxNames.
func inspect(r io.Reader) (contents, error) {
	c := contents{names: make(map[string]string)}
	size, pages := 0, make(map[string]int64)
	err := walk(r, true, func(e entry, body io.Reader) error {
		link := ""
		if e.mode&typeMask == symlink {
			to, err := io.ReadAll(io.LimitReader(body, maxName))
			if err != nil {
				return err
			}
			link = string(to)
		}
		if size += len(e.name) + len(link); size > maxNames {
			c.names, pages = nil, nil
		}
		c.unpacked += fullPages(e.size)
		if c.names != nil {
			c.names[e.name] = link
			c.unpacked -= pages[e.name] // of an earlier archive, which this one lies over
			pages[e.name] = fullPages(e.size)
		}
		switch {
		case e.name == "etc/kdump.conf" && e.mode&typeMask == regular:
			text, err := io.ReadAll(io.LimitReader(body, maxConf+1))
			if err != nil {
				return err
			}
			c.conf, c.hasConf = text, true // a later archive lies over an earlier one
		case strings.HasPrefix(e.name, "lib/modules/"), strings.HasPrefix(e.name, "usr/lib/modules/"):
			_, rest, _ := strings.Cut(e.name, "lib/modules/")
			release, _, below := strings.Cut(rest, "/")
			if below && !slices.Contains(c.releases, release) {
				c.releases = append(c.releases, release)
			}
		}
		return nil
	})
	return c, err
}

// fullPages is what a file of that size takes in a ramfs.
func fullPages(size int64) int64 { return (size + 4095) &^ 4095 }

// An entry of a newc archive (Documentation/driver-api/early-userspace/
// buffer-format.rst of Linux).
//
//	0 c_magic "070701"   14 c_mode   54 c_filesize   94 c_namesize
//	110 name, NUL; padded to 4 bytes, as the data behind it is
//
// All numbers are 8 hexadecimal digits.
type entry struct {
	name string
	mode uint32
	size int64
}

const (
	headerLen  = 110
	maxName    = 4096 // PATH_MAX: the kernel takes no longer ones
	typeMask   = 0o170000
	regular    = 0o100000
	symlink    = 0o120000
	trailer    = "TRAILER!!!"
	magicNewc  = "070701"
	magicCrc   = "070702"
	lenMagic   = 6
	offMode    = 14
	offSize    = 54
	offNameLen = 94
)

type archiveError string

func (e archiveError) Error() string { return string(e) }

// errNotArchive is a file that is no initramfs.
const errNotArchive archiveError = "not an initramfs: want a cpio archive (newc), plain or compressed with zstd, gzip or xz"

// walk calls f for each entry of an initramfs: archives one behind the other,
// zeros between them, and at the end what is compressed, as the kernel's
// unpack_to_rootfs takes it.
func walk(r io.Reader, outer bool, f func(e entry, body io.Reader) error) error {
	b := bufio.NewReaderSize(r, 64<<10)
	empty := true
	for {
		start, err := b.Peek(lenMagic)
		if len(start) > 0 && start[0] == 0 {
			b.Discard(1) // cannot fail: it has been peeked
			continue
		}
		switch {
		case len(start) == 0 && err == io.EOF && !empty:
			return nil
		case err != nil && err != io.EOF:
			return err
		case string(start) == magicNewc, string(start) == magicCrc:
			if err := readEntry(b, f); err != nil {
				return err
			}
		case outer && unpack.Detect(start) != unpack.None:
			return walkPacked(b, f)
		default:
			return errNotArchive
		}
		empty = false
	}
}

func walkPacked(b *bufio.Reader, f func(e entry, body io.Reader) error) error {
	z, _, err := unpack.NewReader(b)
	if err != nil {
		return err
	}
	defer z.Close()
	limited := &io.LimitedReader{R: z, N: maxUnpacked}
	err = walk(limited, false, f)
	if limited.N <= 0 {
		return fmt.Errorf("more than %d MiB when unpacked", maxUnpacked>>20)
	}
	return err
}

// readEntry reads one entry, up to the start of the next.
func readEntry(b *bufio.Reader, f func(e entry, body io.Reader) error) error {
	var header [headerLen]byte
	if _, err := io.ReadFull(b, header[:]); err != nil {
		return torn(err)
	}
	mode, err1 := field(header, offMode)
	size, err2 := field(header, offSize)
	nameLen, err3 := field(header, offNameLen)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("cpio header: %w", err)
	}
	if nameLen == 0 || nameLen > maxName {
		return fmt.Errorf("cpio header: a name of %d bytes", nameLen)
	}
	name := make([]byte, nameLen+padding(headerLen+nameLen))
	if _, err := io.ReadFull(b, name); err != nil {
		return torn(err)
	}
	e := entry{mode: mode, size: int64(size)}
	text, _, _ := strings.Cut(string(name), "\x00")
	e.name = strings.TrimPrefix(path.Clean("/"+text), "/")
	body := &io.LimitedReader{R: b, N: e.size}
	if text != trailer {
		if err := f(e, body); err != nil {
			return torn(err)
		}
	}
	_, err := io.CopyN(io.Discard, b, body.N+int64(padding(size)))
	return torn(err)
}

func field(header [headerLen]byte, off int) (uint32, error) {
	n, err := strconv.ParseUint(string(header[off:off+8]), 16, 32)
	return uint32(n), err
}

// padding is what is missing to a multiple of four.
func padding(n uint32) uint32 { return -n & 3 }

// torn names an end that comes too early.
func torn(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("cut off: %w", io.ErrUnexpectedEOF)
	}
	return err
}
