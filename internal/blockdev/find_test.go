package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// attach makes a loop device of a file.
func attach(t testing.TB, path string, args ...string) string {
	t.Helper()
	tool(t, "losetup")
	out, err := exec.Command("losetup", append(append([]string{}, args...), "-f", "--show", path)...).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	return dev
}

// fake is a /sys and a /dev in a folder, whose devices are files.
type fake struct {
	t *testing.T
	system
}

func newFake(t *testing.T) fake {
	dir := t.TempDir()
	f := fake{t, system{sys: filepath.Join(dir, "sys"), dev: filepath.Join(dir, "dev")}}
	for _, d := range []string{filepath.Join(f.sys, "class/block"), f.dev} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// add makes a device below parent ("" for a whole disk) of a file.
func (f fake) add(parent, name, file, uevent string) {
	f.t.Helper()
	dir := filepath.Join(f.sys, "devices", parent, name)
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "holders"), 0o755),
		os.WriteFile(filepath.Join(dir, "uevent"), []byte("DEVNAME="+name+"\n"+uevent), 0o644),
		os.Symlink(dir, filepath.Join(f.sys, "class/block", name)),
	)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		err = os.Link(file, filepath.Join(f.dev, name))
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f fake) find(timeout time.Duration, spec string, log *logged) (Device, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), timeout)
	defer cancel()
	s, err := ParseSpec(spec)
	if err != nil {
		f.t.Fatal(err)
	}
	if s.Tag == Path {
		s.Value = filepath.Join(f.dev, strings.TrimPrefix(s.Value, "/dev"))
	}
	return find(ctx, f.system, s, log.printf)
}

type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) printf(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, a...))
}

func (l *logged) String() string { return strings.Join(l.lines, "\n") }

func TestFindByEachTag(t *testing.T) {
	f := newFake(t)
	f.add("", "vda", partitioned(t, 16<<20, gptScript), "DEVTYPE=disk\n")
	f.add("vda", "vda1", image(t, 32<<20, "mkfs.ext4", "-q", "-L", "ROOT"), "PARTN=1\nPARTNAME=CRASH\n")
	f.add("vda", "vda2", image(t, 32<<20, "mkfs.ext4", "-q", "-U", "deadbeef-0000-1111-2222-333344445555"), "PARTN=2\nPARTNAME=\xdcn\xefcode \xe9\n")
	f.add("", "mmcblk0", image(t, 1<<20), "DEVTYPE=disk\n")
	f.add("mmcblk0", "mmcblk0p3", image(t, 32<<20, "mkfs.vfat", "-n", "BOOT", "-i", "12ab34cd"), "PARTN=3\nPARTNAME=firmware\nPARTUUID=0badcafe-03\n")
	for spec, want := range map[string]string{
		"LABEL=ROOT":           "vda1",
		"LABEL=BOOT":           "mmcblk0p3",
		"UUID=12AB-34CD":       "mmcblk0p3",
		"UUID=12ab-34cd":       "mmcblk0p3",
		"PARTLABEL=CRASH":      "vda1",
		"PARTLABEL=Ünïcode é":  "vda2",
		"PARTLABEL=firmware":   "mmcblk0p3",
		"PARTUUID=0BADCAFE-03": "mmcblk0p3",
		"PARTUUID=11111111-2222-3333-4444-555555555555": "vda2",
		"UUID=DEADBEEF-0000-1111-2222-333344445555":     "vda2",
		"/dev/vda2":                       "vda2",
		"/dev/disk/by-partlabel/firmware": "mmcblk0p3",
	} {
		var log logged
		d, err := f.find(10*time.Second, spec, &log)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if filepath.Base(d.Path) != want || strings.Contains(log.String(), "taking") {
			t.Errorf("%s: %s, want %s; log: %s", spec, d.Path, want, log.String())
		}
	}
}

func TestFindTellsWhatWasThere(t *testing.T) {
	f := newFake(t)
	f.add("", "vda", image(t, 32<<20, "mkfs.ext4", "-q", "-L", "ROOT"), "")
	f.add("", "nvme0n1", image(t, 1<<20), "")
	f.add("", "sda", partitioned(t, 16<<20, gptScript), "")
	f.add("", "sdb", "/nonexistent", "")
	f.add("", "loop0", image(t, 0), "")
	_, err := f.find(time.Second, "LABEL=CRASH", &logged{})
	want := `^no block device with LABEL=CRASH within \d+s; seen: ` +
		regexp.QuoteMeta("nvme0n1 (no file system), sda (gpt partition table), sdb (no such file or directory), vda (ext4, LABEL=ROOT)") + "$"
	if err == nil || !errors.Is(err, ErrNotFound) || !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = f.find(time.Second, "/dev/vdb", &logged{})
	if err == nil || !strings.Contains(err.Error(), "vda (ext4, LABEL=ROOT)") || strings.Contains(err.Error(), "vdb (") {
		t.Error(err)
	}
	_, err = f.find(time.Second, "/dev/loop0", &logged{})
	if err == nil || !strings.Contains(err.Error(), "loop0 (no medium)") {
		t.Error(err)
	}
}

func TestFindWithoutSysfs(t *testing.T) {
	f := newFake(t)
	f.add("", "vda", image(t, 32<<20, "mkfs.ext4", "-q", "-L", "ROOT"), "")
	f.sys = filepath.Join(f.sys, "not there")
	if d, err := f.find(time.Second, "/dev/vda", &logged{}); err != nil || d.Type != "ext4" {
		t.Errorf("by path: %+v, %v", d, err)
	}
	if _, err := f.find(100*time.Millisecond, "LABEL=ROOT", &logged{}); err == nil || !strings.Contains(err.Error(), "class/block") {
		t.Errorf("by label: %v", err)
	}
}

func TestFindTwins(t *testing.T) {
	f := newFake(t)
	file := image(t, 32<<20, "mkfs.ext4", "-q", "-L", "CRASH")
	f.add("", "vdb", file, "")
	f.add("", "vda", file, "")
	var log logged
	d, err := f.find(10*time.Second, "LABEL=CRASH", &log)
	if err != nil || d.Name != "vda" {
		t.Errorf("%+v, %v", d, err)
	}
	if want := "LABEL=CRASH is on vda and on vdb: taking vda"; log.String() != want {
		t.Errorf("log: %s, want %s", log.String(), want)
	}
	// vda is one path of dm-0, say: only what is built on it may be mounted.
	os.Mkdir(filepath.Join(f.sys, "devices/vda/holders/dm-0"), 0o755)
	if d, err := f.find(10*time.Second, "LABEL=CRASH", &logged{}); err != nil || d.Name != "vdb" {
		t.Errorf("held: %+v, %v", d, err)
	}
	if d, err := f.find(10*time.Second, "/dev/vda", &logged{}); err != nil || d.Name != "vda" || d.Holder != "dm-0" {
		t.Errorf("by path: %+v, %v", d, err)
	}
}

// Nothing on a healthy machine hangs in a read of its first sector, so the
// device is one that was asked before and still owes its answer.
func TestFindOneDeviceHangs(t *testing.T) {
	f := newFake(t)
	f.add("", "sda", image(t, 1<<20), "")
	f.add("", "vda", image(t, 32<<20, "mkfs.ext4", "-q", "-L", "CRASH"), "")
	s := newSearch(f.system, Spec{Label, "CRASH"}, nil)
	defer close(s.done)
	s.busy["sda"] = true // asked, and never to answer
	start := time.Now()
	s.look(t.Context())
	if d, ok := s.choose(false); !ok || d.Name != "vda" {
		t.Errorf("%+v", d)
	}
	if took := time.Since(start); took > 4*patience {
		t.Errorf("took %v", took)
	}
	if got := s.summary(); !strings.Contains(got, "sda (does not answer)") {
		t.Error(got)
	}
}

// The disks of a dead controller, more than are asked at once, keep nobody from being
// found, nor do they make it late. Here their uevent is a pipe that nobody writes to.
func TestFindManyDevicesHang(t *testing.T) {
	f := newFake(t)
	for i := range 3 * atOnce {
		name := fmt.Sprintf("sd%03d", i)
		f.add("", name, "/nonexistent", "")
		pipe := filepath.Join(f.sys, "devices", name, "uevent")
		if err := errors.Join(os.Remove(pipe), syscall.Mkfifo(pipe, 0o600)); err != nil {
			t.Fatal(err)
		}
		defer os.OpenFile(pipe, os.O_RDWR, 0) // who waits goes on
	}
	file := image(t, 32<<20, "mkfs.ext4", "-q", "-L", "CRASH")
	time.AfterFunc(300*time.Millisecond, func() { f.add("", "vda", file, "") })
	start := time.Now()
	d, err := f.find(20*time.Second, "LABEL=CRASH", &logged{})
	if err != nil || d.Name != "vda" {
		t.Errorf("%+v, %v", d, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("found after %s", took)
	}
}

func TestFindLateDevice(t *testing.T) {
	f := newFake(t)
	file := image(t, 32<<20, "mkfs.ext4", "-q", "-L", "CRASH")
	time.AfterFunc(300*time.Millisecond, func() { f.add("", "vda", file, "") })
	start := time.Now()
	d, err := f.find(10*time.Second, "LABEL=CRASH", &logged{})
	if err != nil || d.Name != "vda" {
		t.Fatalf("%+v, %v", d, err)
	}
	if took := time.Since(start); took > 5*again {
		t.Errorf("took %v", took)
	}
}

func TestFindCanceled(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	_, err := find(ctx, f.system, Spec{Label, "X"}, nil)
	if !errors.Is(err, ErrNotFound) || time.Since(start) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestFindBtrfsOfTwoDevices(t *testing.T) {
	tool(t, "mkfs.btrfs")
	a, b := image(t, 256<<20), image(t, 256<<20)
	if out, err := exec.Command("mkfs.btrfs", "-q", "-L", "CRASH", a, b).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f := newFake(t)
	f.add("", "vda", a, "")
	time.AfterFunc(200*time.Millisecond, func() { f.add("", "vdb", b, "") })
	var log logged
	d, err := f.find(10*time.Second, "LABEL=CRASH", &log)
	if err != nil || len(d.Members) != 2 || d.Name != "vda" || strings.Contains(log.String(), "taking") {
		t.Errorf("%+v, %v, %s", d, err, log.String())
	}
}

// The kernel's event wakes the search before the second is over.
func TestFindRealLoopDeviceByEvent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	label := fmt.Sprintf("UKD%08x", time.Now().UnixNano()&0xffffffff)
	file := image(t, 32<<20, "mkfs.ext4", "-q", "-L", label)
	attached := make(chan string, 1)
	go func() {
		time.Sleep(150 * time.Millisecond)
		out, _ := exec.Command("losetup", "-f", "--show", file).Output()
		attached <- strings.TrimSpace(string(out))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start := time.Now()
	d, err := Find(ctx, Spec{Label, label}, t.Logf)
	took := time.Since(start)
	dev := <-attached
	if dev == "" {
		t.Skip("no loop devices here")
	}
	defer exec.Command("losetup", "-d", dev).Run()
	if err != nil || d.Path != dev || d.Type != "ext4" {
		t.Fatalf("%+v, %v, want %s", d, err, dev)
	}
	t.Logf("found %v after %v", d, took)
	all, err := List(ctx)
	if err != nil || len(all) == 0 {
		t.Errorf("List: %v, %v", all, err)
	}
}

// What the kernel makes of a table, and what blkid calls it.
func TestFindRealPartitions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	name := fmt.Sprintf("Ünï %x", time.Now().UnixNano())
	for kind, script := range map[string]string{
		"gpt": "label: gpt\nstart=2048, size=4096\nstart=8192, size=4096, name=\"" + name + "\"\n",
		"dos": "label: dos\nstart=2048, size=2048, type=83\nstart=8192, size=16384, type=5\nstart=10240, size=2048\n",
	} {
		t.Run(kind, func(t *testing.T) {
			dev := attach(t, partitioned(t, 16<<20, script), "-P")
			part := dev + map[string]string{"gpt": "p2", "dos": "p5"}[kind]
			if _, err := os.Stat(part); err != nil {
				// A kernel without parsers of tables takes them from outside.
				out, err := exec.Command("partx", "-a", dev).CombinedOutput()
				t.Logf("partx: %v %s", err, out)
			}
			if _, err := os.Stat(part); err != nil {
				t.Skipf("this kernel makes no partitions on loop devices: %v", err)
			}
			id := blkid(t, part)["PART_ENTRY_UUID"]
			specs := []Spec{{PartUUID, strings.ToUpper(id)}}
			if kind == "gpt" {
				specs = append(specs, Spec{PartLabel, name})
			}
			for _, s := range specs {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				d, err := Find(ctx, s, t.Logf)
				cancel()
				if err != nil || d.Path != part || id == "" {
					t.Errorf("%s: %+v, %v; want %s", s, d, err, part)
				}
			}
		})
	}
}

func TestUevents(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make the kernel send an event")
	}
	u, err := listen()
	if err != nil {
		t.Skipf("no uevents here: %v", err)
	}
	defer u.Close()
	// Writing to uevent makes the kernel send it again.
	if err := os.WriteFile("/sys/class/block/loop0/uevent", []byte("change"), 0); err != nil {
		t.Skipf("no loop0: %v", err)
	}
	select {
	case <-u.wake:
	case <-time.After(5 * time.Second):
		t.Error("no event")
	}
}

func TestParseSpec(t *testing.T) {
	for text, want := range map[string]Spec{
		"/dev/sda1":                     {Path, "/dev/sda1"},
		"/dev//mapper/./a-b":            {Path, "/dev/mapper/a-b"},
		"LABEL=CRASH":                   {Label, "CRASH"},
		"LABEL=a=b c":                   {Label, "a=b c"},
		`LABEL="a b"`:                   {Label, "a b"},
		"UUID=ABCD-0123":                {UUID, "ABCD-0123"},
		"PARTLABEL=x":                   {PartLabel, "x"},
		"PARTUUID=0badcafe-01":          {PartUUID, "0badcafe-01"},
		"/dev/disk/by-uuid/12-34":       {UUID, "12-34"},
		`/dev/disk/by-label/a\x20b\x2g`: {Label, `a b\x2g`},
	} {
		if got, err := ParseSpec(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                        "want /dev/NAME",
		"sda1":                    "want /dev/NAME",
		"/sda1":                   "want /dev/NAME",
		"/dev/../etc/passwd":      "want /dev/NAME",
		"/dev":                    "want /dev/NAME",
		"/dev/a\nb":               "want /dev/NAME",
		"label=x":                 `unknown tag "label"`,
		"LABEL=":                  "empty",
		"LABEL=a\tb":              "control character",
		"UUID=xyz":                "hexadecimal",
		"PARTLABEL=" + pad(37):    "at most 36",
		"LABEL=" + pad(256):       "above 255",
		"/dev/disk/by-id/ata-x":   "no udev",
		"/dev/disk/by-path/pci-0": "no udev",
	} {
		if _, err := ParseSpec(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func pad(n int) string { return strings.Repeat("x", n) }

func TestCauseKeepsErrno(t *testing.T) {
	if _, _, err := openDevice("/nonexistent"); cause(err) != syscall.ENOENT {
		t.Error(err)
	}
	if _, _, err := openDevice("/dev/null"); err == nil || err.Error() != "not a block device" {
		t.Error(err)
	}
}
