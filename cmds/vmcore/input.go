package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/triage"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// dumpFiles is a dump and the files that make it.
type dumpFiles struct {
	paths []string
	core  *vmcore.Core // nil with err
	err   error
}

// openEach opens every file on its own, but the parts of a split dump together,
// where the first of them stands.
func openEach(paths []string) []dumpFiles {
	var all []dumpFiles
	for _, path := range paths {
		core, err := vmcore.OpenFiles(path)
		if err == nil && isPart(core) && joinPart(all, path) {
			core.Close()
			continue
		}
		all = append(all, dumpFiles{[]string{path}, core, err})
	}
	return all
}

// joinPart adds a part to the split dump that it is of, if there is one.
func joinPart(all []dumpFiles, path string) bool {
	for i := range all {
		d := &all[i]
		if d.err != nil || !isPart(d.core) {
			continue
		}
		paths := append(slices.Clone(d.paths), path)
		if core, err := vmcore.OpenFiles(paths...); err == nil {
			d.core.Close()
			d.paths, d.core = paths, core
			return true
		}
	}
	return false
}

func isPart(core *vmcore.Core) bool {
	for _, k := range core.Files().Parts {
		_, _, split := k.Split()
		return split
	}
	return false
}

// uname is what the file's header says of the kernel, and for an ELF core what
// its memory does.
func uname(core *vmcore.Core) triage.Uname {
	if k := core.Files().Dump; k != nil {
		h := k.Header()
		if h.Release != "" && h.Machine != "" {
			return triage.Uname{Sysname: h.Sysname, Nodename: h.Nodename, Release: h.Release, Version: h.Version, Machine: h.Machine, Domainname: h.Domainname}
		}
	}
	u, _ := triage.ReadUname(core) // filled in where it cannot be read
	return u
}

// earlierLevel is the level at which a kdump-compressed file was written.
func earlierLevel(core *vmcore.Core) memmap.Level {
	if k := core.Files().Dump; k != nil {
		return memmap.Level(k.Header().DumpLevel) & memmap.LevelMax
	}
	return 0
}

// ramPages counts the pages of memory.
func ramPages(core *vmcore.Core) (pages uint64) {
	for _, r := range core.Ranges() {
		pages += uint64(r.End - r.Start)
	}
	return pages
}

// named gives the files to open. Standard input, "-", is taken as it is where it
// is a file, and is else first copied to a file in dir, which opened removes: it
// is to be called as soon as the files are open.
func (e *env) named(paths []string, dir string) (files []string, opened func(), err error) {
	opened = func() {}
	for _, path := range paths {
		if path == "-" {
			var temp string
			if path, temp, err = e.standardInput(dir); err != nil {
				opened()
				return nil, nil, fmt.Errorf("standard input: %w", err)
			}
			if temp != "" {
				opened = func() { os.Remove(temp) }
			}
		}
		files = append(files, path)
	}
	return files, opened, nil
}

func (e *env) standardInput(dir string) (path, temp string, err error) {
	if f, ok := e.stdin.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			return "/dev/stdin", "", nil
		}
	}
	f, err := os.CreateTemp(dir, ".vmcore-stdin-*")
	if err != nil {
		return "", "", err
	}
	_, err = io.Copy(f, e.stdin)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(f.Name())
		return "", "", err
	}
	name, err := filepath.Abs(f.Name())
	return name, name, err
}

// byteText prints bytes for people.
func byteText(n uint64) string {
	for _, u := range []struct {
		unit  string
		shift uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}} {
		if n >= 1<<u.shift {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(uint64(1)<<u.shift), u.unit)
		}
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/1024)
}

// partNames is for commands that take two dumps: the parts of a split one have
// commas between them. A file of that very name goes first.
func partNames(name string) []string {
	if _, err := os.Stat(name); err == nil {
		return []string{name}
	}
	return strings.Split(name, ",")
}
