package watchdog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake is a driver that takes timeouts up to longest.
type fake struct {
	longest, set int
	fed          atomic.Int32
	err          error
	disarmed     bool
}

func (f *fake) setTimeout(s int) error {
	if s > f.longest {
		return unix.EINVAL
	}
	f.set = s
	return nil
}
func (f *fake) timeout() (int, error) { return f.set, nil }
func (f *fake) feed() error           { f.fed.Add(1); return f.err }
func (f *fake) identity() string      { return "fake" }
func (f *fake) disarm() error         { f.disarmed = true; return nil }

func TestTimeoutThatTheDriverTakes(t *testing.T) {
	for _, tt := range []struct {
		longest int
		ask     time.Duration
		want    int // 0: refused
	}{
		{1 << 16, time.Minute, 60}, {60, time.Minute, 60}, {59, time.Minute, 30}, {15, time.Minute, 15}, {14, time.Minute, 8}, {8, time.Minute, 8}, {7, time.Minute, 0},
		{600, 1500 * time.Millisecond, 2}, {600, time.Second, 1},
	} {
		d := &fake{longest: tt.longest}
		if err := settle(d, tt.ask); d.set != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("at most %d s, asked for %s: set %d, %v; want %d", tt.longest, tt.ask, d.set, err, tt.want)
		}
	}
}

func TestPackIsAsImpatientAsItsFirst(t *testing.T) {
	a, b := &fake{set: 60}, &fake{set: 15}
	p := &Pack{[]device{a, &fake{}, b}}
	if got := p.Timeout(); got != 15*time.Second {
		t.Errorf("timeout %s", got)
	}
	if err := p.Disarm(); err != nil || !a.disarmed || !b.disarmed {
		t.Error(err, a, b)
	}
}

// Nobody feeds the watchdog of a job that does not move, and it is fed again when
// the job does.
func TestGuardFeedsOnlyWhatMoves(t *testing.T) {
	dog := &fake{set: 1} // looked at every 250 ms
	ctx, cancel := context.WithCancel(t.Context())
	pulse := NewPulse(time.Hour)
	done := make(chan struct{})
	go func() { (&Pack{[]device{dog}}).Guard(ctx, pulse, nil); close(done) }()
	waitFor(t, "a living pulse is fed", func() bool { return dog.fed.Load() >= 2 })
	pulse.Beat(-2 * time.Hour) // as if the window were over
	time.Sleep(50 * time.Millisecond)
	before := dog.fed.Load()
	time.Sleep(800 * time.Millisecond)
	if n := dog.fed.Load() - before; n > 1 {
		t.Errorf("fed %d times without a pulse", n)
	}
	before = dog.fed.Load()
	pulse.Beat(0)
	waitFor(t, "fed again", func() bool { return dog.fed.Load() > before })
	cancel()
	<-done
}

func TestGuardTellsOfTheFirstError(t *testing.T) {
	told := make(chan error, 10)
	dog := &fake{set: 1, err: unix.EIO}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		(&Pack{[]device{dog}}).Guard(ctx, NewPulse(time.Hour), func(err error) { told <- err })
		close(done)
	}()
	waitFor(t, "three errors", func() bool { return dog.fed.Load() >= 3 })
	cancel()
	<-done
	if len(told) != 1 || !errors.Is(<-told, unix.EIO) {
		t.Errorf("told %d times", len(told))
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not in half a minute: %s", what)
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if p, err := Open(dir, time.Minute); p != nil || !errors.Is(err, ErrNone) {
		t.Errorf("an empty folder: %v, %v", p, err)
	}
	// Files are no watchdogs: they are fed all the same, and the timeout is told of.
	for _, name := range []string{"watchdog", "watchdog0", "watchdog1", "watchdogs"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Open(dir, time.Minute)
	if p == nil || !errors.Is(err, unix.ENOTTY) || p.String() != "watchdog0, watchdog1" {
		t.Fatalf("%v, %v", p, err)
	}
	if err := p.Disarm(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"watchdog": "", "watchdog0": "\x00V", "watchdog1": "\x00V", "watchdogs": ""} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s got %q, %v; want %q", name, b, err, want)
		}
	}
}

func TestPulse(t *testing.T) {
	p := NewPulse(time.Hour)
	if !p.Alive() {
		t.Error("dead at birth")
	}
	p.Beat(10 * time.Minute)
	if left := p.Left(); left < 69*time.Minute || left > 70*time.Minute {
		t.Errorf("left %s of 1h10m", left)
	}
	p.Beat(0)
	if left := p.Left(); left > time.Hour {
		t.Errorf("the grace outlived the step: %s left", left)
	}
	if since := p.Since(); since < 0 || since > time.Minute {
		t.Error(since)
	}
	dead := NewPulse(-time.Second)
	if dead.Alive() {
		t.Error("alive without a window")
	}
}

func TestGraceInOneByte(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{
		-time.Second: 0, 0: 0, 1: graceUnit, graceUnit: graceUnit, graceUnit + 1: 2 * graceUnit,
		MaxGrace - 1: MaxGrace, MaxGrace: MaxGrace, MaxGrace + 1: MaxGrace, 1 << 62: MaxGrace,
	} {
		if got := Decode(Encode(in)); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}

// A full pipe must not stop the job, and plain beats are few.
func TestBeater(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	t.Setenv(FDVariable, strconv.Itoa(int(w.Fd())))
	b := NewBeater()
	if b == nil {
		t.Fatal("no beater")
	}
	if _, still := os.LookupEnv(FDVariable); still {
		t.Error("children would inherit the variable")
	}
	for range 100 {
		b.Beat(0)
	}
	b.Beat(time.Minute)
	b.Beat(0)
	buf := make([]byte, 200)
	n, err := r.Read(buf)
	if err != nil || string(buf[:n]) != "\x00\x06\x00" {
		t.Errorf("sent %q, %v", buf[:n], err)
	}
	full := make(chan struct{})
	go func() {
		for range 100_000 {
			b.Beat(time.Second)
		}
		close(full)
	}()
	select {
	case <-full:
	case <-time.After(10 * time.Second):
		t.Fatal("a pipe that nobody reads stops the job")
	}
	var none *Beater
	none.Beat(0)
	for _, bad := range []string{"", "x", "2", "-1"} {
		t.Setenv(FDVariable, bad)
		if NewBeater() != nil {
			t.Errorf("%q gave a beater", bad)
		}
	}
}
