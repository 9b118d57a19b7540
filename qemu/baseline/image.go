// Package baseline is what ukdump is measured against: a capture image of busybox
// and makedumpfile with a shell script, as many appliances carry it.
package baseline

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ukdump/ukdump/initramfs/cpio"
)

const libs = "usr/lib/x86_64-linux-gnu"

// Options of Script are those of makedumpfile, for instance "-l -d 31".
// The dump goes to the ext4 filesystem of the disk with the serial number
// "target", as one file: no names, no checks, no log.
func script(options string) string {
	return `#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
try=0
while [ $try -lt 200 ]; do
	for s in /sys/block/nvme*/device/serial; do
		if [ "$($b cat $s)" = "target              " ] || [ "$($b cat $s)" = target ]; then
			d=${s#/sys/block/}
			d=/dev/${d%%/*}
		fi
	done
	[ -z "$d" ] || break
	try=$((try + 1))
	$b usleep 50000
done
$b mount -t ext4 $d /mnt && makedumpfile ` + options + ` /proc/vmcore /mnt/vmcore >/dev/null 2>/mnt/errors && $b sync && echo "baseline: saved"
$b umount /mnt
$b reboot -f
`
}

// Image returns the files of the capture image. tools is the tree that
// qemu/fetch made; options are makedumpfile's.
func Image(tools, options string) (*cpio.Archive, error) {
	a := new(cpio.Archive)
	add := func(e cpio.Entry) error {
		if _, there := a.Get(e.Name); there {
			return nil
		}
		return a.Add(e)
	}
	for _, e := range []cpio.Entry{
		{Name: "dev/console", Mode: cpio.CharDev | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: cpio.CharDev | 0o666, Major: 1, Minor: 3},
		{Name: "proc", Mode: cpio.Dir | 0o755}, {Name: "sys", Mode: cpio.Dir | 0o755}, {Name: "mnt", Mode: cpio.Dir | 0o755},
		{Name: "tmp", Mode: cpio.Dir | 0o1777},
		{Name: "init", Mode: cpio.Regular | 0o755, Data: []byte(script(options))},
	} {
		if err := add(e); err != nil {
			return nil, err
		}
	}
	if err := addProgram(tools, "usr/bin/busybox", "bin/busybox", add); err != nil {
		return nil, err
	}
	return a, addProgram(tools, "usr/bin/makedumpfile", "bin/makedumpfile", add)
}

// addProgram adds a program, its dynamic linker and the libraries it needs.
func addProgram(tools, from, name string, add func(cpio.Entry) error) error {
	path := filepath.Join(tools, from)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := add(cpio.Entry{Name: name, Mode: cpio.Regular | 0o755, Data: b}); err != nil {
		return err
	}
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interp := make([]byte, p.Filesz)
		if _, err := p.ReadAt(interp, 0); err != nil {
			return err
		}
		linker := strings.Trim(string(interp), "\x00/")
		if err := addLibrary(tools, filepath.Base(linker), linker, add); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, lib := range needed {
		if err := addLibrary(tools, lib, "lib/"+lib, add); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	return nil
}

func addLibrary(tools, lib, name string, add func(cpio.Entry) error) error {
	return addProgram(tools, libs+"/"+lib, name, add)
}
