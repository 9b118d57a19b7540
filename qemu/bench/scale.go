package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ukdump/ukdump/internal/vmcoretest"
)

// scale measures how long it takes to classify the pages of large machines, nearly
// all of whose memory level 31 leaves out: synthetic cores, sparse, with all
// struct pages readable.
func (b *bench) scale(ctx context.Context, out io.Writer, rounds int) error {
	vmcore, err := b.buildVmcore(ctx)
	if err != nil {
		return err
	}
	for _, size := range []string{"256G", "1T"} {
		core := filepath.Join(b.dir, "synthetic-"+size+".elf")
		if err := vmcoretest.Write(core, vmcoretest.Large(size)); err != nil {
			return err
		}
		fmt.Fprintf(out, "\nclassification at level 31, %s of RAM\n", size)
		list := []entrant{b.makedumpfile(core, "--dry-run -z -d 31")}
		for _, workers := range []string{"1", "2"} {
			list = append(list, entrant{"vmcore convert -n -workers " + workers, func(ctx context.Context, _ string) (*exec.Cmd, error) {
				return exec.CommandContext(ctx, vmcore, "convert", "-n", "-level", "31", "-workers", workers, core), nil
			}})
		}
		if err := errors.Join(contest(ctx, out, rounds, list), os.Remove(core)); err != nil {
			return err
		}
	}
	return nil
}
