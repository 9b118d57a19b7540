// Package rig puts a crash together: kernels that were fetched, images that are
// built from this tree, a virtual machine, and what is left afterwards.
//
// Start with Open. Run makes one crash from production to production.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/initramfs/cpio"
)

// Rig knows the folders. Its methods may be used concurrently.
type Rig struct {
	Root  string        // the project
	Cache string        // what qemu/fetch got
	Out   string        // one folder for each crash
	lock  *os.File      // held until Close
	slots chan struct{} // machines that may run at a time
}

// machines is how many virtual machines run at a time: each of them keeps about
// one CPU busy.
const machines = 2

// Open finds the project around the working directory. Out is made; what is in
// there from earlier runs stays until a crash of the same name. Only one process
// has it at a time: Open waits for others, and for a Rig of this one that is not
// closed, until ctx ends. The lock is gone when the process is.
func Open(ctx context.Context) (*Rig, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for !exists(filepath.Join(dir, "qemu", "fetch")) {
		if dir == "/" {
			return nil, errors.New("find the project: no qemu/fetch in the working directory or above")
		}
		dir = filepath.Dir(dir)
	}
	cache := os.Getenv("UKDUMP_CACHE")
	if cache == "" {
		cache = filepath.Join(dir, "_cache")
	}
	out := filepath.Join(dir, "_out", "qemu")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, filepath.Join(out, "lock"))
	if err != nil {
		return nil, err
	}
	return &Rig{Root: dir, Cache: cache, Out: out, lock: lock, slots: make(chan struct{}, machines)}, nil
}

// Close lets others in.
func (r *Rig) Close() error { return r.lock.Close() }

// lockFile waits until no other process has the lock. It lasts as long as the file
// is open.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: another test, demo or bench is running: %w", name, ctx.Err())
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Kernel is a fetched kernel.
type Kernel struct {
	Name    string // 6.1
	Release string // 6.1.0-50-cloud-amd64
	Vmlinuz string
	Modules string // its /lib/modules/RELEASE
}

// Kernel returns the kernel that qemu/fetch knows under this name.
func (r *Rig) Kernel(name string) (Kernel, error) {
	dir := filepath.Join(r.Cache, "kernels", name)
	b, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s is not there; get it with: %s/qemu/fetch %s", name, r.Root, name)
	}
	release := strings.TrimSpace(string(b))
	return Kernel{name, release, filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "lib/modules", release)}, nil
}

// Tool is a command of the fetched tools tree: makedumpfile, python3, crash. It runs
// with the tree's own dynamic linker and libraries, as any user.
func (r *Rig) Tool(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	return r.treeTool(ctx, "tools", name, args)
}

// Gdb is the fetched gdb, for a script: without any user's settings.
func (r *Rig) Gdb(ctx context.Context, args ...string) (*exec.Cmd, error) {
	data := "--data-directory=" + filepath.Join(r.Cache, "gdb/usr/share/gdb")
	return r.treeTool(ctx, "gdb", "gdb", append([]string{data, "-nx", "-batch"}, args...))
}

func (r *Rig) treeTool(ctx context.Context, tree, name string, args []string) (*exec.Cmd, error) {
	root := filepath.Join(r.Cache, tree)
	if !exists(filepath.Join(root, "usr/bin", name)) {
		return nil, fmt.Errorf("%s is not there; get it with: %s/qemu/fetch %s", name, r.Root, tree)
	}
	libs := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	args = append([]string{"--library-path", libs, filepath.Join(root, "usr/bin", name)}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(libs, "ld-linux-x86-64.so.2"), args...)
	cmd.Env = append(os.Environ(), "PYTHONHOME="+filepath.Join(root, "usr"), "PYTHONDONTWRITEBYTECODE=1")
	return cmd, nil
}

// Output runs a command and returns what it printed. Its error has what the
// command complained of.
func Output(cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, tail(complaint.String(), 2000), tail(out.String(), 1000))
	}
	return out.String(), nil
}

func tail(s string, n int) string {
	return s[max(0, len(s)-n):]
}

// build compiles a command of this module into a static binary in the folder
// dir and returns its path.
func (r *Rig) build(ctx context.Context, dir, pkg string) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = filepath.Join(r.Root, "qemu")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	_, err := Output(cmd)
	return out, err
}

// Capture builds the capture image as a user does, and returns what the
// program said. conf is the text of kdump.conf.
func (r *Rig) Capture(ctx context.Context, out string, k Kernel, conf string, flags ...string) (string, error) {
	name := out + ".conf"
	if err := os.WriteFile(name, []byte(conf), 0o600); err != nil {
		return "", err
	}
	args := append([]string{"run", "./initramfs", "-modules", k.Modules, "-config", name, "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return Output(cmd)
}

// Overlay writes a compressed image: base, which may be empty or another such
// image, and the archive behind it. A kernel unpacks both, and later files win. Its
// window is that of mkinitramfs: a kernel allocates as much, and what a reservation
// suffices for must not depend on the rig.
func Overlay(out, base string, a *cpio.Archive) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(256<<10), zstd.WithSingleSegment(false))
	if err != nil {
		return err
	}
	n := int64(0)
	if base != "" {
		if n, err = plain(z, base); err != nil {
			return fmt.Errorf("%s: %w", base, err)
		}
	}
	if _, err := z.Write(make([]byte, -n&511)); err != nil {
		return err
	}
	return errors.Join(a.Write(z), z.Close())
}

// plain writes what a file compressed with zstd holds.
func plain(w io.Writer, name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return 0, err
	}
	defer z.Close()
	return io.Copy(w, z)
}

// addFile puts the contents of a file of this machine into an archive.
func addFile(a *cpio.Archive, name, from string, perm uint32) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return a.Add(cpio.Entry{Name: name, Mode: cpio.Regular | perm, Data: b})
}
