package blockdev

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A FAT boot sector (Microsoft's "FAT: General Overview of On-Disk Format",
// 1.03; struct fat_boot_sector), little endian:
//
//	11  u16  bytes per sector           22  u16  sectors per FAT, 0 on FAT32
//	13  u8   sectors per cluster        32  u32  sectors, where 19 is 0
//	14  u16  reserved sectors           36  u32  sectors per FAT (FAT32)
//	16  u8   FATs                       44  u32  first cluster of the root (FAT32)
//	17  u16  entries in the root        38/66    0x28 or 0x29: a serial number follows
//	19  u16  sectors                    39/67    serial number (FAT12, 16 / FAT32)
//	21  u8   media                      510 u16  0xaa55
type fat struct {
	r          io.ReaderAt
	sector     int64 // bytes
	cluster    int64 // bytes
	fatAt      int64 // bytes
	rootAt     int64 // FAT12 and 16
	rootSize   int64
	dataAt     int64
	end        int64  // bytes in all
	root       uint32 // FAT32: first cluster
	extended   int    // offset of the 0x28 or 0x29
	isFAT32    bool
	fatSectors int64
}

func probeVFAT(r io.ReaderAt, head []byte) (FS, bool) {
	if len(head) < 512 {
		return FS{}, false
	}
	f, ok := parseFAT(r, head[:512])
	if !ok {
		return FS{}, false
	}
	fs := FS{Type: "vfat", Label: f.label()}
	if sig := head[f.extended]; sig == 0x28 || sig == 0x29 {
		id := head[f.extended+1 : f.extended+5]
		fs.UUID = fmt.Sprintf("%02X%02X-%02X%02X", id[3], id[2], id[1], id[0])
	}
	return fs, true
}

func parseFAT(r io.ReaderAt, b []byte) (fat, bool) {
	u16 := func(off int) int64 { return int64(binary.LittleEndian.Uint16(b[off:])) }
	u32 := func(off int) int64 { return int64(binary.LittleEndian.Uint32(b[off:])) }
	f := fat{r: r, sector: u16(11), extended: 38, fatSectors: u16(22)}
	perCluster, reserved, fats, entries := int64(b[13]), u16(14), int64(b[16]), u16(17)
	sectors := u16(19)
	if sectors == 0 {
		sectors = u32(32)
	}
	if f.fatSectors == 0 {
		f.isFAT32, f.extended, f.fatSectors, f.root = true, 66, u32(36), uint32(u32(44))
	}
	media := b[21]
	switch {
	case b[510] != 0x55 || b[511] != 0xaa,
		!pow2(uint32(f.sector), 512, 4096), !pow2(uint32(perCluster), 1, 128),
		reserved == 0, fats == 0, f.fatSectors == 0,
		media != 0xf0 && media < 0xf8,
		f.isFAT32 == (entries != 0):
		return fat{}, false
	}
	rootSectors := (entries*32 + f.sector - 1) / f.sector
	f.fatAt = reserved * f.sector
	f.rootAt = f.fatAt + fats*f.fatSectors*f.sector
	f.rootSize = entries * 32
	f.dataAt = f.rootAt + rootSectors*f.sector
	f.cluster = perCluster * f.sector
	f.end = sectors * f.sector
	return f, f.dataAt < f.end
}

// label is the name in the root directory, which is where the label is changed;
// the copy in the boot sector stays behind and is not looked at, nor is it by
// blkid.
func (f *fat) label() string {
	if !f.isFAT32 {
		name, _ := f.search(f.rootAt, f.rootSize)
		return name
	}
	// 100 clusters of a root directory is where libblkid gives up too; the
	// bytes are bounded as well, since a cluster can have 512 KiB.
	const mostClusters, mostBytes = 100, 2 << 20
	c := f.root
	for n := int64(0); n < mostClusters && n*f.cluster < mostBytes; n++ {
		at := f.dataAt + (int64(c)-2)*f.cluster
		if c < 2 || at >= f.end {
			return ""
		}
		name, last := f.search(at, f.cluster)
		if last {
			return name
		}
		entry := int64(c) * 4
		var b [4]byte
		if got, err := readSome(f.r, b[:], f.fatAt+entry, f.end); err != nil || len(got) < 4 || entry >= f.fatSectors*f.sector {
			return ""
		}
		c = binary.LittleEndian.Uint32(b[:]) & 0x0fffffff
	}
	return ""
}

// search goes through directory entries of 32 bytes; last is true when none
// behind these matter.
func (f *fat) search(off, size int64) (name string, last bool) {
	const (
		freed, unused           = 0xe5, 0
		attrVolume, attrDir     = 0x08, 0x10
		attrLong, attrLongOrAll = 0x0f, 0x3f
	)
	var buf [4096]byte
	for size > 0 {
		b, err := readSome(f.r, buf[:min(size, int64(len(buf)))], off, f.end)
		if err != nil || len(b) < 32 {
			return "", true
		}
		off, size = off+int64(len(b)), size-int64(len(b))
		for ; len(b) >= 32; b = b[32:] {
			attr := b[11]
			cluster := uint32(b[20]) | uint32(b[21]) | uint32(b[26]) | uint32(b[27])
			switch {
			case b[0] == unused:
				return "", true
			case b[0] == freed, cluster != 0, attr&attrLongOrAll == attrLong, attr&(attrVolume|attrDir) != attrVolume:
				continue
			case string(b[:11]) == "NO NAME    ":
				return "", true
			}
			raw := [11]byte(b[:11])
			if raw[0] == 0x05 { // stands for 0xe5
				raw[0] = freed
			}
			return text(raw[:]), true
		}
	}
	return "", false
}
