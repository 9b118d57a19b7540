package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Table is a partition table.
type Table struct {
	Kind       string // "gpt", "dos"; empty: none
	Partitions []Partition

	signature uint32 // of an MBR
}

// Partition is one used entry of a GPT. The logical partitions of an MBR are
// not followed: their IDs need only their number.
type Partition struct {
	Number int // as in the kernel's name, from 1
	UUID   string
	Label  string
}

// Find is the ID and the name of the partition with the kernel's number n,
// empty where the table has none.
func (t Table) Find(n int) (uuid, label string) {
	if t.Kind == "dos" && t.signature != 0 && n > 0 {
		// block/partitions/msdos.c, set_info
		return fmt.Sprintf("%08x-%02x", t.signature, n), ""
	}
	for _, p := range t.Partitions {
		if p.Number == n {
			return p.UUID, p.Label
		}
	}
	return "", ""
}

// maxEntries bounds the partitions of a GPT; 128 is usual. The table is read in
// pieces of 4 KiB.
const maxEntries = 4096

// ReadTable reads the partition table of a whole disk with size bytes and
// sectors of the given size; 0: 512 and 4096 are tried. A damaged GPT is read
// from its copy at the end.
func ReadTable(r io.ReaderAt, size int64, sector int64) (Table, error) {
	var buf [512]byte
	mbr, err := readSome(r, buf[:], 0, size)
	if err != nil || len(mbr) < 512 || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return Table{}, err
	}
	protective, used := false, false
	for e := 446; e < 510; e += 16 {
		boot, kind := mbr[e], mbr[e+4]
		if boot != 0 && boot != 0x80 { // a boot sector, such as FAT's, and no table
			return Table{}, nil
		}
		protective = protective || kind == 0xee
		used = used || kind != 0
	}
	if !used {
		return Table{}, nil
	}
	if !protective {
		return Table{Kind: "dos", signature: binary.LittleEndian.Uint32(mbr[440:])}, nil
	}
	sectors := []int64{sector}
	if sector == 0 {
		sectors = []int64{512, 4096}
	}
	for _, s := range sectors {
		for _, lba := range []int64{1, size/s - 1} {
			t, e := readGPT(r, size, s, lba)
			if e == nil {
				return t, nil
			}
			err = errors.Join(err, e)
		}
	}
	return Table{}, err
}

// A GPT header (UEFI 2.10, 5.3.2), little endian:
//
//	0   "EFI PART"             72  u64  LBA of the entries
//	12  u32  header size       80  u32  number of entries
//	16  u32  CRC of header     84  u32  size of an entry
//	24  u64  LBA of itself     88  u32  CRC of the entries
//
// An entry: 0 type GUID, 16 its own GUID, 32 first LBA, 40 last LBA, 48
// attributes, 56 name in UTF-16 (36 units).
func readGPT(r io.ReaderAt, size, sector, lba int64) (Table, error) {
	var buf [512]byte
	h, err := readSome(r, buf[:], lba*sector, size)
	if err != nil {
		return Table{}, fmt.Errorf("read GPT header at sector %d: %w", lba, err)
	}
	bad := func(what string) (Table, error) {
		return Table{}, fmt.Errorf("GPT header at sector %d: %s", lba, what)
	}
	if !hasMagic(h, 0, "EFI PART") || len(h) < 512 {
		return bad("no signature")
	}
	hsize := binary.LittleEndian.Uint32(h[12:])
	if hsize < 92 || hsize > 512 {
		return bad(fmt.Sprintf("size %d", hsize))
	}
	crc := binary.LittleEndian.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:hsize]) != crc {
		return bad("checksum mismatch")
	}
	if binary.LittleEndian.Uint64(h[24:]) != uint64(lba) {
		return bad("belongs elsewhere")
	}
	entries := binary.LittleEndian.Uint32(h[80:])
	if each := binary.LittleEndian.Uint32(h[84:]); each != 128 { // the kernel takes no other
		return bad(fmt.Sprintf("entries of %d bytes", each))
	}
	first := binary.LittleEndian.Uint64(h[72:])
	if entries > maxEntries || first > uint64(size/sector) {
		return bad(fmt.Sprintf("%d entries at sector %d", entries, first))
	}
	return readEntries(r, size, int64(first)*sector, int(entries), binary.LittleEndian.Uint32(h[88:]))
}

func readEntries(r io.ReaderAt, size, off int64, entries int, want uint32) (Table, error) {
	t := Table{Kind: "gpt"}
	crc := crc32.NewIEEE()
	var buf [4096]byte
	for n := 0; n < entries; {
		chunk := buf[:min(len(buf), (entries-n)*128)]
		b, err := readSome(r, chunk, off+int64(n)*128, size)
		if err == nil && len(b) < len(chunk) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Table{}, fmt.Errorf("read GPT entry %d: %w", n+1, err)
		}
		crc.Write(b)
		for ; len(b) >= 128; b = b[128:] {
			n++
			if uuid(b[:16]) != "" { // type
				t.Partitions = append(t.Partitions, Partition{Number: n, UUID: guid(b[16:32]), Label: name16(b[56:128])})
			}
		}
	}
	if crc.Sum32() != want {
		return Table{}, fmt.Errorf("GPT entries: checksum mismatch")
	}
	return t, nil
}

// guid has its first three fields little endian.
func guid(b []byte) string {
	return uuid([]byte{
		b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
	})
}

func name16(b []byte) string {
	units := make([]uint16, 0, 36)
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
