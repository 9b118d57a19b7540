package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
)

// machine is one whose core is measured.
type machine struct {
	kernel, memory string
}

func (m machine) String() string { return "Linux " + m.kernel + ", " + m.memory }

// machines of the table: two of 1 GiB, and one that has 4 GiB of RAM beside its
// reservation and the hole for devices.
func machines() []machine {
	return []machine{{"6.1", "1G"}, {"7", "1G"}, {"6.1", "4608M"}}
}

// core returns the raw core of a crash of m with memory of all kinds. It is made
// once and kept with the downloads.
func (b *bench) core(ctx context.Context, out io.Writer, m machine) (string, error) {
	path := filepath.Join(b.Cache, "cores", m.kernel+"-"+m.memory+".elf")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(out, "crashing %v for its core\n", m)
	k, err := b.Kernel(m.kernel)
	if err != nil {
		return "", err
	}
	base, capture := filepath.Join(b.dir, "core-base.cpio.zst"), filepath.Join(b.dir, "core-capture.cpio.zst")
	if _, err := b.Capture(ctx, base, k, "", "-modules-only", "nvme,ext4"); err != nil {
		return "", err
	}
	if err := b.Wrap(ctx, capture, base, []string{"./rawcopy"}, nil); err != nil {
		return "", err
	}
	res, err := b.Run(ctx, rig.Crash{
		Name: "bench-core", Kernel: k, Capture: capture, Base: base, Memory: m.memory, Load: "self", Fill: true, Raw: true,
		Append: "rdinit=/rawcopy rawcopy.serial=raw rawcopy.then=poweroff", Limit: 15 * time.Minute,
	})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.Rename(res.Raw, path)
}
