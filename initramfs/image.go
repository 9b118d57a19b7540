package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ukdump/ukdump/initramfs/cpio"
	"github.com/ukdump/ukdump/internal/modules"
)

const (
	busyboxPath = "bbin/bb"
	shellPath   = "bin/sh"
	configPath  = "etc/kdump.conf"
)

// inArchive is the archive's name of an absolute or relative path.
func inArchive(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// contentsOf are all parts of an image.
type contentsOf struct {
	busybox  []byte
	commands []string // names in the busybox
	init     string   // a command, or a file of the host if there is a slash in it
	settings *settings
	modules  *moduleSet // nil: none
	files    []string   // SRC:DST
	notes    []string   // what assemble found that an operator should know
}

// assemble puts the parts into an archive.
func (c *contentsOf) assemble() (*cpio.Archive, error) {
	a := &cpio.Archive{}
	for _, add := range []func(*cpio.Archive) error{
		c.addSkeleton, c.addBusybox, c.addInit, c.addSettings, c.addModules, c.addFiles, c.addSecrets,
	} {
		if err := add(a); err != nil {
			return nil, err
		}
	}
	return a, errors.Join(c.settings.fits(a), interpreters(a))
}

// addSkeleton makes what the kernel and PID 1 expect to find. /dev/console is
// what the kernel opens as standard input and output of /init, before anything
// is mounted.
func (c *contentsOf) addSkeleton(a *cpio.Archive) error {
	entries := []cpio.Entry{
		{Name: "dev/console", Mode: cpio.CharDev | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: cpio.CharDev | 0o666, Major: 1, Minor: 3},
		{Name: "tmp", Mode: cpio.Dir | 0o1777},
	}
	for _, dir := range []string{"mnt", "proc", "run", "sys"} {
		entries = append(entries, cpio.Entry{Name: dir, Mode: cpio.Dir | 0o755})
	}
	return addAll(a, entries)
}

func addAll(a *cpio.Archive, entries []cpio.Entry) error {
	for _, e := range entries {
		if err := a.Add(e); err != nil {
			return err
		}
	}
	return nil
}

func symlink(name, to string) cpio.Entry {
	return cpio.Entry{Name: name, Mode: cpio.Symlink | 0o777, Data: []byte(to)}
}

func (c *contentsOf) addBusybox(a *cpio.Archive) error {
	entries := []cpio.Entry{{Name: busyboxPath, Mode: cpio.Regular | 0o755, Data: c.busybox}}
	for _, name := range c.commands {
		entries = append(entries, symlink(path.Join("bbin", name), "bb"))
	}
	if slices.Contains(c.commands, shellName) {
		entries = append(entries, symlink(shellPath, "../bbin/"+shellName)) // for #!/bin/sh
	}
	return addAll(a, entries)
}

// addInit makes /init. The busybox takes its command from the name of the last
// symbolic link on the way to it.
func (c *contentsOf) addInit(a *cpio.Archive) error {
	if !strings.Contains(c.init, "/") {
		if !slices.Contains(c.commands, c.init) {
			return fmt.Errorf("-init %s: want one of %s, or a path with a slash in it", c.init, strings.Join(c.commands, ", "))
		}
		return a.Add(symlink("init", "bbin/"+c.init))
	}
	data, err := os.ReadFile(c.init)
	if err != nil {
		return err
	}
	return a.Add(cpio.Entry{Name: "init", Mode: cpio.Regular | 0o755, Data: data})
}

func (c *contentsOf) addSettings(a *cpio.Archive) error {
	return a.Add(cpio.Entry{Name: configPath, Mode: cpio.Regular | 0o600, Data: c.settings.text})
}

func (c *contentsOf) addModules(a *cpio.Archive) error {
	if c.modules == nil {
		c.modules = newModuleSet() // an empty list says: none on purpose
	}
	var entries []cpio.Entry
	for _, fstype := range slices.Sorted(maps.Keys(c.modules.lists)) {
		name := modules.ListPath
		if fstype != "" {
			name = modules.FSListPath(fstype)
		}
		text, err := listText(c.modules.lists[fstype])
		if err != nil {
			return err
		}
		entries = append(entries, cpio.Entry{Name: inArchive(name), Mode: cpio.Regular | 0o644, Data: text})
	}
	for _, m := range c.modules.modules {
		entries = append(entries, cpio.Entry{Name: inArchive(m.path), Mode: cpio.Regular | 0o644, Data: m.data})
	}
	return addAll(a, entries)
}

// addFiles adds what -files names. A folder is taken with all that is in it.
func (c *contentsOf) addFiles(a *cpio.Archive) error {
	for _, f := range c.files {
		src, dst, ok := strings.Cut(f, ":")
		if !ok || src == "" || inArchive(dst) == "" {
			return fmt.Errorf("-files %s: want SRC:DST", f)
		}
		if err := addTree(a, src, inArchive(dst)); err != nil {
			return fmt.Errorf("-files %s: %w", f, err)
		}
	}
	return nil
}

// addTree adds a file or folder under a name, with its permissions: a private
// key stays private. A symbolic link inside a folder stays one.
func addTree(a *cpio.Archive, src, dst string) error {
	root, err := filepath.EvalSymlinks(src)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := cpio.Entry{Name: path.Join(dst, filepath.ToSlash(rel)), Mode: uint32(info.Mode().Perm())}
		switch info.Mode().Type() {
		case fs.ModeDir:
			e.Mode |= cpio.Dir
		case 0:
			e.Mode |= cpio.Regular
			e.Data, err = os.ReadFile(name)
		case fs.ModeSymlink:
			var to string
			to, err = os.Readlink(name)
			e.Mode, e.Data = cpio.Symlink|0o777, []byte(to)
		default:
			err = fmt.Errorf("%s: neither file, folder nor symbolic link", name)
		}
		if err != nil {
			return err
		}
		return a.Add(e)
	})
}

// interpreters finds programs that could not start: dynamically linked ones
// whose loader is not in the image. The kernel's word for it, "not found",
// sends people looking for the program.
func interpreters(a *cpio.Archive) error {
	var wrong problems
	for _, e := range a.Entries() {
		if e.Mode&cpio.TypeMask != cpio.Regular || e.Mode&0o111 == 0 {
			continue
		}
		if interp := interpreter(e.Data); interp != "" {
			_, ok := a.Get(inArchive(interp))
			if _, over, err := follow(a, interp); !ok && (err != nil || !over) {
				wrong = append(wrong, fmt.Errorf("/%s: it needs %s, which is not in the image: link it statically, or add its loader and libraries with -files", e.Name, interp))
			}
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// interpreter is the loader of an ELF program or the interpreter of a script,
// "" for static programs and other files.
func interpreter(data []byte) string {
	if rest, ok := bytes.CutPrefix(data, []byte("#!")); ok {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if f := strings.Fields(string(line)); len(f) > 0 {
			return f[0]
		}
		return ""
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return ""
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		text := make([]byte, p.Filesz)
		if _, err := p.ReadAt(text, 0); err == nil {
			return strings.TrimRight(string(text), "\x00")
		}
	}
	return ""
}
