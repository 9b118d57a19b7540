package kexec

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/internal/cmdline"
)

// An arch is what differs between architectures.
type arch struct {
	add      string // words for a capture kernel
	maxLen   int    // bytes of command line, less what the kernel puts before it
	bootCPUs bool   // more than one CPU needs BootCPUWord
}

// archOf is the table of architectures, by their name in Go.
//
// iomem=relaxed: without /proc/vmcore the old memory is read through /dev/mem, of
// which CONFIG_IO_STRICT_DEVMEM would keep back what the capture kernel calls a
// RAM buffer.
//
// cryptomgr.notests: nothing in a capture kernel waits for proofs of the kernel's
// ciphers, and their self-tests are a tenth of its boot.
//
// rootfstype=ramfs: else the root is a tmpfs of half of the memory that the kernel has
// at its start (init_rootfs, init/do_mounts.c), and a larger image is unpacked in
// part only: "write error".
//
// initcall_blacklist=tracer_init_tracefs: nobody reads trace events in a capture kernel,
// but before Linux 6.6 each of their files is an inode from the start, 7 to 9 MiB in
// all, which are missing while the image is unpacked. Where there is no such function
// the word does nothing.
//
// maxLen on x86: kexec_file_load wants the line with its NUL and 30 bytes for
// elfcorehdr= (MAX_ELFCOREHDR_STR_LEN) in header.cmdline_size, which is
// COMMAND_LINE_SIZE-1 (arch/x86/kernel/kexec-bzimage64.c). Elsewhere a longer
// line is cut without a word.
func archOf(goarch string) arch {
	const everywhere = "nr_cpus=1 reset_devices cgroup_disable=memory panic=10 " +
		"transparent_hugepage=never novmcoredd cma=0 hugetlb_cma=0 iomem=relaxed cryptomgr.notests rootfstype=ramfs " +
		"initcall_blacklist=tracer_init_tracefs"
	switch goarch {
	case "amd64":
		return arch{
			add:      "irqpoll mce=off numa=off acpi_no_memhotplug nokaslr " + everywhere,
			maxLen:   2047 - 30 - 1,
			bootCPUs: true,
		}
	case "arm64":
		return arch{add: "irqpoll " + everywhere, maxLen: 2047} // elfcorehdr is in the device tree
	case "riscv64":
		return arch{add: everywhere, maxLen: 1023 - 30}
	}
	return arch{add: everywhere, maxLen: 2047 - 30}
}

// CaptureCmdline builds the command line of the capture kernel from the one of
// the running kernel and from words of the user. What belongs to the running
// system alone is left out: its root, its memory, its network, its tuning.
// Then come the words a capture kernel needs, then the user's, which win.
// There is always a panic= in it that reboots.
func CaptureCmdline(running, appended string) (string, error) {
	return archOf(runtime.GOARCH).captureCmdline(running, appended)
}

// NeedsBootCPUWord tells whether a capture kernel with this command line wants
// what BootCPUWord returns.
func NeedsBootCPUWord(line string) bool {
	if !archOf(runtime.GOARCH).bootCPUs {
		return false
	}
	cpus := ""
	words, _ := untilDashes(cmdline.Words(line))
	for _, w := range words {
		switch w.Key {
		case "nr_cpus":
			cpus = w.Value
		case "disable_cpu_apicid":
			return false
		}
	}
	return cpus != "1"
}

// ErrTooLong is a command line that the capture kernel would not see all of.
const ErrTooLong Error = "capture kernel command line is too long"

func (a arch) captureCmdline(running, appended string) (string, error) {
	own, rest := untilDashes(cmdline.Words(appended))
	own = lastOfEach(own)
	defaults := cmdline.Words(a.add)
	replaced := func(w cmdline.Word) bool { return contains(own, w.Key) && !accumulates(w.Key) }

	var words []cmdline.Word
	base, _ := untilDashes(cmdline.Words(running))
	for _, w := range withoutProductionsMemory(base) {
		doubled := contains(defaults, w.Key) && !accumulates(w.Key) || slices.Contains(defaults, w) || slices.Contains(own, w)
		if !stripped(w.Key) && !replaced(w) && !doubled {
			words = append(words, w)
		}
	}
	for _, w := range defaults {
		if !replaced(w) {
			words = append(words, w)
		}
	}
	words = slices.Concat(words, own, rest)
	if err := checkPanic(words); err != nil {
		return "", err
	}
	line := cmdline.Join(words)
	if len(line) > a.maxLen {
		return "", fmt.Errorf("%w: %d bytes; want at most %d, so leave words out of the boot line or of -append", ErrTooLong, len(line), a.maxLen)
	}
	return line, nil
}

// withoutProductionsMemory takes out of memmap= what says where memory is, or that there
// is no other: exactmap, SIZE@START, and SIZE, which is mem= (parse_memmap_one,
// arch/x86/kernel/e820.c). The capture kernel would take production's memory for its
// own. What is not memory ($, #, !, %) it must know as well.
func withoutProductionsMemory(words []cmdline.Word) []cmdline.Word {
	var kept []cmdline.Word
	for _, w := range words {
		if w.Key == "memmap" {
			parts := slices.DeleteFunc(strings.Split(w.Value, ","), func(part string) bool { return !strings.ContainsAny(part, "$#!%") })
			if w.Value = strings.Join(parts, ","); w.Value == "" {
				continue
			}
		}
		kept = append(kept, w)
	}
	return kept
}

// untilDashes splits off the word -- and what is behind it, which is for init.
func untilDashes(words []cmdline.Word) (kernel, init []cmdline.Word) {
	if i := slices.Index(words, cmdline.Word{Key: "--"}); i >= 0 {
		return words[:i:i], words[i:]
	}
	return words, nil
}

func contains(words []cmdline.Word, key string) bool {
	return slices.ContainsFunc(words, func(w cmdline.Word) bool { return cmdline.SameKey(w.Key, key) })
}

// lastOfEach leaves the last word of each key that may stand once.
func lastOfEach(words []cmdline.Word) []cmdline.Word {
	var kept []cmdline.Word
	for i, w := range words {
		if isList(w.Key) || accumulates(w.Key) || !contains(words[i+1:], w.Key) {
			kept = append(kept, w)
		}
	}
	return kept
}

// accumulates tells of words that add to each other: those that the user
// gives do not replace those of the running kernel.
func accumulates(key string) bool {
	switch cmdline.Canonical(key) {
	case "console", "earlycon", "earlyprintk", "netconsole", "memmap", "video", "acpi_osi", "pci",
		"module_blacklist", "modprobe.blacklist", "initcall_blacklist", "dyndbg":
		return true
	}
	return false
}

// isList tells of words that may be repeated, and are replaced all together.
func isList(key string) bool {
	switch key {
	case "kdump.target", "kdump.pre", "kdump.post", "kdump.recipient", "kdump.netconfig":
		return true
	}
	return cmdline.IsNetwork(key)
}

// stripped tells of words of the running kernel that have no place in the
// capture kernel.
func stripped(key string) bool {
	key = cmdline.Canonical(key)
	switch key {
	case "BOOT_IMAGE", "initrd", "crashkernel", "elfcorehdr": // of this boot
		return true
	case "root", "rootfstype", "rootflags", "rootwait", "rootdelay", "ro", "rw", "resume", "resume_offset",
		"init", "rdinit", "noinitrd", "systemd.unit": // its userspace
		return true
	case "hugepages", "hugepagesz", "default_hugepagesz", "log_buf_len", "swiotlb", "mem", "movable_node",
		"kernelcore", "movablecore", "slub_debug", "slab_debug", "page_owner", "kasan.mode": // its memory
		return true
	case "ftrace", "trace_event", "trace_buf_size", "trace_instance", "trace_options", "alloc_snapshot",
		"ftrace_boot_snapshot", "kprobe_event", "tp_printk": // its tracing
		return true
	case "maxcpus", "possible_cpus", "isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity": // its CPUs
		return true
	case "panic_on_warn", "panic_on_taint", "panic_on_oops", "crash_kexec_post_notifiers", "quiet", "splash": // its manner
		return true
	}
	for _, prefix := range []string{"rd.lvm", "rd.luks", "rd.md", "sysctl."} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return cmdline.IsNetwork(key)
}

// ErrPanicHangs is panic=0: a capture kernel that fails would stand for ever.
const ErrPanicHangs Error = "the machine would hang where the capture kernel itself fails"

// checkPanic makes sure that a failing capture kernel reboots. Panic is one of
// the kernel's integers: decimal, 0x hexadecimal or 0 octal.
func checkPanic(words []cmdline.Word) error {
	for _, w := range words {
		if w.Key != "panic" {
			continue
		}
		if n, err := strconv.ParseInt(w.Value, 0, 32); err != nil || n == 0 {
			return fmt.Errorf("%v: %w; want panic=SECONDS, or panic=-1 for at once", w, ErrPanicHangs)
		}
	}
	return nil
}
