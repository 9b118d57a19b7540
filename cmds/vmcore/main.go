// Vmcore is for dump files on a workstation: it tells what is in them, prints
// the kernel log, checks, filters, converts, mends and compares them. It reads
// ELF cores, /proc/vmcore, and kdump-compressed files, flattened and split ones
// too, whoever wrote them: vmcore help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// Exit statuses. Those of verify and compare are as those of diff(1).
const (
	exitOK      = 0
	exitFailed  = 1 // also: what was compared differs, what was verified is bad
	exitUsage   = 2 // also: what was to be compared cannot be read
	exitPartial = 3 // written, but some pages could not be read and are left out
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// env is what a command runs in.
type env struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (e *env) warn(format string, a ...any) { fmt.Fprintf(e.stderr, "vmcore: "+format+"\n", a...) }

// command is one of the words that may follow vmcore.
type command struct {
	name, args, brief, text string

	// setup declares flags and gives the function that runs with them.
	setup func(fs *flag.FlagSet) runner
}

type runner func(e *env, args []string) (status int, err error)

func commands() []command {
	return []command{infoCommand(), dmesgCommand(), verifyCommand(), convertCommand(), reassembleCommand(), salvageCommand(), compareCommand()}
}

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, a ...any) error { return &usageError{fmt.Sprintf(format, a...)} }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return help(args[1:], stdout, stderr)
	}
	c, ok := find(args[0])
	if !ok {
		fmt.Fprintf(stderr, "vmcore: there is no command %q: want %s\n", args[0], commandNames())
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return c.run(&env{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr}, args[1:])
}

func find(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func commandNames() string {
	var list []string
	for _, c := range commands() {
		list = append(list, c.name)
	}
	return strings.Join(list, ", ")
}

func (c command) run(e *env, args []string) int {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	run := c.setup(fs)
	files, err := parse(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		c.help(e.stdout)
		return exitOK
	}
	status := exitUsage
	if err == nil {
		status, err = run(e, files)
	}
	var usage *usageError
	switch {
	case err == nil:
		return status
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "vmcore %s: %v (vmcore help %s)\n", c.name, err, c.name)
		return exitUsage
	}
	fmt.Fprintf(e.stderr, "vmcore %s: %v\n", c.name, err)
	return max(status, exitFailed)
}

// parse takes flags also behind and between the files.
func parse(fs *flag.FlagSet, args []string) (files []string, err error) {
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usagef("%v", err)
		}
		if args = fs.Args(); len(args) > 0 {
			files, args = append(files, args[0]), args[1:]
		}
	}
	return files, nil
}

func help(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stdout)
		return exitOK
	}
	c, ok := find(args[0])
	if !ok {
		fmt.Fprintf(stderr, "vmcore: there is no command %q: want %s\n", args[0], commandNames())
		return exitUsage
	}
	c.help(stdout)
	return exitOK
}

func printHelp(w io.Writer) {
	fmt.Fprint(w, "Usage: vmcore COMMAND [flags] FILE...\n\nReads kernel dumps of any kind: ELF, /proc/vmcore, kdump-compressed, flattened, split.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.brief)
	}
	fmt.Fprint(w, "\nvmcore help COMMAND tells more.\n")
}

func (c command) help(w io.Writer) {
	fmt.Fprintf(w, "Usage: vmcore %s %s\n\n%s\n", c.name, c.args, strings.TrimSpace(c.text))
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(w)
	c.setup(fs)
	flags := 0
	fs.VisitAll(func(*flag.Flag) { flags++ })
	if flags > 0 {
		fmt.Fprint(w, "\nFlags:\n")
		fs.PrintDefaults()
	}
}
