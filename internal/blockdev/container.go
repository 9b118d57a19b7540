package blockdev

import (
	"encoding/binary"
	"io"
)

// probeContainer finds what is mounted only through another device, or not at
// all. It comes before the file systems: a RAID 1 member with its superblock at
// the end begins with the file system that the array holds, and mounting that
// would write to one half of the mirror.
func probeContainer(r io.ReaderAt, head []byte, size int64) (FS, bool) {
	if hasMagic(head, 0, "LUKS\xba\xbe") && len(head) >= 208 {
		fs := FS{Type: "crypto_LUKS", UUID: text(head[168:208])}
		if binary.BigEndian.Uint16(head[6:]) == 2 {
			fs.Label = text(head[24:72])
		}
		return fs, true
	}
	for sector := range 4 {
		if hasMagic(head, sector*512, "LABELONE") && hasMagic(head, sector*512+24, "LVM2 001") {
			return FS{Type: "LVM2_member"}, true
		}
	}
	if isRAID(r, head, size) {
		return FS{Type: "linux_raid_member"}, true
	}
	return probeSwap(r, head, size)
}

const mdMagic = 0xa92b4efc // MD_SB_MAGIC, include/uapi/linux/raid/md_p.h

// isRAID looks for the superblock of a Linux software RAID: version 1.1 at the
// beginning, 1.2 at 4 KiB, 1.0 and 0.90 near the end.
func isRAID(r io.ReaderAt, head []byte, size int64) bool {
	if isMD1(at(head, 0, 256), 0) || isMD1(at(head, 4096, 256), 8) {
		return true
	}
	var buf [256]byte
	sectors := size / 512
	if off := (sectors - 16) &^ 7; off > 0 {
		if sb, _ := readSome(r, buf[:], off*512, size); isMD1(sb, uint64(off)) {
			return true
		}
	}
	sb, _ := readSome(r, buf[:], size&^0xffff-0x10000, size)
	if len(sb) < 8 {
		return false
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} { // that of the machine
		if order.Uint32(sb) == mdMagic && order.Uint32(sb[4:]) == 0 { // major_version
			return true
		}
	}
	return false
}

// isMD1 tells a superblock of version 1 that stands where it says it stands,
// in sectors.
func isMD1(sb []byte, sector uint64) bool {
	return len(sb) == 256 &&
		binary.LittleEndian.Uint32(sb) == mdMagic &&
		binary.LittleEndian.Uint32(sb[4:]) == 1 && // major_version
		binary.LittleEndian.Uint64(sb[144:]) == sector // super_offset
}

// probeSwap tries the page sizes 4, 8, 16, 32 and 64 KiB.
func probeSwap(r io.ReaderAt, head []byte, size int64) (FS, bool) {
	var buf [10]byte
	for page := int64(4 << 10); page <= 64<<10; page *= 2 {
		b, _ := readSome(r, buf[:], page-10, size)
		if string(b) != "SWAPSPACE2" {
			continue
		}
		fs := FS{Type: "swap"}
		if info := at(head, 1024, 44); info != nil { // union swap_header
			fs.UUID, fs.Label = uuid(info[12:28]), text(info[28:44])
		}
		return fs, true
	}
	return FS{}, false
}
