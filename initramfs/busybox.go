package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// buildTimeout bounds one compilation; with an empty build cache and one slow
// CPU it takes two minutes.
const buildTimeout = 15 * time.Minute

// captureCommands is what every image holds: PID 1, and what it runs.
func captureCommands() []string {
	return []string{commandsDir + "kdump-init", commandsDir + "savecore"}
}

// controlCommand is for the production system, and of no use in the capture
// kernel. It is in the image so that one file serves both; it adds 680 KiB.
func controlCommand() string { return commandsDir + "kdumpctl" }

const commandsDir = "github.com/ukdump/ukdump/cmds/"

// shellCommands is the emergency shell. Those of others are tools in go.mod too,
// which pins their version.
//
// They were chosen by what they add to the static binary, in KiB: the shell 770, ls
// 440, ps 70, mount 40, grep and cp 16-28, the others 16 or less. Left out for their
// size: insmod (650), ip (1330), free (200).
func shellCommands() []string {
	const dir = "github.com/u-root/u-root/cmds/core/"
	return []string{
		commandsDir + shellName, // with cd, echo, pwd, test and kill built in
		dir + "cat",
		dir + "cp",
		dir + "df",
		dir + "dmesg",
		dir + "grep",
		dir + "hexdump",
		dir + "ls",
		dir + "mkdir",
		dir + "mount",
		dir + "ps",
		dir + "rm",
		dir + "sleep",
		dir + "sync",
		dir + "tail",
		dir + "umount",
	}
}

// shellName is the command that is /bin/sh.
const shellName = "kdump-sh"

// builder compiles busyboxes for one architecture.
type builder struct {
	arch    string
	goroot  string
	makebb  string   // gobusybox's compiler, built for this machine
	symbols bool     // keep the symbol table, for weighing
	env     []string // of every go command
}

// newBuilder builds the tools for the machine that this runs on, before
// anything is compiled for arch.
func newBuilder(ctx context.Context, arch string) (*builder, error) {
	b := &builder{arch: arch, env: hermetic(os.Environ())}
	goroot, err := b.output(ctx, b.env, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	b.goroot = goroot
	b.makebb, err = b.output(ctx, b.env, "go", "tool", "-n", "makebb")
	return b, err
}

// hermetic drops the settings of the caller's that would change the compiled
// bytes, and those meant for other builds.
func hermetic(environ []string) []string {
	fixed := map[string]string{
		"CGO_ENABLED": "0",
		"GO111MODULE": "on",
		"GOWORK":      "off",
		"GOOS":        "", "GOARCH": "", // the host's, until a build says otherwise
		"GOFLAGS":      "-buildvcs=false", // not empty: then go env -w could say more
		"GOEXPERIMENT": "", "GODEBUG": "", "GOFIPS140": "off",
		// The lowest level of each architecture: the image may be built on a
		// newer machine than the one that crashes.
		"GOAMD64": "v1", "GOARM64": "v8.0", "GOARM": "7", "GORISCV64": "rva20u64", "GOPPC64": "power8",
	}
	env := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		_, ours := fixed[k]
		return ours
	})
	for _, k := range slices.Sorted(maps.Keys(fixed)) {
		env = append(env, k+"="+fixed[k])
	}
	return env
}

// build compiles the commands, given as import paths or directories, into one
// busybox. The same sources give the same bytes, wherever they are.
func (b *builder) build(ctx context.Context, commands []string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkinitramfs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "bb")
	env := append(slices.Clone(b.env), "GOROOT="+b.goroot, "GOOS=linux", "GOARCH="+b.arch)
	args := append(b.flags(), "-gen-dir="+filepath.Join(dir, "src"), "-o="+out)
	if _, err := b.output(ctx, env, b.makebb, append(args, commands...)...); err != nil {
		// makebb's log leads up to "Preserving DIR due to error: ...", and DIR is
		// about to go.
		if _, why, ok := strings.Cut(err.Error(), "due to error: "); ok {
			err = errors.New(why)
		}
		return nil, fmt.Errorf("build busybox for linux/%s: %w", b.arch, err)
	}
	return os.ReadFile(out)
}

// flags undoes what gobusybox does to every build: it compiles in GOPATH mode,
// where the runtime behaves as Go 1.20's (godebugDefault), rebuilds everything
// each time (-a), and turns inlining off, which costs a third of zstd's speed.
func (b *builder) flags() []string {
	ldflags := "-s -w -buildid= -X=runtime.godebugDefault="
	if b.symbols {
		ldflags = "-buildid= -X=runtime.godebugDefault="
	}
	return []string{
		"-go-enable-inlining",
		"-go-extra-args=-a=false",
		"-go-extra-args=-buildvcs=false",
		"-go-extra-args=-ldflags=" + ldflags,
	}
}

// output runs a program in the current directory and returns what it printed,
// trimmed. The error of a failure has all that was said.
func (b *builder) output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s: not done after %s", filepath.Base(name), buildTimeout)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, strings.TrimSpace(string(out)+stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
