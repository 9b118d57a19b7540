package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/pkg/kexec"
	"github.com/ukdump/ukdump/pkg/netcfg"
)

// A host is the machine that the commands work on. Tests have one in a
// folder, without a kernel below it.
type host struct {
	root      string // put before all paths
	euid      int
	release   string // of the running kernel
	node      string // name of the machine, as the kernel has it
	crashSize func() (uint64, error)
	loaded    func() (bool, error)
	kexecLoad func(kernel, initrd *os.File, cmdline string) error
	unloadAll func() error
	wayTo     func(ctx context.Context, host string) ([]netcfg.Word, error)
}

func realHost() *host {
	h := &host{
		root: "/", euid: os.Geteuid(), crashSize: kexec.CrashSize, loaded: kexec.Loaded,
		kexecLoad: kexec.Load, unloadAll: kexec.Unload, wayTo: netcfg.FromSystem,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.release = unix.ByteSliceToString(u.Release[:])
		h.node = unix.ByteSliceToString(u.Nodename[:])
	}
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

// read reads a small file of /proc or /sys, less its last line end.
func (h *host) read(name string) (string, error) {
	text, err := os.ReadFile(h.path(name))
	return strings.TrimSpace(string(text)), err
}

const errNotRoot kexec.Error = "want root: only it may load a kernel and see physical addresses"

func (h *host) needRoot() error {
	if h.euid != 0 {
		return errNotRoot
	}
	return nil
}

// find opens the first file of a list.
func (h *host) find(what string, names []string) (*os.File, error) {
	for _, name := range names {
		f, err := os.Open(h.path(name))
		if err == nil {
			return f, nil
		}
		if !os.IsNotExist(err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no %s: looked for %s; name one with -%s FILE", what, strings.Join(names, ", "), what)
}

// open opens the file that the user names, or else the first of a list.
func (h *host) open(what, name string, names []string) (f *os.File, err error) {
	if name != "" {
		f, err = os.Open(name)
	} else {
		f, err = h.find(what, names)
	}
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s %s: not a regular file", what, f.Name())
	}
	return f, nil
}

func (h *host) kernels() []string {
	return []string{"/boot/vmlinuz-" + h.release, "/boot/vmlinuz", "/boot/bzImage"}
}

func (h *host) initrds() []string {
	return []string{"/boot/capture-" + h.release + ".cpio.zst", "/boot/capture.cpio.zst"}
}

// reserved is what crashkernel= has reserved, with the ranges if they show.
func (h *host) reserved() (uint64, []kexec.Range, error) {
	size, err := h.crashSize()
	if err != nil {
		return 0, nil, err
	}
	f, err := os.Open(h.path("/proc/iomem"))
	if err != nil {
		return size, nil, nil // the size is what matters
	}
	defer f.Close()
	ranges, err := kexec.Reserved(f)
	return size, ranges, err
}

// usable is what of the reserved memory a capture kernel can use: also a part below
// 4 GiB that comes with crashkernel=SIZE,high, and that size leaves out.
func (h *host) usable(size uint64) uint64 {
	_, ranges, err := h.reserved()
	if err != nil {
		return size
	}
	var sum uint64
	for _, r := range ranges {
		sum += r.Size()
	}
	return max(size, sum)
}

// systemRAM is how much memory the machine has, 0 if that is not known.
func (h *host) systemRAM() uint64 {
	f, err := os.Open(h.path("/proc/iomem"))
	if err != nil {
		return 0
	}
	defer f.Close()
	sum, err := kexec.SystemRAM(f)
	if err != nil {
		return 0
	}
	return sum
}

// memoryChanged says what has become of the memory since load, "" for nothing. The ELF
// headers of the core are made when the capture kernel is loaded; a kernel with
// crash_hotplug (CONFIG_CRASH_HOTPLUG, since Linux 6.6) makes them anew by itself.
func (h *host) memoryChanged(then uint64) string {
	now := h.systemRAM()
	if on, err := h.read("/sys/devices/system/memory/crash_hotplug"); now == then || now == 0 || then == 0 || err == nil && on == "1" {
		return ""
	}
	return fmt.Sprintf("the machine had %s of memory when the capture kernel was loaded, and has %s: a dump would have that of then; want kdumpctl load again",
		mib(then), mib(now))
}
