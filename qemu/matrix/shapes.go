package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

// shape is a machine to crash.
type shape struct {
	name   string
	about  string // for the table
	memory string
	cpus   int
	words  string   // on production's command line
	extra  []string // of QEMU
	grow   []string // QEMU devices that bring memory at run time
	shrink int      // MiB that the balloon takes
	want   []string // what production has to say

	nokaslr bool
	five    bool // levels of page tables
	all     bool // every level, codec and format on this one
}

// kernels are those that qemu/fetch gets: the cloud kernels of 5.10 and 6.1 cannot
// poison a page.
func kernels() []string { return []string{"5.10-generic", "6.1-generic", "6.12", "7"} }

// shapes is the table of machines. All have every class of pages that their
// kernel knows.
func shapes() []shape {
	return []shape{
		{
			name: "one", about: "1 CPU, 512M, nokaslr, 4 levels",
			memory: "512M", cpus: 1, words: "nokaslr no5lvl", shrink: 24, nokaslr: true, all: true,
			extra: []string{"-device", "virtio-balloon-pci,id=balloon0"},
			want:  []string{"shrink: 24 MiB"},
		},
		{
			name: "numa", about: "4 CPUs, 2 nodes, PCI hole, KASLR, 5 levels (5.10: 4), virtio-mem, pc-dimm, an offline block",
			memory: "896M,slots=4,maxmem=4G", cpus: 4, words: "appliance.offline=1", shrink: 32, five: true,
			extra: []string{
				"-machine", "pc,max-ram-below-4g=640M",
				"-object", "memory-backend-ram,id=ram0,size=512M", "-object", "memory-backend-ram,id=ram1,size=384M",
				"-numa", "node,nodeid=0,cpus=0-1,memdev=ram0", "-numa", "node,nodeid=1,cpus=2-3,memdev=ram1",
				"-object", "memory-backend-ram,id=vmem0,size=512M",
				"-device", "virtio-mem-pci,id=vm0,memdev=vmem0,node=1,requested-size=0",
				"-device", "virtio-balloon-pci,id=balloon0",
			},
			grow: []string{"virtio-mem", "pc-dimm", "pc-dimm"},
			want: []string{"grow: 432 MiB", "shrink: 32 MiB", " is offline"},
		},
		{
			name: "wide", about: "8 CPUs, 4 nodes (one without CPUs), memmap= holes, 1 GiB page, KASLR, 4 levels",
			memory: "3456M", cpus: 8,
			words: "no5lvl hugepagesz=1G hugepages=1 memmap=5M$300M memmap=64K$0x1ab30000 memmap=1M$0x60100000", shrink: 48,
			want: []string{"fill gigantic: 262144 pages", "shrink: 48 MiB"},
			// From 2 to 3 GiB memory is whole, of one node, and what is taken from the
			// node's end at the start is behind it.
			extra: []string{
				"-object", "memory-backend-ram,id=ram0,size=1G", "-object", "memory-backend-ram,id=ram1,size=1G",
				"-object", "memory-backend-ram,id=ram2,size=1280M", "-object", "memory-backend-ram,id=ram3,size=128M",
				"-numa", "node,nodeid=0,cpus=0-3,memdev=ram0", "-numa", "node,nodeid=1,cpus=4-5,memdev=ram1",
				"-numa", "node,nodeid=2,cpus=6-7,memdev=ram2", "-numa", "node,nodeid=3,memdev=ram3",
				"-device", "virtio-balloon-pci,id=balloon0",
			},
		},
	}
}

// check makes sure that the core is of such a machine, and has every class of pages:
// what is not there proves nothing.
func (s shape) check(c *subject, k rig.Kernel) error {
	info := c.core.Info()
	if n := c.core.NumCPUs(); n != s.cpus {
		return fmt.Errorf("the core is of %d CPUs, want %d", n, s.cpus)
	}
	// Debian's 5.10 is built without CONFIG_X86_5LEVEL.
	want := s.five && !strings.HasPrefix(k.Name, "5.10")
	if five, _ := info.Number("pgtable_l5_enabled"); five != 0 != want {
		return fmt.Errorf("pgtable_l5_enabled is %d", five)
	}
	if offset, ok := info.KernelOffset(); s.nokaslr && offset != 0 || !ok {
		return fmt.Errorf("KERNELOFFSET %#x, %v", offset, ok)
	}
	for _, k := range countedClasses() {
		if c.maps[0].Counts[k.class] == 0 {
			return fmt.Errorf("no page of class %v", k.class)
		}
	}
	return nil
}

const (
	virtioMemMiB = 176 // one block of 128 MiB and a part of the next
	dimmMiB      = 128
)

// grown is how much memory comes at run time, in MiB.
func (s shape) grown() int {
	n := 0
	for _, device := range s.grow {
		if device == "virtio-mem" {
			n += virtioMemMiB
		} else {
			n += dimmMiB
		}
	}
	return n
}

// crash describes the crash that leaves the raw core and powers off.
func (s shape) crash(k rig.Kernel, base, capture string) rig.Crash {
	words := s.words
	if n := s.grown(); n > 0 {
		words += fmt.Sprintf(" appliance.grow=%d", n)
	}
	if s.shrink > 0 {
		words += fmt.Sprintf(" appliance.shrink=%d", s.shrink)
	}
	return rig.Crash{
		Name: coreName(k.Name, s.name), Kernel: k, Base: base, Capture: capture, Load: "self", Fill: true, Raw: true,
		Memory: s.memory, CPUs: s.cpus, Words: words, Reserve: "192M",
		Append: "rdinit=/rawcopy rawcopy.serial=raw rawcopy.then=poweroff",
		Extra:  s.extra, Limit: 10 * time.Minute, Watch: s.host,
	}
}

func coreName(kernel, shape string) string { return "matrix-" + kernel + "-" + shape }

// host gives and takes memory when the appliance is ready for it.
func (s shape) host(ctx context.Context, m *vm.Machine) error {
	for range 2 {
		_, which, err := m.Wait(ctx, "appliance: ready to grow", "appliance: ready to shrink", "appliance: crash")
		if err != nil {
			return err
		}
		if which == 2 {
			return nil
		}
		q, err := m.Monitor(ctx)
		if err != nil {
			return err
		}
		if which == 0 {
			err = s.add(ctx, q)
		} else {
			err = s.inflate(ctx, q)
		}
		q.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s shape) add(ctx context.Context, q *vm.Monitor) error {
	for i, device := range s.grow {
		if device == "virtio-mem" {
			if _, err := q.Execute(ctx, "qom-set", map[string]any{
				"path": "/machine/peripheral/vm0", "property": "requested-size", "value": virtioMemMiB << 20,
			}); err != nil {
				return err
			}
			continue
		}
		id := fmt.Sprintf("dimm%d", i)
		if _, err := q.Execute(ctx, "object-add", map[string]any{
			"qom-type": "memory-backend-ram", "id": "back-" + id, "size": dimmMiB << 20,
		}); err != nil {
			return err
		}
		if _, err := q.Execute(ctx, "device_add", map[string]any{
			"driver": device, "id": id, "memdev": "back-" + id, "node": i % 2,
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s shape) inflate(ctx context.Context, q *vm.Monitor) error {
	raw, err := q.Execute(ctx, "query-balloon", nil)
	if err != nil {
		return err
	}
	var now struct{ Actual int64 }
	if err := json.Unmarshal(raw, &now); err != nil {
		return err
	}
	_, err = q.Execute(ctx, "balloon", map[string]any{"value": now.Actual - int64(s.shrink)<<20})
	return err
}

// images builds production's base and the capture image of a kernel. The capture
// kernel gets no balloon: the host still wants that much memory back.
func images(ctx context.Context, r *rig.Rig, k rig.Kernel, dir string) (base, capture string, err error) {
	base, plain := filepath.Join(dir, k.Name+"-base.cpio.zst"), filepath.Join(dir, k.Name+"-plain.cpio.zst")
	if _, err := r.Capture(ctx, base, k, "", "-modules-only", "nvme,ext4,virtio_pci,virtio_balloon,virtio_mem,zram"); err != nil {
		return "", "", err
	}
	if _, err := r.Capture(ctx, plain, k, "", "-modules-only", "nvme", "-no-shell", "-no-kdumpctl"); err != nil {
		return "", "", err
	}
	capture = filepath.Join(dir, k.Name+"-capture.cpio.zst")
	return base, capture, r.Wrap(ctx, capture, plain, []string{"./rawcopy"}, nil)
}
