package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
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
	modules []module            // in load order
	lists   map[string][]string // paths to load, in order: "" at the start, else for a file system type
	builtIn []string
	absent  []string // asked for, and not in this kernel
	notes   []string // what else an operator should know
}

func newModuleSet() *moduleSet { return &moduleSet{lists: map[string][]string{"": nil}} }

// collect resolves the groups in the tree at dir, a /lib/modules/RELEASE, and
// reads the modules.
func collect(dir, arch string, groups []group) (*moduleSet, error) {
	tree, err := resolve.Open(dir)
	if err != nil {
		return nil, err
	}
	set := newModuleSet()
	if set.release, err = tree.Release(); err != nil {
		return nil, err
	}
	found, reasons, err := set.resolve(tree, groups)
	blind := !isFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && blind {
		return nil, fmt.Errorf("kernel %s: %w that this folder knows of: it lacks modules.builtin, which a kernel's package may keep elsewhere; or name all modules with -modules-only", set.release, err)
	}
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", set.release, err)
	}
	if !blind {
		for _, g := range groups {
			if i := slices.IndexFunc(g.asked, func(name string) bool { return slices.Contains(set.absent, name) }); i >= 0 {
				return nil, fmt.Errorf("kernel %s: %s: the configuration asks for %s, which this kernel has neither as a module nor built in", set.release, g.reason, g.asked[i])
			}
		}
	}
	if blind {
		set.notes = append(set.notes, "no modules.builtin in "+dir+": what is built into the kernel shows as not in it")
	}
	for _, m := range found {
		data, err := contents(tree, m)
		if err != nil {
			return nil, err
		}
		if err := set.check(tree, m, data, arch); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Path, err)
		}
		set.modules = append(set.modules, module{path: set.pathOf(m), data: data, reason: reasons[m.Name]})
	}
	return set, set.plan(tree, groups)
}

// pathOf is where a module goes in the image.
func (set *moduleSet) pathOf(m resolve.Module) string {
	return path.Join("/lib/modules", set.release, path.Dir(m.Path), fileName(m.Path))
}

// plan makes the lists: what is loaded at the start, and for each file system
// all that it takes beyond that, though another one's list may have it too. The
// watchdogs' list comes before all, so it is whole.
func (set *moduleSet) plan(tree *resolve.Tree, groups []group) error {
	var base []resolve.Request
	for _, g := range groups {
		if g.fstype == "" {
			base = append(base, g.requests()...)
		}
	}
	first, err := tree.Resolve(base)
	if err != nil {
		return err
	}
	for _, m := range first.Modules {
		set.lists[""] = append(set.lists[""], set.pathOf(m))
	}
	for _, g := range groups {
		if g.fstype == "" {
			continue
		}
		before, known := base, len(first.Modules)
		if g.fstype == modules.WatchdogList {
			before, known = nil, 0
		}
		all, err := tree.Resolve(slices.Concat(before, g.requests()))
		if err != nil {
			return err
		}
		for _, m := range all.Modules[known:] {
			set.lists[g.fstype] = append(set.lists[g.fstype], set.pathOf(m))
		}
	}
	return nil
}

// requests are a group's names as the resolver wants them.
func (g group) requests() []resolve.Request {
	var all []resolve.Request
	for i, name := range g.names {
		all = append(all, resolve.Request{Name: name, Optional: i >= g.needed})
	}
	return all
}

// resolve asks for one group after the other, so that each module is booked on
// the first that wants it. The answer to more requests starts with the answer
// to fewer.
func (set *moduleSet) resolve(tree *resolve.Tree, groups []group) ([]resolve.Module, map[string]string, error) {
	var requests []resolve.Request
	var result resolve.Result
	reasons := make(map[string]string)
	for _, g := range groups {
		requests = append(requests, g.requests()...)
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
		switch {
		case m.Why != resolve.ErrUnknown.Error():
			set.notes = append(set.notes, "module "+m.String())
		case m.By != "": // a soft dependency, which modprobe passes over without a word
			set.absent = append(set.absent, m.Name+" (for "+m.By+")")
		default:
			set.absent = append(set.absent, m.Name)
		}
	}
	return result.Modules, reasons, nil
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
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

// listText is the text of the list with these paths.
func listText(paths []string) ([]byte, error) {
	var entries []modules.Entry
	for _, p := range paths {
		entries = append(entries, modules.Entry{Path: p})
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
