// Package targetstest is the suite that every target passes against a real
// disk or server.
//
//	targetstest.Run(t, targetstest.Store{Open: ..., Read: ...})
package targetstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ukdump/ukdump/pkg/targets"
)

// Store is one place, seen as a target and from behind.
type Store struct {
	// Open connects once more to the same place, which is empty before the
	// first time. The suite closes what it opens.
	Open func(t *testing.T) targets.Target

	// Read reads a file as somebody else would who uses the place.
	Read func(name string) ([]byte, error)

	// Small is a place with less than 1 MiB of space. nil: cannot be made.
	Small func(t *testing.T) targets.Target

	// ReadOnly is a place where nothing can be written, which still opens.
	// nil: cannot be made.
	ReadOnly func(t *testing.T) targets.Target

	// Stream is set where the protocol only appends: files without WriteAt.
	Stream bool

	// Exclusive is set where only one at a time can have the place: a second
	// Open fails.
	Exclusive bool

	// URL is that of the place; needed where Exclusive is set.
	URL string
}

// Run runs all of it as subtests.
func Run(t *testing.T, s Store) {
	t.Run("sizes", s.sizes)
	t.Run("long", s.long)
	t.Run("write at offsets", s.offsets)
	t.Run("write at offsets in parallel", s.parallel)
	t.Run("Write is not moved by WriteAt", s.position)
	t.Run("several files at once", s.several)
	t.Run("incomplete until Commit", s.incomplete)
	t.Run("closed before Commit", s.closedBeforeCommit)
	t.Run("abandoned", s.abandoned)
	t.Run("existing name", s.existing)
	t.Run("after the end", s.ended)
	t.Run("no space", s.noSpace)
	t.Run("read-only", s.readOnly)
	t.Run("names", s.names)
	t.Run("list", s.list)
	t.Run("remove", s.remove)
	t.Run("rename", s.rename)
	t.Run("canceled context", s.canceled)
	t.Run("space", s.space)
	t.Run("close", s.closeTwice)
}

func (s Store) open(t *testing.T) targets.Target {
	t.Helper()
	tg := s.Open(t)
	t.Cleanup(func() {
		if err := tg.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tg
}

// pattern is n bytes that tell their own offset.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func create(t *testing.T, tg targets.Target, name string) targets.File {
	t.Helper()
	f, err := tg.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, f targets.File, b []byte) {
	t.Helper()
	if n, err := f.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write: %d of %d: %v", n, len(b), err)
	}
}

func commit(t *testing.T, f targets.File) {
	t.Helper()
	if err := f.Commit(); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatalf("Close after Commit: %v", err)
	}
}

func put(t *testing.T, tg targets.Target, name string, b []byte) {
	t.Helper()
	f := create(t, tg, name)
	write(t, f, b)
	commit(t, f)
}

// holds checks the file from behind.
func (s Store) holds(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := s.Read(name)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d; first difference at %d", name, len(got), len(want), difference(got, want))
	}
}

func (s Store) lacks(t *testing.T, name string) {
	t.Helper()
	if b, err := s.Read(name); err == nil {
		t.Errorf("%s is there, with %d bytes", name, len(b))
	}
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// fails checks that err is one of the package's, and is want.
func fails(t *testing.T, what string, err, want error) {
	t.Helper()
	var e *targets.Error
	switch {
	case err == nil:
		t.Errorf("%s: no error", what)
	case want != nil && !errors.Is(err, want):
		t.Errorf("%s: %v: want %v", what, err, want)
	case !errors.As(err, &e):
		t.Errorf("%s: %v: not a *targets.Error", what, err)
	case !strings.Contains(e.URL, "://"):
		t.Errorf("%s: %v: names no target", what, err)
	}
}

func (s Store) sizes(t *testing.T) {
	tg := s.open(t)
	for _, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 261119, 261120, 261121} {
		name := fmt.Sprintf("sizes/f%d", n)
		f := create(t, tg, name)
		if n > 0 {
			write(t, f, pattern(n))
		}
		if f.Size() != int64(n) {
			t.Errorf("Size %d, want %d", f.Size(), n)
		}
		commit(t, f)
		s.holds(t, name, pattern(n))
		if why := targets.Unconfirmed(f); why != "" {
			t.Logf("%d bytes: unconfirmed: %s", n, why)
		}
	}
}

// long is more than any buffer on the way, in pieces that fit nothing.
func (s Store) long(t *testing.T) {
	f := create(t, s.open(t), "long/vmcore")
	all := pattern(40 << 20)
	buf := make([]byte, 0, 1<<20)
	for rest := all; len(rest) > 0; {
		n := min(len(rest), 1<<20-4093)
		buf = append(buf[:0], rest[:n]...)
		write(t, f, buf)
		clear(buf) // it is ours again
		rest = rest[n:]
	}
	commit(t, f)
	s.holds(t, "long/vmcore", all)
}

func writerAt(t *testing.T, s Store, f targets.File) io.WriterAt {
	t.Helper()
	w, ok := f.(io.WriterAt)
	if ok == s.Stream {
		t.Fatalf("io.WriterAt: %v, on a target with Stream %v", ok, s.Stream)
	}
	if s.Stream {
		t.Skip("the protocol only appends")
	}
	return w
}

func writeAt(t *testing.T, w io.WriterAt, b []byte, off int64) {
	t.Helper()
	if n, err := w.WriteAt(b, off); n != len(b) || err != nil {
		t.Fatalf("WriteAt %d: %d of %d: %v", off, n, len(b), err)
	}
}

// offsets writes as a dump is written: data first, then what describes it,
// the header last, with holes between.
func (s Store) offsets(t *testing.T) {
	f := create(t, s.open(t), "offsets/vmcore")
	w := writerAt(t, s, f)
	want := make([]byte, 3<<20+17)
	for _, p := range []struct{ off, n int }{{2 << 20, 1<<20 + 17}, {1 << 20, 4096}, {1<<20 - 1, 2}, {0, 512}, {0, 4}} {
		b := pattern(p.n)
		copy(want[p.off:], b)
		writeAt(t, w, b, int64(p.off))
	}
	if f.Size() != int64(len(want)) {
		t.Errorf("Size %d, want %d", f.Size(), len(want))
	}
	if r, ok := f.(io.ReaderAt); ok {
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
			t.Errorf("ReadAt before Commit: %v, difference at %d", err, difference(got, want))
		}
		if n, err := r.ReadAt(got[:1], int64(len(want))); n != 0 || err != io.EOF {
			t.Errorf("ReadAt the end: %d, %v", n, err)
		}
	}
	commit(t, f)
	s.holds(t, "offsets/vmcore", want)
}

func (s Store) parallel(t *testing.T) {
	f := create(t, s.open(t), "parallel/vmcore")
	w := writerAt(t, s, f)
	const piece, pieces, writers = 261120, 80, 8
	want := pattern(piece * pieces)
	order := rand.Perm(pieces)
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for _, p := range order[n*pieces/writers : (n+1)*pieces/writers] {
				if _, err := w.WriteAt(want[p*piece:(p+1)*piece], int64(p*piece)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	commit(t, f)
	s.holds(t, "parallel/vmcore", want)
}

func (s Store) position(t *testing.T) {
	f := create(t, s.open(t), "position/vmcore")
	w := writerAt(t, s, f)
	write(t, f, []byte("head"))
	writeAt(t, w, []byte("far"), 10)
	write(t, f, []byte("more"))
	writeAt(t, w, []byte("H"), 0)
	write(t, f, []byte("!"))
	if f.Size() != 13 {
		t.Errorf("Size %d", f.Size())
	}
	commit(t, f)
	s.holds(t, "position/vmcore", []byte("Headmore!\x00far"))
}

func (s Store) several(t *testing.T) {
	tg := s.open(t)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			f, err := tg.Create(t.Context(), fmt.Sprintf("several/f%d", n))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for range 10 {
				if _, err := f.Write(pattern(10000 + n)); err != nil {
					t.Error(err)
				}
			}
			if err := f.Commit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for n := range 4 {
		s.holds(t, fmt.Sprintf("several/f%d", n), bytes.Repeat(pattern(10000+n), 10))
	}
}

func (s Store) incomplete(t *testing.T) {
	tg := s.open(t)
	for name, temp := range map[string]string{
		"incomplete/vmcore":           "incomplete/vmcore-incomplete",
		"incomplete/vmcore-dmesg.txt": "incomplete/vmcore-dmesg-incomplete.txt",
		"incomplete/SHA256SUMS":       "incomplete/SHA256SUMS-incomplete",
	} {
		f := create(t, tg, name)
		write(t, f, pattern(100))
		s.lacks(t, name)
		if _, err := s.Read(temp); err != nil {
			t.Errorf("%s: %v", temp, err)
		}
		commit(t, f)
		s.lacks(t, temp)
		s.holds(t, name, pattern(100))
	}
}

func (s Store) closedBeforeCommit(t *testing.T) {
	tg := s.Open(t)
	f := create(t, tg, "closed/vmcore")
	write(t, f, pattern(5000))
	if err := f.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := tg.Close(); err != nil {
		t.Errorf("Close of the target: %v", err)
	}
	again := s.open(t)
	s.lacks(t, "closed/vmcore")
	s.holds(t, "closed/vmcore-incomplete", pattern(5000))
	put(t, again, "closed/vmcore", pattern(7)) // shorter: nothing of the old one shows
	s.holds(t, "closed/vmcore", pattern(7))
	s.lacks(t, "closed/vmcore-incomplete")
}

// abandoned: an attempt that was given up while stuck wakes up after the next
// one has finished, and must not damage what that one wrote.
func (s Store) abandoned(t *testing.T) {
	stuck := create(t, s.open(t), "abandoned/vmcore")
	write(t, stuck, pattern(100000))
	if s.Exclusive {
		_, err := targets.Open(t.Context(), s.URL, targets.Options{Log: t.Logf})
		fails(t, "Open beside it", err, nil)
		var e *targets.Error
		if errors.As(err, &e) && !e.Temporary {
			t.Errorf("%v: is called permanent", err)
		}
		return
	}
	tg := s.open(t)
	next := create(t, tg, "abandoned/vmcore")
	write(t, next, []byte("next"))
	stuck.Write([]byte("late"))
	if err := stuck.Commit(); err == nil {
		t.Error("Commit of the abandoned one succeeded beside the next one")
	}
	commit(t, next)
	s.holds(t, "abandoned/vmcore", []byte("next"))
	if err := stuck.Commit(); err == nil {
		t.Error("Commit of the abandoned one succeeded after the next one")
	}
	s.holds(t, "abandoned/vmcore", []byte("next"))
}

func (s Store) existing(t *testing.T) {
	tg := s.open(t)
	put(t, tg, "existing/vmcore", []byte("first"))
	_, err := tg.Create(t.Context(), "existing/vmcore")
	fails(t, "Create", err, fs.ErrExist)
	put(t, tg, "existing/dir/file", nil)
	_, err = tg.Create(t.Context(), "existing/dir")
	fails(t, "Create over a directory", err, fs.ErrExist)
	_, err = tg.Create(t.Context(), "existing/vmcore/file")
	fails(t, "Create below a file", err, nil)
	s.holds(t, "existing/vmcore", []byte("first"))
}

func (s Store) ended(t *testing.T) {
	tg := s.open(t)
	f := create(t, tg, "ended/vmcore")
	write(t, f, []byte("x"))
	commit(t, f)
	_, err := f.Write([]byte("y"))
	fails(t, "Write after Commit", err, fs.ErrClosed)
	fails(t, "Commit after Commit", f.Commit(), fs.ErrClosed)
	if err := f.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	s.holds(t, "ended/vmcore", []byte("x"))
	f = create(t, tg, "ended/other")
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Errorf("Close twice: %v", err)
	}
	fails(t, "Commit after Close", f.Commit(), fs.ErrClosed)
	s.lacks(t, "ended/other")
}

// noSpace: the target fills up in mid write. The error is kept, the file stays
// incomplete, and once it is removed a smaller one fits.
func (s Store) noSpace(t *testing.T) {
	if s.Small == nil {
		t.Skip("no small place to be had here")
	}
	tg := s.Small(t)
	t.Cleanup(func() { tg.Close() })
	f := create(t, tg, "full/vmcore")
	var err error
	for n := 0; n < 4<<20 && err == nil; n += 32 << 10 {
		_, err = f.Write(pattern(32 << 10))
	}
	if err == nil {
		err = f.Commit()
	}
	fails(t, "writing 4 MiB", err, targets.ErrNoSpace)
	fails(t, "Commit", f.Commit(), targets.ErrNoSpace)
	_, err = f.Write(nil)
	fails(t, "Write", err, targets.ErrNoSpace)
	f.Close()
	entries, err := tg.List(t.Context(), "full")
	if err != nil || len(entries) != 1 || entries[0].Name != "vmcore-incomplete" {
		t.Errorf("List: %v, %v", entries, err)
	}
	if err := tg.Remove(t.Context(), "full/vmcore-incomplete"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	put(t, tg, "full/vmcore-dmesg.txt", pattern(4096))
}

func (s Store) readOnly(t *testing.T) {
	if s.ReadOnly == nil {
		t.Skip("no read-only place to be had here")
	}
	tg := s.ReadOnly(t)
	t.Cleanup(func() { tg.Close() })
	_, err := tg.Create(t.Context(), "vmcore")
	fails(t, "Create", err, nil)
	_, err = tg.Create(t.Context(), "new/vmcore")
	fails(t, "Create with a directory", err, nil)
	if _, err := tg.List(t.Context(), ""); err != nil {
		t.Errorf("List: %v", err)
	}
}

func (s Store) names(t *testing.T) {
	tg := s.open(t)
	for _, name := range []string{
		"", "/", ".", "..", "/etc/passwd", "../out", "a/../../out", "a/./b", "a//b", "a/", "a\x00b", "a\nb", "a\x7fb",
		"a:b", "a*b", "a?b", `a\b`, `a"b`, "a<b", "a>b", "a|b", "dot.", "space ", "dot./b", "ümlaut",
		"vmcore-incomplete", "vmcore-incomplete.txt", strings.Repeat("x", 245), strings.Repeat("x/", 600) + "x",
	} {
		if f, err := tg.Create(t.Context(), name); err == nil {
			f.Close()
			t.Errorf("Create %.40q: no error", name)
		} else {
			fails(t, fmt.Sprintf("Create %.40q", name), err, nil)
		}
	}
	for _, name := range []string{"", "/", ".", "..", "../out", "a//b", "/etc"} {
		fails(t, fmt.Sprintf("Remove %q", name), tg.Remove(t.Context(), name), nil)
		fails(t, fmt.Sprintf("Rename %q", name), tg.Rename(t.Context(), name, "to"), nil)
		fails(t, fmt.Sprintf("Rename to %q", name), tg.Rename(t.Context(), "from", name), nil)
		if name == "" {
			continue
		}
		_, err := tg.List(t.Context(), name)
		fails(t, fmt.Sprintf("List %q", name), err, nil)
	}
	for _, name := range []string{strings.Repeat("x", 244), "names/host-20260102T030405Z-0a1b/vmcore", "names/a b", "names/.dot", "names/a..b"} {
		put(t, tg, name, []byte(name))
		s.holds(t, name, []byte(name))
	}
}

func names(entries []targets.Entry) []string {
	var n []string
	for _, e := range entries {
		n = append(n, e.Name)
	}
	return n
}

func (s Store) list(t *testing.T) {
	tg := s.open(t)
	put(t, tg, "list/b", pattern(1234))
	put(t, tg, "list/a/vmcore", nil)
	put(t, tg, "list/C", nil)
	f := create(t, tg, "list/d.txt")
	entries, err := tg.List(t.Context(), "list")
	if want := []string{"C", "a", "b", "d-incomplete.txt"}; err != nil || !slices.Equal(names(entries), want) {
		t.Fatalf("List: %v, %v; want %v", names(entries), err, want)
	}
	if b := entries[2]; b.Dir || b.Size != 1234 || b.ModTime.IsZero() {
		t.Errorf("b: %+v", b)
	}
	if !entries[1].Dir {
		t.Errorf("a: %+v", entries[1])
	}
	f.Close()
	top, err := tg.List(t.Context(), "")
	if err != nil || !slices.Contains(names(top), "list") {
		t.Errorf("List of the top: %v, %v", names(top), err)
	}
	_, err = tg.List(t.Context(), "list/none")
	fails(t, "List of nothing", err, fs.ErrNotExist)
	_, err = tg.List(t.Context(), "list/b")
	fails(t, "List of a file", err, nil)
}

func (s Store) remove(t *testing.T) {
	tg := s.open(t)
	put(t, tg, "remove/a/vmcore", pattern(10))
	put(t, tg, "remove/a/deeper/still/file", nil)
	put(t, tg, "remove/b", nil)
	for _, name := range []string{"remove/b", "remove/a", "remove/none", "none/none"} {
		if err := tg.Remove(t.Context(), name); err != nil {
			t.Errorf("Remove %s: %v", name, err)
		}
	}
	if entries, err := tg.List(t.Context(), "remove"); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", names(entries), err)
	}
}

func (s Store) rename(t *testing.T) {
	tg := s.open(t)
	put(t, tg, "rename/a/vmcore", []byte("a"))
	put(t, tg, "rename/b/vmcore", []byte("b"))
	for _, to := range []string{"rename/c", "rename/new/d"} {
		from := map[string]string{"rename/c": "rename/a", "rename/new/d": "rename/c"}[to]
		if err := tg.Rename(t.Context(), from, to); err != nil {
			t.Fatalf("Rename %s to %s: %v", from, to, err)
		}
		s.holds(t, to+"/vmcore", []byte("a"))
		s.lacks(t, from+"/vmcore")
	}
	fails(t, "Rename over a directory", tg.Rename(t.Context(), "rename/new/d", "rename/b"), fs.ErrExist)
	fails(t, "Rename over a file", tg.Rename(t.Context(), "rename/new/d/vmcore", "rename/b/vmcore"), fs.ErrExist)
	fails(t, "Rename of nothing", tg.Rename(t.Context(), "rename/none", "rename/e"), fs.ErrNotExist)
	s.holds(t, "rename/b/vmcore", []byte("b"))
	s.holds(t, "rename/new/d/vmcore", []byte("a"))
}

func (s Store) canceled(t *testing.T) {
	tg := s.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := tg.Create(ctx, "canceled/vmcore")
	fails(t, "Create", err, context.Canceled)
	fails(t, "Remove", tg.Remove(ctx, "canceled"), context.Canceled)
	fails(t, "Rename", tg.Rename(ctx, "canceled", "x"), context.Canceled)
	s.lacks(t, "canceled/vmcore-incomplete")
}

func (s Store) space(t *testing.T) {
	tg := s.open(t)
	free, err := tg.Space(t.Context())
	switch {
	case errors.Is(err, targets.ErrSpaceUnknown):
		t.Log("the target cannot tell")
	case err != nil:
		t.Error(err)
	case free == 0:
		t.Error("no space at all")
	}
	if most := targets.MaxFileSize(tg); most < 1<<31-1 {
		t.Errorf("MaxFileSize %d", most)
	}
	if s.Small == nil {
		return
	}
	small := s.Small(t)
	t.Cleanup(func() { small.Close() })
	if free, err := small.Space(t.Context()); err == nil && free >= 1<<20 {
		t.Errorf("%d bytes free on less than 1 MiB", free)
	}
}

func (s Store) closeTwice(t *testing.T) {
	tg := s.Open(t)
	if err := errors.Join(tg.Close(), tg.Close()); err != nil {
		t.Error(err)
	}
}
