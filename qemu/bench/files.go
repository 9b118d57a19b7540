package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ukdump/ukdump/qemu/rig"
)

// files measures vmcore convert beside makedumpfile on raw cores.
func (b *bench) files(ctx context.Context, out io.Writer, rounds int) error {
	vmcore, err := b.buildVmcore(ctx)
	if err != nil {
		return err
	}
	for _, m := range machines() {
		core, err := b.core(ctx, out, m)
		if err != nil {
			return err
		}
		if err := warm(core); err != nil {
			return err
		}
		for _, c := range fileContests() {
			fmt.Fprintf(out, "\n%v: %s\n", m, c.name)
			list := []entrant{b.makedumpfile(core, c.theirs)}
			for _, o := range c.ours {
				list = append(list, convert(vmcore, core, o))
			}
			if err := contest(ctx, out, rounds, list); err != nil {
				return err
			}
		}
	}
	return nil
}

func fileContests() []struct {
	name, theirs string
	ours         []string
} {
	return []struct {
		name, theirs string
		ours         []string
	}{
		{"level 31, zstd", "-z -d 31", []string{"-level 31 -workers 1", "-level 31 -workers 2"}},
		{"level 31, fastest", "-l -d 31", []string{"-level 31 -compress snappy -workers 1", "-level 31 -compress snappy -workers 2"}},
		{"level 1, zstd", "-z -d 1", []string{"-level 1 -workers 1", "-level 1 -workers 2"}},
		{"level 0, zstd", "-z -d 0", []string{"-level 0 -workers 1", "-level 0 -workers 2"}},
	}
}

func (b *bench) buildVmcore(ctx context.Context) (string, error) {
	path := filepath.Join(b.dir, "vmcore")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmds/vmcore")
	cmd.Dir = b.Root
	_, err := rig.Output(cmd)
	return path, err
}

func (b *bench) makedumpfile(core, options string) entrant {
	return entrant{"makedumpfile " + options, func(ctx context.Context, out string) (*exec.Cmd, error) {
		return b.Tool(ctx, "makedumpfile", append(strings.Fields(options), core, out)...)
	}}
}

func convert(vmcore, core, options string) entrant {
	return entrant{"vmcore " + strings.TrimPrefix(options, "-level 31 "), func(ctx context.Context, out string) (*exec.Cmd, error) {
		args := append([]string{"convert"}, strings.Fields(options)...)
		return exec.CommandContext(ctx, vmcore, append(args, core, out)...), nil
	}}
}

// warm reads a file, so that it is in the page cache.
func warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}
