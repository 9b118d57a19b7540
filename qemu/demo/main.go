// Demo crashes a virtual machine and shows what ukdump saves of it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

const conf = `# where a crash is saved; everything else is default
target = disk:///crash?dev=LABEL=CRASH&fstype=ext4
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(stderr)
	kernel := fs.String("kernel", "6.1", "`kernel` that qemu/fetch got: 5.10, 6.1, 6.12 or 7")
	reserve := fs.String("crashkernel", "96M", "`memory` reserved for the capture kernel")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if err := demo(*kernel, *reserve, stdout); err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return 1
	}
	return 0
}

func demo(kernel, reserve string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	r, err := rig.Open(ctx)
	if err != nil {
		return err
	}
	k, err := r.Kernel(kernel)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.Out, "demo")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(out, "== building the capture image for Linux %s\n%s", k.Release, conf)
	image := filepath.Join(dir, "capture.cpio.zst")
	said, err := r.Capture(ctx, image, k, conf)
	if err != nil {
		return err
	}
	fmt.Fprint(out, said)
	target := filepath.Join(dir, "target.img")
	if err := disk.Format(ctx, target, 1<<30, disk.FS{Type: "ext4", Label: "CRASH"}); err != nil {
		return err
	}
	fmt.Fprintf(out, "== a machine without a distribution: 512 MiB, 2 CPUs, crashkernel=%s; it will crash\n", reserve)
	res, err := r.Run(ctx, rig.Crash{
		Name: "demo", Kernel: k, Capture: image, Base: image, Reserve: reserve, Fill: true, Target: &rig.Target{Path: target},
		Watch: func(ctx context.Context, m *vm.Machine) error { return follow(ctx, m, out) },
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, res.Tail(20))
	}
	return show(out, res)
}

// follow prints the lines that tell the story.
func follow(ctx context.Context, m *vm.Machine, out io.Writer) error {
	for {
		line, which, err := m.Wait(ctx, "appliance: exported", "appliance: ", "sysrq: Trigger a crash", "Kernel panic", "Linux version", "kdump-init: ", "savecore: ", "reboot: ")
		if err != nil {
			return nil // the machine has ended; Run tells how
		}
		text := line.Text
		if len(text) > 180 {
			text = text[:180] + "..."
		}
		fmt.Fprintf(out, "%6.1f %s\n", line.At.Seconds(), text)
		if which == 0 {
			return nil
		}
	}
}

// show prints what is on the target, as the host finds it.
func show(out io.Writer, res *rig.Result) error {
	dirs := res.Directories("crash/*")
	if len(dirs) != 1 {
		return fmt.Errorf("%d dumps on the target, want one", len(dirs))
	}
	files, err := os.ReadDir(dirs[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "== saved: %s\n", filepath.Base(dirs[0]))
	for _, f := range files {
		if st, err := f.Info(); err == nil {
			fmt.Fprintf(out, "%12d  %s\n", st.Size(), f.Name())
		}
	}
	capture, err := os.ReadFile(filepath.Join(dirs[0], "capture.log"))
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "== pages, by class")
	for line := range strings.Lines(string(capture)) {
		if strings.Contains(line, "savecore: pages: ") || strings.Contains(line, "savecore: classified ") {
			_, line, _ = strings.Cut(line, "savecore: ")
			fmt.Fprint(out, line)
		}
	}
	dmesg, err := os.ReadFile(filepath.Join(dirs[0], "vmcore-dmesg.txt"))
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "== the end of the crashed kernel's log")
	lines := strings.Split(strings.TrimSpace(string(dmesg)), "\n")
	for _, l := range lines[max(0, len(lines)-12):] {
		fmt.Fprintln(out, l)
	}
	fmt.Fprintln(out, "== timeline, in seconds")
	for _, m := range rig.Timeline(res.Lines) {
		fmt.Fprintf(out, "%8.2f  %s\n", m.At.Seconds(), m.Name)
	}
	fmt.Fprintf(out, "== files: %s\n   console: %s\n", dirs[0], filepath.Join(res.Dir, "serial.log"))
	return nil
}
