package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/modules/resolve"
)

// module is a kernel module as it goes into the image: not compressed, since
// not every kernel can load a compressed one.
type module struct {
	path   string // in the image: /lib/modules/RELEASE/kernel/fs/xfs/xfs.ko
	data   []byte
	reason string
}

// moduleSet is what a kernel has of the drivers that were asked for.
type moduleSet struct {
	release string
	modules []module // in load order
	builtIn []string
	absent  []string // asked for, and not in this kernel
	notes   []string // what else an operator should know
}

// collect resolves the groups in the tree at dir, a /lib/modules/RELEASE, and
// reads the modules.
func collect(dir, arch string, groups []group) (*moduleSet, error) {
	tree, err := resolve.Open(dir)
	if err != nil {
		return nil, err
	}
	set := &moduleSet{}
	if set.release, err = tree.Release(); err != nil {
		return nil, err
	}
	found, reasons, err := set.resolve(tree, groups)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", set.release, err)
	}
	for _, m := range found {
		data, err := contents(tree, m)
		if err != nil {
			return nil, err
		}
		if err := set.check(tree, m, data, arch); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Path, err)
		}
		set.modules = append(set.modules, module{
			path:   path.Join("/lib/modules", set.release, path.Dir(m.Path), fileName(m.Path)),
			data:   data,
			reason: reasons[m.Name],
		})
	}
	return set, nil
}

// resolve asks for one group after the other, so that each module is booked on
// the first that wants it. The answer to more requests starts with the answer
// to fewer.
func (set *moduleSet) resolve(tree *resolve.Tree, groups []group) ([]resolve.Module, map[string]string, error) {
	var requests []resolve.Request
	var result resolve.Result
	reasons := make(map[string]string)
	for _, g := range groups {
		for i, name := range g.names {
			requests = append(requests, resolve.Request{Name: name, Optional: i >= g.needed})
		}
		var err error
		if result, err = tree.Resolve(requests); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", g.reason, err)
		}
		for _, m := range result.Modules {
			if _, ok := reasons[m.Name]; !ok {
				reasons[m.Name] = g.reason
			}
		}
	}
	set.builtIn = result.BuiltIn
	for _, m := range result.Missing {
		if m.By == "" && m.Why == resolve.ErrUnknown.Error() {
			set.absent = append(set.absent, m.Name)
		} else {
			set.notes = append(set.notes, "module "+m.String())
		}
	}
	return result.Modules, reasons, nil
}

// fileName is the name that a module has without its compression.
func fileName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return base + ".ko"
}

// maxModule bounds one module in the image; a capture kernel could not load
// a larger one.
const maxModule = 64 << 20

func contents(tree *resolve.Tree, m resolve.Module) ([]byte, error) {
	r, err := tree.Open(m)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", m.Path, err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("read module %s: more than %d MiB: strip its debugging information", m.Path, maxModule>>20)
	}
	return data, nil
}

// check finds modules that the kernel would refuse.
func (set *moduleSet) check(tree *resolve.Tree, m resolve.Module, data []byte, arch string) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if want, ok := machine(arch); ok && f.Machine != want {
		return fmt.Errorf("made for %v: want %v, see -arch", f.Machine, want)
	}
	info, err := tree.Info(m.Name)
	if err != nil {
		return err
	}
	if release, _, _ := bytes.Cut([]byte(info.Vermagic), []byte(" ")); string(release) != set.release {
		return fmt.Errorf("made for kernel %q, others in this folder for %q", release, set.release)
	}
	if len(info.Firmware) > 0 {
		set.notes = append(set.notes, fmt.Sprintf("module %s may want firmware %s: it is not in the image, see -files", m.Name, strings.Join(info.Firmware, ", ")))
	}
	return nil
}

// machine is what ELF files for a GOARCH say, where this table knows.
func machine(arch string) (elf.Machine, bool) {
	m, ok := map[string]elf.Machine{
		"386":     elf.EM_386,
		"amd64":   elf.EM_X86_64,
		"arm":     elf.EM_ARM,
		"arm64":   elf.EM_AARCH64,
		"loong64": elf.EM_LOONGARCH,
		"ppc64le": elf.EM_PPC64,
		"riscv64": elf.EM_RISCV,
		"s390x":   elf.EM_S390,
	}[arch]
	return m, ok
}

// list is the text of /etc/kdump/modules.
func (set *moduleSet) list() ([]byte, error) {
	var entries []modules.Entry
	for _, m := range set.modules {
		entries = append(entries, modules.Entry{Path: m.path})
	}
	var b bytes.Buffer
	err := modules.WriteList(&b, entries)
	return b.Bytes(), err
}

// reasons are the reasons, in load order.
func (set *moduleSet) reasons() []string {
	var all []string
	for _, m := range set.modules {
		if !slices.Contains(all, m.reason) {
			all = append(all, m.reason)
		}
	}
	return all
}
