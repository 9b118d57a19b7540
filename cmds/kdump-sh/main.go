// Kdump-sh is the shell of the capture image: /bin/sh for hooks, and the emergency
// shell on the console, with job control.
//
// The language is that of mvdan.cc/sh, POSIX and much of bash. On a controlling
// terminal each command line is a process group of its own, Ctrl-C and Ctrl-Z are
// its and not the shell's, and there are jobs, fg, bg, wait and kill.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const usage = `Usage: kdump-sh [-eux] [-c COMMANDS | FILE] [ARGUMENT...]

kdump-sh runs commands: those of -c, those of a file, or what it reads on its
standard input. On a terminal it has job control: jobs, fg, bg, wait, kill.

Flags:
`

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("kdump-sh", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	commands := fs.String("c", "", "run these `commands`")
	var set []string // as the builtin of that name has them
	for _, o := range []struct{ name, what string }{
		{"e", "end at the first command that fails"}, {"u", "an unset variable is an error"}, {"x", "print commands as they run"},
	} {
		fs.BoolFunc(o.name, o.what, func(string) error { set = append(set, "-"+o.name); return nil })
	}
	switch err := fs.Parse(apart(args)); {
	case err == flag.ErrHelp:
		return 0
	case err != nil:
		return 2
	}
	source, name, rest := stdin, "", fs.Args()
	switch f, _ := stdin.(*os.File); {
	case *commands != "":
		source = strings.NewReader(*commands)
		if len(rest) > 0 { // the first is $0
			name, rest = rest[0], rest[1:]
		}
	case len(rest) > 0:
		file, err := os.Open(rest[0])
		if err != nil {
			fmt.Fprintf(stderr, "kdump-sh: %v\n", err)
			return 127
		}
		defer file.Close()
		source, name, rest = file, rest[0], rest[1:]
	case f != nil && terminal(int(f.Fd())):
		return interact(f, stdout, stderr)
	}
	return script(source, name, append(append(set, "--"), rest...), interp.StdIO(stdin, stdout, stderr), stderr)
}

// apart writes flags that stand together apart, as of #!/bin/sh -eu: -e -u. A c, which
// takes what follows, may be the last of them.
func apart(args []string) []string {
	var all []string
	for i, a := range args {
		letters, ok := strings.CutPrefix(a, "-")
		if !ok || letters == "" || strings.Trim(strings.TrimSuffix(letters, "c"), "eux") != "" {
			return append(all, args[i:]...)
		}
		for _, l := range letters {
			all = append(all, "-"+string(l))
		}
		if strings.HasSuffix(letters, "c") {
			return append(all, args[i+1:]...)
		}
	}
	return all
}

func terminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func script(source io.Reader, name string, params []string, files interp.RunnerOption, stderr io.Writer) int {
	prog, err := syntax.NewParser().Parse(source, name)
	if err != nil {
		fmt.Fprintf(stderr, "kdump-sh: %v\n", err)
		return 2
	}
	runner, err := interp.New(files, interp.Params(params...))
	if err != nil {
		fmt.Fprintf(stderr, "kdump-sh: %v\n", err)
		return 2
	}
	return status(runner.Run(context.Background(), prog), stderr)
}

// status is the exit status that an error of the interpreter stands for. What is no exit
// status is told.
func status(err error, stderr io.Writer) int {
	if s, ok := interp.IsExitStatus(err); ok {
		return int(s)
	}
	if err != nil {
		fmt.Fprintf(stderr, "kdump-sh: %v\n", err)
		return 1
	}
	return 0
}
