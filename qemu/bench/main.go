// Bench measures ukdump beside makedumpfile: dump files on this machine, and whole
// crashes in virtual machines; and its uploads beside those of OpenSSH and curl.
//
// Each pair is measured in turn, in one run and on the same core. A busy host
// makes both slower; only the ratios count. Of uploads, in which a server takes
// part, that is true only with the CPUs for them alone: chrt -r 20 before the
// command makes it so.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	kernel := fs.String("kernel", "6.1", "`kernel` of the crashes, that qemu/fetch got: 5.10, 6.1, 6.12 or 7")
	rounds := fs.Int("rounds", 3, "how often each `thing` is measured; the median counts")
	only := fs.String("only", "files,scale,network,crashes,smallest", "comma separated `list` of what to measure")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
	defer cancel()
	if err := measure(ctx, stdout, *kernel, max(*rounds, 1), *only); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// bench is what all measurements share.
type bench struct {
	*rig.Rig
	dir string
}

func measure(ctx context.Context, out io.Writer, kernel string, rounds int, only string) error {
	r, err := rig.Open(ctx)
	if err != nil {
		return err
	}
	b := &bench{r, filepath.Join(r.Out, "bench")}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	var c *crashes
	for _, what := range strings.Split(only, ",") {
		if c == nil && (what == "crashes" || what == "smallest") {
			if c, err = newCrashes(ctx, b, kernel); err != nil {
				return err
			}
		}
		switch what {
		case "files":
			err = b.files(ctx, out, rounds)
		case "scale":
			err = b.scale(ctx, out, rounds)
		case "network":
			err = b.network(ctx, out, rounds)
		case "crashes":
			err = c.times(ctx, out, rounds)
		case "smallest":
			err = c.reservations(ctx, out)
		default:
			err = fmt.Errorf("-only %s: want files, scale, network, crashes, smallest", what)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
