package targetstest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// Server is a real server, as its fixture has started it for a test. RunServer
// runs everything that Run does, and what goes wrong only with a server.
type Server struct {
	// URL is the directory dir of the server, with credentials that are right.
	// It shall name none that another call named, unless dir is the same.
	URL func(dir string) string

	// Behind is where dir is for this machine.
	Behind func(dir string) string

	// Small and ReadOnly are directories as in Store; Denied is one in which
	// the user may not write. Empty: cannot be made.
	Small, ReadOnly, Denied string

	// Refused are URLs with which Open has to fail for good, by what is wrong.
	Refused map[string]Refusal

	// Kill ends the server and all its connections at once, with a SIGKILL.
	// Start starts it again on the same port.
	Kill, Start func(t *testing.T)

	// Line is true where Options.Dial is all the way to the server; a mount
	// has its own way.
	Line bool

	// Stream is as in Store.
	Stream bool

	// Resumes is true where a file survives the loss of its connection.
	Resumes bool
}

// Refusal is a URL that Open refuses.
type Refusal struct {
	URL  string
	Says string // what the error has to say
}

// RunServer runs all of it as subtests.
func RunServer(t *testing.T, s Server) {
	t.Run("store", func(t *testing.T) { Run(t, s.store(t)) })
	t.Run("missing path", s.missingPath)
	t.Run("refused", s.refused)
	t.Run("permission denied", s.denied)
	t.Run("late server", s.late)
	t.Run("nobody there", s.nobody)
	t.Run("killed in mid write", s.killed)
	t.Run("killed for good", s.gone)
	if !s.Line {
		return
	}
	t.Run("line", func(t *testing.T) { // each has its own: they can wait together
		for name, test := range map[string]func(t *testing.T){
			"crash before commit": s.crash, "cut": s.cut, "black hole": s.blackHole, "short silence": s.shortSilence, "slow": s.slow,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
}

func (s Server) store(t *testing.T) Store {
	store := Store{
		Open:   func(t *testing.T) targets.Target { return s.open(t, "store", targets.Options{}) },
		Read:   func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(s.Behind("store"), name)) },
		Stream: s.Stream,
	}
	if s.Small != "" {
		store.Small = func(t *testing.T) targets.Target { return s.open(t, s.Small, targets.Options{}) }
	}
	if s.ReadOnly != "" {
		store.ReadOnly = func(t *testing.T) targets.Target { return s.open(t, s.ReadOnly, targets.Options{}) }
	}
	return store
}

func (s Server) open(t *testing.T, dir string, o targets.Options) targets.Target {
	t.Helper()
	tg, err := s.try(t, s.URL(dir), o, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

func (s Server) try(t *testing.T, url string, o targets.Options, within time.Duration) (targets.Target, error) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	o.Log = t.Logf
	return targets.Open(ctx, url, o)
}

// holds waits a moment: a server that was killed may still be writing.
func (s Server) holds(t *testing.T, name string, want []byte) {
	t.Helper()
	Store{Read: func(name string) ([]byte, error) { return os.ReadFile(s.Behind(name)) }}.holds(t, name, want)
}

func (s Server) missingPath(t *testing.T) {
	tg := s.open(t, "missing/deeper/a b", targets.Options{})
	defer tg.Close()
	if fi, err := os.Stat(s.Behind("missing/deeper/a b")); err != nil || !fi.IsDir() {
		t.Errorf("%v, %v", fi, err)
	}
	put(t, tg, "host/vmcore", pattern(100))
	s.holds(t, "missing/deeper/a b/host/vmcore", pattern(100))
}

// refused: what waiting does not help is not waited for, though there is time.
func (s Server) refused(t *testing.T) {
	if len(s.Refused) == 0 {
		t.Fatal("a server that refuses nobody")
	}
	for what, r := range s.Refused {
		t.Run(what, func(t *testing.T) {
			if s.Line {
				t.Parallel()
			}
			start := time.Now()
			tg, err := s.try(t, r.URL, targets.Options{}, time.Minute)
			if err == nil {
				tg.Close()
			}
			fails(t, "Open", err, nil)
			var e *targets.Error
			if errors.As(err, &e) && (e.Temporary || e.URL != targets.Redacted(r.URL) || !strings.Contains(err.Error(), r.Says)) {
				t.Errorf("%v: temporary %v; want %q", err, e.Temporary, r.Says)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("took %v", took)
			}
			t.Log(err)
		})
	}
}

func (s Server) denied(t *testing.T) {
	if s.Denied == "" {
		t.Skip("this user may do everything")
	}
	tg := s.open(t, s.Denied, targets.Options{})
	defer tg.Close()
	for _, name := range []string{"vmcore", "new/vmcore"} {
		_, err := tg.Create(t.Context(), name)
		fails(t, "Create "+name, err, fs.ErrPermission)
		var e *targets.Error
		if errors.As(err, &e) && e.Temporary {
			t.Errorf("%v: is called temporary", err)
		}
		t.Log(err)
	}
	_, err := s.try(t, s.URL(s.Denied+"/new"), targets.Options{}, time.Minute)
	fails(t, "Open of a directory to be made there", err, fs.ErrPermission)
}

// late: the server is not up yet when the capture kernel is.
func (s Server) late(t *testing.T) {
	s.Kill(t)
	up := make(chan struct{})
	go func() {
		defer close(up)
		time.Sleep(1500 * time.Millisecond)
		s.Start(t)
	}()
	tg := s.open(t, "late", targets.Options{})
	<-up
	defer tg.Close()
	put(t, tg, "vmcore", pattern(10))
	s.holds(t, "late/vmcore", pattern(10))
}

func (s Server) nobody(t *testing.T) {
	s.Kill(t)
	defer s.Start(t)
	start := time.Now()
	_, err := s.try(t, s.URL("nobody"), targets.Options{Stall: 5 * time.Second}, 3*time.Second)
	fails(t, "Open", err, nil)
	var e *targets.Error
	if errors.As(err, &e) && !e.Temporary {
		t.Errorf("%v: is called permanent", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	t.Log(err)
}

// stream writes all as a dump is written, and calls at before the piece in the
// middle.
func stream(f targets.File, all []byte, at func()) error {
	const piece = 512<<10 - 7
	for off := 0; off < len(all); off += piece {
		if off >= len(all)/2 && off < len(all)/2+piece {
			at()
		}
		if _, err := f.Write(all[off:min(off+piece, len(all))]); err != nil {
			return err
		}
	}
	return f.Commit()
}

// lost checks a file whose transfer failed: temporary, and visibly not whole.
func (s Server) lost(t *testing.T, err error, name string) {
	t.Helper()
	fails(t, "writing", err, nil)
	var e *targets.Error
	if errors.As(err, &e) && !e.Temporary {
		t.Errorf("%v: is called permanent", err)
	}
	if _, err := os.Stat(s.Behind(name)); err == nil {
		t.Errorf("%s is there under its name", name)
	}
	t.Log(err)
}

func (s Server) killed(t *testing.T) {
	tg := s.open(t, "killed", targets.Options{Stall: 5 * time.Second, Reconnect: 30 * time.Second})
	defer tg.Close()
	f := create(t, tg, "vmcore")
	all := pattern(24 << 20)
	err := stream(f, all, func() { s.Kill(t); s.Start(t) })
	if !s.Resumes {
		s.lost(t, err, "killed/vmcore")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	s.holds(t, "killed/vmcore", all)
}

func (s Server) gone(t *testing.T) {
	tg := s.open(t, "gone", targets.Options{Stall: 2 * time.Second, Reconnect: 3 * time.Second})
	defer tg.Close()
	f := create(t, tg, "vmcore")
	write(t, f, pattern(1<<20))
	defer s.Start(t)
	start := time.Now()
	s.lost(t, stream(f, pattern(24<<20), func() { s.Kill(t) }), "gone/vmcore")
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	_, err := f.Write([]byte("x"))
	fails(t, "Write", err, nil)
	fails(t, "Commit", f.Commit(), nil)
}

// crash: the capturing process is gone in mid write, and so is its connection,
// which the server may not know yet. The next attempt begins anew.
func (s Server) crash(t *testing.T) {
	line := NewLine(t)
	first := s.open(t, "crash", targets.Options{Dial: line.Dial, Stall: 5 * time.Second, Reconnect: 5 * time.Second})
	f := create(t, first, "host/vmcore")
	write(t, f, pattern(3<<20))
	line.Silence(true)
	tg := s.open(t, "crash", targets.Options{})
	defer tg.Close()
	if entries, err := tg.List(t.Context(), "host"); err != nil || len(entries) != 1 || entries[0].Name != "vmcore-incomplete" {
		t.Errorf("List: %v, %v", entries, err)
	}
	put(t, tg, "host/vmcore", pattern(1<<20))
	line.Down(true)
	line.Silence(false)
	line.Cut()
	f.Close()
	first.Close()
	s.holds(t, "crash/host/vmcore", pattern(1<<20))
}

// cut: the connection breaks again and again, in the midst of packets.
func (s Server) cut(t *testing.T) {
	if !s.Resumes {
		t.Skip("the protocol cannot resume")
	}
	line := NewLine(t)
	tg := s.open(t, "cut", targets.Options{Dial: line.Dial, Stall: 5 * time.Second})
	defer tg.Close()
	f := create(t, tg, "vmcore")
	all := pattern(32 << 20)
	const piece = 300_001
	w, atOffsets := f.(io.WriterAt)
	for off := 0; off < len(all); off += piece {
		if off/piece%16 == 3 {
			line.CutAfter(700_000)
		}
		b := all[off:min(off+piece, len(all))]
		if !atOffsets || off < len(all)/2 {
			write(t, f, b)
			continue
		}
		writeAt(t, w, bytes.Repeat([]byte{0xff}, min(1000, len(b))), int64(off)) // to be overwritten, in order
		writeAt(t, w, b, int64(off))
	}
	line.CutAfter(1)
	commit(t, f)
	s.holds(t, "cut/vmcore", all)
	if err := tg.Rename(t.Context(), "vmcore", "moved/vmcore"); err != nil {
		t.Error(err)
	}
	line.Cut()
	if entries, err := tg.List(t.Context(), "moved"); err != nil || len(entries) != 1 {
		t.Errorf("List: %v, %v", entries, err)
	}
}

// blackHole: nothing arrives and nothing is refused. It is noticed in time.
func (s Server) blackHole(t *testing.T) {
	const stall, reconnect = 2 * time.Second, 3 * time.Second
	line := NewLine(t)
	tg := s.open(t, "hole", targets.Options{Dial: line.Dial, Stall: stall, Reconnect: reconnect})
	defer tg.Close()
	f := create(t, tg, "vmcore")
	var start time.Time
	err := stream(f, pattern(64<<20), func() { start = time.Now(); line.Silence(true) })
	took := time.Since(start)
	s.lost(t, err, "hole/vmcore")
	// The stall, then attempts to connect until reconnect is over, the last of
	// which may take another stall.
	if most := 2*stall + reconnect + 40*time.Second; took > most || took < stall/2 {
		t.Errorf("noticed after %v, want at most %v", took, most)
	}
	line.Silence(false)
}

func (s Server) shortSilence(t *testing.T) {
	line := NewLine(t)
	tg := s.open(t, "silence", targets.Options{Dial: line.Dial, Stall: 4 * time.Second})
	defer tg.Close()
	f := create(t, tg, "vmcore")
	all := pattern(16 << 20)
	err := stream(f, all, func() {
		line.Silence(true)
		time.AfterFunc(2*time.Second, func() { line.Silence(false) })
	})
	if err != nil {
		t.Fatal(err)
	}
	s.holds(t, "silence/vmcore", all)
}

// slow: all that is in flight needs longer than the stall, and yet it moves.
func (s Server) slow(t *testing.T) {
	line := NewLine(t)
	tg := s.open(t, "slow", targets.Options{Dial: line.Dial, Stall: 2 * time.Second})
	defer tg.Close()
	f := create(t, tg, "vmcore")
	line.Rate(400 << 10)
	all := pattern(4 << 20)
	if err := stream(f, all, func() {}); err != nil {
		t.Fatal(err)
	}
	s.holds(t, "slow/vmcore", all)
	if n := line.Uploaded(); n > int64(len(all))*3/2 {
		t.Errorf("%d bytes went up for %d", n, len(all))
	}
}
