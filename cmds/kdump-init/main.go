// Kdump-init is PID 1 of the capture kernel: it prepares the machine as far as
// saving a crash needs it, runs savecore for each target until one has the
// crash, and ends in a reboot whatever happens.
//
// It saves nothing itself. Each attempt is a child process, so that what breaks
// there, a panic, a lack of memory, a mount that hangs, leaves this process in
// charge. kdump-init -n prints the attempts as command lines.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/ukdump/ukdump/pkg/config"
)

const configPath = "/etc/kdump.conf"

func main() {
	if os.Getpid() == 1 {
		boot()
		return
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `Usage: kdump-init -n [-config FILE] [-cmdline WORDS]

kdump-init is the first process of a capture kernel and takes no arguments there.
With -n it only prints what it would run for a configuration, in order: hooks, one
savecore command line for each target, and what follows if one of them fails.

Flags:
`

// run is kdump-init as an ordinary process, which changes nothing.
func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("kdump-init", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	only := fs.Bool("n", false, "print the plan of attempts")
	path := fs.String("config", configPath, "configuration `file`")
	words := fs.String("cmdline", "", "kernel command line `words` on top of it")
	switch err := fs.Parse(args); {
	case err == flag.ErrHelp:
		return 0
	case err != nil:
		return 2
	case !*only || fs.NArg() > 0:
		fs.Usage()
		return 2
	}
	cfg, problems, err := loadConfig(*path, *words)
	if err != nil {
		fmt.Fprintf(stderr, "kdump-init: %v\n", err)
		return 1
	}
	for _, p := range problems {
		fmt.Fprintf(stderr, "kdump-init: %v\n", p)
	}
	show(stdout, cfg)
	if len(problems) > 0 {
		return 1
	}
	return 0
}

// loadConfig reads the file and puts the command line's words on top.
func loadConfig(path, cmdline string) (config.Config, []config.Problem, error) {
	cfg, problems := config.Default(), []config.Problem(nil)
	f, err := os.Open(path)
	if err == nil {
		cfg, problems = config.Parse(f, path)
		f.Close()
	}
	return cfg, append(problems, cfg.ApplyCmdline(cmdline)...), err
}
