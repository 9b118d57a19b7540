package modules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/cmdline"
)

// ErrStuck is a module whose initialisation did not end in its time. It goes
// on in the kernel, where nothing can end it.
const ErrStuck Error = "initialisation did not end in time"

// Error is an error that callers may test for.
type Error string

func (e Error) Error() string { return string(e) }

// Result tells what became of one module.
type Result struct {
	Entry
	Err    error         // nil where the module is in the kernel, loaded now or before
	Absent bool          // Err says that the hardware is not there: of no concern
	Took   time.Duration // the time it took, 0 where it was there before
}

// Options of Load.
type Options struct {
	Root      string        // put before the paths of the list; for tests
	PerModule time.Duration // how long one module may take; 0: until ctx ends
	Cmdline   string        // kernel command line: NAME.PARAM=VALUE and modprobe.blacklist=
	Devices   string        // if not empty, where sysfs is: drivers whose devices are not there are not loaded
}

// LoadFile loads the list at path and removes the file of each module that is
// then in the kernel, or has no device here: in a capture kernel files are memory. A list that is not
// there is an empty one. What could not be read of a list is in the error; the
// rest of it is loaded.
func LoadFile(ctx context.Context, path string, opts Options) ([]Result, error) {
	f, err := os.Open(filepath.Join(opts.Root, path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := ReadList(f)
	results := Load(ctx, list, opts)
	for _, r := range results {
		if r.Err == nil || errors.Is(r.Err, ErrNoDevice) {
			_ = os.Remove(filepath.Join(opts.Root, r.Path)) // it has served its purpose either way
		}
	}
	return results, err
}

// Load loads modules one by one and tells what became of each; a module that
// does not load keeps none after it from being tried. It returns when all are
// done or ctx has ended, even where the kernel is stuck in one of them: that
// one is then left to itself, and with it a goroutine and a thread. With
// Options.Devices the order is that of the list but for libraries, which come
// right before the first who needs them.
func Load(ctx context.Context, entries []Entry, opts Options) []Result {
	l := newLoader(ctx, entries, opts)
	if opts.Devices == "" {
		l.all()
	} else {
		l.present()
	}
	return l.results
}

const errBlocked Error = "blocked by modprobe.blacklist= on the command line"

// loadOne waits for one module. finit_module returns when the module's init
// function has, which for a driver may be after it has probed its devices.
func loadOne(ctx context.Context, e Entry, limit time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	done := make(chan error, 1)
	go func() { done <- finit(e) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ErrStuck
	}
}

func finit(e Entry) error {
	f, err := os.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(e.Path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE // since Linux 5.17, where it is configured
	}
	err = unix.FinitModule(int(f.Fd()), e.Params, flags)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w (a symbol it needs is not there: see the kernel log)", err)
	case errors.Is(err, unix.ETXTBSY): // the kernel never closes the file in which it came to the end of the room
		return fmt.Errorf("%w (was the image unpacked to its end? see the kernel log)", err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w (made for another kernel? see the kernel log)", err)
	}
	return err
}

// fromCmdline collects what modprobe reads of a kernel command line: modules
// that are not to be loaded, and parameters of others.
func fromCmdline(line string) (blocked map[string]bool, params map[string]string) {
	blocked, params = make(map[string]bool), make(map[string]string)
	for _, w := range cmdline.Words(line) {
		if w == (cmdline.Word{Key: "--"}) {
			break
		}
		if w.Key == "modprobe.blacklist" {
			for name := range strings.SplitSeq(w.Value, ",") {
				blocked[Name(name)] = true
			}
			continue
		}
		name, param, ok := strings.Cut(w.Key, ".")
		if !ok || name == "" || param == "" {
			continue
		}
		w.Key = param
		name = Name(name)
		params[name] = strings.TrimSpace(params[name] + " " + w.String())
	}
	return blocked, params
}
