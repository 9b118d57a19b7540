package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

// stubSocket is a socket for vm.Write, and the argument that has QEMU listen there.
func stubSocket(t *testing.T) (socket string, extra []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "stub") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "gdb")
	return socket, []string{"-gdb", "unix:" + socket + ",server=on,wait=off"}
}

// captureStarts waits for the capture kernel and gives elfcorehdr= of its command
// line. It has then not yet looked at the crashed kernel's headers and notes.
func captureStarts(ctx context.Context, m *vm.Machine) (elfcorehdr uint64, err error) {
	line, _, err := m.Wait(ctx, "Command line: elfcorehdr=")
	if err != nil {
		return 0, err
	}
	_, text, _ := strings.Cut(line.Text, "elfcorehdr=")
	_, err = fmt.Sscan(strings.Fields(text)[0], &elfcorehdr)
	return elfcorehdr, err
}

// testElfcorehdr: what describes the crashed kernel's memory is garbage. Nothing can be
// saved but the log of the capture, which says so.
func testElfcorehdr(t *testing.T, l *lab) {
	socket, extra := stubSocket(t)
	res := l.run(t, "6.1", setup{crash: rig.Crash{Extra: extra, Watch: func(ctx context.Context, m *vm.Machine) error {
		at, err := captureStarts(ctx, m)
		if err != nil {
			return err
		}
		return vm.Write(ctx, socket, vm.Poke{Addr: at, Data: bytes.Repeat([]byte{0xa5}, 4096)})
	}}})
	want(t, res, "kdump-init: FAILED: ", "no core: ", "kdump-init: nothing saved in ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "capture.log", "no core: ")
	contains(t, dir, "result.json", `"saved": "nothing"`)
}

// testVMCOREINFO: the note that tells where everything is in the crashed kernel is gone.
// All of the memory is saved as an ELF file.
func testVMCOREINFO(t *testing.T, l *lab) {
	socket, extra := stubSocket(t)
	res := l.run(t, "6.1", setup{crash: rig.Crash{Extra: extra, Words: "appliance.pause=1", Limit: 8 * time.Minute, Watch: func(ctx context.Context, m *vm.Machine) error {
		line, _, err := m.Wait(ctx, "appliance: ready: VMCOREINFO at ")
		if err != nil {
			return err
		}
		var at, size uint64
		_, text, _ := strings.Cut(line.Text, "VMCOREINFO at ")
		if _, err := fmt.Sscanf(text, "0x%x %x", &at, &size); err != nil {
			return err
		}
		if _, err := captureStarts(ctx, m); err != nil {
			return err
		}
		return vm.Write(ctx, socket, vm.Poke{Addr: at, Data: make([]byte, size)})
	}}})
	want(t, res, "left no VMCOREINFO", "kdump-init: done: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "capture.log", "kernel log not saved: ", "every page, in an ELF core")
	name := filepath.Join(dir, "vmcore")
	complaint, _ := exec.CommandContext(t.Context(), l.vmcore(t), "verify", name).Output()
	if got, want := string(complaint), name+": it has no VMCOREINFO\n"; got != want {
		t.Errorf("vmcore verify: %q, want %q and nothing else", got, want)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := f.Read(magic); err != nil || string(magic) != "\x7fELF" {
		t.Errorf("vmcore begins with %q, %v", magic, err)
	}
}

// testMemMap: before the crash, the page array was written over: in one place with
// garbage, and what it says of the kernel's own text is that it is a process's. Pages of
// which nothing is known are kept, and an array that tells lies is not believed.
func testMemMap(t *testing.T, l *lab) {
	socket, extra := stubSocket(t)
	const (
		vmemmap    = 0xffffea0000000000 // with 4 levels of page tables, not randomized
		structPage = 64
		text, data = 0x1000, 0x3000 // pfns: the kernel is at 16 MiB
		mapping    = 24             // offset in struct page; bit 0 is PAGE_MAPPING_ANON
	)
	garbage, lies := make([]byte, 1024*structPage), make([]byte, 2048*structPage)
	for i := range garbage {
		garbage[i] = byte(i*i>>3 | 0x20)
	}
	for i := mapping; i < len(lies); i += structPage {
		lies[i] = 1
	}
	res := l.run(t, "6.1", setup{crash: rig.Crash{Extra: extra, Words: "appliance.pause=1 nokaslr no5lvl", Limit: 8 * time.Minute, Watch: func(ctx context.Context, m *vm.Machine) error {
		if _, _, err := m.Wait(ctx, "appliance: ready: "); err != nil {
			return err
		}
		return vm.Write(ctx, socket,
			vm.Poke{Addr: vmemmap + text*structPage, Virtual: true, Data: lies},
			vm.Poke{Addr: vmemmap + data*structPage, Virtual: true, Data: garbage})
	}}})
	want(t, res, "kdump-init: done: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: ")
	contains(t, dir, "capture.log", "degraded: ", "every page is kept")
	l.verify(t, filepath.Join(dir, "vmcore"))
	checkDmesg(t, l, dir)
}

// test1970: the machine has no clock.
func test1970(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{crash: rig.Crash{Extra: []string{"-rtc", "base=1970-01-01T00:00:00"}}})
	dir := oneDirectory(t, res)
	if !strings.HasPrefix(filepath.Base(dir), "localhost-19700101T00") {
		t.Errorf("directory %s, want one of 1970", dir)
	}
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "result.json", `"crash_time": "1970-01-01T00:`)
}

// testSameSecond: the clock is the same at two crashes, as it is where it is set to a
// fixed time at each start. Neither dump is in the way of the other.
func testSameSecond(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{crash: rig.Crash{Words: "appliance.crashes=2 appliance.clock=1800000000", Limit: 9 * time.Minute}})
	dirs := res.Directories("crash/*")
	if len(dirs) != 2 {
		t.Fatalf("dump directories: %q, want two", dirs)
	}
	for _, dir := range dirs {
		if !strings.HasPrefix(filepath.Base(dir), "localhost-20270115T08000") {
			t.Errorf("directory %s, want 2027-01-15 08:00:0x", dir)
		}
		checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
		contains(t, dir, "vmcore-dmesg.txt", unique)
	}
}

// testWhileBooting: production crashes again before it has loaded a capture kernel.
// panic= brings it back, and the first dump is what it was.
func testWhileBooting(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{crash: rig.Crash{Words: "appliance.crashes=2 appliance.early=1", Limit: 9 * time.Minute}})
	want(t, res, "the capture kernel would panic; want crashkernel=", "Rebooting in 10 seconds")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	l.verify(t, filepath.Join(dir, "vmcore"))
}

// testSmallest: README says that this reservation is enough for a disk, with the image
// that its example makes.
func testSmallest(t *testing.T, l *lab) {
	conf := "target = disk:///crash?dev=LABEL=CRASH&fstype=ext4\n"
	testReservation(t, l, setup{conf: conf, flags: []string{}, crash: rig.Crash{Fill: true, Reserve: "96M"}})
}

// testSmallestForAny: the image has the modules of four filesystems, since its
// configuration does not say which it will be.
func testSmallestForAny(t *testing.T, l *lab) {
	testReservation(t, l, setup{crash: rig.Crash{Fill: true, Reserve: "112M"}})
}

// testSmallestForRaw: the image needs no filesystem at all.
func testSmallestForRaw(t *testing.T, l *lab) {
	testReservation(t, l, setup{
		conf: "target = raw:///?dev=PARTLABEL=dumps\n", flags: []string{},
		first: disk.Part{Name: "dumps", Size: 256 * mib},
		part:  disk.Part{Name: "data", Size: 512 * mib},
		crash: rig.Crash{Fill: true, Reserve: "96M", Words: "appliance.extract=raw:///?dev=PARTLABEL=dumps"},
	})
}

func testReservation(t *testing.T, l *lab, s setup) {
	t.Helper()
	res := l.run(t, "6.1", s)
	want(t, res, "kdump-init: done: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	checkAdvice(t, dir, s.crash.Reserve)
	l.verify(t, filepath.Join(dir, "vmcore"))
}

// checkAdvice checks that nobody is told to reserve less than what suffices, or that the
// image could be unpacked in 64 MiB: testTooSmall shows that it cannot.
func checkAdvice(t *testing.T, dir, enough string) {
	t.Helper()
	contains(t, dir, "capture.log", "the image needs ", "crashkernel=", "M would do")
	r, err := result.Load(filepath.Join(dir, result.Name))
	if err != nil {
		t.Error(err)
		return
	}
	least := 0
	if _, err := fmt.Sscanf(enough, "%dM", &least); err != nil {
		t.Fatal(err)
	}
	if m := r.Memory; m == nil || m.UnpackKiB <= 64<<10 || m.CrashkernelMiB < least {
		t.Errorf("%s suffices, and 64M do not; result.json: %+v", enough, m)
	}
}

// testTooSmall: the image does not even fit into what is reserved when it is unpacked.
// The capture kernel panics, and panic= brings the machine back.
func testTooSmall(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{crash: rig.Crash{Reserve: "64M"}})
	want(t, res, "the capture kernel would panic; want crashkernel=", "Rebooting in 10 seconds")
	if dirs := res.Directories("crash/*"); len(dirs) > 0 {
		t.Errorf("directories: %q", dirs)
	}
}
