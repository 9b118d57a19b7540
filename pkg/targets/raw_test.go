package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// used is a loop device of a partition that was used before: no byte is zero.
func used(t *testing.T, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "partition")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := bytes.Repeat([]byte("\xa5junk"), 200<<10)
	for at := int64(0); at < size; at += int64(len(junk)) {
		if _, err := f.WriteAt(junk[:min(int64(len(junk)), size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	return targetstest.Loop(t, f.Name())
}

func openStore(t *testing.T, dev string) *targets.RawStore {
	t.Helper()
	s, err := targets.OpenRaw(t.Context(), "raw://"+dev, targets.Options{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// readRaw reads one file as the production system does.
func readRaw(t *testing.T, dev, name string) ([]byte, error) {
	s, err := targets.OpenRaw(t.Context(), "raw://"+dev, targets.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRaw(t *testing.T) {
	dev := used(t, 160<<20)
	targetstest.Run(t, targetstest.Store{
		Open:      func(t *testing.T) targets.Target { return open(t, "raw://"+dev) },
		Read:      func(name string) ([]byte, error) { return readRaw(t, dev, name) },
		Small:     func(t *testing.T) targets.Target { return open(t, "raw://"+used(t, 2<<20+256<<10)) },
		Exclusive: true,
		URL:       "raw://" + dev,
	})
}

// Sizes that fit nothing: the trailer is found where it was put.
func TestRawOddDevices(t *testing.T) {
	for _, size := range []int64{2<<20 + 64<<10, 2<<20 + 64<<10 + 512, 3<<20 - 512, 5<<20 + 2048} {
		dev := used(t, size)
		tg := open(t, "raw://"+dev)
		put(t, tg, "d/vmcore", strings.Repeat("x", 50000))
		if err := tg.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil { // the header is gone
			t.Fatal(err)
		}
		f.Close()
		if got, err := readRaw(t, dev, "d/vmcore"); err != nil || len(got) != 50000 {
			t.Errorf("device of %d bytes: %d, %v", size, len(got), err)
		}
	}
	_, err := targets.Open(t.Context(), "raw://"+used(t, 2<<20+64<<10-512), targets.Options{})
	if err == nil || !strings.Contains(err.Error(), "want at least 2162688") {
		t.Errorf("too small: %v", err)
	}
}

func put(t *testing.T, tg targets.Target, name, text string) {
	t.Helper()
	f, err := tg.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
}

// What a device must not be used for is refused, byte for byte untouched, and
// with force=1 it is used, and looks like nothing else afterwards.
func TestRawRefuses(t *testing.T) {
	t.Parallel()
	at := func(off int64, text string) func(*testing.T, string) {
		return func(t *testing.T, file string) { poke(t, file, off, text) }
	}
	tool := func(args ...string) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			targetstest.Tool(t, args[0])
			if out, err := exec.Command(args[0], append(args[1:], file)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
	}
	cases := map[string]func(*testing.T, string){
		`ext4 with the label "KEEP"`: tool("mkfs.ext4", "-q", "-F", "-L", "KEEP"),
		"xfs":                        tool("mkfs.xfs", "-q", "-f"),
		"btrfs":                      tool("mkfs.btrfs", "-q", "-f"),
		"vfat":                       tool("mkfs.vfat"),
		"swap":                       tool("mkswap", "-q"),
		"a partition table (gpt)":    gpt,
		"LVM2_member":                func(t *testing.T, f string) { poke(t, f, 512, "LABELONE"); poke(t, f, 536, "LVM2 001") },
		"linux_raid_member":          at(4096, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"+strings.Repeat("\x00", 136)+"\x08"),
		"crypto_LUKS":                at(0, "LUKS\xba\xbe\x00\x02"),
		"zfs":                        at(129<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"),
		"bcache":                     at(4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
		"reiserfs":                   at(65588, "ReIsEr2Fs"),
	}
	for want, make := range cases {
		t.Run(want, func(t *testing.T) {
			size := int64(16 << 20)
			if want == "xfs" || want == "btrfs" { // they have a least size
				size = 320 << 20
			}
			file := blank(t, size)
			make(t, file)
			dev := targetstest.Loop(t, file)
			before := sum(t, dev)
			_, err := targets.Open(t.Context(), "raw://"+dev, targets.Options{Log: t.Logf})
			var e *targets.Error
			if err == nil || !strings.Contains(err.Error(), dev+" holds "+want) || !errors.As(err, &e) || e.Temporary {
				t.Fatalf("%v: want %q", err, want)
			}
			t.Log(err)
			if _, err := targets.OpenRaw(t.Context(), "raw://"+dev, targets.Options{}); !errors.Is(err, targets.ErrNoDump) {
				t.Errorf("OpenRaw: %v", err)
			}
			if sum(t, dev) != before {
				t.Fatal("the device has changed")
			}
			tg := open(t, "raw://"+dev+"?force=1")
			put(t, tg, "d/vmcore", "evidence")
			if err := tg.Close(); err != nil {
				t.Fatal(err)
			}
			tg = open(t, "raw://"+dev) // it no longer needs force
			defer tg.Close()
			if got, err := readRaw(t, dev, "d/vmcore"); err != nil || string(got) != "evidence" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func blank(t *testing.T, size int64) string {
	t.Helper()
	name := t.TempDir() + "/disk"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	return name
}

func gpt(t *testing.T, file string) {
	targetstest.Tool(t, "sfdisk")
	cmd := exec.Command("sfdisk", "-q", file)
	cmd.Stdin = strings.NewReader("label: gpt\nsize=10M, name=KEEP\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func poke(t *testing.T, file string, off int64, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("sha256sum", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A mounted device is safe even from force=1.
func TestRawInUse(t *testing.T) {
	dev := device(t, "ext4")
	targetstest.Mount(t, dev, "ext4", 0, "")
	_, err := targets.Open(t.Context(), "raw://"+dev+"?force=1", targets.Options{})
	var e *targets.Error
	if !errors.As(err, &e) || !e.Temporary || !strings.Contains(err.Error(), dev+" is in use: mounted") {
		t.Error(err)
	}
}

func TestRawDeviceMissing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, url := range []string{"raw:///dev/none", "raw:///?dev=PARTLABEL=none"} {
		if _, err := targets.Open(ctx, url, targets.Options{}); err == nil || !strings.Contains(err.Error(), "open "+url) {
			t.Errorf("%s: %v", url, err)
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	ro := targetstest.Loop(t, blank(t, 8<<20), "-r")
	if _, err := targets.Open(ctx, "raw://"+ro, targets.Options{}); err == nil || !strings.Contains(err.Error(), "write-protected") {
		t.Errorf("read-only: %v", err)
	}
}

// A dump that was not taken stays; what was taken makes room.
func TestRawSecondCrash(t *testing.T) {
	dev := used(t, 10<<20)
	fill := func(url, name string, size int) error {
		tg := open(t, url)
		defer tg.Close()
		f, err := tg.Create(t.Context(), name)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(bytes.Repeat([]byte{1}, size)); err != nil {
			return err
		}
		return f.Commit()
	}
	if err := fill("raw://"+dev, "first/vmcore", 6<<20); err != nil {
		t.Fatal(err)
	}
	if err := fill("raw://"+dev, "second/vmcore", 6<<20); !errors.Is(err, targets.ErrNoSpace) {
		t.Errorf("beside one that was not taken: %v", err)
	}
	if err := fill("raw://"+dev, "second/vmcore-dmesg.txt", 100<<10); err != nil {
		t.Errorf("what there is room for: %v", err)
	}
	if got, err := readRaw(t, dev, "first/vmcore"); err != nil || len(got) != 6<<20 {
		t.Fatalf("the first: %d, %v", len(got), err)
	}
	if err := fill("raw://"+dev+"?overwrite=1", "third/vmcore", 1<<20); err != nil {
		t.Errorf("overwrite=1 with room: %v", err)
	}
	if _, err := readRaw(t, dev, "first/vmcore"); err != nil {
		t.Errorf("overwrite=1 with room: the first: %v", err)
	}
	if err := fill("raw://"+dev+"?overwrite=1", "fourth/vmcore", 6<<20); err != nil {
		t.Errorf("overwrite=1: %v", err)
	}
	if _, err := readRaw(t, dev, "first/vmcore"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("overwrite=1: the first: %v", err)
	}
	if got, err := readRaw(t, dev, "third/vmcore"); err != nil || len(got) != 1<<20 {
		t.Errorf("overwrite=1: the third, for which there was room: %v", err)
	}
	s := openStore(t, dev)
	for _, dir := range []string{"second", "third", "fourth"} {
		if err := s.MarkTaken(dir); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := readRaw(t, dev, "fourth/vmcore"); err != nil || len(got) != 6<<20 {
		t.Errorf("taken, and still there: %v", err)
	}
	if err := fill("raw://"+dev, "fifth/vmcore", 8<<20); err != nil {
		t.Errorf("all of it was taken: %v", err)
	}
}

// Nothing is marked on a device that was written to since it was read.
func TestRawMarkTakenTooLate(t *testing.T) {
	dev := used(t, 10<<20)
	tg := open(t, "raw://"+dev)
	put(t, tg, "one/vmcore", "x")
	s := openStore(t, dev)
	if err := s.MarkTaken("one"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("during a dump: %v", err)
	}
	put(t, tg, "two/vmcore", "y")
	if err := tg.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkTaken("one"); err == nil || !strings.Contains(err.Error(), "written to in the meantime") {
		t.Errorf("after a dump: %v", err)
	}
	s = openStore(t, dev)
	if err := s.MarkTaken("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.MarkTaken("two"); err != nil {
		t.Fatal(err)
	}
	var taken []string
	for _, f := range openStore(t, dev).Files() {
		if f.Taken {
			taken = append(taken, f.Name)
		}
	}
	if !slices.Equal(taken, []string{"two", "two/vmcore"}) {
		t.Errorf("taken: %q", taken)
	}
}

// A device that does not give back what was written is found out.
func TestRawDamage(t *testing.T) {
	file := blank(t, 10<<20)
	dev := targetstest.Loop(t, file)
	tg := open(t, "raw://"+dev)
	put(t, tg, "d/vmcore", strings.Repeat("evidence", 100000))
	put(t, tg, "d/SHA256SUMS", "x")
	if err := tg.Close(); err != nil {
		t.Fatal(err)
	}
	poke(t, dev, 1<<20+70000, "E")
	got, err := readRaw(t, dev, "d/vmcore")
	if !errors.Is(err, targets.ErrChecksum) || len(got) != 800000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := readRaw(t, dev, "d/SHA256SUMS"); err != nil {
		t.Errorf("the one beside it: %v", err)
	}
}

// A power cut in a large file leaves what was safe at the last checkpoint.
func TestRawCheckpoint(t *testing.T) {
	t.Parallel()
	dev := targetstest.Loop(t, blank(t, 320<<20))
	tg := open(t, "raw://"+dev)
	f, err := tg.Create(t.Context(), "d/vmcore")
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(piece)
	for range 300 {
		if _, err := f.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range openStore(t, dev).Files() { // as the next boot would see it
		if r.Name == "d/vmcore-incomplete" && (r.Complete || r.Size != 256<<20) {
			t.Errorf("%+v: want 256 MiB", r)
		}
	}
	if n := pieces(t, dev, "d/vmcore-incomplete", piece); n != 256 {
		t.Errorf("%d MiB are there", n)
	}
	if err := tg.Close(); err != nil {
		t.Fatal(err)
	}
	if n := pieces(t, dev, "d/vmcore-incomplete", piece); n != 300 {
		t.Errorf("after Close: %d MiB", n)
	}
}

// pieces is how many times piece makes up the whole file. It does not read all
// of it at once: to copy hundreds of MiB stops all goroutines of a test
// under the race detector for many seconds.
func pieces(t *testing.T, dev, name string, piece []byte) int {
	t.Helper()
	r, err := openStore(t, dev).Open(name)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(piece))
	for n := 0; ; n++ {
		switch _, err := io.ReadFull(r, got); {
		case err == io.EOF:
			return n
		case err != nil || !bytes.Equal(got, piece):
			t.Fatalf("piece %d is not what was written: %v", n, err)
		}
	}
}

func TestRawURLs(t *testing.T) {
	for url, want := range map[string]string{
		"raw:///dev/mmcblk0p7":                     "",
		"raw:///dev/mmcblk0p7?force=1&overwrite=0": "",
		"raw:///?dev=PARTLABEL=crash":              "",
		"raw:///?dev=PARTUUID=0f-12":               "",
		"raw:///dev/disk/by-partlabel/crash":       "",
		"raw:///":                                  "no device: want raw:///dev/NAME",
		"raw:///dev/sda1?dev=PARTLABEL=x":          "two devices",
		"raw:///?dev=LABEL=CRASH":                  "LABEL=CRASH names a file system",
		"raw:///dev/disk/by-uuid/12-34":            "names a file system",
		"raw:///home/x":                            "want /dev/NAME",
		"raw:///dev/sda1?force=yes":                "force=yes: want 0 or 1",
		"raw:///dev/sda1?keep=1":                   `unknown query key "keep"`,
		"raw://dev/sda1":                           "three slashes",
	} {
		_, err := targets.Parse(url)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: want %q", url, err, want)
		}
	}
}

// Too many files for the catalogue are told of as no space, and what is there
// stays readable.
func TestRawManyFiles(t *testing.T) {
	t.Parallel()
	dev := used(t, 10<<20)
	tg := open(t, "raw://"+dev)
	defer tg.Close()
	n := 0
	for ; n < 1000; n++ {
		f, err := tg.Create(t.Context(), fmt.Sprintf("d/f%d", n))
		if err != nil {
			if !errors.Is(err, targets.ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
				t.Error(err)
			}
			break
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if n != 251 { // and the directory
		t.Errorf("%d files", n)
	}
	if _, err := readRaw(t, dev, "d/f250"); err != nil {
		t.Error(err)
	}
}
