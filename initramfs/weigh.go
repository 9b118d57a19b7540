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

// weigh prints the sizes of the busybox's packages, the largest first: what
// each has of code, constants and variables. The tables that the runtime keeps
// for each function are not counted; they are about as much again.
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
	symbols, err := f.Symbols()
	if err != nil {
		return err
	}
	sizes := make(map[string]int)
	for _, s := range symbols {
		// .noptrbss and .bss take no room in the file.
		if int(s.Section) < len(f.Sections) && f.Sections[s.Section].Type != elf.SHT_NOBITS {
			sizes[packageOf(s.Name)] += int(s.Size)
		}
	}
	keys := slices.SortedFunc(maps.Keys(sizes), func(x, y string) int {
		return cmp.Or(sizes[y]-sizes[x], strings.Compare(x, y))
	})
	const least = 8 << 10
	fmt.Fprintf(w, "\nsizes of packages, from %s:\n", human(least))
	for _, k := range keys {
		if sizes[k] >= least {
			fmt.Fprintf(w, "%8s  %s\n", human(sizes[k]), k)
		}
	}
	return nil
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
