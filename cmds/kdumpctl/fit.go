package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/kexec"
	"github.com/ukdump/ukdump/pkg/targets"
)

// shell is what kdump-init runs for final and failure = shell.
const shell = "/bin/sh"

// fit compares what the configuration asks for with what the image has: words of
// -append were not there when it was built. It tells of what is surely missing.
func (p *plan) fit(files contents, machine drivers) {
	name := p.initrd.Name()
	useless := 0
	for _, spec := range p.specs {
		missing := lacks(spec, files, machine)
		for _, what := range missing {
			p.warn("target %v: %s has no %s", spec, name, what)
		}
		if len(missing) > 0 {
			useless++
		}
	}
	if useless > 0 && useless == len(p.specs) {
		p.savesNothing = true
	}
	for _, hook := range slices.Concat(p.config.Pre, p.config.Post) {
		if !files.has(hook) {
			p.warn("hook %s: %s has no such program", hook, name)
		}
	}
	if (p.config.Final == config.Shell || p.config.Failure == config.Shell) && !files.has(shell) {
		p.warn("%s has no %s for final or failure = shell", name, shell)
	}
}

// leastToUnpack is about the least with which a kernel that takes runSize bytes can
// unpack an image: itself, a sixth of that to start with, and the image twice,
// compressed and unpacked. With Debian's 6.1 that is more than each size with which it was seen to
// panic, and less than each that was enough (doc/reliability.md, "How much to reserve").
func leastToUnpack(runSize, compressed, unpacked int64) int64 {
	return runSize + runSize/6 + compressed + unpacked
}

// Of all that a capture takes after that, what grows with the machine is known: savecore
// has two bits for each page of ram bytes.
const (
	pageBits = 2
	pageSize = 4096
	working  = 8 << 20 // and this at least, beside them
)

// room compares the reservation with what the capture kernel takes before its init
// runs, and after it on a machine with much memory.
func (p *plan) room(reserved, ram uint64, runSize, unpacked int64) {
	st, err := p.initrd.Stat()
	if err != nil || runSize == 0 {
		return
	}
	const spare = 16 << 20
	need := leastToUnpack(runSize, st.Size(), unpacked)
	if int64(reserved) < need {
		p.lost("%s are reserved, and %s takes %s to be unpacked: the capture kernel would panic; want crashkernel=%dM or more",
			mib(reserved), p.initrd.Name(), mib(uint64(need)), kexec.RoundUp(need+spare)>>20)
		return
	}
	bitmaps := int64(ram / pageSize * pageBits / 8)
	if bitmaps > working && int64(reserved) < need+working+bitmaps {
		p.warn("%s are reserved, and a machine with %s of memory takes %s more than a small one: only the kernel log may be saved; want crashkernel=%dM or more",
			mib(reserved), mib(ram), mib(uint64(bitmaps)), kexec.RoundUp(need+bitmaps+spare)>>20)
	}
}

// lacks is what a target needs and an image has not.
func lacks(spec targets.Spec, files contents, machine drivers) (missing []string) {
	for _, f := range spec.Files() {
		if !files.has(f) {
			missing = append(missing, f)
		}
	}
	fstype := spec.FSType
	if len(spec.Modules()) > 0 { // a server that the kernel mounts
		fstype = spec.Scheme
	}
	if fstype != "" && !files.mounts(fstype) && machine.lacks(fstype) {
		missing = append(missing, fmt.Sprintf("module for %s, which %s has not built in", fstype, machine.release))
	}
	if spec.Network() && files.has(modules.ListPath) && len(machine.nics) > 0 && !slices.ContainsFunc(machine.nics, files.hasModule) {
		missing = append(missing, fmt.Sprintf("driver of any NIC of this machine: want -add-modules %s", strings.Join(machine.nics, ",")))
	}
	return missing
}

// mounts tells whether an image has the driver of a file system, or may have it: only
// mkinitramfs writes a list of the modules it took.
func (c contents) mounts(fstype string) bool {
	if !c.has(modules.ListPath) || c.has(modules.FSListPath(fstype)) {
		return true
	}
	return c.hasModule(fstype) || (fstype == "ext2" || fstype == "ext3") && c.hasModule("ext4")
}

// hasModule looks for a module by its name, in any folder.
func (c contents) hasModule(name string) bool {
	if c.names == nil {
		return true
	}
	name = modules.Name(name)
	for file := range c.names {
		if strings.Contains(path.Base(file), ".ko") && modules.Name(file) == name {
			return true
		}
	}
	return false
}

// drivers is what the running kernel knows of its own. It says nothing of another.
type drivers struct {
	release string // of the capture kernel, which is the running one; "" for another
	types   string // /proc/filesystems
	loaded  func(module string) bool
	nics    []string // modules that drive NICs; nil where one's driver is built in
}

// drivers are those of a capture kernel of this release.
func (h *host) drivers(release string) drivers {
	types, err := h.read("/proc/filesystems")
	if release != h.release || err != nil {
		return drivers{}
	}
	d := drivers{release: release, types: types, loaded: func(module string) bool {
		_, err := h.read(path.Join("/sys/module", modules.Name(module), "initstate")) // what is built in has none
		return err == nil
	}}
	bound, _ := filepath.Glob(h.path("/sys/class/net/*/device/driver")) // its one error is a bad pattern
	for _, driver := range bound {
		link, err := os.Readlink(filepath.Join(driver, "module"))
		name := filepath.Base(link)
		if err != nil || !d.loaded(name) {
			d.nics = nil
			break
		}
		if !slices.Contains(d.nics, name) {
			d.nics = append(d.nics, name)
		}
	}
	return d
}

// lacks tells that a kernel has surely not built in a file system. Who has built in
// ext2 and ext3 does not show where the module ext4 mounts them too.
func (d drivers) lacks(fstype string) bool {
	switch {
	case d.release == "":
		return false
	case fstype == "ext2", fstype == "ext3":
		return !d.registered(fstype) && d.lacks("ext4")
	}
	return !d.registered(fstype) || d.loaded(fstype)
}

func (d drivers) registered(fstype string) bool {
	for line := range strings.Lines(d.types) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == fstype {
			return true
		}
	}
	return false
}
