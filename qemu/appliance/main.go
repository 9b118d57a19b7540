// Appliance is PID 1 of the production machine in the tests: a system with no
// distribution in userspace.
//
// What it does is said on the kernel command line:
//
//	appliance.load=PROGRAM   how the capture kernel is loaded: kdumpctl, self or none (default kdumpctl)
//	appliance.append="WORDS" appended to the capture kernel's command line
//	appliance.fill=no        do not fill the memory before the crash
//	appliance.watchdog=N     arm the watchdogs before the crash, to bite after N seconds, and feed them no more
//	appliance.clock=SECONDS  set the clock to that time since 1970 before each crash
//	appliance.crashes=N      how often it crashes; 1 if it is not there
//	appliance.early=1        from the second crash on, crash before a capture kernel is loaded
//	appliance.pause=1        before the crash, say where VMCOREINFO is and do nothing for 3 s
//	appliance.grow=MIB       before that, wait until the host has added that much memory
//	appliance.shrink=MIB     then, wait until the host has taken that much away
//	appliance.offline=1      then, take one block of memory out of use
//	appliance.target=SERIAL  disk that the dump is looked for on after the crash
//	appliance.part=N         its partition; none: the whole disk
//	appliance.fstype=TYPE    its filesystem (default ext4)
//	appliance.extract=URL    raw:// partition that savecore takes to the target first
//
// On the first boot it fills memory with pages of every class, loads the
// capture kernel and crashes. The bare NVMe disk "state" remembers that, so on
// the second boot it lists what is on the target, writes it as a tar archive
// to the bare NVMe disk "export" and powers off. Lines for the tests begin
// with "appliance: ".
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	kcmdline "github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/watchdog"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "idle":
			return idle(args[1:])
		case "poison":
			return poison(strings.Join(args[1:], " "), stderr)
		}
	}
	a := &appliance{out: stdout}
	if err := a.mounts(); err != nil {
		a.say("failed: %v", err)
	} else if err := a.boot(); err != nil {
		a.say("failed: %v", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	return 1
}

// idle sleeps under a name of its own.
func idle(args []string) int {
	if len(args) > 0 {
		_ = os.WriteFile("/proc/self/comm", []byte(args[0]), 0)
	}
	for {
		time.Sleep(time.Hour)
	}
}

type appliance struct {
	out   io.Writer // /dev/kmsg, where a line is never torn by the kernel's own
	words map[string]string
	hoard hoard
}

func (a *appliance) say(format string, v ...any) {
	fmt.Fprintf(a.out, "appliance: "+format+"\n", v...)
}

func (a *appliance) boot() error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	a.words = map[string]string{}
	for _, w := range kcmdline.Words(string(cmdline)) {
		a.words[w.Key] = w.Value
	}
	a.loadModules()
	state, err := disk("state")
	if err != nil {
		return err
	}
	b := make([]byte, page)
	f, err := os.OpenFile(state, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	crashed, wanted := 0, 1
	_, _ = fmt.Sscanf(string(b), "crashed %d\n", &crashed)
	_, _ = fmt.Sscan(a.words["appliance.crashes"], &wanted)
	if crashed >= wanted {
		a.say("production is back")
		return a.after()
	}
	a.say("production is up")
	copy(b, fmt.Sprintf("crashed %d\n", crashed+1))
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	if crashed > 0 && a.words["appliance.early"] != "" {
		return a.trigger()
	}
	return a.crash()
}

func (a *appliance) mounts() error {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		_ = os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0); err != nil {
		return err
	}
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	a.out = out
	return nil
}

// loadModules loads what the image lists, and what the target's filesystem
// takes; the appliance shares its base, and so its modules, with the capture image.
func (a *appliance) loadModules() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, list := range []string{modules.ListPath, modules.FSListPath(a.words["appliance.fstype"])} {
		results, err := modules.LoadFile(ctx, list, modules.Options{PerModule: 10 * time.Second})
		if err != nil {
			a.say("load modules: %v", err)
		}
		for _, r := range results {
			if r.Err != nil && !r.Absent {
				a.say("load module %s: %v", r.Name(), r.Err)
			}
		}
	}
}

// disk finds the disk with a serial number and waits for it.
func disk(serial string) (string, error) {
	for range 1200 {
		if dev := findDisk(serial); dev != "" {
			return dev, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", fmt.Errorf("find disk with serial number %s: not there after a minute", serial)
}

func findDisk(serial string) string {
	for _, pattern := range []string{"/sys/block/nvme*/device/serial", "/sys/block/vd*/serial"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			b, _ := os.ReadFile(name)
			dev := "/dev/" + strings.Split(name, "/")[3]
			if _, err := os.Stat(dev); err == nil && strings.TrimSpace(string(b)) == serial {
				return dev
			}
		}
	}
	return ""
}

// crash fills the memory, loads the capture kernel and panics.
func (a *appliance) crash() error {
	a.mountData()
	a.changeMemory()
	if a.words["appliance.fill"] != "no" {
		fillMemory(&a.hoard, a.say)
	}
	if err := a.load(); err != nil {
		return err
	}
	logLines()
	if err := a.armWatchdogs(); err != nil {
		return err
	}
	return a.trigger()
}

// trigger is the end.
func (a *appliance) trigger() error {
	var seconds int64
	if _, err := fmt.Sscan(a.words["appliance.clock"], &seconds); err == nil {
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: seconds}); err != nil {
			return err
		}
	}
	a.pause()
	a.say("crash")
	for _, w := range []struct{ file, text string }{
		{"/proc/sys/kernel/sysrq", "1"}, {"/proc/sysrq-trigger", "c"},
	} {
		if err := os.WriteFile(w.file, []byte(w.text), 0); err != nil {
			return err
		}
	}
	return fmt.Errorf("crash: still alive")
}

// pause does nothing for a while, all processors being idle, and tells the host what it
// needs to know to change the memory. A stopped machine's clock stands still, so the
// host has the time it needs.
func (a *appliance) pause() {
	if a.words["appliance.pause"] == "" {
		return
	}
	note, err := os.ReadFile("/sys/kernel/vmcoreinfo")
	a.say("ready: VMCOREINFO at %s (%v)", strings.TrimSpace(string(note)), err)
	time.Sleep(3 * time.Second)
}

func (a *appliance) armWatchdogs() error {
	n, err := strconv.Atoi(a.words["appliance.watchdog"])
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := modules.LoadFile(ctx, modules.FSListPath(modules.WatchdogList), modules.Options{Devices: "/sys"}); err != nil {
		return err
	}
	pack, err := watchdog.Open("/dev", time.Duration(n)*time.Second)
	if err != nil {
		return err
	}
	a.say("armed: %s, timeout %s", pack, pack.Timeout())
	return nil
}

// mountData mounts the disk "data", if there is one: cached pages with a
// block device below.
func (a *appliance) mountData() {
	dev := findDisk("data")
	if dev == "" {
		return
	}
	_ = os.MkdirAll("/data", 0o755)
	if err := unix.Mount(dev, "/data", "ext4", 0, ""); err != nil {
		a.say("mount %s: %v", dev, err)
		return
	}
	a.hoard.data, a.hoard.dev = "/data", dev
}

// logLines puts records into the kernel log that a reader must get right.
func logLines() {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	for _, s := range []string{
		"<6>appliance log: the unique line 8c6f1d",
		"<3>appliance log: priority error",
		"<30>appliance log: facility daemon",
		"<6>appliance log: first line\nsecond line of one record\nthird",
		"<6>appliance log: \ttab, \xc3\xa4 utf-8, \x01 control, \\ backslash",
		"<6>appliance log: long " + strings.Repeat("0123456789", 90),
	} {
		_, _ = f.WriteString(s)
	}
}

func (a *appliance) load() error {
	switch how := a.words["appliance.load"]; how {
	case "none":
		return nil
	case "self":
		return a.loadSelf()
	case "", "kdumpctl":
		return a.loadKdumpctl()
	default:
		return fmt.Errorf("appliance.load=%s: want kdumpctl, self or none", how)
	}
}

const (
	captureKernel = "/boot/vmlinuz"
	captureInitrd = "/boot/capture.cpio.zst"
)

func (a *appliance) loadKdumpctl() error {
	for _, args := range [][]string{
		{"load", "-kernel", captureKernel, "-initrd", captureInitrd, "-append", a.words["appliance.append"]},
		{"status"},
	} {
		const savesNothing = 5 // which some tests mean
		err := a.show("/bbin/kdumpctl", args...)
		var exit *exec.ExitError
		if err != nil && !(args[0] == "status" && errors.As(err, &exit) && exit.ExitCode() == savesNothing) {
			return fmt.Errorf("kdumpctl %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// show runs a program and passes on what it says.
func (a *appliance) show(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		a.say("%s: %s", filepath.Base(program), lines.Text())
	}
	return cmd.Wait()
}

// loadSelf loads the capture kernel without any program's help.
func (a *appliance) loadSelf() error {
	k, err := os.Open(captureKernel)
	if err != nil {
		return err
	}
	defer k.Close()
	i, err := os.Open(captureInitrd)
	if err != nil {
		return err
	}
	defer i.Close()
	const usual = "console=ttyS0 ignore_loglevel irqpoll nr_cpus=1 reset_devices cgroup_disable=memory mce=off numa=off panic=10 " +
		"acpi_no_memhotplug transparent_hugepage=never nokaslr novmcoredd cma=0 hugetlb_cma=0 iomem=relaxed "
	if err := unix.KexecFileLoad(int(k.Fd()), int(i.Fd()), usual+a.words["appliance.append"], unix.KEXEC_FILE_ON_CRASH); err != nil {
		return fmt.Errorf("kexec_file_load: %w", err)
	}
	return nil
}
