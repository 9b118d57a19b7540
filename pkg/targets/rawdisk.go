package targets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/blockdev"
)

// rawIO is the device as raw:// uses it. Writes are on the device, in any
// order, when a Sync after them has returned.
type rawIO interface {
	io.ReaderAt
	io.WriterAt
	Sync() error

	// Zero makes n bytes at off read as zeros, both multiples of rawBlock.
	Zero(off, n int64) error
	Close() error
}

// rawDisk is a block device, through the page cache: a capture kernel's small
// memory stays clean because the pacer starts writing early.
type rawDisk struct {
	*os.File
	pacer
}

// claimDisk opens the device for writing, and for nobody else: the kernel
// refuses it while it is mounted, part of a RAID, or claimed by another attempt
// (bd_prepare_to_claim).
func claimDisk(path string) (*rawDisk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL|unix.O_NONBLOCK, 0)
	// Newer kernels let a write-protected device be opened for writing.
	if err == nil {
		if ro, e := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); e == nil && ro != 0 {
			f.Close()
			err = unix.EROFS
		}
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, transient(fmt.Errorf("%s is in use", path), "mounted, part of another device, or held by an attempt that was given up")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return nil, permanent(fmt.Errorf("%s: %w", path, bare(err)), "the device is write-protected, or this is not root")
	case err != nil:
		return nil, err
	}
	return &rawDisk{File: f}, nil
}

func (d *rawDisk) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.File.WriteAt(p, off)
	if err != nil {
		return n, err
	}
	return n, d.pace(d.File, n, off+int64(n))
}

const (
	blkZeroOut = 0x127f // BLKZEROOUT, include/uapi/linux/fs.h: _IO(0x12,127)

	// zeroByHand is below what one call to the kernel pays for.
	zeroByHand = 64 << 10

	// zeroStep bounds one such call: a device without a command for it is
	// written at its own speed, and a signal only comes through between two.
	zeroStep = 256 << 20
)

func (d *rawDisk) Zero(off, n int64) error {
	for n >= zeroByHand {
		step := min(n, zeroStep)
		if !d.zeroOut(off, step) {
			break
		}
		off, n = off+step, n-step
	}
	return writeZeros(d, off, n)
}

// zeroOut is false where the device is none, or the kernel cannot.
func (d *rawDisk) zeroOut(off, n int64) bool {
	span := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span)))
	return errno == 0
}

func writeZeros(w io.WriterAt, off, n int64) error {
	buf := make([]byte, min(n, 256<<10))
	for n > 0 {
		m, err := w.WriteAt(buf[:min(n, int64(len(buf)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

// openRawDisk finds the device of s and claims it, unless it holds something
// that a dump must not be written over.
func openRawDisk(ctx context.Context, s Spec, opts Options) (*rawDisk, *rawCatalogue, int64, error) {
	dev, err := findRaw(ctx, s, opts)
	if err != nil {
		return nil, nil, 0, err
	}
	if dev.Size < rawMinSize {
		return nil, nil, 0, permanent(fmt.Errorf("%s has %d bytes", dev.Path, dev.Size), fmt.Sprintf("want at least %d", rawMinSize))
	}
	d, err := claimDisk(dev.Path)
	if err != nil {
		return nil, nil, 0, err
	}
	cat, err := judgeRaw(d, dev, s.param("force") == "1", opts)
	if err != nil {
		d.Close()
		return nil, nil, 0, err
	}
	return d, cat, dev.Size, nil
}

func findRaw(ctx context.Context, s Spec, opts Options) (blockdev.Device, error) {
	spec, err := blockdev.ParseSpec(s.Device)
	if err != nil {
		return blockdev.Device{}, err
	}
	dev, err := blockdev.Find(ctx, spec, opts.logf)
	switch {
	case err == nil && dev.Err != nil:
		err = fmt.Errorf("%s: %w", dev.Path, dev.Err)
	case err == nil && dev.Path != s.Device:
		opts.logf("%s is %s, %d MiB", s.Device, dev.Path, dev.Size>>20)
	}
	return dev, err
}

// judgeRaw gives the catalogue of the device, nil where there is none and the
// device may be used, or the reason why it may not.
func judgeRaw(r io.ReaderAt, dev blockdev.Device, force bool, opts Options) (*rawCatalogue, error) {
	holds, err := foreign(r, dev)
	if err != nil {
		return nil, err
	}
	if holds != "" && !force {
		return nil, permanent(fmt.Errorf("%s holds %s", dev.Path, holds), "a dump would destroy it; clear it with wipefs -a, or write force=1 in the URL")
	}
	if holds != "" {
		opts.logf("%s holds %s: force=1 says to write over it", dev.Path, holds)
		return nil, nil
	}
	cat, err := readRaw(r, dev.Size)
	switch {
	case err == nil:
		return cat, nil
	case errors.Is(err, errRawVersion) && !force:
		return nil, permanent(fmt.Errorf("%s %w", dev.Path, err), "extract them with the ukdump that wrote them, or write force=1 in the URL")
	case !errors.Is(err, errNotRaw):
		opts.logf("%s held dumps that cannot be read any more (%v): starting anew", dev.Path, err)
	}
	return nil, nil
}

// foreign names what else is on the device, or is empty.
func foreign(r io.ReaderAt, dev blockdev.Device) (string, error) {
	switch {
	case dev.Holder != "":
		return "a part of " + dev.Holder, nil
	case dev.Type != "":
		holds := dev.Type
		if dev.Label != "" {
			holds += fmt.Sprintf(" with the label %q", dev.Label)
		}
		return holds, nil
	}
	if dev.Table != "" {
		return "a partition table (" + dev.Table + ")", nil
	}
	var buf [16]byte
	for _, m := range rareMagic() {
		n, err := r.ReadAt(buf[:len(m.magic)], m.off)
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("read %s at %d: %w", dev.Path, m.off, err)
		}
		if bytes.Equal(buf[:n], []byte(m.magic)) {
			return m.name, nil
		}
	}
	zfs, err := isZFS(r)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", dev.Path, err)
	}
	if zfs {
		return "zfs", nil
	}
	return "", nil
}

type signature struct {
	off         int64
	magic, name string
}

// rareMagic are further signatures, of what blockdev need not tell apart: no
// capture mounts them, but writing over them is as bad. Offsets and values are
// those of the kernel's and libblkid's sources.
func rareMagic() []signature {
	return []signature{
		{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"},
		{4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"},
		{65536 + 52, "ReIsErFs", "reiserfs"},
		{65536 + 52, "ReIsEr2Fs", "reiserfs"},
		{65536 + 52, "ReIsEr3Fs", "reiserfs"},
		{32768, "JFS1", "jfs"},
		{1024, "\x02\x00\x00\x00\x00\x00\x34\x34", "nilfs2"},
		{1024, "H+\x00\x04", "hfsplus"},
		{1024, "HX\x00\x05", "hfsplus"},
		{0, "bluestore block device"[:16], "ceph bluestore"},
	}
}

// isZFS looks for an uberblock of the first label: one in each KiB from 128 KiB
// to 256 KiB, or each 4 or 8 KiB, and the first that is used is any of them.
func isZFS(r io.ReaderAt) (bool, error) {
	buf := make([]byte, 128<<10)
	n, err := r.ReadAt(buf, 128<<10)
	if err != nil && err != io.EOF {
		return false, err
	}
	for at := 0; at+8 <= n; at += 1024 {
		m := binary.LittleEndian.Uint64(buf[at:])
		if m == zfsMagic || bits.ReverseBytes64(m) == zfsMagic {
			return true, nil
		}
	}
	return false, nil
}

const zfsMagic = 0x00bab10c // UBERBLOCK_MAGIC
