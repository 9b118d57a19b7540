package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os/signal"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/targets"
)

const extractUsage = `Usage: savecore [flags] raw:///dev/NAME TARGET

Copies the dumps that raw:// left on a partition to TARGET, in the production
system, and then marks them as taken, so that the next crash may use their space.
What was taken before is passed over.

Exit status: 0 all is on TARGET, or there was nothing to take; 1 not all; 2 usage.

Flags:
`

// isExtraction: the core comes from a partition instead of from memory.
func isExtraction(args []string) bool {
	n := len(args)
	return n >= 2 && strings.HasPrefix(args[n-2], "raw://") && !strings.HasPrefix(args[n-1], "-")
}

// extraction is one partition on its way to one target.
type extraction struct {
	from, to      string // URLs
	again         bool   // also what was taken before
	reserve       uint64
	targetTimeout time.Duration
	mountDir      string

	log    *logger
	store  *targets.RawStore
	target targets.Target
}

func extract(args []string, stdout, stderr io.Writer) int {
	x, err := parseExtraction(args, stdout)
	switch {
	case err == flag.ErrHelp:
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "savecore: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	x.log = newLogger(stdout, false)
	defer x.log.close()
	if err := x.run(ctx); err != nil {
		x.log.printf("%v", err)
		return exitNothing
	}
	return exitSaved
}

func parseExtraction(args []string, help io.Writer) (*extraction, error) {
	d := config.Default()
	x := &extraction{}
	f := flag.NewFlagSet("savecore", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.BoolVar(&x.again, "again", false, "also dumps that were taken before and not written over since")
	reserve := f.String("reserve", config.FormatSize(d.Reserve), "`bytes` that stay free on the target (K, M, G)")
	f.DurationVar(&x.targetTimeout, "target-timeout", d.DeviceTimeout, "`time` for partition and target to appear and answer")
	f.StringVar(&x.mountDir, "mount", "", "`directory` to mount a disk on (default a new one)")
	switch err := f.Parse(args); {
	case err == flag.ErrHelp:
		fmt.Fprint(help, extractUsage)
		f.SetOutput(help)
		f.PrintDefaults()
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w (savecore -h raw:///dev/NAME TARGET lists the flags)", err)
	case f.NArg() != 2:
		return nil, fmt.Errorf("want raw:///dev/NAME and one target URL, got %d arguments", f.NArg())
	}
	x.from, x.to = f.Arg(0), f.Arg(1)
	var ok bool
	if x.reserve, ok = config.ParseSize(*reserve); !ok {
		return nil, fmt.Errorf("-reserve %s: want bytes, or a number with K, M, G or T", *reserve)
	}
	for _, url := range []string{x.from, x.to} {
		if _, err := targets.Parse(url); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func (x *extraction) run(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, x.targetTimeout)
	defer cancel()
	var err error
	x.store, err = targets.OpenRaw(within, x.from, targets.Options{Log: x.log.printf})
	if errors.Is(err, targets.ErrNoDump) {
		x.log.printf("nothing to take: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer x.store.Close()
	dumps := x.dumps()
	if len(dumps) == 0 {
		x.log.printf("nothing to take from %s", x.from)
		return nil
	}
	x.target, err = targets.Open(within, x.to, targets.Options{Log: x.log.printf, MountDir: x.mountDir})
	if err != nil {
		return err
	}
	var safe []string
	for _, d := range dumps {
		e := x.dump(ctx, d)
		if e == nil {
			safe = append(safe, d)
		}
		err = errors.Join(err, e)
	}
	// Close makes incomplete files durable too: only then is anything marked.
	if e := x.target.Close(); e != nil {
		return errors.Join(err, e)
	}
	for _, d := range safe {
		if e := x.store.MarkTaken(d); e != nil {
			err = errors.Join(err, e)
			continue
		}
		x.log.printf("%s is on %s; marked as taken on %s", d, targets.Redacted(x.to), x.from)
	}
	return err
}

// dumps are the directories at the top that are to be taken, and files that
// stand there alone.
func (x *extraction) dumps() []string {
	var names []string
	for _, f := range x.store.Files() {
		if !strings.Contains(f.Name, "/") && (!f.Taken || x.again) {
			names = append(names, f.Name)
		}
	}
	return names
}

// dump copies one dump. After an error it goes on with the next file.
func (x *extraction) dump(ctx context.Context, dir string) error {
	var files []targets.RawFile
	var size uint64
	for _, f := range x.store.Files() {
		if !f.Dir && (f.Name == dir || strings.HasPrefix(f.Name, dir+"/")) {
			files = append(files, f)
			size += uint64(f.Size)
		}
	}
	if free, err := x.target.Space(ctx); err == nil && size > free-min(free, x.reserve) {
		return fmt.Errorf("%s: %s needed, %s free, %s reserved: %w", dir, mib(size), mib(free), mib(x.reserve), targets.ErrNoSpace)
	}
	var err error
	sums := make(map[string]string) // SHA-256 by name
	for _, f := range files {
		sum, e := x.file(ctx, f)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		sums[f.Name] = sum
	}
	return errors.Join(err, x.compare(dir, sums))
}

// file copies one file and gives the SHA-256 of its bytes, as hexadecimal
// digits. An incomplete one stays incomplete.
func (x *extraction) file(ctx context.Context, from targets.RawFile) (string, error) {
	name := from.Name
	if final, ok := targets.FinalName(name); ok && !from.Complete {
		name = final
	}
	stored, err := x.store.Open(from.Name)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	in := io.TeeReader(readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return stored.Read(p)
	}), hash)
	out, err := x.target.Create(ctx, name)
	if errors.Is(err, fs.ErrExist) && x.sameSize(ctx, name, from.Size) {
		x.log.printf("%s is there already", name)
		_, err = io.Copy(io.Discard, in)
		return hex.EncodeToString(hash.Sum(nil)), err
	}
	if err != nil {
		return "", err
	}
	if _, err = io.CopyBuffer(struct{ io.Writer }{out}, in, make([]byte, 256<<10)); err == nil && from.Complete {
		err = out.Commit()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", err
	}
	state := ""
	if !from.Complete {
		state = ", which is incomplete"
	}
	x.log.printf("copied %s%s: %s", from.Name, state, mib(uint64(from.Size)))
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// sameSize: a copy that was committed by an earlier try.
func (x *extraction) sameSize(ctx context.Context, name string, size int64) bool {
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	entries, err := x.target.List(ctx, dir)
	return err == nil && slices.ContainsFunc(entries, func(e targets.Entry) bool {
		return e.Name == path.Base(name) && !e.Dir && e.Size == size
	})
}

// maxSums bounds SHA256SUMS: a line for each of the few files of a dump.
const maxSums = 64 << 10

// compare holds what was copied against the sums that the dump brings along.
func (x *extraction) compare(dir string, sums map[string]string) error {
	in, err := x.store.Open(dir + "/SHA256SUMS")
	if err != nil {
		return nil // the capture did not get that far
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSums))
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		want, name, ok := strings.Cut(strings.TrimSpace(string(line)), "  ")
		if got, copied := sums[dir+"/"+name]; ok && copied && got != want {
			err = errors.Join(err, fmt.Errorf("%s/%s: SHA-256 is %s, SHA256SUMS says %s", dir, name, got, want))
		}
	}
	return err
}
