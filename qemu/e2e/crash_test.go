// Package e2e crashes real kernels in virtual machines and looks at what is
// saved. It is all tests.
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

const unique = "appliance log: the unique line 8c6f1d"

// TestCrash makes all crashes, two at a time.
func TestCrash(t *testing.T) {
	l := newLab(t, "6.1", "6.12")
	for _, c := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"success-6.12", func(t *testing.T, l *lab) { testSuccess(t, l, "6.12") }},
		{"success-6.1", func(t *testing.T, l *lab) { testSuccess(t, l, "6.1") }},
		{"no-vmcore", testNoVmcore},
		{"no-disk", testNoDisk},
		{"level-1-does-not-fit", testDegraded},
		{"nothing-fits", testLogOnly},
		{"savecore-killed", testKilled},
		{"corrupt-configuration", testCorrupt},
		{"no-elfcorehdr", testNoCrash},
		{"xfs-by-uuid", testXFS},
		{"vfat-by-partuuid", testVFAT},
		{"btrfs-by-partlabel", testBtrfs},
		{"ext4-by-path-on-virtio", testPath},
		{"raw-partition", testRaw},
		{"baseline", testBaseline},
		{"watchdog-savecore-hangs", testWatchdogBites},
		{"watchdog-armed-and-savecore-slow", testWatchdogWaits},
		{"softdog-savecore-hangs", testSoftdog},
		{"savecore-stands-still", testStall},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, l)
		})
	}
}

// testSuccess is the main job, checked page by page by foreign readers.
func testSuccess(t *testing.T, l *lab, kernel string) {
	res := l.run(t, kernel, setup{
		conf:     "target = disk:///crash?dev=LABEL=CRASH\n",
		programs: []string{"./rawcopy"},
		crash:    rig.Crash{Fill: true, Raw: true, Append: "rawcopy.serial=raw"},
	})
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique, "sysrq: Trigger a crash", "Kernel panic - not syncing: sysrq triggered crash")
	contains(t, dir, "capture.log", "Linux version", "kdump-init: ", "savecore: ")
	want(t, res, "appliance: kdumpctl: ", "kdump-init: done: ")
	checkDmesg(t, l, dir)
	checkPages(t, l, filepath.Join(dir, "vmcore"), res.Raw)
}

// checkDmesg compares vmcore-dmesg.txt with what makedumpfile reads in vmcore.
func checkDmesg(t *testing.T, l *lab, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := filepath.Join(t.TempDir(), "dmesg")
	if _, ok := l.tool(ctx, t, "makedumpfile", "--dump-dmesg", filepath.Join(dir, "vmcore"), out); !ok {
		return
	}
	theirs, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(filepath.Join(dir, "vmcore-dmesg.txt"))
	if err != nil {
		t.Fatal(err)
	}
	// makedumpfile 1.7.8 writes a byte from 0x80 on with its sign: \xffffffc3.
	plain := strings.ReplaceAll(string(theirs), `\xffffff`, `\x`)
	a, b := strings.Split(string(ours), "\n"), strings.Split(plain, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Errorf("kernel log: %d lines, makedumpfile's has %d; line %d:\n%q\n%q", len(a), len(b), i+1, at(a, i), at(b, i))
			return
		}
	}
	t.Logf("kernel log: %d lines, the same as makedumpfile's", len(a))
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

func checkPages(t *testing.T, l *lab, vmcore, raw string) {
	t.Helper()
	c, ok := l.comparePages(t, vmcore, raw, "31")
	if !ok {
		return
	}
	t.Logf("pages: %d of RAM, %d kept, %d compared; makedumpfile keeps %d", c.RAM, c.Kept, c.Compared, c.TheyKeep)
	if c.Kept == 0 || c.Compared != c.Kept {
		t.Errorf("%d pages kept, %d of them compared", c.Kept, c.Compared)
	}
	if c.RAMBits != c.RAM {
		t.Errorf("bitmap 1 has %d pages, the core %d", c.RAMBits, c.RAM)
	}
	if c.Different > 0 {
		t.Errorf("%d pages differ from the raw core: %#x", c.Different, c.WhatDiffers)
	}
	if c.Unreadable > 0 || c.OutsideRAM > 0 || len(c.Hidden) > 0 {
		t.Errorf("%d listed pages unreadable, %d outside of RAM, readable though left out: %#x", c.Unreadable, c.OutsideRAM, c.Hidden)
	}
	if c.OnlyThey > 0 {
		t.Errorf("%d pages left out that makedumpfile keeps: %#x", c.OnlyThey, c.OnlyTheyOf)
	}
	if c.OnlyWe > 0 {
		t.Errorf("%d pages kept that makedumpfile leaves out: %#x", c.OnlyWe, c.OnlyWeOf)
	}
	if c.Level != 31 || c.Status&8 != 0 {
		t.Errorf("header: dump level %d, status %#x", c.Level, c.Status)
	}
}

// testNoVmcore: /proc/vmcore is empty, so the memory is read through /dev/mem.
// Nobody keeps the raw core here; the checks are those of the files.
func testNoVmcore(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Append: "saboteur.vmcore=empty"},
	})
	want(t, res, "/dev/mem")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
	checkDmesg(t, l, dir)
}

// testNoDisk: no target appears, so the log goes to the console.
func testNoDisk(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf: "target = disk:///crash?dev=LABEL=NOSUCH\ndevice-timeout = 5s\n",
	})
	if dirs := res.Directories("crash/*"); len(dirs) != 0 {
		t.Errorf("directories on a disk that was not named: %q", dirs)
	}
	want(t, res, "LABEL=NOSUCH", "kdump-init: FAILED: ")
	printed := 0
	for _, line := range res.Lines {
		if strings.Contains(line.Text, unique) {
			printed++
		}
	}
	if printed < 2 {
		t.Errorf("the kernel log was not printed on the console: the unique line came %d times", printed)
	}
}

// testDegraded: level 1 does not fit, level 31 does.
func testDegraded(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:  "target = disk:///crash?dev=LABEL=CRASH\nlevel = 1\nreserve = 16M\n",
		size:  96 * mib,
		crash: rig.Crash{Fill: true},
	})
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "capture.log", "degraded")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l.tool(ctx, t, "makedumpfile", "--dump-dmesg", filepath.Join(dir, "vmcore"), filepath.Join(t.TempDir(), "dmesg"))
}

// testLogOnly: not even level 31 fits. The log is saved and nothing else is left.
func testLogOnly(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:  "target = disk:///crash?dev=LABEL=CRASH\nlevel = 1\nreserve = 24M\n",
		size:  40 * mib,
		crash: rig.Crash{Fill: true},
	})
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique)
	contains(t, dir, "capture.log", "core not saved")
	want(t, res, "kdump-init: FAILED: ", "only the kernel log saved")
}

// testKilled: savecore dies in mid write. What it has written keeps its name of
// something incomplete.
func testKilled(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.kill=savecore:2097152"},
	})
	want(t, res, "saboteur: kills savecore: <nil>", "killed by SIGKILL", "kdump-init: FAILED: ")
	dir := oneDirectory(t, res)
	got := strings.Join(files(t, dir), " ")
	if !strings.Contains(got, "vmcore-incomplete") || strings.Contains(got+" ", "vmcore ") {
		t.Errorf("files: %s, want vmcore-incomplete and no vmcore", got)
	}
	contains(t, dir, "vmcore-dmesg.txt", unique)
	contains(t, dir, "capture.log", "savecore: killed by SIGKILL")
	contains(t, dir, "result.json", "killed by SIGKILL")
	head := make([]byte, 428)
	f, err := os.Open(filepath.Join(dir, "vmcore-incomplete"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil || head[424]&8 == 0 {
		t.Errorf("vmcore-incomplete: status %#x (%v), want the incomplete bit 8", head[424], err)
	}
}

// testCorrupt: what is wrong in the configuration is said, what is right counts.
// kdumpctl would refuse it, so production loads the capture kernel itself.
func testCorrupt(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf: "target = disk:///crash?dev=LABEL=CRASH\nlevel = many\nno such key\n= 7\ntarget = gopher://old\n" +
			"compress = snappy\nkeep\n\x00\xff\xfe\n[section]\n" + strings.Repeat("x", 5000) + "\n",
		crash: rig.Crash{Load: "self", Append: "kdump.reserve=12Q kdump.= kdump.nonsense kdump.final=explode kdump.workers=1"},
	})
	want(t, res, "warning: ", "level", "12Q", "explode", "kdump-init: done: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
}

// testNoCrash boots the capture image as if it were an ordinary one: no
// elfcorehdr=. Nothing may be touched.
func testNoCrash(t *testing.T, l *lab) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	k, err := l.Kernel("6.1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "target.img")
	if err := disk.Format(ctx, target, 64*mib, disk.FS{Type: "ext4", Label: "CRASH"}); err != nil {
		t.Fatal(err)
	}
	before := hashFile(t, target)
	m, err := vm.Start(ctx, vm.Config{
		Dir: dir, Kernel: k.Vmlinuz, Initrd: l.image("6.1"), Append: "console=ttyS0 panic=10 kdump.target=disk:///crash?dev=LABEL=CRASH",
		Memory: "256M", Disks: []vm.Disk{{Serial: "target", Path: target}}, Extra: []string{"-no-reboot"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if err := m.Done(ctx); err != nil {
		t.Fatalf("%v\n%s", err, m.Tail(40))
	}
	res := &rig.Result{Lines: m.Lines()}
	want(t, res, "this is not a crash boot", "kdump-init: FAILED: ", "reboot: Restarting system")
	if after := hashFile(t, target); after != before {
		t.Error("the target was written to")
	}
	if t.Failed() {
		t.Log(m.Tail(40))
	}
}
