package targetstest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Line is a network line between a target and its server that can be made
// slow, silent and broken. It relays TCP in user space: what the kernel's netem
// would do to packets, it does to bytes.
type Line struct {
	t testing.TB

	mu      sync.Mutex
	relays  map[string]net.Listener // by the server's address
	pairs   map[*pair]struct{}
	delay   time.Duration
	rate    int
	silent  bool
	down    bool
	changed chan struct{} // closed and replaced when one of the above changes
	upload  int64         // bytes from client to server
	cutAt   int64         // of upload; 0: never
}

// pair is one relayed connection.
type pair struct{ client, server net.Conn }

// A line holds so many reads of at most 64 KiB in each direction.
const lineParcels = 1024

// NewLine is a line that does nothing yet; it ends with the test.
func NewLine(t testing.TB) *Line {
	l := &Line{t: t, relays: make(map[string]net.Listener), pairs: make(map[*pair]struct{}), changed: make(chan struct{})}
	t.Cleanup(func() {
		l.mu.Lock()
		for _, r := range l.relays {
			r.Close()
		}
		l.mu.Unlock()
		l.Silence(false)
		l.Cut()
	})
	return l
}

// Dial is for targets.Options.
func (l *Line) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, l.Addr(addr))
}

// Addr is where the line to the server at addr begins.
func (l *Line) Addr(addr string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.relays[addr]; r != nil {
		return r.Addr().String()
	}
	r, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.relays[addr] = r
	go l.accept(r, addr)
	return r.Addr().String()
}

func (l *Line) accept(r net.Listener, addr string) {
	for {
		client, err := r.Accept()
		if err != nil {
			return
		}
		go l.relay(client, addr)
	}
}

func (l *Line) relay(client net.Conn, addr string) {
	l.mu.Lock()
	down := l.down
	l.mu.Unlock()
	if down {
		reset(client)
		return
	}
	server, err := net.Dial("tcp", addr)
	if err != nil {
		reset(client)
		return
	}
	p := &pair{client, server}
	l.mu.Lock()
	l.pairs[p] = struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.carry(server, client, true) })
	both.Go(func() { l.carry(client, server, false) })
	both.Wait()
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
	client.Close()
	server.Close()
}

// parcel is bytes on their way, and when they arrive.
type parcel struct {
	b  []byte
	at time.Time
}

func (l *Line) carry(to, from net.Conn, upload bool) {
	const size = 64 << 10
	way := make(chan parcel, lineParcels)
	free := make(chan []byte, 2*lineParcels)
	go func() {
		defer close(way)
		for {
			var b []byte
			select {
			case b = <-free:
			default:
				b = make([]byte, size)
			}
			n, err := from.Read(b[:size])
			delay, rate := l.wait()
			if n > 0 {
				if rate > 0 {
					time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
				}
				if upload && l.count(n) {
					l.Cut()
				}
				way <- parcel{b[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.at))
		l.wait()
		if _, err := to.Write(p.b); err != nil {
			break
		}
		free <- p.b
	}
	if c, ok := to.(*net.TCPConn); ok {
		c.CloseWrite()
	}
	for range way {
	}
}

// wait returns once the line is not silent.
func (l *Line) wait() (delay time.Duration, rate int) {
	for {
		l.mu.Lock()
		silent, changed, delay, rate := l.silent, l.changed, l.delay, l.rate
		l.mu.Unlock()
		if !silent {
			return delay, rate
		}
		<-changed
	}
}

// count is true when the time for the cut has come.
func (l *Line) count(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.upload += int64(n)
	cut := l.cutAt > 0 && l.upload >= l.cutAt
	if cut {
		l.cutAt = 0
	}
	return cut
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

func (l *Line) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Delay is the time that bytes take in each direction: half a round trip.
func (l *Line) Delay(d time.Duration) { l.set(func() { l.delay = d }) }

// Rate is in bytes a second and direction; 0: as fast as can be.
func (l *Line) Rate(n int) { l.set(func() { l.rate = n }) }

// Silence makes the line a black hole, or ends that: what was sent meanwhile
// then arrives, as TCP would have it.
func (l *Line) Silence(on bool) { l.set(func() { l.silent = on }) }

// Down refuses connections, or ends that.
func (l *Line) Down(on bool) { l.set(func() { l.down = on }) }

// Cut resets all connections; what is on the way is lost.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		reset(p.client)
		reset(p.server)
	}
}

// CutAfter cuts once n more bytes have gone up.
func (l *Line) CutAfter(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAt = l.upload + n
}

// Uploaded is how many bytes have gone up.
func (l *Line) Uploaded() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.upload
}
