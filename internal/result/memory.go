package result

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Meter watches how much memory is left.
type Meter struct {
	stop chan struct{}
	once sync.Once

	mu    sync.Mutex // guards least
	least int        // KiB; 0: not known
}

// meterStep is the time between two looks; what is short of that is not seen.
const meterStep = 200 * time.Millisecond

// NewMeter starts to look at /proc/meminfo.
func NewMeter() *Meter {
	m := &Meter{stop: make(chan struct{})}
	m.look()
	go func() {
		t := time.NewTicker(meterStep)
		defer t.Stop()
		for {
			select {
			case <-m.stop:
				return
			case <-t.C:
				m.look()
			}
		}
	}()
	return m
}

// Stop ends the watch.
func (m *Meter) Stop() { m.once.Do(func() { close(m.stop) }) }

func (m *Meter) look() {
	n := field("/proc/meminfo", "MemAvailable:")
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > 0 && (m.least == 0 || n < m.least) {
		m.least = n
	}
}

// Memory is what is known by now. before is what others have measured, nil if none have.
func (m *Meter) Memory(before *Memory) *Memory {
	m.look()
	m.mu.Lock()
	defer m.mu.Unlock()
	if before == nil {
		before = &Memory{}
	}
	least := before.LeastAvailableKiB
	if least == 0 || m.least < least {
		least = m.least
	}
	r := &Memory{
		TotalKiB: field("/proc/meminfo", "MemTotal:"), UnpackKiB: before.UnpackKiB,
		LeastAvailableKiB: least, PeakKiB: field("/proc/self/status", "VmHWM:"),
	}
	if f, err := os.Open("/proc/iomem"); err == nil {
		r.SystemKiB = systemRAM(f)
		f.Close()
	}
	r.CrashkernelMiB = Recommend(r.SystemKiB, least, r.UnpackKiB)
	return r
}

// field is the number of a line "NAME  123 kB", 0 if it cannot be had.
func field(file, name string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), name)
	rest, _, _ = strings.Cut(rest, "kB")
	n, _ := strconv.Atoi(strings.TrimSpace(rest))
	return n
}

// systemRAM sums the System RAM of /proc/iomem, in KiB. In a capture kernel that is
// what crashkernel= reserved, less the few KiB of the ELF headers.
func systemRAM(r io.Reader) int {
	var sum uint64
	for s := bufio.NewScanner(r); s.Scan(); {
		at, what, ok := strings.Cut(s.Text(), " : ")
		from, to, ok2 := strings.Cut(at, "-")
		if !ok || !ok2 || what != "System RAM" { // what lies in it is indented
			continue
		}
		a, err := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err == nil && err2 == nil && b > a {
			sum += b - a + 1
		}
	}
	return int(sum >> 10)
}

// Recommend is the crashkernel= in MiB for a capture kernel with system KiB of RAM
// of which least KiB were free at the worst, and which needed unpack KiB to unpack its
// image, 0 if that is not known. It is the larger of what was in use and a
// quarter more, at least 16 MiB, and of what the start took and a bit, in steps of 16.
// 0 if it cannot be told.
func Recommend(system, least, unpack int) int {
	const step, slack = 16 << 10, 4 << 10
	if system <= 0 || least <= 0 || least > system {
		return 0
	}
	used := system - least
	need := max(used+max(used/4, step), unpack+slack)
	return (need + step - 1) / step * step >> 10
}

// AtStart is what is known of the memory before anything but PID 1 runs: how much
// it took to unpack the image. log is the kernel's.
func AtStart(log io.Reader) *Memory {
	r := &Memory{TotalKiB: field("/proc/meminfo", "MemTotal:")}
	if f, err := os.Open("/proc/iomem"); err == nil {
		r.SystemKiB = systemRAM(f)
		f.Close()
	}
	r.UnpackKiB = unpacking(r.SystemKiB, field("/proc/meminfo", "MemAvailable:"), log)
	var root unix.Statfs_t
	if unix.Statfs("/", &root) == nil && root.Type == unix.TMPFS_MAGIC {
		blocks := func(n uint64) int { return int(n * uint64(root.Bsize) >> 10) }
		r.UnpackKiB = max(r.UnpackKiB, rooting(r.SystemKiB, blocks(root.Blocks), blocks(root.Blocks-root.Bfree)))
	}
	return r
}

// unpacking is what of system KiB was in use while the image was there twice, compressed
// and unpacked: what is not available now, unpacked files among it, and what the kernel
// has freed since. It does that when it has unpacked the image (populate_rootfs,
// init/initramfs.c), of which it says "Freeing initrd memory: 7612K", and then with its
// own start (free_initmem). 0 if it cannot be told.
func unpacking(system, available int, log io.Reader) int {
	freed, seen := 0, false
	for s := bufio.NewScanner(log); s.Scan(); {
		_, text, _ := strings.Cut(s.Text(), "Freeing ")
		what, size, ok := strings.Cut(text, " memory: ")
		n, err := strconv.Atoi(strings.TrimSuffix(size, "K"))
		if seen = seen || what == "initrd"; seen && ok && err == nil {
			freed += n
		}
	}
	if !seen || available <= 0 || available > system {
		return 0
	}
	return system - available + freed
}

// rooting is the least of system KiB with which the files fit into the root, which
// takes half of what the kernel had at its start (shmem_default_max_blocks, mm/shmem.c):
// limit KiB, of which used are in use. More files are a "write error" while the image
// is unpacked, and no init. 0 if there is no limit.
func rooting(system, limit, used int) int {
	if limit <= 0 || 2*limit > system {
		return 0
	}
	return system - 2*limit + 2*used
}
