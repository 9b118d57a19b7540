// Savecore is one attempt to save a crash: one core to one target.
//
// In the capture kernel kdump-init runs it as a child, once for each target,
// until one has it. It may be run by hand as well: savecore -h.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/watchdog"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Exit statuses; kdump-init goes on to the next target unless it is 0.
const (
	exitSaved   = 0 // the whole directory
	exitNothing = 1 // nothing of use
	exitUsage   = 2
	exitLogOnly = 3 // the kernel log, but no core
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if isExtraction(args) {
		return extract(args, stdout, stderr)
	}
	beat := watchdog.NewBeater()
	o, err := parse(args, stdout)
	if err == flag.ErrHelp {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "savecore: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	// A reader of standard output that goes away must not cost the dump.
	signal.Ignore(unix.SIGPIPE)
	said := stdout
	if o.target == "-" { // where the kernel log goes
		said = stderr
	}
	log := newLogger(said, o.kmsg)
	defer log.close()
	a := newAttempt(o, log, stdout)
	a.beat = beat
	return a.run(ctx)
}

// options is one attempt as its command line describes it.
type options struct {
	target string // URL, or "-": print the kernel log on standard output, no more

	core       string // ELF core
	elfcorehdr string // where the ELF headers of old memory are, if core has nothing
	devmem     string

	level         memmap.Level
	compress      string
	format        string
	checksum      bool   // read the core back for SHA256SUMS
	reserve       uint64 // bytes that stay free on the target
	keep          int    // complete dumps to keep, 0: all
	loop          config.Loop
	workers       int
	targetTimeout time.Duration // to reach the target
	stallTimeout  time.Duration // that a server may do nothing, reconnecting included
	progress      time.Duration // between progress lines
	mountDir      string
	network       string // words to bring it up with, autoNetwork, or "": it is as it is
	logOnly       bool   // not the core
	kmsg          bool   // log to the kernel's log too, and save that as capture.log
}

const usage = `Usage: savecore [flags] TARGET

Saves the core of a crashed kernel as one directory on TARGET, a URL such as
  disk:///crash?dev=LABEL=CRASH
  file:///var/crash
TARGET "-" prints the kernel log of the core on standard output.

Exit status: 0 all saved, 1 nothing saved, 2 usage, 3 the log but no core.

Flags:
`

// parse prints nothing but help, where that is asked for.
func parse(args []string, help io.Writer) (o options, err error) {
	d := config.Default()
	fs := flag.NewFlagSet("savecore", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.core, "core", "/proc/vmcore", "ELF `core` to save")
	fs.StringVar(&o.elfcorehdr, "elfcorehdr", "", "`[size@]address` of the ELF headers in memory, used when the core is missing or empty\n(default: elfcorehdr= of /proc/cmdline)")
	fs.StringVar(&o.devmem, "devmem", "/dev/mem", "`device` to read old memory from when the core is missing or empty")
	level := fs.Int("level", d.Level, "dump `level` 0-31: sum of 1 zero, 2 cache, 4 private cache, 8 user, 16 free pages to leave out")
	fs.StringVar(&o.compress, "compress", d.Compress, "`codec`: zstd, snappy, zlib or none")
	fs.StringVar(&o.format, "format", d.Format, "`format` of the core: kdump, elf or flat")
	fs.BoolVar(&o.checksum, "checksum", d.Checksum, "read the core back for its line in SHA256SUMS; -checksum=false saves that time")
	reserve := fs.String("reserve", config.FormatSize(d.Reserve), "`bytes` that stay free on the target (K, M, G)")
	fs.IntVar(&o.keep, "keep", d.Keep, "complete dumps of this host to keep on the target; 0 keeps all")
	loop := fs.String("crash-loop", d.CrashLoop.String(), "`N/MINUTES`: of more than N crashes of a host in that time, only the first and the\nnewest keep their cores; or off")
	fs.IntVar(&o.workers, "workers", d.Workers, "compressing `workers`; 0 is one per CPU")
	fs.DurationVar(&o.targetTimeout, "target-timeout", d.DeviceTimeout, "`time` for the target to appear and answer")
	fs.DurationVar(&o.stallTimeout, "stall-timeout", d.StallTimeout, "`time` that a server may do nothing, trying to get a lost connection back included")
	fs.DurationVar(&o.progress, "progress", 2*time.Second, "`time` between progress lines; 0 is none")
	fs.StringVar(&o.mountDir, "mount", "/mnt", "`directory` to mount a disk on")
	fs.StringVar(&o.network, "network", "", "bring the network up first, with these `words`: \"ip=dhcp vlan=vlan5:eth0\" for instance;\n\""+autoNetwork+"\" tries every NIC. Without it the network is left as it is")
	fs.BoolVar(&o.logOnly, "log-only", false, "save the kernel log, and not the core")
	fs.BoolVar(&o.kmsg, "kmsg", false, "log to /dev/kmsg too, and save the running kernel's log as capture.log")
	switch err := fs.Parse(args); {
	case err == flag.ErrHelp:
		fmt.Fprint(help, usage)
		fs.SetOutput(help)
		fs.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w (savecore -h lists the flags)", err)
	}
	if fs.NArg() != 1 {
		return o, fmt.Errorf("want one target URL, got %d arguments (savecore -h shows how)", fs.NArg())
	}
	o.target = fs.Arg(0)
	ok := false
	if o.reserve, ok = config.ParseSize(*reserve); !ok {
		return o, fmt.Errorf("-reserve %s: want bytes, or a number with K, M, G or T", *reserve)
	}
	if o.loop, ok = config.ParseLoop(*loop); !ok {
		return o, fmt.Errorf("-crash-loop %s: want off, or CRASHES/MINUTES such as 5/60", *loop)
	}
	if *level < 0 || *level > int(memmap.LevelMax) {
		return o, fmt.Errorf("-level %d: want 0 to 31", *level)
	}
	o.level = memmap.Level(*level)
	return o, o.check()
}

// check refuses what could only fail later.
func (o *options) check() error {
	if o.target != "-" {
		if _, err := targets.Parse(o.target); err != nil {
			return err
		}
	}
	if _, _, err := dump.ParseCompress(o.compress); err != nil {
		return fmt.Errorf("-%w", err)
	}
	if !slices.Contains([]string{"kdump", "elf", "flat"}, o.format) {
		return fmt.Errorf("-format %s: want kdump, elf or flat", o.format)
	}
	if o.format == "elf" {
		o.compress = kdumpfile.None.String() // an ELF core has no compressed pages
	}
	switch {
	case o.keep < 0:
		return fmt.Errorf("-keep %d: want a number from 0 (all)", o.keep)
	case o.workers < 0:
		return fmt.Errorf("-workers %d: want a number from 0 (one for each CPU)", o.workers)
	case o.targetTimeout <= 0:
		return fmt.Errorf("-target-timeout %s: want a time such as 30s", o.targetTimeout)
	case o.stallTimeout <= 0:
		return fmt.Errorf("-stall-timeout %s: want a time such as 2m", o.stallTimeout)
	}
	// A capture does what it can with them.
	if _, errs := o.plan(); len(errs) > 0 && !o.kmsg {
		return fmt.Errorf("-network: %w", errs[0])
	}
	if o.elfcorehdr != "" {
		if _, err := vmcore.ParseElfcorehdr(o.elfcorehdr); err != nil {
			return fmt.Errorf("-%w", err)
		}
		return nil
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil // no /proc: an ordinary core file may still be saved
	}
	for _, w := range cmdline.Words(string(line)) {
		if w.Key == "elfcorehdr" {
			o.elfcorehdr = w.Value
		}
	}
	return nil
}
