// Package kexec loads a capture kernel into the memory that crashkernel= has
// reserved, and knows what its command line must be.
//
// Start with CrashSize: where it is 0 nothing can be loaded. Then
// CaptureCmdline, then Load. The package uses kexec_file_load(2) only, with
// which the kernel makes elfcorehdr= and checks signatures itself; it has no
// purgatory of its own for kexec_load(2).
package kexec

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is an error that callers may test for.
type Error string

func (e Error) Error() string { return string(e) }

// Flags of kexec_file_load(2), include/uapi/linux/kexec.h.
const (
	kexecFileUnload      = 0x1
	kexecFileOnCrash     = 0x2
	kexecFileNoInitramfs = 0x4
)

// Load loads a capture kernel in place of one that may be loaded. initrd may
// be nil. The kernel drops the old one first: after an error none is loaded.
func Load(kernel, initrd *os.File, cmdline string) error {
	flags, initrdFd := kexecFileOnCrash, -1
	if initrd == nil {
		flags |= kexecFileNoInitramfs
	} else {
		initrdFd = int(initrd.Fd())
	}
	err := unix.KexecFileLoad(int(kernel.Fd()), initrdFd, cmdline, flags)
	runtime.KeepAlive(kernel)
	runtime.KeepAlive(initrd)
	if err != nil {
		return fmt.Errorf("kexec_file_load %s: %w: %s", kernel.Name(), err, explain(err, kernel, initrd))
	}
	return nil
}

// Unload takes the capture kernel out again. There being none is no error.
func Unload() error {
	err := unix.KexecFileLoad(-1, -1, "", kexecFileOnCrash|kexecFileUnload)
	if err != nil {
		return fmt.Errorf("kexec_file_load: unload: %w: %s", err, explain(err, nil, nil))
	}
	return nil
}

// explain says what an error of kexec_file_load means: kernel/kexec_file.c and
// arch/*/kernel/*kexec* of Linux. The files may be nil.
func explain(err error, kernel, initrd *os.File) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return "unexpected error"
	}
	switch errno {
	case unix.ENOSYS:
		return "this kernel has no kexec_file_load: want one with CONFIG_KEXEC_FILE, for ukdump does not use the older kexec_load"
	case unix.EPERM:
		return forbidden("/")
	case unix.EBUSY:
		return "another program is loading a kernel right now: try again"
	case unix.ENOEXEC:
		return "not a kernel image that this kernel can start: want a bzImage on x86, an Image on arm64 and riscv64"
	case unix.ENOMEM, unix.EADDRNOTAVAIL:
		return tooSmall(kernel, initrd)
	case unix.EKEYREJECTED, unix.ENOKEY, unix.ENODATA, unix.EBADMSG, unix.ENOPKG, unix.ELIBBAD:
		return "its signature is missing or not trusted, and this kernel demands one (Secure Boot or CONFIG_KEXEC_SIG_FORCE)"
	case unix.EINVAL:
		return "the kernel does not take the image or the command line (too long?): see the kernel log"
	}
	return "see the kernel log"
}

// forbidden looks for the reason of EPERM below root, "/" but in tests.
func forbidden(root string) string {
	if text, err := os.ReadFile(root + "proc/sys/kernel/kexec_load_disabled"); err == nil && strings.TrimSpace(string(text)) == "1" {
		return "kernel.kexec_load_disabled is 1, which lasts until the next boot: load the capture kernel before it is set"
	}
	text, err := os.ReadFile(root + "sys/kernel/security/lockdown")
	if err == nil && !strings.Contains(string(text), "[none]") {
		return "the kernel is locked down (" + strings.TrimSpace(string(text)) + "): want a signed kernel image, or no lockdown"
	}
	return "want root with CAP_SYS_BOOT, kernel.kexec_load_disabled=0 and no lockdown"
}

// tooSmall says how large the reservation is and how large it might be.
func tooSmall(kernel, initrd *os.File) string {
	text := "the reserved memory is too small"
	reserved, err := CrashSize()
	if err != nil {
		return text
	}
	var initrdSize int64
	if initrd != nil {
		if st, err := initrd.Stat(); err == nil {
			initrdSize = st.Size()
		}
	}
	want := max(Estimate(kernelSize(kernel), initrdSize), RoundUp(int64(reserved)+32<<20))
	return fmt.Sprintf("%s: %d MiB are reserved, the initramfs has %.1f MiB; want crashkernel=%dM or more on the boot line",
		text, reserved>>20, float64(initrdSize)/(1<<20), want>>20)
}

func kernelSize(kernel *os.File) int64 {
	if kernel == nil {
		return 0
	}
	if info, err := ReadImage(kernel); err == nil {
		return info.RunSize
	}
	return 0
}

// Estimate is about how much memory to reserve for a kernel that takes runSize
// bytes (0: not known) and a compressed initramfs: while that is unpacked it
// takes three times its size, and the rest needs 48 MiB.
func Estimate(runSize, initrd int64) int64 {
	const usual, rest = 64 << 20, 48 << 20
	if runSize == 0 {
		runSize = usual
	}
	return RoundUp(runSize + 3*initrd + rest)
}

// RoundUp goes to the next 16 MiB, the steps in which a size is recommended.
func RoundUp(n int64) int64 {
	const unit = 16 << 20
	return (n + unit - 1) / unit * unit
}
