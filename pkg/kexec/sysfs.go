package kexec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// ErrNoKexec is a kernel that cannot load a capture kernel.
const ErrNoKexec Error = "no crash kexec: want a kernel with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP, and /sys mounted"

// CrashSize is how many bytes crashkernel= has reserved; 0: none. On x86 what
// is reserved below 4 GiB beside a larger part above is not in it.
func CrashSize() (uint64, error) {
	return number("/sys/kernel/kexec_crash_size")
}

// Loaded tells whether a capture kernel is loaded.
func Loaded() (bool, error) {
	n, err := number("/sys/kernel/kexec_crash_loaded")
	return n != 0, err
}

func number(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: %w", err, ErrNoKexec)
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return n, nil
}

// Range is a range of physical memory, both ends included, as in /proc/iomem.
type Range struct{ Start, End uint64 }

func (r Range) String() string { return fmt.Sprintf("%#x-%#x", r.Start, r.End) }

// Size is its size in bytes.
func (r Range) Size() uint64 { return r.End - r.Start + 1 }

// Reserved reads the ranges named "Crash kernel" of a /proc/iomem. Who is not
// root sees zeros there, and gets none.
func Reserved(iomem io.Reader) ([]Range, error) {
	return ranges(iomem, func(name string) bool { return strings.TrimSpace(name) == "Crash kernel" })
}

// SystemRAM is how many bytes of memory a /proc/iomem has, with what was added
// later: "System RAM", and below its device "System RAM (virtio_mem)".
func SystemRAM(iomem io.Reader) (uint64, error) {
	all, err := ranges(iomem, func(name string) bool { return strings.HasPrefix(name, "System RAM") })
	var sum, end uint64
	for _, r := range all {
		if r.Start >= end { // else it lies in the one before
			sum += r.Size()
			end = r.End + 1
		}
	}
	return sum, err
}

// ranges reads those of a /proc/iomem whose names are wanted.
func ranges(iomem io.Reader, wanted func(name string) bool) ([]Range, error) {
	var ranges []Range
	s := bufio.NewScanner(iomem)
	for s.Scan() {
		addrs, name, ok := strings.Cut(s.Text(), " : ")
		if !ok || !wanted(name) {
			continue
		}
		start, end, ok := strings.Cut(strings.TrimSpace(addrs), "-")
		if !ok {
			continue
		}
		a, err1 := strconv.ParseUint(start, 16, 64)
		b, err2 := strconv.ParseUint(end, 16, 64)
		if err1 != nil || err2 != nil || b <= a {
			continue
		}
		ranges = append(ranges, Range{a, b})
	}
	return ranges, s.Err()
}

// BootCPUWord returns the word disable_cpu_apicid=N that a capture kernel on
// x86 needs if it shall start more than one CPU: to start the one that the
// firmware booted on from another would reset the machine. cpuinfo is
// /proc/cpuinfo; "" where it does not tell. Kernels find out by themselves
// since Linux 6.9 and pass the word over.
func BootCPUWord(cpuinfo io.Reader) string {
	s := bufio.NewScanner(cpuinfo)
	s.Buffer(nil, 64<<10) // the line of flags is long
	processor := ""
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			processor = value
		case "initial apicid":
			if _, err := strconv.ParseUint(value, 10, 32); processor == "0" && err == nil {
				return "disable_cpu_apicid=" + value
			}
		}
	}
	return ""
}
