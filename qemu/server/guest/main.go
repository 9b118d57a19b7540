// Guest is PID 1 of the virtual machine that has the servers.
//
// Its words on the kernel command line:
//
//	server.net=SHAPE   single, bridge, 802.3ad, balance-xor or active-backup; none: no servers, a client
//	server.name=NAME   host name
//
// It mounts the disk "server" as root, copies /seed of its initramfs there, runs
// /etc/boot, starts the daemons and says "server: ready". Then it does what
// comes by the virtio serial port, see package wire.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	kcmdline "github.com/ukdump/ukdump/internal/cmdline"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(_ []string, _ io.Reader, stdout, _ io.Writer) int {
	g := &guest{out: stdout, daemons: daemons()}
	if err := g.boot(); err != nil {
		g.say("failed: %v", err)
	} else if err := g.serve(); err != nil {
		g.say("failed: %v", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	return 1
}

type guest struct {
	out     io.Writer // /dev/kmsg
	daemons []*daemon
}

func (g *guest) say(format string, v ...any) {
	fmt.Fprintf(g.out, "<1>server: "+format+"\n", v...) // seen on a console that is quiet
}

func (g *guest) boot() error {
	start := time.Now()
	words, err := early()
	if err != nil {
		return err
	}
	if out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		g.out = out
	}
	if err := switchRoot(); err != nil {
		return err
	}
	for _, v := range [][2]string{{"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}, {"HOME", "/root"}, {"LC_ALL", "C"}} {
		os.Setenv(v[0], v[1])
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := shell(ctx, "modprobe -a virtio_pci virtio_net virtio_console"); err != nil {
		return err
	}
	data, _ := findDisk("data")
	if out, err := shell(ctx, "sh /etc/boot "+words["server.net"]+" "+words["server.name"]+" "+data); err != nil {
		return fmt.Errorf("/etc/boot: %w: %s", err, out)
	}
	g.say("network is up after %.1f s", time.Since(start).Seconds())
	if words["server.net"] != "none" {
		if err := g.startAll(ctx); err != nil {
			return err
		}
	}
	g.say("ready after %.1f s", time.Since(start).Seconds())
	return nil
}

// early makes /proc, /sys and /dev, and reads the kernel's command line.
func early() (map[string]string, error) {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		_ = os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && err != unix.EBUSY {
			return nil, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	_ = os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0)
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	words := map[string]string{}
	for _, w := range kcmdline.Words(string(b)) {
		words[w.Key] = w.Value
	}
	return words, nil
}

// switchRoot makes the disk "server" the root, with /seed copied over it.
func switchRoot() error {
	dev, err := findDisk("server")
	if err != nil {
		return err
	}
	const root = "/newroot"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, root, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	if err := copyTree("/seed", root); err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		_ = os.MkdirAll(root+dir, 0o755)
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	return errors.Join(os.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/"))
}

// copyTree copies regular files and their modes.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		// The image may have a link of that name.
		_ = os.Remove(filepath.Join(to, rel))
		return os.WriteFile(filepath.Join(to, rel), b, st.Mode().Perm())
	})
}

// findDisk waits up to a minute for the NVMe disk with a serial number.
func findDisk(serial string) (string, error) {
	for range 1200 {
		names, _ := filepath.Glob("/sys/block/nvme*/device/serial")
		for _, name := range names {
			b, _ := os.ReadFile(name)
			dev := "/dev/" + strings.Split(name, "/")[3]
			if _, err := os.Stat(dev); err == nil && strings.TrimSpace(string(b)) == serial {
				return dev, nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", fmt.Errorf("find disk with serial number %s: not there after a minute", serial)
}

// shell runs a script and returns all that it printed.
func shell(ctx context.Context, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-ec", script)
	// A daemon that the script leaves behind may hold the pipe.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return string(out), err
}
