package main

import (
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/internal/watchdog"
	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// beating gives an attempt with the target in root, and what reads its beats so far.
// Every one of them counts: those with a grace do not become one.
func beating(t *testing.T, root string, text string) (a *attempt, beats func() []byte) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	t.Setenv(watchdog.FDVariable, strconv.Itoa(int(w.Fd())))
	o, err := parse([]string{"-core", vmcoretest.File(t, text), "file://" + root}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	a = newAttempt(o, newLogger(io.Discard, false), io.Discard)
	a.beat = watchdog.NewBeater()
	if a.core, err = vmcore.Open(o.core); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.core.Close() })
	if err := a.openTarget(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.target.Close() })
	return a, func() []byte {
		a.patient(0) // that there is something to read
		a.patient(time.Second)
		buf := make([]byte, 64<<10)
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n-1]
	}
}

// fake is a file that takes everything and remembers how. As a targets.File it writes
// in sequence only.
type fake struct {
	targets.File
	at      int64
	largest int
	offsets []int64
}

func (f *fake) Size() int64 { return f.at }

func (f *fake) Write(p []byte) (int, error) { return f.WriteAt(p, f.at) }

func (f *fake) WriteAt(p []byte, off int64) (int, error) {
	f.offsets = append(f.offsets, off)
	f.largest = max(f.largest, len(p))
	f.at = max(f.at, off+int64(len(p)))
	return len(p), nil
}

// stream hides WriteAt.
type stream struct{ targets.File }

// A log and a bitmap of several MiB are one call each: PID 1 must hear that they move.
func TestLargeWritesBeat(t *testing.T) {
	a, beats := beating(t, t.TempDir(), "cpus 1\nload 0 1M\nload 0x20000000000 1M\n") // at 2 TiB: 64 MiB of bitmap
	a.dir = "dump"
	beats()
	if _, err := a.writeFile(t.Context(), "log", func(w io.Writer) error {
		_, err := w.Write(make([]byte, 5<<20+1))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n := len(beats()); n < 6 {
		t.Errorf("a log of 5 MiB and a byte: %d beats", n)
	}
	m := memmap.Everything(a.core)
	for name, tt := range map[string]struct {
		f    func(*fake) targets.File
		want int
	}{
		"at offsets": {func(f *fake) targets.File { return f }, 128 / 32}, // nothing but gaps in both bitmaps
		"flattened":  {func(f *fake) targets.File { return stream{f} }, 64},
	} {
		var got fake
		beats()
		if _, err := a.dumpTo(t.Context(), tt.f(&got), &spaceGuard{ctx: t.Context(), target: a.target}, m, dump.Options{Codec: kdumpfile.None, Workers: 1}); err != nil {
			t.Fatal(err)
		}
		if n := len(beats()); n < tt.want || got.largest > movingPiece {
			t.Errorf("%s: bitmap of 64 MiB: %d beats, writes of %d bytes", name, n, got.largest)
		}
	}
}

// A target that fills a gap with zeros does so in one call: gaps are made in steps.
func TestGapsInSteps(t *testing.T) {
	for _, tt := range []struct {
		off  int64
		want int
	}{{0, 1}, {movingGap, 1}, {movingGap + 1, 2}, {10*movingGap + 1, 11}} {
		var got fake
		beats := 0
		w := movingAt{moving{&got, func() { beats++ }}, &got}
		n, err := w.WriteAt([]byte{7, 8}, tt.off)
		if n != 2 || err != nil || beats != tt.want || len(got.offsets) != tt.want || got.at != tt.off+2 {
			t.Errorf("offset %d: %d, %v, %d beats, writes at %d", tt.off, n, err, beats, got.offsets)
		}
		if _, err := w.WriteAt([]byte{9}, 0); err != nil || beats != tt.want+1 {
			t.Errorf("offset %d: once more at 0: %d beats, %v", tt.off, beats, err)
		}
	}
}

// What moves within a commit must not shorten the patience for its sync.
func TestMovedKeepsPatience(t *testing.T) {
	a, beats := beating(t, t.TempDir(), "cpus 1\nload 0 1M\n")
	beats()
	a.patient(commitGrace)
	a.targetOptions().Moved()
	want := watchdog.Encode(commitGrace)
	if got := beats(); len(got) < 2 || got[0] != want || got[1] != want {
		t.Errorf("beats %v, want two of %d first", got, want)
	}
}
