package main

import (
	"bufio"
	"io"
	"os"
	"path/filepath"

	"github.com/ukdump/ukdump/initramfs/cpio"
)

// save writes the compressed archive under a temporary name and renames it:
// at any time the file is the old image or the new one. It is readable for its
// owner only, as the configuration in it.
func save(name string, a *cpio.Archive) (size int64, err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return 0, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".tmp-*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name()) // there is nothing to remove once it is renamed
	defer f.Close()
	if err := writeTo(f, a); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(f.Name(), name)
}

func writeTo(w io.Writer, a *cpio.Archive) error {
	z, err := compress(w)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(z, 1<<20) // the archive comes in small pieces
	if err := a.Write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return z.Close()
}
