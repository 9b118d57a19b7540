package watchdog

import (
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Beater is the child's end of the way to PID 1's Pulse. A nil one beats for
// nobody. Every goroutine may use it.
type Beater struct {
	fd int

	mu   sync.Mutex // guards what follows
	last time.Time
	sent byte
}

// beatStep bounds how often a plain beat is sent: the window is seconds at least.
const beatStep = 250 * time.Millisecond

// NewBeater takes the descriptor that FDVariable names; nil if none does. It must be
// called once, before anything else is opened.
func NewBeater() *Beater {
	text, ok := os.LookupEnv(FDVariable)
	fd, err := strconv.Atoi(text)
	if !ok || err != nil || fd < 3 {
		return nil
	}
	_ = os.Unsetenv(FDVariable) // grandchildren have no such descriptor
	unix.CloseOnExec(fd)
	// A beat that PID 1 does not read is of no use, and must not stop its sender.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil
	}
	return &Beater{fd: fd}
}

// Beat tells that the job moves and how much longer than usual the next step may
// take. Plain beats close to each other become one.
func (b *Beater) Beat(grace time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	code, now := Encode(grace), time.Now()
	if code == 0 && b.sent == 0 && now.Sub(b.last) < beatStep {
		return
	}
	b.last, b.sent = now, code
	_, _ = unix.Write(b.fd, []byte{code}) // EAGAIN: 64 KiB of beats wait already
}
