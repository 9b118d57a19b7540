package blockdev

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// FS is what a device holds.
type FS struct {
	// Type is in blkid's words: one of Mountable, or something that takes no
	// dump, such as "swap" or "linux_raid_member". Empty: nothing known.
	Type  string
	Label string
	UUID  string // as blkid writes it; empty where there is none

	// Devices is the number of devices of a btrfs; 0 for others.
	Devices uint64
}

// Offsets of superblocks from the beginning of a device:
//
//	0        xfs (sb), vfat (boot sector), LUKS, md 1.1, squashfs; LVM2 in the first 4 sectors
//	1024     ext2/3/4, f2fs, erofs; UUID and label of swap
//	4096     md 1.2
//	32769    iso9660
//	65536    btrfs
//	page-10  swap
//	end-64K  md 0.90 (at a multiple of 64 KiB)
//	end-8K   md 1.0 (at a multiple of 4 KiB)
const (
	headSize  = 8 << 10
	btrfsAt   = 64 << 10
	btrfsSize = 4 << 10
)

// Probe looks at what the size bytes of r hold. It reads 13 KiB, and of vfat
// the root directory and parts of the FAT until the volume's label is found
// (up to 2 MiB, in pieces of 4 KiB). An error means that the beginning could
// not be read; a device too small for anything is not an error.
func Probe(r io.ReaderAt, size int64) (FS, error) {
	var buf [headSize]byte
	head, err := readSome(r, buf[:], 0, size)
	if err != nil {
		return FS{}, err
	}
	if fs, ok := probeContainer(r, head, size); ok {
		return fs, nil
	}
	for _, probe := range []func(io.ReaderAt, []byte) (FS, bool){probeXFS, probeExt, probeVFAT} {
		if fs, ok := probe(r, head); ok {
			return fs, nil
		}
	}
	if fs, ok := probeOther(r, head, size); ok {
		return fs, nil
	}
	sb, err := readSome(r, buf[:btrfsSize], btrfsAt, size)
	if fs, ok := probeBtrfs(sb); ok {
		return fs, nil
	}
	return FS{}, err
}

// readSome reads len(buf) bytes at off, or what is there of them.
func readSome(r io.ReaderAt, buf []byte, off, size int64) ([]byte, error) {
	if off < 0 || off >= size {
		return nil, nil
	}
	if left := size - off; int64(len(buf)) > left {
		buf = buf[:left]
	}
	n, err := r.ReadAt(buf, off)
	if n == len(buf) || errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], err
}

// at is the n bytes at off, or nil where b ends before.
func at(b []byte, off, n int) []byte {
	if off < 0 || len(b) < off+n {
		return nil
	}
	return b[off : off+n]
}

func hasMagic(b []byte, off int, magic string) bool {
	return string(at(b, off, len(magic))) == magic
}

// ext2, ext3, ext4: struct ext4_super_block at 1024.
func probeExt(_ io.ReaderAt, head []byte) (FS, bool) {
	sb := at(head, 1024, 1024)
	if !hasMagic(sb, 0x38, "\x53\xef") { // s_magic
		return FS{}, false
	}
	const (
		compatHasJournal   = 0x4
		incompatRecover    = 0x4
		incompatJournalDev = 0x8
		// What the ext2 and ext3 drivers know: filetype, meta_bg; sparse_super,
		// large_file, btree_dir.
		incompatOld = 0x2 | 0x10
		roCompatOld = 0x1 | 0x2 | 0x4
	)
	compat := binary.LittleEndian.Uint32(sb[0x5c:])   // s_feature_compat
	incompat := binary.LittleEndian.Uint32(sb[0x60:]) // s_feature_incompat
	roCompat := binary.LittleEndian.Uint32(sb[0x64:]) // s_feature_ro_compat
	fs := FS{Type: "ext4", UUID: uuid(sb[0x68:0x78]), Label: text(sb[0x78:0x88])}
	switch {
	case incompat&incompatJournalDev != 0:
		fs.Type = "jbd"
	case roCompat&^roCompatOld != 0:
	case compat&compatHasJournal == 0 && incompat&^incompatOld == 0:
		fs.Type = "ext2"
	case compat&compatHasJournal != 0 && incompat&^(incompatOld|incompatRecover) == 0:
		fs.Type = "ext3"
	}
	return fs, true
}

// xfs: struct xfs_dsb at 0, big endian.
func probeXFS(_ io.ReaderAt, head []byte) (FS, bool) {
	if !hasMagic(head, 0, "XFSB") || len(head) < 512 {
		return FS{}, false
	}
	blocksize := binary.BigEndian.Uint32(head[4:])   // sb_blocksize
	sectsize := binary.BigEndian.Uint16(head[102:])  // sb_sectsize
	inodesize := binary.BigEndian.Uint16(head[104:]) // sb_inodesize
	if !pow2(blocksize, 512, 65536) || !pow2(uint32(sectsize), 512, 32768) || !pow2(uint32(inodesize), 256, 2048) {
		return FS{}, false
	}
	return FS{Type: "xfs", UUID: uuid(head[32:48]), Label: text(head[108:120])}, true // sb_uuid, sb_fname
}

// btrfs: struct btrfs_super_block.
func probeBtrfs(sb []byte) (FS, bool) {
	if !hasMagic(sb, 0x40, "_BHRfS_M") || len(sb) < 0x22b {
		return FS{}, false
	}
	if binary.LittleEndian.Uint64(sb[0x30:]) != btrfsAt { // bytenr
		return FS{}, false
	}
	return FS{
		Type:    "btrfs",
		UUID:    uuid(sb[0x20:0x30]),
		Label:   text(sb[0x12b:0x22b]),
		Devices: binary.LittleEndian.Uint64(sb[0x88:]), // num_devices
	}, true
}

// probeOther names what else an operator may see instead of what was looked
// for.
func probeOther(r io.ReaderAt, head []byte, size int64) (FS, bool) {
	for _, m := range []struct {
		off         int
		magic, name string
	}{
		{3, "EXFAT   ", "exfat"},
		{3, "NTFS    ", "ntfs"},
		{0, "hsqs", "squashfs"},
		{1024, "\x10\x20\xf5\xf2", "f2fs"},
		{1024, "\xe2\xe1\xf5\xe0", "erofs"},
	} {
		if hasMagic(head, m.off, m.magic) {
			return FS{Type: m.name}, true
		}
	}
	var cd [5]byte
	if b, _ := readSome(r, cd[:], 32769, size); string(b) == "CD001" {
		return FS{Type: "iso9660"}, true
	}
	return FS{}, false
}

func pow2(n, least, most uint32) bool { return n >= least && n <= most && n&(n-1) == 0 }

// uuid is empty for an ID of zeros, as it is for blkid.
func uuid(b []byte) string {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return ""
	}
	h := hex.EncodeToString(b)
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:32])
}

// text is a label: up to the first zero byte, without spaces at the end.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.TrimRight(string(b), " \t\n\v\f\r")
}
