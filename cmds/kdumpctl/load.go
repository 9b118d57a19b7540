package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/kexec"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
)

func (h *host) load(args []string, stdout, stderr io.Writer) (int, error) {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	kernelName := fs.String("kernel", "", "capture kernel `FILE` (default the first of "+strings.Join(h.kernels(), ", ")+")")
	initrdName := fs.String("initrd", "", "capture initramfs `FILE` (default the first of "+strings.Join(h.initrds(), ", ")+")")
	appended := fs.String("append", "", "`WORDS` to add to the capture kernel's command line; they win over all others")
	if err := parse(fs, args, stdout); err != nil {
		return exitUsage, err
	}
	if err := h.needRoot(); err != nil {
		return exitError, err
	}
	p := &plan{}
	defer p.close()
	if err := p.prepare(h, *kernelName, *initrdName, *appended); err != nil {
		return exitError, err
	}
	for _, w := range p.warnings {
		fmt.Fprintf(stderr, "kdumpctl load: warning: %s\n", w)
	}
	if err := h.kexecLoad(p.kernel, p.initrd, p.cmdline); err != nil {
		return exitError, h.loadFailed(err)
	}
	if err := h.writeState(p.state(h)); err != nil {
		fmt.Fprintf(stderr, "kdumpctl load: warning: loaded, but status will not know what: %v\n", err)
	}
	fmt.Fprintf(stdout, "loaded %s with %s into %s; %s\n", p.kernel.Name(), p.initrd.Name(), mib(p.reserved), p.destination())
	return exitOK, nil
}

// loadFailed adds what has become of a capture kernel that was there before:
// the kernel drops it before it tries the new one.
func (h *host) loadFailed(err error) error {
	loaded, lerr := h.loaded()
	if lerr != nil || loaded {
		return err
	}
	return errors.Join(fmt.Errorf("%w; no capture kernel is loaded now", err), h.removeState())
}

// A plan is all that load needs, checked.
type plan struct {
	reserved       uint64
	kernel, initrd *os.File
	cmdline        string
	config         config.Config
	specs          []targets.Spec
	targets        []string // without passwords
	warnings       []string
	savesNothing   bool // for what one of the warnings says
}

func (p *plan) close() {
	for _, f := range []*os.File{p.kernel, p.initrd} {
		if f != nil {
			f.Close()
		}
	}
}

// prepare finds and checks everything before the kernel is asked, which drops
// what it had loaded before it looks at what it gets.
func (p *plan) prepare(h *host, kernelName, initrdName, appended string) (err error) {
	if p.reserved, err = h.crashSize(); err != nil {
		return err
	}
	if p.reserved == 0 {
		return h.notReserved(kernelName, initrdName)
	}
	if p.kernel, err = h.open("kernel", kernelName, h.kernels()); err != nil {
		return err
	}
	if p.initrd, err = h.open("initrd", initrdName, h.initrds()); err != nil {
		return err
	}
	image, err := kexec.ReadImage(p.kernel)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", p.kernel.Name(), err)
	}
	files, err := inspect(p.initrd)
	if err != nil {
		return fmt.Errorf("initrd %s: %w", p.initrd.Name(), err)
	}
	if p.cmdline, err = h.captureCmdline(appended); err != nil {
		return err
	}
	if err := p.configure(files); err != nil {
		return err
	}
	p.look(files, image)
	p.room(h.usable(p.reserved), h.systemRAM(), image.RunSize, files.unpacked)
	if p.ownInit() == "" {
		p.fit(files, h.drivers(image.Release))
	}
	return nil
}

// notReserved says what to add to the boot line, for the kernel and initramfs
// that would be loaded, as far as they are there.
func (h *host) notReserved(kernelName, initrdName string) error {
	var image kexec.Image
	if f, err := h.open("kernel", kernelName, h.kernels()); err == nil {
		image, _ = kexec.ReadImage(f) // of no size, if it is none
		f.Close()
	}
	var size int64
	if f, err := h.open("initrd", initrdName, h.initrds()); err == nil {
		if st, err := f.Stat(); err == nil {
			size = st.Size()
		}
		f.Close()
	}
	return fmt.Errorf("no memory is reserved for a capture kernel: add crashkernel=%dM to the boot line of this system and boot it again",
		kexec.Estimate(image.RunSize, size)>>20)
}

func (h *host) captureCmdline(appended string) (string, error) {
	running, err := h.read("/proc/cmdline")
	if err != nil {
		return "", err
	}
	line, err := kexec.CaptureCmdline(running, appended)
	if err != nil || !kexec.NeedsBootCPUWord(line) {
		return line, err
	}
	cpuinfo, err := h.read("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	if word := kexec.BootCPUWord(strings.NewReader(cpuinfo)); word != "" {
		return kexec.CaptureCmdline(running, word+" "+appended) // before a -- that may be there
	}
	return line, nil
}

// configure reads the configuration as the capture kernel will, but takes no
// mistake in it.
func (p *plan) configure(files contents) error {
	name := p.initrd.Name() + ":/etc/kdump.conf"
	c, problems := config.Parse(bytes.NewReader(files.conf), name)
	problems = append(problems, c.ApplyCmdline(p.cmdline)...)
	var errs []error
	for _, problem := range problems {
		errs = append(errs, problem)
	}
	_, wrong := netcfg.Parse(c.Network)
	errs = append(errs, wrong...)
	p.config = c
	for _, url := range c.Targets {
		spec, err := targets.Parse(url)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Where("target"), err))
		}
		p.specs = append(p.specs, spec)
		p.targets = append(p.targets, config.Redact(url))
	}
	if len(errs) > 0 {
		return fmt.Errorf("the capture would not do as it is told:\n%w", errors.Join(errs...))
	}
	return nil
}

// look finds what is allowed, but hardly meant. An init that -append names does what
// it likes: then it is not asked where a dump would go.
func (p *plan) look(files contents, image kexec.Image) {
	name := p.initrd.Name()
	init := p.ownInit()
	switch {
	case init != "" && !files.has(init):
		p.lost("%s has no %s, which rdinit= names", name, init)
	case init == "" && !files.has("/init"):
		p.lost("%s has no /init", name)
	}
	if init == "" && !files.hasConf {
		p.warn("%s has no /etc/kdump.conf: is it a capture image?", name)
	}
	if init == "" && len(p.targets) == 0 {
		p.lost("no target is configured: the capture will report to the console and save nothing")
	}
	if image.Release != "" && len(files.releases) > 0 && !slices.Contains(files.releases, image.Release) {
		p.lost("%s has modules for %s, and %s is %s: none of them will load",
			name, strings.Join(files.releases, ", "), p.kernel.Name(), image.Release)
	}
}

// ownInit is what runs in place of /init, "" if nothing does.
func (p *plan) ownInit() string {
	init := ""
	for _, w := range cmdline.Words(p.cmdline) {
		if w == (cmdline.Word{Key: "--"}) {
			break
		}
		if w.Key == "rdinit" {
			init = w.Value
		}
	}
	return init
}

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// lost is a warning with which no crash would be saved.
func (p *plan) lost(format string, args ...any) {
	p.warn(format, args...)
	p.savesNothing = true
}

func (p *plan) destination() string {
	switch {
	case len(p.targets) == 0:
		return "a crash is reported to the console only"
	case p.savesNothing:
		return "a crash would not be saved"
	}
	return "a crash is saved to " + strings.Join(p.targets, ", or else ")
}

func (p *plan) state(h *host) state {
	return state{
		Kernel: absolute(p.kernel.Name()), Initrd: absolute(p.initrd.Name()), Cmdline: redactLine(p.cmdline),
		Targets: p.targets, Warnings: p.warnings, SavesNothing: p.savesNothing,
		LoadedAt: time.Now().UTC().Truncate(time.Second), BootID: h.bootID(), SystemRAM: h.systemRAM(),
	}
}

func absolute(name string) string {
	if abs, err := filepath.Abs(name); err == nil {
		return abs
	}
	return name
}

// redactLine takes the passwords out of the URLs of a command line.
func redactLine(line string) string {
	words := cmdline.Words(line)
	for i, w := range words {
		if strings.HasPrefix(w.Key, "kdump.") {
			words[i].Value = config.Redact(w.Value)
		}
	}
	return cmdline.Join(words)
}

func mib(n uint64) string { return fmt.Sprintf("%d MiB", n>>20) }

func (h *host) unload(args []string, stdout, _ io.Writer) (int, error) {
	fs := flag.NewFlagSet("unload", flag.ContinueOnError)
	if err := parse(fs, args, stdout); err != nil {
		return exitUsage, err
	}
	if err := h.needRoot(); err != nil {
		return exitError, err
	}
	loaded, err := h.loaded()
	if err != nil {
		return exitError, err
	}
	if loaded {
		if err := h.unloadAll(); err != nil {
			return exitError, err
		}
	}
	if err := h.removeState(); err != nil {
		return exitError, err
	}
	if loaded {
		fmt.Fprintln(stdout, "unloaded")
	} else {
		fmt.Fprintln(stdout, "no capture kernel was loaded")
	}
	return exitOK, nil
}
