package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// crash has a thread that runs call address 0: in a Go program a function that is nil
// was called, in whatever goroutine that is.
func crash(name string) error {
	pid, err := find(name)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	for range 1000 {
		tid, ok := running(pid)
		if !ok {
			time.Sleep(time.Millisecond)
			continue
		}
		return jump(tid)
	}
	return fmt.Errorf("no thread of %s runs", name)
}

// running gives a thread that is in state R, its third field of /proc/PID/stat.
func running(pid int) (tid int, ok bool) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, name := range names {
		b, _ := os.ReadFile(name)
		if _, rest, _ := strings.Cut(string(b), ") "); strings.HasPrefix(rest, "R") {
			tid, err := strconv.Atoi(strings.Split(name, "/")[4])
			return tid, err == nil
		}
	}
	return 0, false
}

func jump(tid int) error {
	if err := unix.PtraceSeize(tid); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return err
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err != nil {
		return err
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Rsp -= 8 // as a call does
	if _, err := unix.PtracePokeData(tid, uintptr(regs.Rsp), binary.LittleEndian.AppendUint64(nil, regs.Rip)); err != nil {
		return err
	}
	regs.Rip = 0
	if err := unix.PtraceSetRegs(tid, &regs); err != nil {
		return err
	}
	return unix.PtraceDetach(tid)
}

// eat takes memory until the kernel has killed the process: this one it spares.
func eat(name string) error {
	pid, err := find(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return err
	}
	const bite = 256 << 10
	taken := 0
	for alive(pid) {
		m, err := unix.Mmap(-1, 0, bite, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			return fmt.Errorf("after %d KiB: %w", taken>>10, err)
		}
		m[0] = 1
		taken += bite
	}
	return nil // and with the process all of it is given back
}

// alive is false once the process has no memory any more.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	return err == nil && !strings.HasPrefix(string(b), "0 ")
}

// fill leaves no room on the filesystem of a folder.
func fill(dir string) error {
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		return err
	}
	defer f.Close()
	for step := int64(64 << 20); step >= 4096; {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		if err := unix.Fallocate(int(f.Fd()), 0, st.Size, step); err != nil {
			step /= 2
		}
	}
	return nil
}

// remove takes an NVMe disk out of the machine, as far as the kernel is concerned.
func remove(serial string) error {
	names, _ := filepath.Glob("/sys/block/nvme*/device/serial")
	for _, name := range names {
		if b, _ := os.ReadFile(name); strings.TrimSpace(string(b)) == serial {
			return os.WriteFile(filepath.Join(filepath.Dir(name), "device/remove"), []byte("1"), 0)
		}
	}
	return fmt.Errorf("no disk %s", serial)
}
