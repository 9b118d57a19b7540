package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/initramfs/cpio"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/vm"
)

// Crash is one crash to make.
type Crash struct {
	Name    string // of its folder below Out
	Kernel  Kernel
	Capture string // the capture image
	Base    string // image that production is made from besides its own; may be empty

	Reserve string // crashkernel=; "160M" if empty
	Memory  string // "512M" if empty
	CPUs    int    // 2 if zero
	Words   string // on production's command line
	Append  string // on the capture kernel's command line

	Load   string // kdumpctl or self: how production loads the capture kernel
	Fill   bool   // fill the memory with pages of every class
	Raw    bool   // keep the raw core as well; Wrap must have been used on Capture
	Target *Target
	Disks  []vm.Disk
	NICs   []vm.NIC // of a server, for instance
	Extra  []string // of QEMU

	// Down waits until the machine is down for good, where the capture does not
	// reboot it. Then it is switched off, and on again.
	Down func(ctx context.Context, m *vm.Machine) error

	Limit time.Duration                                  // for all of it; 8 minutes if zero
	Watch func(ctx context.Context, m *vm.Machine) error // runs beside the crash
}

// Target is the disk that the dump goes to, serial number "target". Production
// lists and exports it after the crash.
type Target struct {
	Path   string
	Part   int    // partition; 0: the whole disk
	FSType string // "ext4" if empty
	Bus    string // "nvme" if empty
}

// Result is what is left of a crash.
type Result struct {
	Dir   string    // with serial.log, qemu.log
	Lines []vm.Line // of the console
	Tree  string    // folder with the files of the target; "" if nothing was exported
	Raw   string    // the raw core, "" if not asked for
}

const (
	rawSize    = 8 << 30 // room for the largest core; sparse
	exportSize = 4 << 30
	dataSize   = 1 << 30
	mib        = 1 << 20
)

// Run makes the crash and waits until production has powered the machine off.
// The Result is there even with an error, as far as it got.
func (r *Rig) Run(ctx context.Context, c Crash) (*Result, error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return &Result{}, ctx.Err()
	}
	limit := c.Limit
	if limit == 0 {
		limit = 8 * time.Minute
	}
	res := &Result{Dir: filepath.Join(r.Out, c.Name)}
	for _, name := range []string{"raw.elf", "target"} {
		if err := os.RemoveAll(filepath.Join(res.Dir, name)); err != nil {
			return res, err
		}
	}
	if err := os.MkdirAll(res.Dir, 0o755); err != nil {
		return res, err
	}
	config, err := r.Machine(ctx, c, res.Dir)
	if err != nil {
		return res, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = r.power(ctx, c, config, res)
	for _, d := range config.Disks { // sparse, but large to look at
		if d.Serial == "state" || d.Serial == "data" || d.Serial == "raw" || d.Serial == "export" {
			_ = os.Remove(d.Path)
		}
	}
	_ = os.Remove(config.Initrd)
	return res, err
}

func (r *Rig) power(ctx context.Context, c Crash, config vm.Config, res *Result) error {
	m, err := vm.Start(ctx, config)
	if err != nil {
		return err
	}
	defer func() { m.Kill() }()
	if c.Down != nil {
		err := c.Down(ctx, m)
		m.Kill()
		res.goOn(m.Lines())
		if err != nil {
			return fmt.Errorf("%w; the console is in %s/serial.log", err, res.Dir)
		}
		if err := os.Rename(filepath.Join(res.Dir, "serial.log"), filepath.Join(res.Dir, "serial-down.log")); err != nil {
			return err
		}
		if m, err = vm.Start(ctx, config); err != nil {
			return err
		}
	}
	watched := make(chan error, 1)
	if c.Watch == nil {
		watched <- nil
	} else {
		go func() { watched <- c.Watch(ctx, m) }()
	}
	err = m.Done(ctx)
	res.goOn(m.Lines())
	if text, ok := res.Said("appliance: failed: "); ok {
		_, text, _ = strings.Cut(text, "appliance: failed: ")
		err = errors.Join(err, errors.New("production: "+text))
	}
	if err = errors.Join(err, <-watched); err != nil {
		return fmt.Errorf("%w; the console is in %s/serial.log", err, res.Dir)
	}
	if c.Raw {
		if res.Raw, err = rawCore(filepath.Join(res.Dir, "raw.img"), filepath.Join(res.Dir, "raw.elf")); err != nil {
			return err
		}
	}
	if c.Target == nil {
		return nil
	}
	tree := filepath.Join(res.Dir, "target")
	if err := untar(filepath.Join(res.Dir, "export.img"), tree); err != nil {
		return fmt.Errorf("production exported nothing: %w; the console is in %s/serial.log", err, res.Dir)
	}
	res.Tree = tree
	return nil
}

// goOn adds what the machine said since it was switched on. Times go on from the last line.
func (r *Result) goOn(lines []vm.Line) {
	var last vm.Line
	if n := len(r.Lines); n > 0 {
		last = r.Lines[n-1]
	}
	for _, l := range lines {
		r.Lines = append(r.Lines, vm.Line{At: last.At + l.At, CPU: last.CPU + l.CPU, Text: l.Text})
	}
}

// Machine builds the production image and the disks in dir. Run does it by itself;
// this is for those who start the machine themselves.
func (r *Rig) Machine(ctx context.Context, c Crash, dir string) (vm.Config, error) {
	initrd := filepath.Join(dir, "production.cpio")
	if err := r.production(ctx, c, dir, initrd); err != nil {
		return vm.Config{}, err
	}
	disks := []vm.Disk{
		{Serial: "state", Path: filepath.Join(dir, "state.img")},
		{Serial: "export", Path: filepath.Join(dir, "export.img")},
	}
	sizes := []int64{mib, exportSize}
	if c.Raw {
		disks, sizes = append(disks, vm.Disk{Serial: "raw", Path: filepath.Join(dir, "raw.img")}), append(sizes, rawSize)
	}
	for i, d := range disks {
		if err := disk.Blank(d.Path, sizes[i]); err != nil {
			return vm.Config{}, err
		}
	}
	if c.Fill {
		data := vm.Disk{Serial: "data", Path: filepath.Join(dir, "data.img")}
		if err := disk.Format(ctx, data.Path, dataSize, disk.FS{Type: "ext4"}); err != nil {
			return vm.Config{}, err
		}
		disks = append(disks, data)
	}
	if t := c.Target; t != nil {
		disks = append(disks, vm.Disk{Serial: "target", Path: t.Path, Bus: t.Bus})
	}
	return vm.Config{
		Dir: dir, Kernel: c.Kernel.Vmlinuz, Initrd: initrd, Append: c.cmdline(),
		Memory: c.Memory, CPUs: c.CPUs, Disks: append(disks, c.Disks...), NICs: c.NICs, Extra: c.Extra,
	}, nil
}

// cmdline is the production kernel's.
func (c Crash) cmdline() string {
	reserve, load := c.Reserve, c.Load
	if reserve == "" {
		reserve = "160M"
	}
	if load == "" {
		load = "kdumpctl"
	}
	// no_timer_check: on a busy host the emulated timer fails the kernel's test of
	// it, which ends in a panic; kdumpctl hands the word on to the capture kernel.
	s := fmt.Sprintf(`console=ttyS0 ignore_loglevel printk.time=1 panic=10 no_timer_check crashkernel=%s appliance.load=%s appliance.append="%s"`, reserve, load, c.Append)
	if !c.Fill {
		s += " appliance.fill=no"
	}
	if t := c.Target; t != nil {
		s += " appliance.target=target"
		if t.Part != 0 {
			s += fmt.Sprintf(" appliance.part=%d", t.Part)
		}
		if t.FSType != "" {
			s += " appliance.fstype=" + t.FSType
		}
	}
	if c.Words != "" {
		s += " " + c.Words
	}
	return s
}

// production writes the image that production boots from: Base and on top of it
// the appliance as init, the kernel and the capture image.
func (r *Rig) production(ctx context.Context, c Crash, dir, out string) error {
	appliance, err := r.build(ctx, dir, "./appliance")
	if err != nil {
		return err
	}
	var a cpio.Archive
	for _, e := range []cpio.Entry{
		{Name: "dev/console", Mode: cpio.CharDev | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: cpio.CharDev | 0o666, Major: 1, Minor: 3},
	} {
		if err := a.Add(e); err != nil {
			return err
		}
	}
	err = errors.Join(
		addFile(&a, "init", appliance, 0o755),
		addFile(&a, "boot/vmlinuz", c.Kernel.Vmlinuz, 0o644),
		addFile(&a, "boot/capture.cpio.zst", c.Capture, 0o644))
	if err != nil {
		return err
	}
	return Overlay(out, c.Base, &a)
}

// Wrap puts programs that run before /init into a capture image: "./rawcopy"
// or "./saboteur", started with rdinit=/rawcopy; and files, by name.
func (r *Rig) Wrap(ctx context.Context, out, base string, programs []string, files map[string]string) error {
	var a cpio.Archive
	for _, p := range programs {
		bin, err := r.build(ctx, filepath.Dir(out), p)
		if err != nil {
			return err
		}
		if err := addFile(&a, filepath.Base(p), bin, 0o755); err != nil {
			return err
		}
	}
	for name, text := range files {
		if err := a.Add(cpio.Entry{Name: name, Mode: cpio.Regular | 0o600, Data: []byte(text)}); err != nil {
			return err
		}
	}
	return Overlay(out, base, &a)
}
