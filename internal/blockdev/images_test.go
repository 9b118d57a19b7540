package blockdev

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// image is a sparse file of size bytes, made into something by a command whose
// last argument is the file.
func image(t testing.TB, size int64, command ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if len(command) == 0 {
		return path
	}
	tool(t, command[0])
	cmd := exec.Command(command[0], append(command[1:], path)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// tool skips where a program is missing, but not in CI.
func tool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is missing", name)
	}
}

func probeFile(t testing.TB, path string) FS {
	t.Helper()
	f, size, err := openDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fs, err := Probe(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// blkid is what the reference says. It escapes spaces and quotes.
func blkid(t testing.TB, path string) map[string]string {
	t.Helper()
	tool(t, "blkid")
	out, err := exec.Command("blkid", "-p", "-o", "export", path).Output()
	if err != nil && len(out) > 0 {
		t.Fatalf("blkid: %v", err)
	}
	m := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		m[k] = strings.ReplaceAll(v, `\`, "")
	}
	return m
}

func patch(t testing.TB, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func TestProbeAgainstBlkid(t *testing.T) {
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		size    int64
		command []string
	}{
		"ext2":                {32 * mib, []string{"mkfs.ext2", "-q", "-L", "two"}},
		"ext3":                {32 * mib, []string{"mkfs.ext3", "-q", "-L", "three"}},
		"ext4":                {32 * mib, []string{"mkfs.ext4", "-q", "-L", "CRASH"}},
		"ext4 longest label":  {32 * mib, []string{"mkfs.ext4", "-q", "-L", "0123456789abcdef"}},
		"ext4 spaces":         {32 * mib, []string{"mkfs.ext4", "-q", "-L", "a b "}},
		"ext4 no label":       {32 * mib, []string{"mkfs.ext4", "-q"}},
		"ext4 no journal":     {32 * mib, []string{"mkfs.ext4", "-q", "-O", "^has_journal"}},
		"ext4 old features":   {32 * mib, []string{"mkfs.ext4", "-q", "-O", "^metadata_csum,^64bit,^flex_bg"}},
		"ext4 1K blocks":      {32 * mib, []string{"mkfs.ext4", "-q", "-b", "1024", "-L", "small"}},
		"ext4 no UUID":        {32 * mib, []string{"mkfs.ext4", "-q", "-U", "null"}},
		"ext4 journal device": {32 * mib, []string{"mkfs.ext4", "-q", "-O", "journal_dev", "-b", "4096"}},
		"ext4 casefold":       {32 * mib, []string{"mkfs.ext4", "-q", "-O", "casefold"}},
		"xfs":                 {320 * mib, []string{"mkfs.xfs", "-q", "-L", "CRASH"}},
		"xfs longest label":   {320 * mib, []string{"mkfs.xfs", "-q", "-L", "0123456789ab"}},
		"xfs v4":              {320 * mib, []string{"mkfs.xfs", "-q", "-m", "crc=0", "-L", "old"}},
		"xfs 4K sectors":      {320 * mib, []string{"mkfs.xfs", "-q", "-s", "size=4096"}},
		"btrfs":               {120 * mib, []string{"mkfs.btrfs", "-q", "-L", "CRASH"}},
		"btrfs odd label":     {120 * mib, []string{"mkfs.btrfs", "-q", "-L", `it's "that" one`}},
		"fat12":               {2 * mib, []string{"mkfs.vfat", "-F", "12", "-n", "CRASH"}},
		"fat16":               {32 * mib, []string{"mkfs.vfat", "-F", "16", "-n", "CRASH 1"}},
		"fat32":               {64 * mib, []string{"mkfs.vfat", "-F", "32", "-n", "CRASHCRASH1"}},
		"fat32 no label":      {64 * mib, []string{"mkfs.vfat", "-F", "32"}},
		"fat32 4K sectors":    {320 * mib, []string{"mkfs.vfat", "-F", "32", "-S", "4096", "-n", "BIG"}},
		"fat16 big clusters":  {256 * mib, []string{"mkfs.vfat", "-F", "16", "-s", "64", "-n", "CL"}},
		"fat with ID":         {32 * mib, []string{"mkfs.vfat", "-i", "0a00B00c"}},
		"swap":                {32 * mib, []string{"mkswap", "-L", "SWAP"}},
		"swap 16K pages":      {32 * mib, []string{"mkswap", "-p", "16384"}},
		"luks1":               {32 * mib, []string{"cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "/etc/hostname"}},
		"luks2":               {32 * mib, []string{"cryptsetup", "luksFormat", "-q", "--type", "luks2", "--label", "lk", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/etc/hostname"}},
		"nothing":             {32 * mib, nil},
		"empty":               {0, nil},
		"one sector":          {512, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := image(t, tc.size, tc.command...)
			var got FS
			if tc.size > 0 {
				got = probeFile(t, path)
			}
			want := blkid(t, path)
			if got.Type != want["TYPE"] || got.Label != want["LABEL"] || got.UUID != want["UUID"] {
				t.Errorf("got %+v, blkid %v", got, want)
			}
		})
	}
}

// A RAID 1 member with its superblock at the end begins with the file system of
// the array: writing to it would split the mirror.
func TestProbeRAIDMember(t *testing.T) {
	const size = 32<<20 + 12<<10 // not a multiple of 64 KiB
	v1 := func(off int64) []byte {
		sb := make([]byte, 4096)
		binary.LittleEndian.PutUint32(sb, mdMagic)
		binary.LittleEndian.PutUint32(sb[4:], 1)
		binary.LittleEndian.PutUint64(sb[144:], uint64(off/512))
		binary.LittleEndian.PutUint32(sb[92:], 2)
		return sb
	}
	v090 := make([]byte, 4096)
	binary.LittleEndian.PutUint32(v090, mdMagic)
	binary.LittleEndian.PutUint32(v090[8:], 90)
	big := make([]byte, 4096)
	binary.BigEndian.PutUint32(big, mdMagic)
	binary.BigEndian.PutUint32(big[8:], 90)
	at10 := int64((size/512 - 16) &^ 7 * 512)
	at090 := int64(size&^0xffff - 0x10000)
	for name, tc := range map[string]struct {
		off int64
		sb  []byte
	}{
		"1.0": {at10, v1(at10)}, "1.1": {0, v1(0)}, "1.2": {4096, v1(4096)},
		"0.90": {at090, v090}, "0.90 big endian": {at090, big},
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, size, "mkfs.ext4", "-q", "-L", "CRASH")
			if got := probeFile(t, path); got.Type != "ext4" {
				t.Fatalf("before: %+v", got)
			}
			patch(t, path, tc.off, tc.sb)
			if got := probeFile(t, path); got != (FS{Type: "linux_raid_member"}) {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("copied to another place", func(t *testing.T) {
		path := image(t, size, "mkfs.ext4", "-q", "-L", "CRASH")
		patch(t, path, at10, v1(4096))
		if got := probeFile(t, path); got.Type != "ext4" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestProbeLVM(t *testing.T) {
	path := image(t, 32<<20)
	label := make([]byte, 512)
	copy(label, "LABELONE")
	copy(label[24:], "LVM2 001")
	patch(t, path, 512, label)
	if got := probeFile(t, path); got.Type != "LVM2_member" {
		t.Errorf("got %+v", got)
	}
}

// The label of a vfat is changed in the root directory, behind files, and in a
// second cluster when the first is full.
func TestProbeFATLabelFarInRoot(t *testing.T) {
	path := image(t, 64<<20, "mkfs.vfat", "-F", "32", "-s", "1")
	var boot [512]byte
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.ReadAt(boot[:], 0)
	f.Close()
	v, ok := parseFAT(bytes.NewReader(boot[:]), boot[:])
	if !ok {
		t.Fatal("not a FAT")
	}
	entry := func(name string, attr byte) []byte {
		e := make([]byte, 32)
		copy(e, name)
		e[11] = attr
		return e
	}
	var full []byte
	full = append(full, entry("\xe5OLD        ", 0x08)...)
	full = append(full, entry("AB\x00\x00\x00      ", 0x0f)...)
	for len(full) < 512 {
		full = append(full, entry("FILE       ", 0x20)...)
	}
	patch(t, path, v.dataAt, full)                                                      // cluster 2
	patch(t, path, v.fatAt+2*4, []byte{9, 0, 0, 0})                                     // goes on in 9
	patch(t, path, v.fatAt+9*4, []byte{0xff, 0xff, 0xff, 0x0f})                         // the last
	patch(t, path, v.dataAt+7*512, append(full[:64:64], entry("\x05 CRASH    ", 8)...)) // which is here
	want := "\xe5 CRASH"
	if got := probeFile(t, path); got.Label != want {
		t.Errorf("got %+v, want label %q", got, want)
	}
	patch(t, path, v.fatAt+9*4, []byte{2, 0, 0, 0}) // a loop, and no label in it
	patch(t, path, v.dataAt+7*512, full)
	if got := probeFile(t, path); got.Type != "vfat" || got.Label != "" {
		t.Errorf("loop: got %+v", got)
	}
}

func TestProbeOther(t *testing.T) {
	for name, m := range map[string]struct {
		off   int64
		magic string
	}{"ntfs": {3, "NTFS    "}, "exfat": {3, "EXFAT   "}, "squashfs": {0, "hsqs"}, "iso9660": {32769, "CD001"}, "f2fs": {1024, "\x10\x20\xf5\xf2"}} {
		path := image(t, 1<<20)
		patch(t, path, m.off, []byte(m.magic))
		if got := probeFile(t, path); got.Type != name {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

type failing struct{ from int64 }

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.from {
		return 0, os.ErrDeadlineExceeded
	}
	clear(p)
	return len(p), nil
}

func TestProbeReadErrors(t *testing.T) {
	if _, err := Probe(failing{0}, 1<<21); err == nil {
		t.Error("no error for a device that cannot be read")
	}
	// A bad sector further on does not hide what the beginning holds.
	if fs, err := Probe(failing{32 << 10}, 1<<21); fs != (FS{}) || err == nil {
		t.Errorf("zeros, then errors: %+v, %v", fs, err)
	}
}
