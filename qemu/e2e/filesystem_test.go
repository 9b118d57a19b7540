package e2e

import (
	"path/filepath"
	"testing"

	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
)

const (
	someUUID     = "6a1c2f0e-3f7b-4c39-9c7f-2d1f0f5f6a11"
	somePartUUID = "0f3a6f5c-8d1b-4a77-b2f5-9a7d4c2e1b22"
)

// testFS saves to a filesystem that the configuration names in one of the ways.
func testFS(t *testing.T, l *lab, conf string, s setup) {
	t.Helper()
	s.conf = conf
	res := l.run(t, "6.1", s)
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique)
	checkDmesg(t, l, dir)
}

func testXFS(t *testing.T, l *lab) {
	testFS(t, l, "target = disk:///crash?dev=UUID="+someUUID+"\n", setup{
		size: 512 * mib, fs: disk.FS{Type: "xfs", UUID: someUUID},
	})
}

func testVFAT(t *testing.T, l *lab) {
	testFS(t, l, "target = disk:///crash?dev=PARTUUID="+somePartUUID+"\n", setup{
		fs: disk.FS{Type: "vfat"}, part: disk.Part{UUID: somePartUUID, Size: 512 * mib},
	})
}

func testBtrfs(t *testing.T, l *lab) {
	testFS(t, l, "target = disk:///crash?dev=PARTLABEL=crash%20dumps&fstype=btrfs\n", setup{
		fs: disk.FS{Type: "btrfs"}, part: disk.Part{Name: "crash dumps", Size: 512 * mib},
	})
}

// testPath has the disk on a bus whose driver is a module of this kernel.
func testPath(t *testing.T, l *lab) {
	testFS(t, l, "target = disk:///crash?dev=/dev/vda&fstype=ext4&opts=noatime\n", setup{
		crash: rig.Crash{Target: &rig.Target{Bus: "virtio"}},
	})
}

// testRaw dumps to a partition without a filesystem. Production takes the dump from
// there and finds it taken afterwards.
func testRaw(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:     "target = raw:///?dev=PARTLABEL=dumps\n",
		programs: []string{"./rawcopy"},
		first:    disk.Part{Name: "dumps", Size: 512 * mib},
		part:     disk.Part{Name: "data", Size: 512 * mib},
		crash: rig.Crash{
			Fill: true, Raw: true, Append: "rawcopy.serial=raw",
			Words: "appliance.extract=raw:///?dev=PARTLABEL=dumps",
		},
	})
	want(t, res, "savecore: PARTLABEL=dumps is /dev/nvme", "kdump-init: done: ", "marked as taken", "nothing to take from raw:")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique)
	checkDmesg(t, l, dir)
	checkPages(t, l, filepath.Join(dir, "vmcore"), res.Raw)
}
