package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

// TestFaults makes crashes in which something breaks on this side of the network, and
// checks that the machine comes back, that nothing looks whole that is not, and that
// what happened can be read afterwards. doc/reliability.md has the table.
//
// Faults that TestCrash makes are not made again: no disk, a full disk, savecore killed
// with no other target, no crash, a corrupt configuration, no /proc/vmcore, watchdogs.
func TestFaults(t *testing.T) {
	l := newLab(t, "6.1", "6.12")
	for _, c := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"savecore-oom-killed", testOOM},
		{"savecore-panics", testPanic},
		{"savecore-aborts", testAbort},
		{"savecore-for-ever", testGlobalDeadline},
		{"final-poweroff", testPowerOff},
		{"final-halt", testHalt},
		{"failure-poweroff", testFailurePowerOff},
		{"failure-halt", testFailureHalt},
		{"shell-and-nobody-there", testShell},
		{"shell-and-somebody-there", testShellUsed},
		{"init-panics", testInitPanics},
		{"disk-full-in-mid-write", testFull},
		{"disk-removed-in-mid-write", testRemoved},
		{"disk-fails-in-mid-write", testIOErrors},
		{"disk-stuck-in-mid-write", testStuck},
		{"ext4-journal-corrupt", testJournal},
		{"disk-read-only", testReadOnly},
		{"elfcorehdr-corrupt", testElfcorehdr},
		{"vmcoreinfo-wiped", testVMCOREINFO},
		{"mem_map-corrupt", testMemMap},
		{"clock-in-1970", test1970},
		{"two-crashes-in-a-second", testSameSecond},
		{"crash-while-booting", testWhileBooting},
		{"smallest-reservation", testSmallest},
		{"smallest-reservation-for-any-filesystem", testSmallestForAny},
		{"smallest-reservation-for-raw", testSmallestForRaw},
		{"reservation-too-small", testTooSmall},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, l)
		})
	}
}

// enough is how much of vmcore-incomplete is on the disk when the fault comes.
const enough = ":2097152"

// twice is a plan whose second attempt goes to the same disk as the first.
const twice = "target = disk:///first?dev=LABEL=CRASH\ntarget = disk:///crash?dev=LABEL=CRASH\n"

// nextDir checks that the attempt after the fault saved all, with the words why in its
// capture.log, and that result.json has the failed attempt.
func nextDir(t *testing.T, l *lab, res *rig.Result, why ...string) string {
	t.Helper()
	want(t, res, "kdump-init: done: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique)
	contains(t, dir, "capture.log", why...)
	contains(t, dir, "result.json", `"saved": "all"`, `"error": `)
	l.verify(t, filepath.Join(dir, "vmcore"))
	return dir
}

// notWhole checks what the attempt that failed left: at most a part of the core, under
// the name of one.
func notWhole(t *testing.T, root string) {
	t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(root, "*-????????T??????Z-????"))
	for _, dir := range dirs {
		if names := files(t, dir); slices.Contains(names, "vmcore") {
			t.Errorf("the failed attempt left %q", names)
		}
	}
	if len(dirs) == 0 {
		t.Errorf("the failed attempt left nothing, want its kernel log")
	}
}

// logThere checks that the kernel log in the only directory below root is whole.
func logThere(t *testing.T, root string) {
	t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(root, "*-????????T??????Z-????"))
	if len(dirs) != 1 {
		t.Errorf("directories %q, want one", dirs)
		return
	}
	contains(t, dirs[0], "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
}

// testOOM: something takes all memory, and the kernel kills savecore for it.
func testOOM(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf: twice, programs: []string{"./saboteur"},
		crash: rig.Crash{Fill: true, Append: "saboteur.eat=savecore" + enough},
	})
	want(t, res, "saboteur: eats savecore: <nil>", "Out of memory: Killed process", "killed by SIGKILL")
	nextDir(t, l, res, "Out of memory: Killed process", "savecore: killed by SIGKILL")
	notWhole(t, filepath.Join(res.Tree, "first"))
	logThere(t, filepath.Join(res.Tree, "first"))
}

// testPanic: a goroutine calls a function that is not there. What the runtime says of
// it is in the log of the capture.
func testPanic(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf: twice, programs: []string{"./saboteur"},
		crash: rig.Crash{Fill: true, Append: "saboteur.crash=savecore" + enough},
	})
	want(t, res, "saboteur: crashs savecore: <nil>")
	nextDir(t, l, res, "SIGSEGV", "goroutine ", "savecore: exit status 2")
	notWhole(t, filepath.Join(res.Tree, "first"))
	logThere(t, filepath.Join(res.Tree, "first"))
}

// testAbort: the Go runtime gives up.
func testAbort(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{
		conf: twice, programs: []string{"./saboteur"},
		crash: rig.Crash{Fill: true, Append: "saboteur.abort=savecore" + enough},
	})
	want(t, res, "saboteur: aborts savecore: <nil>")
	nextDir(t, l, res, "SIGABRT", "goroutine ", "savecore: exit status 2")
	notWhole(t, filepath.Join(res.Tree, "first"))
	logThere(t, filepath.Join(res.Tree, "first"))
}

// testGlobalDeadline: savecore stands still for less than would end it, and the deadline
// of everything comes first.
func testGlobalDeadline(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:     "target = disk:///crash?dev=LABEL=CRASH\ntimeout = 75s\nattempt-timeout = 75s\nstall-timeout = 20m\n",
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.stop=savecore" + enough, Limit: 6 * time.Minute},
	})
	want(t, res, "saboteur: stops savecore: <nil>", "kdump-init: not done after ", "kdump-init: FAILED: ")
	notWhole(t, filepath.Join(res.Tree, "crash"))
	logThere(t, filepath.Join(res.Tree, "crash"))
}

// testInitPanics: PID 1 itself is ended by the Go runtime. The kernel panics, and
// panic= on its command line brings the machine back.
func testInitPanics(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.abort=init" + enough},
	})
	want(t, res, "saboteur: aborts init: <nil>", "Kernel panic - not syncing: Attempted to kill init!")
	if line, ok := res.Said("kdump-init: done: "); ok {
		t.Errorf("PID 1 was not ended: %s", line)
	}
	notWhole(t, filepath.Join(res.Tree, "crash"))
	logThere(t, filepath.Join(res.Tree, "crash"))
}

// spare is a plan whose first attempt goes to another disk, labelled FIRST.
const spare = "target = disk:///crash?dev=LABEL=FIRST\ntarget = disk:///crash?dev=LABEL=CRASH\nstall-timeout = 20s\n"

// first makes that disk; its filesystem's label is FIRST.
func first(t *testing.T) vm.Disk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "first.img")
	if err := disk.Format(ctx, path, 256*mib, disk.FS{Type: "ext4", Label: "FIRST"}); err != nil {
		t.Fatal(err)
	}
	return vm.Disk{Serial: "first", Path: path}
}

// firstTree is what is on that disk afterwards.
func firstTree(t *testing.T, d vm.Disk) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := disk.Repair(ctx, d.Path); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := disk.Extract(ctx, d.Path, "/crash", dir); err != nil {
		t.Error(err)
	}
	return filepath.Join(dir, "crash")
}

// testFull: the disk fills up while savecore writes to it.
func testFull(t *testing.T, l *lab) {
	d := first(t)
	res := l.run(t, "6.1", setup{
		conf: spare, programs: []string{"./saboteur"},
		crash: rig.Crash{Fill: true, Append: "saboteur.fill=/mnt" + enough, Disks: []vm.Disk{d}},
	})
	want(t, res, "saboteur: fills /mnt: <nil>")
	nextDir(t, l, res, "core not saved: ", "no space left on ")
	notWhole(t, firstTree(t, d))
	logThere(t, firstTree(t, d))
}

// testRemoved: the disk goes away while savecore writes to it. The kernel may keep the
// writer waiting for pages that nobody writes any more: then it is ended.
func testRemoved(t *testing.T, l *lab) {
	d := first(t)
	res := l.run(t, "6.1", setup{
		conf: spare, programs: []string{"./saboteur"},
		crash: rig.Crash{Fill: true, Append: "saboteur.remove=first" + enough, Disks: []vm.Disk{d}},
	})
	want(t, res, "saboteur: removes first: <nil>")
	nextDir(t, l, res, "I/O error")
	_, failed := res.Said("core not saved: ")
	if _, stuck := res.Said("kdump-init: nothing moved for 20s, told to end"); !failed && !stuck {
		t.Error("savecore neither failed nor was ended")
	}
	notWhole(t, firstTree(t, d))
	logThere(t, firstTree(t, d))
}

// testIOErrors: from some write on, every one fails.
func testIOErrors(t *testing.T, l *lab) {
	d := first(t)
	d.Errors = filepath.Join(t.TempDir(), "errors")
	var rules strings.Builder
	const good = 60 // writes; the kernel log takes some thirty
	for i := 1; i <= good; i++ {
		fmt.Fprintf(&rules, "[set-state]\nstate = \"%d\"\nevent = \"write_aio\"\nnew_state = \"%d\"\n", i, i+1)
	}
	fmt.Fprintf(&rules, "[inject-error]\nstate = \"%d\"\nevent = \"write_aio\"\niotype = \"write\"\nerrno = \"5\"\nonce = \"off\"\n", good+1)
	if err := os.WriteFile(d.Errors, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	res := l.run(t, "6.1", setup{conf: spare, crash: rig.Crash{Fill: true, Disks: []vm.Disk{d}}})
	want(t, res, "I/O error")
	nextDir(t, l, res, "core not saved: ", "input/output error")
	notWhole(t, firstTree(t, d))
	logThere(t, firstTree(t, d))
}

// testStuck: the disk does not answer any more, and what waits for it cannot be killed.
// The attempt is left behind, the next one saves all, and the machine reboots although
// the disk never answers.
func testStuck(t *testing.T, l *lab) {
	d := first(t)
	d.Bus = "virtio" // whose driver waits for ever
	res := l.run(t, "6.1", setup{
		conf: spare,
		crash: rig.Crash{Fill: true, Disks: []vm.Disk{d}, Limit: 9 * time.Minute, Watch: func(ctx context.Context, m *vm.Machine) error {
			if _, _, err := m.Wait(ctx, "saved vmcore-dmesg.txt"); err != nil {
				return err
			}
			return throttle(ctx, m, "disk4")
		}},
	})
	nextDir(t, l, res, "does not die, left behind")
	notWhole(t, firstTree(t, d))
	logThere(t, firstTree(t, d))
}

// throttle lets a disk write one byte a second.
func throttle(ctx context.Context, m *vm.Machine, drive string) error {
	q, err := m.Monitor(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	_, err = q.Execute(ctx, "block_set_io_throttle", map[string]any{
		"device": drive, "bps": 0, "bps_rd": 0, "bps_wr": 1, "iops": 0, "iops_rd": 0, "iops_wr": 0})
	return err
}

// testJournal: the first disk's journal is garbage, so that it cannot be mounted.
func testJournal(t *testing.T, l *lab) {
	d := first(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := disk.BreakJournal(ctx, d.Path); err != nil {
		t.Fatal(err)
	}
	res := l.run(t, "6.1", setup{conf: spare, crash: rig.Crash{Disks: []vm.Disk{d}}})
	nextDir(t, l, res, "target: mount disk:///crash?dev=LABEL=FIRST: ", "see the kernel's log", "journal")
}

// testReadOnly: the first disk is write-protected.
func testReadOnly(t *testing.T, l *lab) {
	d := first(t)
	d.ReadOnly, d.Bus = true, "virtio" // NVMe does not tell
	before := hashFile(t, d.Path)
	res := l.run(t, "6.1", setup{conf: spare, crash: rig.Crash{Disks: []vm.Disk{d}}})
	nextDir(t, l, res, "target: mount disk:///crash?dev=LABEL=FIRST: ", "the device is write-protected")
	if hashFile(t, d.Path) != before {
		t.Error("the disk was written to")
	}
}
