package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ukdump/ukdump/qemu/rig"
)

// crashCommands are what crash is asked, and what its answer must contain.
func crashCommands() []struct{ command, answer string } {
	return []struct{ command, answer string }{
		{"sys", "PANIC: \"Kernel panic - not syncing: sysrq triggered crash\""},
		{"bt", "machine_kexec at "},
		{"ps", "ukdump-idle-5"},
		{"kmem -i", "TOTAL MEM"},
		{"log", "appliance log: the unique line 8c6f1d"},
	}
}

// crash holds what crash says of the dumps at level 31 against what it says of the
// raw core: every word and every warning.
func (m *matrix) crash(ctx context.Context, c *subject, k rig.Kernel, s shape) error {
	vmlinux := filepath.Join(m.Cache, "kernels", k.Name, "vmlinux")
	if _, err := os.Stat(vmlinux); err != nil {
		return fmt.Errorf("%w; get it with: %s/qemu/fetch debug:%s", err, m.Root, k.Name)
	}
	want, err := c.askCrash(ctx, vmlinux, c.raw)
	if err != nil && strings.Contains(err.Error(), "FUNCTION: module_init()") {
		// crash 9.0.2 cannot list the modules of 7.2, of the raw core neither.
		fmt.Fprintln(m.out, "    crash: with --no_modules")
		c.crashFlags = []string{"--no_modules"}
		want, err = c.askCrash(ctx, vmlinux, c.raw)
	}
	if err != nil {
		return fmt.Errorf("crash on the raw core: %w", err)
	}
	for _, q := range crashCommands() {
		if !strings.Contains(want, q.answer) {
			return fmt.Errorf("crash on the raw core: %s does not say %q: %.400s", q.command, q.answer, want)
		}
	}
	list := []variant{{level: 31, compress: "zstd", format: "kdump"}}
	if s.all {
		list = append(list,
			variant{level: 31, compress: "snappy", format: "kdump"}, variant{level: 31, compress: "zlib", format: "kdump"},
			variant{level: 31, compress: "zstd", format: "kdump", dedup: true}, variant{level: 31, compress: "zstd", format: "flat"},
			variant{level: 31, format: "elf"})
	}
	var errs []error
	for _, v := range list {
		path, err := c.save(ctx, m.vmcore, v)
		if err != nil {
			return err
		}
		got, err := c.askCrash(ctx, vmlinux, path)
		if err == nil {
			err = sameLines(want, got)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("crash on %v: %w", v, err))
		}
	}
	_ = os.Remove(filepath.Join(c.dir, "dump"))
	fmt.Fprintf(m.out, "    crash: %d lines of the raw core, %d dumps, %d differ\n", strings.Count(want, "\n"), len(list), len(errs))
	return errors.Join(errs...)
}

// askCrash returns all that crash says, but for the names of files.
func (s *subject) askCrash(ctx context.Context, vmlinux, core string) (string, error) {
	var commands strings.Builder
	for _, q := range crashCommands() {
		fmt.Fprintln(&commands, q.command)
	}
	input := filepath.Join(s.dir, "crash.in")
	if err := os.WriteFile(input, []byte(commands.String()+"quit\n"), 0o644); err != nil {
		return "", err
	}
	cmd, err := s.Tool(ctx, "crash", append(s.crashFlags, "-s", "--no_scroll", "-i", input, vmlinux, core)...)
	if err != nil {
		return "", err
	}
	cmd.Env = append(cmd.Env, "HOME="+s.dir, "TERM=dumb")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %.600s", err, out)
	}
	text := strings.ReplaceAll(string(out), core, "CORE")
	return strings.ReplaceAll(text, "CORE  [PARTIAL DUMP]", "CORE"), nil
}

// sameLines tells the first lines in which two texts differ.
func sameLines(want, got string) error {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Errorf("line %d: %.300q, of the raw core: %.300q", i+1, b[min(i, len(b)-1)], a[min(i, len(a)-1)])
		}
	}
	return nil
}
