package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ukdump/ukdump/qemu/server"
)

// Server starts a machine with servers, in the folder name below Out. It may
// serve several crashes, one after the other; each gets its NICs. Image, Kernel and Guest of c
// are filled in.
func (r *Rig) Server(ctx context.Context, name string, c server.Config) (*server.Server, error) {
	k, err := r.Kernel("6.1")
	if err != nil {
		return nil, err
	}
	c.Dir = filepath.Join(r.Out, name)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	fetch := exec.CommandContext(ctx, filepath.Join(r.Root, "qemu", "fetch"), "server")
	fetch.Env = append(os.Environ(), "UKDUMP_CACHE="+r.Cache)
	said, err := Output(fetch)
	if err != nil {
		return nil, err
	}
	_, image, ok := strings.Cut(strings.TrimSpace(said), "server: ")
	if !ok {
		return nil, fmt.Errorf("%s server: no path of an image in %q", fetch.Path, said)
	}
	c.Kernel, c.Image = k.Vmlinuz, image
	if c.Guest, err = r.build(ctx, c.Dir, "./server/guest"); err != nil {
		return nil, err
	}
	return server.Start(ctx, c)
}
