package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/watchdog"
	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/triage"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// timeForm is the time of the crash in a directory's name: UTC, no character
// that a file system or a shell minds.
const timeForm = "20060102T150405Z"

// directoryName is HOST-YYYYMMDDTHHMMSSZ-XXXX. XXXX is from the running boot, so
// that two crashes with the same wrong clock do not collide.
func directoryName(core *vmcore.Core, u triage.Uname) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(boot) < 4 {
		boot = fmt.Appendf(nil, "%04x", os.Getpid()&0xffff)
	}
	return hostName(u.Nodename) + "-" + crashTime(core).UTC().Format(timeForm) + "-" + string(boot[:4])
}

// crashTime is when the kernel crashed; now if there is no core to tell.
func crashTime(core *vmcore.Core) time.Time {
	if core == nil {
		return time.Now()
	}
	return dump.CrashTime(core)
}

// hostName makes a node name fit for a directory: letters, digits, dots, dashes.
func hostName(node string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		}
		return -1
	}, node)
	if name = strings.Trim(name, ".-"); name == "" || node == "(none)" {
		return "localhost"
	}
	return name
}

// isDumpDirectory tells a directory that savecore made from others on the same
// target, which retention must never touch.
func isDumpDirectory(name string) bool {
	parts := strings.Split(name, "-")
	if len(parts) < 3 || len(parts[len(parts)-1]) != 4 {
		return false
	}
	_, err := time.Parse(timeForm, parts[len(parts)-2])
	return err == nil
}

// crashOrder sorts directory names by time of crash.
func crashOrder(a, b string) int {
	key := func(s string) string { parts := strings.Split(s, "-"); return strings.Join(parts[len(parts)-2:], "-") }
	return strings.Compare(key(a), key(b))
}

// oldestFirst sorts directories by age, as far as their names tell: what is named a day
// or more after the newest, which is the new one, is from before the clock was set back.
// Machines without a clock begin in 1970 at each boot.
func oldestFirst(dirs []string, newest string) {
	const day = 24 * time.Hour
	_, now, _ := splitName(newest)
	rank := func(dir string) int {
		if _, at, _ := splitName(dir); at.Sub(now) >= day {
			return 0
		}
		return 1
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Or(rank(a)-rank(b), crashOrder(a, b)) })
}

// prune removes the oldest complete dumps of this host beyond keep. It runs only after
// a success, and the new dump is never among those it removes.
func (a *attempt) prune(ctx context.Context) {
	if a.o.keep == 0 {
		return
	}
	dirs, _, err := a.crashes(ctx)
	if err != nil {
		a.log.printf("retention: %v", err)
		return
	}
	oldestFirst(dirs, a.dir)
	complete := slices.DeleteFunc(dirs, func(dir string) bool { return dir == a.dir || !a.isComplete(ctx, dir) })
	for i := 0; i+a.o.keep-1 < len(complete); i++ {
		a.beat.Beat(removeGrace)
		if err := a.target.Remove(ctx, complete[i]); err != nil {
			a.log.printf("retention: %v", err)
			return
		}
		a.log.printf("retention: removed %s, %d dumps are kept", complete[i], a.o.keep)
	}
}

// isComplete says whether a dump directory holds a core that was committed.
func (a *attempt) isComplete(ctx context.Context, dir string) bool {
	entries, err := a.target.List(ctx, dir)
	return err == nil && slices.ContainsFunc(entries, func(e targets.Entry) bool { return e.Name == "vmcore" })
}

// sum is the SHA-256 of a file as it is written.
type sum struct {
	name string
	w    io.Writer
	hash hash.Hash
}

func newSum(name string, w io.Writer) *sum { return &sum{name: name, w: w, hash: sha256.New()} }

func (s *sum) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.hash.Write(p[:n])
	return n, err
}

// errTooSlow ends a reading back that takes longer than its proof is worth.
const errTooSlow constError = "reading it back takes too long"

type constError string

func (e constError) Error() string { return string(e) }

// sumFile reads a file back, since a core is not written in the order of its bytes.
// Each piece of it may take as long as piece says, 0 being any time. A read that
// waits for a server is left behind: the file can be committed all the same.
func sumFile(ctx context.Context, name string, f targets.File, piece time.Duration, beat *watchdog.Beater) (*sum, error) {
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, targets.ErrReadRefused)
	}
	s, moved, done := newSum(name, io.Discard), make(chan struct{}, 1), make(chan error, 1)
	go func() {
		in := io.NewSectionReader(r, 0, f.Size())
		_, err := io.CopyBuffer(struct{ io.Writer }{s}, readerFunc(func(p []byte) (int, error) {
			select {
			case moved <- struct{}{}:
			default:
			}
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return in.Read(p)
		}), make([]byte, 256<<10))
		done <- err
	}()
	for {
		var late <-chan time.Time
		if piece > 0 {
			late = time.After(piece)
		}
		select {
		case err := <-done:
			return s, err
		case <-moved:
			beat.Beat(0)
		case <-late:
			return nil, errTooSlow
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// sums becomes SHA256SUMS, in the form that sha256sum -c reads.
type sums []*sum

func (s *sums) add(one *sum) { *s = append(*s, one) }

func (s sums) save(ctx context.Context, a *attempt) error {
	if len(s) == 0 {
		return nil
	}
	return a.writeAgain(ctx, "SHA256SUMS", func(w io.Writer) error {
		for _, one := range s {
			if _, err := fmt.Fprintf(w, "%s  %s\n", hex.EncodeToString(one.hash.Sum(nil)), one.name); err != nil {
				return err
			}
		}
		return nil
	})
}
