// Mkinitramfs builds the capture image: the initramfs that a capture kernel
// starts from when the production kernel has crashed.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/pkg/config"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const usage = `Usage: mkinitramfs [flags]

mkinitramfs builds a capture image out of the commands of this source tree, one
kernel's modules and a kdump.conf, and prints what it put in. Run it in the tree:
make initramfs KERNEL_MODULES=/lib/modules/RELEASE CONFIG=kdump.conf

Flags:
`

// options are the flags.
type options struct {
	config      string
	modules     string
	out         string
	arch        string
	init        string
	noShell     bool
	noControl   bool
	modulesOnly string
	addModules  string
	files       []string
	commands    []string
	weigh       bool
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("mkinitramfs", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	fs.StringVar(&o.config, "config", "", "kdump.conf `FILE` to bake in; without it targets have to come on the capture kernel's command line")
	fs.StringVar(&o.modules, "modules", "", "/lib/modules/RELEASE `DIR` of the capture kernel; without it the kernel must have all drivers built in")
	fs.StringVar(&o.modulesOnly, "modules-only", "", "take only this comma separated `LIST` of modules and what they need; none: no modules")
	fs.StringVar(&o.addModules, "add-modules", "", "also take this comma separated `LIST` of modules")
	fs.StringVar(&o.out, "o", "_out/capture.cpio.zst", "write the image to `FILE`")
	fs.StringVar(&o.arch, "arch", runtime.GOARCH, "build for this `GOARCH`")
	fs.StringVar(&o.init, "init", "kdump-init", "`NAME` of the command that is /init, or the path of a static program")
	fs.BoolVar(&o.noShell, "no-shell", false, "leave out the emergency shell and its commands")
	fs.BoolVar(&o.noControl, "no-kdumpctl", false, "leave out kdumpctl, which only the production system runs")
	fs.BoolVar(&o.weigh, "weigh", false, "also print which Go packages are how much of the busybox")
	fs.Func("files", "`SRC:DST` adds a file or folder of this machine (repeat)", appendTo(&o.files))
	fs.Func("cmds", "Go `PACKAGE` to add to the busybox (repeat)", appendTo(&o.commands))
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("unexpected %q", fs.Arg(0))
		fmt.Fprintf(stderr, "mkinitramfs: %v\n", err)
		fs.Usage()
		return o, err
	}
	return o, nil
}

func appendTo(list *[]string) func(string) error {
	return func(s string) error {
		*list = append(*list, s)
		return nil
	}
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stderr)
	switch {
	case err == flag.ErrHelp:
		return 0
	case err != nil:
		return 2
	}
	if err := o.make(context.Background(), stdout); err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(stderr, "mkinitramfs: %s\n", strings.TrimRight(line, "\n"))
		}
		return 1
	}
	return 0
}

// make builds the image, from what fails fast to what takes long.
func (o options) make(ctx context.Context, stdout io.Writer) error {
	start := time.Now()
	s, err := readSettings(o.config)
	if err != nil {
		return err
	}
	c := contentsOf{init: o.init, settings: s, files: o.files}
	groups := chosen(s.targets, s.network, s.config.Watchdog != config.WatchdogOff, o.modulesOnly, o.addModules)
	switch {
	case o.modules != "":
		if c.modules, err = collect(o.modules, o.arch, groups); err != nil {
			return err
		}
	case o.modulesOnly != "" || o.addModules != "":
		return fmt.Errorf("-modules-only and -add-modules need -modules DIR, a /lib/modules/RELEASE folder")
	}
	commands, shell := o.packages()
	if c.commands, err = names(slices.Concat(commands, shell)); err != nil {
		return err
	}
	busybox, bare, err := compile(ctx, o.arch, commands, shell)
	if err != nil {
		return err
	}
	c.busybox = busybox
	archive, err := c.assemble()
	if err != nil {
		return err
	}
	size, err := save(o.out, archive)
	if err != nil {
		return err
	}
	r := report{options: o, contents: &c, bare: len(bare), archive: archive, size: size, took: time.Since(start)}
	r.print(stdout)
	if o.weigh {
		return weigh(ctx, stdout, o.arch, slices.Concat(commands, shell))
	}
	return nil
}

// packages are the commands that the flags ask for, those of the shell apart.
func (o options) packages() (commands, shell []string) {
	commands = captureCommands()
	if !o.noControl {
		commands = append(commands, controlCommand())
	}
	commands = append(commands, o.commands...)
	if !o.noShell {
		shell = shellCommands()
	}
	return commands, shell
}

// names are the commands' names in the busybox.
func names(packages []string) ([]string, error) {
	var all []string
	for _, p := range packages {
		if p == "." || strings.HasPrefix(p, "./") || strings.HasPrefix(p, "../") {
			abs, err := filepath.Abs(p)
			if err != nil {
				return nil, err
			}
			p = abs
		}
		name := filepath.Base(p)
		if slices.Contains(all, name) {
			return nil, fmt.Errorf("two commands are called %s", name)
		}
		all = append(all, name)
	}
	return all, nil
}

// compile builds the busybox, and beside it the one without the shell, which
// tells what the shell costs. bare is nil where there is no shell.
func compile(ctx context.Context, arch string, commands, shell []string) (full, bare []byte, err error) {
	b, err := newBuilder(ctx, arch)
	if err != nil {
		return nil, nil, err
	}
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		if len(shell) == 0 {
			done <- result{}
			return
		}
		data, err := b.build(ctx, commands)
		done <- result{data, err}
	}()
	full, err = b.build(ctx, slices.Concat(commands, shell))
	r := <-done
	if err == nil {
		err = r.err
	}
	return full, r.data, err
}
