package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// mkfs is how each file system is made; xfs and btrfs have a least size.
func mkfs(fstype string) (size int64, command []string) {
	switch fstype {
	case "xfs":
		return 320 << 20, []string{"mkfs.xfs", "-q"}
	case "btrfs":
		return 256 << 20, []string{"mkfs.btrfs", "-q"}
	case "vfat":
		return 256 << 20, []string{"mkfs.vfat", "-F", "32"}
	}
	return 128 << 20, []string{"mkfs." + fstype, "-q", "-m", "0"} // nothing kept for root
}

// device is a loop device with an empty file system.
func device(t *testing.T, fstype string) string {
	t.Helper()
	return targetstest.Loop(t, formatted(t, fstype))
}

// formatted is a file with an empty file system.
func formatted(t *testing.T, fstype string) string {
	t.Helper()
	known, _ := os.ReadFile("/proc/filesystems")
	if !bytes.Contains(known, []byte("\t"+fstype+"\n")) {
		t.Skipf("this kernel has no %s", fstype)
	}
	size, command := mkfs(fstype)
	return targetstest.Image(t, t.TempDir(), size, command...)
}

func filesystems() []string { return []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"} }

func TestDisk(t *testing.T) {
	for _, fstype := range filesystems() {
		t.Run(fstype, func(t *testing.T) {
			dev := device(t, fstype)
			// A second mount shows what is there, whatever the target does.
			behind := targetstest.Mount(t, dev, fstype, 0, "")
			targetstest.Run(t, targetstest.Store{
				Open: func(t *testing.T) targets.Target { return open(t, "disk:///var/crash?dev="+dev) },
				Read: func(name string) ([]byte, error) {
					return os.ReadFile(filepath.Join(behind, "var/crash", name))
				},
				Small: func(t *testing.T) targets.Target { return nearlyFull(t, fstype) },
			})
		})
	}
}

// nearlyFull is a target of which all but half a MiB is taken.
func nearlyFull(t *testing.T, fstype string) targets.Target {
	dev := device(t, fstype)
	behind := targetstest.Mount(t, dev, fstype, 0, "")
	if fstype == "btrfs" {
		os.WriteFile(filepath.Join(behind, "balloon"), bytes.Repeat([]byte("air"), 256<<10), 0o600)
	}
	ballast, err := os.Create(filepath.Join(behind, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	tg := open(t, "disk:///crash?dev="+dev)
	for end := int64(0); err == nil; {
		free, e := tg.Space(t.Context())
		if e != nil {
			t.Fatal(e)
		}
		if free < 512<<10 {
			break
		}
		n := max(64<<10, (int64(free)-4<<20)&^4095)
		if err = syscall.Fallocate(int(ballast.Fd()), 0, end, n); err != nil {
			// ext2 and ext3 cannot, and btrfs not to the last byte.
			n = min(max(64<<10, int64(free)/2), 4<<20)
			_, err = ballast.WriteAt(make([]byte, n), end)
			err = errors.Join(err, ballast.Sync())
		}
		end += n
	}
	if fstype == "btrfs" { // its statfs drops to 0 in one step
		os.Remove(filepath.Join(behind, "balloon"))
		unix.Syncfs(int(ballast.Fd()))
	}
	return tg
}

// After Commit the bytes of the device, as a power cut leaves them, give the
// whole file: by its name, on journals that have to be replayed.
func TestDiskCommitSurvivesPowerCut(t *testing.T) {
	for _, fstype := range filesystems() {
		t.Run(fstype, func(t *testing.T) {
			file := formatted(t, fstype)
			dev, detach := targetstest.LoopUntil(t, file)
			tg := open(t, "disk:///crash?dev="+dev)
			t.Cleanup(func() { tg.Close() })
			want := bytes.Repeat([]byte("kdump"), 1<<20)
			f, err := tg.Create(t.Context(), "host/vmcore")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(want); err != nil {
				t.Fatal(err)
			}
			cutBefore := copyOf(t, file)
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			cutAfter := copyOf(t, file)
			// No two file systems with one UUID may be mounted at once.
			if err := tg.Close(); err != nil {
				t.Fatal(err)
			}
			detach()
			checkCut(t, "after Commit", fstype, cutAfter, want)
			checkCut(t, "before Commit", fstype, cutBefore, nil)
		})
	}
}

func copyOf(t *testing.T, file string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "--sparse=always", file, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// checkCut opens the image as the next capture would; want nil: no vmcore.
func checkCut(t *testing.T, when, fstype, file string, want []byte) {
	t.Helper()
	mnt := t.TempDir()
	dev, detach := targetstest.LoopUntil(t, file)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tg, err := targets.Open(ctx, "disk:///crash?dev="+dev, targets.Options{MountDir: mnt, Log: t.Logf})
	if err != nil {
		if fstype == "ext2" || fstype == "vfat" {
			t.Logf("%s: %v", when, err) // without a journal, fsck may be needed
			return
		}
		t.Fatalf("%s: %v", when, err)
	}
	defer func() {
		tg.Close()
		detach()
	}()
	got, err := os.ReadFile(filepath.Join(mnt, "crash/host/vmcore"))
	if want == nil && err == nil {
		t.Errorf("%s: vmcore of %d bytes", when, len(got))
	}
	if want != nil && (err != nil || !bytes.Equal(got, want)) {
		t.Errorf("%s: %d bytes, %v", when, len(got), err)
	}
}

// The disk behind the file system fails in mid dump: the write or Commit says
// so, and nothing that looks complete is left.
func TestDiskWriteErrors(t *testing.T) {
	for _, fstype := range []string{"ext4", "ext2", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			size, command := mkfs(fstype)
			full := targetstest.Mount(t, "none", "tmpfs", 0, map[bool]string{true: "size=100m", false: "size=50m"}[fstype == "xfs"])
			file := targetstest.Image(t, full, size, command...)
			mnt := t.TempDir()
			tg := openWith(t, t.Context(), "disk:///?dev="+targetstest.Loop(t, file), targets.Options{MountDir: mnt, Log: t.Logf})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "vmcore")
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1<<20)
			for i := range buf {
				buf[i] = byte(i) | 1
			}
			written := 0
			for ; written < 120<<20 && err == nil; written += len(buf) {
				_, err = f.Write(buf)
			}
			t.Logf("after %d MiB: %v", written>>20, err)
			err = f.Commit()
			var e *targets.Error
			if err == nil || !errors.As(err, &e) {
				t.Errorf("Commit: %v", err)
			}
			if again := f.Commit(); again == nil {
				t.Error("second Commit forgot the error")
			}
			if err := f.Close(); err != nil {
				t.Logf("Close: %v", err)
			}
			if _, err := os.Stat(filepath.Join(mnt, "vmcore")); err == nil {
				t.Error("vmcore is there")
			}
		})
	}
}

// An error inside of the file system makes it read-only under the writer, also
// where its superblock says errors=continue.
func TestDiskTurnsReadOnly(t *testing.T) {
	dev := device(t, "ext4")
	mnt := t.TempDir()
	tg := openWith(t, t.Context(), "disk:///?dev="+dev, targets.Options{MountDir: mnt, Log: t.Logf})
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The kernel offers this to test exactly that.
	trigger := "/sys/fs/ext4/" + filepath.Base(dev) + "/trigger_fs_error"
	if err := os.WriteFile(trigger, []byte("ukdump test"), 0); err != nil {
		t.Skip(err)
	}
	if err := f.Commit(); err == nil {
		t.Error("Commit succeeded on a file system in error")
	} else {
		t.Log(err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "vmcore")); err == nil {
		t.Error("vmcore is there")
	}
	if _, err := tg.Create(t.Context(), "other"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Create: %v", err)
	}
}

func TestDiskBtrfsOfTwoDevices(t *testing.T) {
	dir := t.TempDir()
	a := targetstest.Image(t, dir, 256<<20, "true")
	b := targetstest.Image(t, dir, 256<<20, "true")
	targetstest.Tool(t, "mkfs.btrfs")
	label := fmt.Sprintf("two-%x", time.Now().UnixNano())
	if out, err := exec.Command("mkfs.btrfs", "-q", "-d", "raid0", "-L", label, a, b).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	targetstest.Loop(t, a)
	targetstest.Loop(t, b)
	tg := open(t, "disk:///?dev=LABEL="+label)
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestDiskOpenErrors(t *testing.T) {
	ext4 := device(t, "ext4")
	swap := targetstest.Loop(t, targetstest.Image(t, t.TempDir(), 1<<20, "mkswap"))
	empty := targetstest.Loop(t, targetstest.Image(t, t.TempDir(), 1<<20, "true"))
	protected := targetstest.Loop(t, targetstest.Image(t, t.TempDir(), 8<<20, "mkfs.ext4", "-q"), "-r")
	damaged := targetstest.Image(t, t.TempDir(), 8<<20, "mkfs.ext4", "-q")
	fh, err := os.OpenFile(damaged, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fh.WriteAt(bytes.Repeat([]byte{0xff}, 4096), 2048) // group descriptors
	fh.Close()
	for url, want := range map[string]string{
		"disk:///?dev=LABEL=NOT-THERE":                    "no block device with LABEL=NOT-THERE within",
		"disk:///?dev=/dev/nothing":                       "no block device /dev/nothing within",
		"disk:///?dev=" + swap:                            "holds swap: want one of ext2",
		"disk:///?dev=" + empty:                           "holds no file system",
		"disk:///?dev=" + ext4 + "&fstype=xfs":            "it holds ext4",
		"disk:///?dev=" + ext4 + "&opts=frobnicate":       `an unknown option in "frobnicate"`,
		"disk:///?dev=" + protected:                       "write-protected",
		"disk:///?dev=" + targetstest.Loop(t, damaged):    "as ext4:",
		"disk:///?dev=" + ext4 + "&fstype=vfat":           "as vfat:",
		"disk:///?dev=" + ext4 + "&opts=ro":               "mounted to be written to",
		"disk:///a/../b?dev=" + ext4:                      `without ".."`,
		"disk:///lost+found/../x?dev=LABEL=NOT-THERE":     `without ".."`,
		"disk:///" + strings.Repeat("x", 256) + "?dev=/d": "at most 255",
	} {
		patience := 20 * time.Second
		if strings.HasSuffix(want, "within") { // nothing will come
			patience = 500 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		mnt := filepath.Join(t.TempDir(), "mnt")
		_, err := targets.Open(ctx, url, targets.Options{MountDir: mnt})
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", url, err, want)
			continue
		}
		t.Log(err)
		if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(mnt)) {
			t.Errorf("%s: still mounted", url)
		}
	}
}

// A link of the file system that leads to where its production system would
// have mounted something else is refused, and the file system let go.
func TestDiskLinkLeadsOut(t *testing.T) {
	dev := device(t, "ext4")
	behind := targetstest.Mount(t, dev, "ext4", 0, "")
	for name, to := range map[string]string{"out": "/tmp", "up": "../..", "in": "real"} {
		if err := os.Symlink(to, filepath.Join(behind, name)); err != nil {
			t.Fatal(err)
		}
	}
	os.Mkdir(filepath.Join(behind, "real"), 0o700)
	for _, name := range []string{"out", "up"} {
		if _, err := targets.Open(t.Context(), "disk:///"+name+"/x?dev="+dev, targets.Options{}); err == nil || !strings.Contains(err.Error(), "escapes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	tg := open(t, "disk:///in?dev="+dev)
	defer tg.Close()
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(behind, "real/vmcore")); err != nil {
		t.Error(err)
	}
}

// A file left open does not keep Close from letting go.
func TestDiskCloseWithOpenFile(t *testing.T) {
	dev := device(t, "ext4")
	mnt := t.TempDir()
	var mu sync.Mutex
	var log []string
	tg := openWith(t, t.Context(), "disk:///?dev="+dev, targets.Options{MountDir: mnt, Log: func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, a...))
	}})
	f, err := tg.Create(t.Context(), "vmcore")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := tg.Close(); err != nil {
		t.Error(err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); bytes.Contains(mounts, []byte(mnt)) {
		t.Error("still mounted")
	}
	if all := strings.Join(log, "\n"); !strings.Contains(all, "still in use") || !strings.Contains(all, "mounted "+dev+" (ext4)") {
		t.Errorf("log: %s", all)
	}
}

// The driver is asked for by the type that was found, and its failing is not
// the mount's.
func TestDiskDriver(t *testing.T) {
	dev := device(t, "xfs")
	var asked []string
	tg := openWith(t, t.Context(), "disk:///?dev="+dev, targets.Options{Log: t.Logf, Driver: func(_ context.Context, fstype string) error {
		asked = append(asked, fstype)
		return errors.New("no list")
	}})
	defer tg.Close()
	if len(asked) != 1 || asked[0] != "xfs" {
		t.Errorf("asked for %v", asked)
	}
}

// Mounts carry no more rights than writing needs.
func TestDiskMountOptions(t *testing.T) {
	dev := device(t, "ext4")
	mnt := t.TempDir()
	tg := openWith(t, t.Context(), "disk:///?dev="+dev+"&opts=defaults,nofail,x-systemd.device-timeout=3,data=journal", targets.Options{MountDir: mnt})
	defer tg.Close()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, mnt) {
			for _, want := range []string{"nosuid", "nodev", "noexec", "noatime", "data=journal", "errors=remount-ro"} {
				if !strings.Contains(line, want) {
					t.Errorf("%s is missing in %s", want, line)
				}
			}
			return
		}
	}
	t.Error("not mounted")
}

func BenchmarkFileWrite(b *testing.B) {
	dir := b.TempDir()
	tg := openWith(b, b.Context(), "file://"+dir, targets.Options{})
	defer tg.Close()
	buf := make([]byte, 1<<20)
	const size = 512
	b.SetBytes(size << 20)
	n := 0
	for b.Loop() {
		n++
		f, err := tg.Create(b.Context(), fmt.Sprintf("f%d", n))
		if err != nil {
			b.Fatal(err)
		}
		var w io.Writer = f
		for range size {
			if _, err := w.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.Commit(); err != nil {
			b.Fatal(err)
		}
		tg.Remove(b.Context(), fmt.Sprintf("f%d", n))
	}
}
