// Rawcopy keeps the raw memory of a crash beside the filtered dump.
//
// Tests put it in front of the capture image's init with rdinit=/rawcopy. It
// copies /proc/vmcore to the bare NVMe disk whose serial number is
// rawcopy.serial=, then executes /init as if it had never been there; without
// an /init, or with rawcopy.then=poweroff, it powers the machine off; with
// rawcopy.then=/PROGRAM that comes in /init's place. Where the image has a list of
// modules, they are loaded first.
//
// The core starts at the disk's first byte, pages of zeros are left out (the
// disk is a fresh sparse file), and the last 4096 bytes of the disk say how
// long the core is: "ukdump raw core SIZE\n".
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/modules"
)

const (
	page   = 4096
	window = 4 << 20 // one mapping of /proc/vmcore at a time
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(_ []string, _ io.Reader, _, stderr io.Writer) int {
	undo, err := mounts()
	then := ""
	if err == nil {
		loadModules(stderr)
		then = word("rawcopy.then")
		err = keep(stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "rawcopy: %v\n", err)
	}
	for _, dir := range undo {
		_ = unix.Unmount(dir, 0)
	}
	next := "/init"
	if strings.HasPrefix(then, "/") {
		next = then
	}
	if _, err := os.Stat(next); err == nil && then != "poweroff" {
		err = unix.Exec(next, []string{next}, os.Environ())
		fmt.Fprintf(stderr, "rawcopy: exec %s: %v\n", next, err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	return 1
}

// mounts returns what it has mounted, last first.
func mounts() ([]string, error) {
	var done []string
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		_ = os.MkdirAll(m.dir, 0o755)
		err := unix.Mount(m.fs, m.dir, m.fs, 0, "")
		if err == unix.EBUSY {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("mount %s: %w", m.dir, err)
		}
		done = append([]string{m.dir}, done...)
	}
	return done, nil
}

// word is the value of a word of the kernel command line.
func word(key string) string {
	b, _ := os.ReadFile("/proc/cmdline")
	for w := range strings.FieldsSeq(string(b)) {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}

// loadModules loads what the capture image lists: without, a kernel for bare
// machines sees no disk.
func loadModules(stderr io.Writer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	results, err := modules.LoadFile(ctx, modules.ListPath, modules.Options{PerModule: 10 * time.Second})
	if err != nil {
		fmt.Fprintf(stderr, "rawcopy: %v\n", err)
	}
	for _, r := range results {
		if r.Err != nil && !r.Absent {
			fmt.Fprintf(stderr, "rawcopy: load module %s: %v\n", r.Name(), r.Err)
		}
	}
}

func keep(stderr io.Writer) error {
	serial := word("rawcopy.serial")
	if serial == "" {
		return fmt.Errorf("rawcopy.serial= is not on the kernel command line")
	}
	dev, err := waitDisk(serial, 20*time.Second)
	if err != nil {
		return err
	}
	disk, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	core, err := os.Open("/proc/vmcore")
	if err != nil {
		return err
	}
	defer core.Close()
	start := time.Now()
	size, bad, err := copyCore(disk, core)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "rawcopy: %d bytes to %s in %.1f s, %d pages unreadable\n", size, dev, time.Since(start).Seconds(), bad)
	return nil
}

// waitDisk finds the NVMe namespace of the controller with this serial number.
func waitDisk(serial string, limit time.Duration) (string, error) {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		names, _ := filepath.Glob("/sys/block/nvme*/device/serial")
		for _, name := range names {
			b, _ := os.ReadFile(name)
			if strings.TrimSpace(string(b)) != serial {
				continue
			}
			dev := "/dev/" + strings.Split(name, "/")[3]
			if _, err := os.Stat(dev); err == nil {
				return dev, nil
			}
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("find nvme disk with serial %s: not there after %v", serial, limit)
		}
	}
}

func copyCore(disk, core *os.File) (size int64, bad int, err error) {
	st, err := core.Stat()
	if err != nil {
		return 0, 0, err
	}
	size = st.Size()
	end, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	if end < size+page {
		return 0, 0, fmt.Errorf("copy /proc/vmcore: %d bytes do not fit a disk of %d", size, end)
	}
	buf := make([]byte, window) // the only buffer; reused for each window
	for off := int64(0); off < size; off += window {
		n := int(min(window, size-off))
		bad += readWindow(core, buf[:n], off)
		if err := writeSparse(disk, buf[:n], off); err != nil {
			return size, bad, err
		}
	}
	tail := make([]byte, page)
	copy(tail, fmt.Sprintf("ukdump raw core %d\n", size))
	if _, err := disk.WriteAt(tail, end-page); err != nil {
		return size, bad, err
	}
	return size, bad, disk.Sync()
}

// readWindow fills p from off: at once where it can be mapped, else page by
// page, with zeros for what cannot be read.
func readWindow(core *os.File, p []byte, off int64) (bad int) {
	m, err := unix.Mmap(int(core.Fd()), off, len(p), unix.PROT_READ, unix.MAP_SHARED)
	if err == nil {
		copy(p, m)
		_ = unix.Munmap(m)
		return 0
	}
	for i := 0; i < len(p); i += page {
		part := p[i:min(i+page, len(p))]
		if _, err := core.ReadAt(part, off+int64(i)); err != nil && err != io.EOF {
			clear(part)
			bad++
		}
	}
	return bad
}

// writeSparse writes the runs of p between pages of zeros.
func writeSparse(disk *os.File, p []byte, off int64) error {
	zero := make([]byte, page)
	for i := 0; i < len(p); {
		j := i
		for j < len(p) && !bytes.Equal(p[j:min(j+page, len(p))], zero[:min(page, len(p)-j)]) {
			j += page
		}
		if j > i {
			if _, err := disk.WriteAt(p[i:min(j, len(p))], off+int64(i)); err != nil {
				return err
			}
		}
		i = max(j, i+page)
	}
	return nil
}
