package watchdog

import (
	"sync"
	"time"
)

// Pulse tells whether a job still moves. Every goroutine may use it.
type Pulse struct {
	window time.Duration // how long nothing may move

	mu    sync.Mutex // guards what follows
	until time.Time  // alive until then
	last  time.Time
}

// NewPulse starts a pulse, which beats once.
func NewPulse(window time.Duration) *Pulse {
	p := &Pulse{window: window}
	p.Beat(0)
	return p
}

// Beat says that the job has moved, and that its next step may take grace longer
// than the window: a step with a deadline of its own. The next Beat takes that back.
func (p *Pulse) Beat(grace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	p.until = p.last.Add(p.window + grace)
}

// Alive says whether the window, and what was granted beyond it, is not over.
func (p *Pulse) Alive() bool { return p.Left() > 0 }

// Left is how long the pulse is alive if it does not beat.
func (p *Pulse) Left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.until)
}

// Since is the time since the last beat.
func (p *Pulse) Since() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.last)
}

// A beat on its way from a child to PID 1 is one byte: the grace, in units of
// graceUnit, rounded up.
const graceUnit = 10 * time.Second

// MaxGrace is the longest grace that a byte can ask for; more is cut to it.
const MaxGrace = 255 * graceUnit

// Encode is the byte of a grace.
func Encode(grace time.Duration) byte {
	return byte(min(max(0, (grace+graceUnit-1)/graceUnit), 255))
}

// Decode is the grace of a byte.
func Decode(b byte) time.Duration { return time.Duration(b) * graceUnit }

// FDVariable is the environment variable that names the file descriptor to which a
// child of PID 1 writes its beats.
const FDVariable = "UKDUMP_PULSE_FD"
