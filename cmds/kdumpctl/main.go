// Kdumpctl loads and unloads the capture kernel on a production system, says how
// it stands, and how the targets are reached. See kdumpctl(8).
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit statuses. Those of status are the init scripts' of the LSB where it
// has one: 3 is "not running".
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotLoaded   = 3
	exitNotReserved = 4

	exitSavesNothing = 5
)

const usage = `usage: kdumpctl load [-kernel FILE] [-initrd FILE] [-append WORDS]
       kdumpctl unload
       kdumpctl status [-json] [-crashes DIR]
       kdumpctl config-from-system [-cmdline] [-conf FILE] [TARGET ...]

load    loads the capture kernel, which a panic then starts
unload  takes it out again
status  says what is reserved, what is loaded, where a dump would go, and how
        the last crash went;
        exit status 0: loaded, 3: not loaded, 4: no memory is reserved,
        5: loaded, but no crash would be saved
config-from-system
        prints the network words for the ways that this system has to targets
`

func run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	return realHost().run(args, stdout, stderr)
}

func (h *host) run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	name, args := args[0], args[1:]
	var command func(args []string, stdout, stderr io.Writer) (int, error)
	switch name {
	case "load":
		command = h.load
	case "unload":
		command = h.unload
	case "status":
		command = h.status
	case "config-from-system":
		command = h.fromSystem
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return exitOK
	default:
		fmt.Fprintf(stderr, "kdumpctl: unknown command %q; want load, unload, status or config-from-system\n", name)
		return exitUsage
	}
	code, err := command(args, stdout, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "kdumpctl %s: %v\n", name, err)
	}
	return code
}

// parse reads the flags of a command, and refuses arguments behind them.
func parse(fs *flag.FlagSet, args []string, stdout io.Writer) error {
	err := parseFlags(fs, args, stdout)
	if err == nil && fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; want flags only", fs.Arg(0))
	}
	return err
}

// parseFlags sends help to standard output when it was asked for.
func parseFlags(fs *flag.FlagSet, args []string, stdout io.Writer) error {
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(stdout)
		fmt.Fprintf(stdout, "usage of kdumpctl %s:\n", fs.Name())
		fs.PrintDefaults()
	}
	return err
}
