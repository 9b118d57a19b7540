package main

import (
	"flag"

	"github.com/ukdump/ukdump/pkg/triage"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func dmesgCommand() command {
	return command{
		name: "dmesg", args: "FILE...", brief: "print the kernel log",
		text: `Prints the kernel log that a dump holds, as dmesg does. Several files are the parts of
one split dump. "-" is standard input.`,
		setup: func(*flag.FlagSet) runner { return dmesg },
	}
}

func dmesg(e *env, files []string) (int, error) {
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
	_, err = triage.Log(core, e.stdout)
	return exitOK, err
}
