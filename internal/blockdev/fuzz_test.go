package blockdev

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"
	"testing"
	"unicode"
)

// pieces is a device of which only some sectors are not zero: what fuzzing
// changes is small although the superblocks are far apart.
//
//	2 bytes: sector (of 512), then 512 bytes, again and again
func pieces(data []byte) ([]byte, int64) {
	const size = 1 << 20
	disk := make([]byte, size)
	for len(data) > 2 {
		at := (int(data[0]) | int(data[1])<<8) % (size / 512) * 512
		data = data[2+copy(disk[at:at+512], data[2:]):]
	}
	return disk, size
}

// squeeze is the inverse, for seeds from real images.
func squeeze(t testing.TB, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1<<20 {
		b = b[:1<<20]
	}
	var out []byte
	for s := 0; s*512+512 <= len(b) && len(out) < 16<<10; s++ {
		if sector := b[s*512 : s*512+512]; len(bytes.Trim(sector, "\x00")) > 0 {
			out = append(append(out, byte(s), byte(s>>8)), sector...)
		}
	}
	return out
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte{})
	f.Add(squeeze(f, image(f, 1<<20, "mkfs.ext4", "-q", "-L", "CRASH")))
	f.Add(squeeze(f, image(f, 1<<20, "mkfs.vfat", "-n", "CRASH")))
	f.Add(squeeze(f, image(f, 64<<20, "mkfs.vfat", "-F", "32", "-n", "CRASH")))
	f.Add(squeeze(f, image(f, 320<<20, "mkfs.xfs", "-q", "-L", "CRASH")))
	f.Add(squeeze(f, image(f, 120<<20, "mkfs.btrfs", "-q", "-L", "CRASH")))
	f.Add(squeeze(f, image(f, 1<<20, "mkswap", "-L", "CRASH")))
	f.Fuzz(func(t *testing.T, data []byte) {
		disk, size := pieces(data)
		fs, err := Probe(bytes.NewReader(disk), size)
		if err != nil {
			t.Fatalf("bytes cannot fail to be read: %v", err)
		}
		if len(fs.Label) > 256 || len(fs.UUID) > 40 || strings.ContainsRune(fs.Label, 0) {
			t.Errorf("%+v", fs)
		}
		shown := Device{Name: "x", FS: fs}.show(UUID)
		if strings.ContainsFunc(shown, unicode.IsControl) {
			t.Errorf("shown as %q", shown)
		}
	})
}

// seal makes the checksums of a GPT right, so that fuzzing gets past them.
func seal(h, disk []byte) {
	first, n := binary.LittleEndian.Uint64(h[72:]), uint64(binary.LittleEndian.Uint32(h[80:]))
	if n <= maxEntries && first < uint64(len(disk)/512) && first*512+n*128 <= uint64(len(disk)) {
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(disk[first*512:first*512+n*128]))
	}
	if size := binary.LittleEndian.Uint32(h[12:]); size <= 512 && size > 20 {
		clear(h[16:20])
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add([]byte{}, int64(0))
	f.Add(squeeze(f, partitioned(f, 1<<20, "label: gpt\nfirst-lba: 34\nstart=40, size=8, name=\"CRASH\"\n")), int64(512))
	f.Add(squeeze(f, partitioned(f, 1<<20, "label: dos\nstart=40, size=8\n")), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, sector int64) {
		if sector != 0 && !pow2(uint32(sector), 512, 65536) || sector < 0 || sector > 65536 {
			sector = 512
		}
		disk, size := pieces(data)
		seal(disk[512:1024], disk)
		tab, err := ReadTable(bytes.NewReader(disk), size, sector)
		if err != nil && tab.Kind != "" || len(tab.Partitions) > maxEntries {
			t.Errorf("%+v, %v", tab, err)
		}
		tab.Find(1)
	})
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"/dev/sda1", "LABEL=CRASH", `LABEL="a b"`, "UUID=ABCD-0123", "PARTUUID=0badcafe-01", `/dev/disk/by-label/a\x20b`, "/dev/../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSpec(text)
		if err != nil {
			return
		}
		if again, err := ParseSpec(s.String()); err != nil || again != s {
			// Quotes inside of quotes come off one by one.
			if !strings.Contains(text, `"`) {
				t.Errorf("%q: %+v, and then %+v, %v", text, s, again, err)
			}
		}
	})
}
