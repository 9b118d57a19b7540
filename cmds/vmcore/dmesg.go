package main

import (
	"flag"

	"github.com/ukdump/ukdump/pkg/triage"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func dmesgCommand() command {
	return command{
		name: "dmesg", args: "[-raw] FILE...", brief: "print the kernel log",
		text: `Prints the kernel log that a dump holds, as dmesg does. Several files are the parts of
one split dump. "-" is standard input.`,
		setup: func(fs *flag.FlagSet) runner {
			var o triage.LogOptions
			fs.BoolVar(&o.Priority, "raw", false, "put <N> before each record, N being 8 * facility + level")
			return func(e *env, files []string) (int, error) { return dmesg(e, o, files) }
		},
	}
}

func dmesg(e *env, o triage.LogOptions, files []string) (int, error) {
	if len(files) == 0 {
		return exitUsage, usagef("no file is named")
	}
	files, opened, err := e.named(files, "")
	if err != nil {
		return exitFailed, err
	}
	core, err := vmcore.OpenFiles(files...)
	opened()
	if err != nil {
		return exitFailed, err
	}
	defer core.Close()
	_, err = triage.Log(core, e.stdout, o)
	return exitOK, err
}
