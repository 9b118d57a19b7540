// Demo shows the whole thing once: a production machine without a distribution
// crashes, the capture kernel saves the dump on an ext4 disk, and production
// comes back and finds it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	kernel := "6.1"
	if len(args) > 0 {
		kernel = args[0]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	d := demo{out: stdout, kernel: kernel}
	if err := d.show(ctx); err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return 1
	}
	return 0
}

const configuration = "target = disk:///crash?dev=LABEL=CRASH\n"

type demo struct {
	out    io.Writer
	kernel string
}

func (d *demo) say(format string, a ...any) { fmt.Fprintf(d.out, format+"\n", a...) }

func (d *demo) show(ctx context.Context) error {
	r, err := rig.Open()
	if err != nil {
		return err
	}
	res, err := d.crash(ctx, r)
	if err != nil {
		if res != nil {
			d.say("%s", res.Tail(20))
		}
		return err
	}
	dirs := res.Directories("crash/*")
	if len(dirs) != 1 {
		return fmt.Errorf("%d dumps on the target, want one; the console is in %s/serial.log", len(dirs), res.Dir)
	}
	return d.report(r, res, dirs[0])
}

// crash builds the images and takes the machine through its crash.
func (d *demo) crash(ctx context.Context, r *rig.Rig) (*rig.Result, error) {
	k, err := r.Kernel(d.kernel)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.Out, "demo")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	image := filepath.Join(dir, "capture.cpio.zst")
	d.say("== the capture image, for Linux %s\n", k.Release)
	said, err := r.Capture(ctx, image, k, configuration)
	if err != nil {
		return nil, err
	}
	d.say("%s", said)
	target := filepath.Join(dir, "target.img")
	if err := disk.Format(ctx, target, 1<<30, disk.FS{Type: "ext4", Label: "CRASH"}); err != nil {
		return nil, err
	}
	d.say("== a machine with 512 MiB boots, fills its memory, and crashes (crashkernel=96M)\n")
	start := time.Now()
	res, err := r.Run(ctx, rig.Crash{Name: "demo", Kernel: k, Capture: image, Base: image, Load: "kdumpctl", Fill: true,
		Reserve: "96M", Target: &rig.Target{Path: target, Bus: "virtio"}})
	for _, l := range res.Lines {
		if text, ok := told(l.Text); ok {
			d.say("%7.2f s  %s", l.At.Seconds(), text)
		}
	}
	d.say("\n%.0f s in QEMU's emulation, without KVM", time.Since(start).Seconds())
	return res, err
}

// told picks the lines of the console that tell the story, without the
// kernel's time in front.
func told(line string) (string, bool) {
	if strings.Contains(line, "appliance log: ") {
		return "", false
	}
	for _, who := range []string{"appliance: ", "kdump-init: ", "savecore: ", "sysrq: Trigger a crash", "reboot: "} {
		if i := strings.Index(line, who); i >= 0 {
			return line[i:], true
		}
	}
	return "", false
}

func (d *demo) report(r *rig.Rig, res *rig.Result, dir string) error {
	d.say("\n== timeline, seconds after the panic\n")
	for _, m := range rig.Timeline(res.Lines) {
		d.say("%7.2f  %s", m.At.Seconds(), m.Name)
	}
	d.say("\n== the dump, as production found it\n")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return err
		}
		d.say("%10d  %s", st.Size(), e.Name())
	}
	if counts, ok := res.Said("savecore: pages: "); ok {
		_, counts, _ = strings.Cut(counts, "savecore: pages: ")
		d.say("\n== pages by class\n\n%s", strings.ReplaceAll(counts, ", ", "\n"))
	}
	log, err := os.ReadFile(filepath.Join(dir, "vmcore-dmesg.txt"))
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(log), "\n"), "\n")
	d.say("\n== the end of the kernel log\n\n%s", strings.Join(lines[max(0, len(lines)-12):], "\n"))
	d.say("\n== files\n\nthe dump     %s\nthe console  %s", dir, filepath.Join(res.Dir, "serial.log"))
	d.say("look inside  crash VMLINUX %s/vmcore, with the kernel's -dbg package, or drgn -c, or makedumpfile --dump-dmesg", dir)
	return nil
}
