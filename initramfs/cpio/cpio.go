// Package cpio writes the newc archives that the kernel unpacks into rootfs
// when it boots (Documentation/driver-api/early-userspace/buffer-format.rst,
// init/initramfs.c).
//
// Build an Archive with Add, then Write it. The bytes depend on the entries
// alone, not on the order they were added in, on the clock or on the machine:
// entries are sorted by name, inode numbers count from 1, and all belong to
// root and have mtime 0.
//
// It does not read archives, and knows no hard links and no sockets.
package cpio

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// The file types of Entry.Mode, from <linux/stat.h>.
const (
	TypeMask = 0o170000
	Regular  = 0o100000
	Dir      = 0o040000
	Symlink  = 0o120000
	CharDev  = 0o020000
	BlockDev = 0o060000
)

// Entry is one name in the archive.
type Entry struct {
	Name string // relative to the root, slash separated, clean: "etc/kdump.conf"
	Mode uint32 // file type and permission bits

	Data         []byte // Regular: the contents; Symlink: where it points
	Major, Minor uint32 // CharDev and BlockDev
}

// Archive is a set of entries with distinct names.
type Archive struct {
	entries map[string]Entry
}

// pathMax is PATH_MAX: the kernel skips names and symlinks that are longer,
// NUL included, without a word.
const pathMax = 4096

// Add puts an entry in and makes the directories above it, mode 0755. A
// directory may be added again to give it another mode; anything else that is
// there already is an error.
func (a *Archive) Add(e Entry) error {
	if err := check(e); err != nil {
		return fmt.Errorf("add %q to the archive: %w", e.Name, err)
	}
	if a.entries == nil {
		a.entries = make(map[string]Entry)
	}
	if old, ok := a.entries[e.Name]; ok && (old.Mode&TypeMask != Dir || e.Mode&TypeMask != Dir) {
		return fmt.Errorf("add %q to the archive: it is there already", e.Name)
	}
	for dir := path.Dir(e.Name); dir != "."; dir = path.Dir(dir) {
		old, ok := a.entries[dir]
		if ok && old.Mode&TypeMask != Dir {
			return fmt.Errorf("add %q to the archive: %q is not a directory", e.Name, dir)
		}
		if !ok {
			a.entries[dir] = Entry{Name: dir, Mode: Dir | 0o755}
		}
	}
	a.entries[e.Name] = e
	return nil
}

func check(e Entry) error {
	switch {
	case e.Name == "" || e.Name == "." || path.IsAbs(e.Name) || path.Clean(e.Name) != e.Name || strings.HasPrefix(e.Name, "../") || e.Name == "..":
		return fmt.Errorf("want a clean name below the root")
	case e.Name == trailer:
		return fmt.Errorf("the format ends at this name")
	case len(e.Name) >= pathMax:
		return fmt.Errorf("name of %d bytes: want less than %d", len(e.Name), pathMax)
	case strings.ContainsRune(e.Name, 0):
		return fmt.Errorf("the name has a NUL")
	case uint64(len(e.Data)) > 1<<32-1:
		return fmt.Errorf("%d bytes: want less than 4 GiB", len(e.Data))
	}
	switch e.Mode & TypeMask {
	case Regular:
	case Symlink:
		if n := len(e.Data); n == 0 || n >= pathMax {
			return fmt.Errorf("symlink to a name of %d bytes: want 1 to %d", n, pathMax-1)
		}
	case Dir, CharDev, BlockDev:
		if len(e.Data) > 0 {
			return fmt.Errorf("mode %#o cannot have contents", e.Mode)
		}
	default:
		return fmt.Errorf("unknown file type in mode %#o", e.Mode)
	}
	return nil
}

// Get returns the entry of that name.
func (a *Archive) Get(name string) (Entry, bool) {
	e, ok := a.entries[name]
	return e, ok
}

// Entries are all entries, sorted by name, directories in front of what is in
// them.
func (a *Archive) Entries() []Entry {
	all := make([]Entry, 0, len(a.entries))
	for _, e := range a.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y Entry) int { return strings.Compare(x.Name, y.Name) })
	return all
}

const trailer = "TRAILER!!!"

// Write writes the archive to w, in many small writes.
func (a *Archive) Write(w io.Writer) error {
	for i, e := range a.Entries() {
		if err := write(w, uint32(i+1), e); err != nil {
			return fmt.Errorf("write %q to the archive: %w", e.Name, err)
		}
	}
	return write(w, 0, Entry{Name: trailer})
}

// write writes the header, 110 bytes of magic and thirteen 8-digit fields, the
// name with its NUL and the data, each of the two padded to 4 bytes counted
// from the start of the header.
func write(w io.Writer, ino uint32, e Entry) error {
	nlink := 1
	if e.Mode&TypeMask == Dir {
		nlink = 2
	}
	_, err := fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s%s",
		ino, e.Mode, 0 /* uid */, 0 /* gid */, nlink, 0 /* mtime */, len(e.Data),
		0, 0 /* device of the file itself */, e.Major, e.Minor, len(e.Name)+1, 0, /* check: unused in 070701 */
		e.Name, zeros(1+pad(110+len(e.Name)+1)))
	if err != nil {
		return err
	}
	if _, err := w.Write(e.Data); err != nil {
		return err
	}
	_, err = io.WriteString(w, zeros(pad(len(e.Data))))
	return err
}

func pad(n int) int { return -n & 3 }

func zeros(n int) string { return "\x00\x00\x00\x00"[:n] }
