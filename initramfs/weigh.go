package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// weigh prints what the busybox is made of: its sections, and what each package
// has of code, constants and variables. The section .gopclntab, which the
// runtime keeps for tracebacks, is not booked on packages; it grows with their
// code. It compiles the busybox once more, with symbols.
func weigh(ctx context.Context, w io.Writer, arch string, commands []string) error {
	b, err := newBuilder(ctx, arch)
	if err != nil {
		return err
	}
	b.symbols = true
	data, err := b.build(ctx, commands)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	sections := make(map[string]int)
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.Type != elf.SHT_NOBITS {
			sections[s.Name] += int(s.Size)
		}
	}
	table(w, "sections of the busybox", sections)
	symbols, err := f.Symbols()
	if err != nil {
		return err
	}
	packages := make(map[string]int)
	for _, s := range symbols {
		if int(s.Section) < len(f.Sections) && f.Sections[s.Section].Type != elf.SHT_NOBITS {
			packages[packageOf(s.Name)] += int(s.Size)
		}
	}
	table(w, "packages", packages)
	return nil
}

// table prints the larger sizes, the largest first.
func table(w io.Writer, title string, sizes map[string]int) {
	const least = 8 << 10
	keys := slices.SortedFunc(maps.Keys(sizes), func(x, y string) int {
		return cmp.Or(sizes[y]-sizes[x], strings.Compare(x, y))
	})
	fmt.Fprintf(w, "\n%s, from %s:\n", title, human(least))
	for _, k := range keys {
		if sizes[k] >= least {
			fmt.Fprintf(w, "%8s  %s\n", human(sizes[k]), k)
		}
	}
}

// packageOf is the package in a linker's name such as
// "golang.org/x/sys/unix.Mount", or what else the linker made it for: "type:"
// for descriptors of types, "go:" for strings and method tables.
func packageOf(symbol string) string {
	name, _, _ := strings.Cut(symbol, "[") // the arguments of a generic function may have slashes
	slash := strings.LastIndexByte(name, '/') + 1
	if kind, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(kind, ".") {
		return kind + ":"
	}
	dot := strings.IndexByte(name[slash:], '.')
	if dot < 0 {
		return "runtime tables"
	}
	return strings.ReplaceAll(name[:slash+dot], "%2e", ".")
}
