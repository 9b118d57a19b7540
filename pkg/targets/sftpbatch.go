package targets

import (
	"net"
	"sync"
	"time"
)

const (
	// batchSize is how many bytes may wait while as many are being written: a
	// large write of SFTP, encrypted.
	batchSize = 256 << 10

	// holdFor bounds how long bytes are held back for more: what they wait for
	// may be an answer to them.
	holdFor = 2 * time.Millisecond
)

// batched is a connection whose writes are done by a goroutine, as many in one
// system call as have come together. x/crypto/ssh makes two calls of each
// packet, 4 KiB and 28; so it makes far less than one, and the next packet is
// encrypted meanwhile. An error comes up in a later Write, and in Read because
// the connection is closed. What is not yet written at Close is lost.
type batched struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond
	waiting []byte // for the goroutine
	writing []byte // in its hands
	err     error

	holds int  // by how many more bytes are known to come
	due   bool // waiting is written nevertheless
	timer *time.Timer
}

func newBatched(c net.Conn) *batched {
	b := &batched{Conn: c, waiting: make([]byte, 0, batchSize), writing: make([]byte, 0, batchSize)}
	b.changed.L = &b.mu
	b.timer = time.AfterFunc(time.Hour, b.release)
	b.timer.Stop()
	go b.run()
	return b
}

// hold is for one who is going to write more at once: until the returned
// function is called nobody is woken up for less than a batch.
func (b *batched) hold() (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds++
	return func() {
		b.mu.Lock()
		b.holds--
		b.mu.Unlock()
		b.release()
	}
}

// release has what waits written.
func (b *batched) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 {
		b.due = true
		b.changed.Broadcast()
	}
}

func (b *batched) Write(p []byte) (done int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(p) > 0 {
		for len(b.waiting) == batchSize && b.err == nil {
			b.changed.Wait()
		}
		if b.err != nil {
			return done, b.err
		}
		n := min(len(p), batchSize-len(b.waiting))
		b.waiting = append(b.waiting, p[:n]...)
		switch {
		case b.due:
		case b.holds == 0 || len(b.waiting) == batchSize:
			b.due = true
			b.changed.Broadcast()
		case len(b.waiting) == n:
			b.timer.Reset(holdFor)
		}
		done, p = done+n, p[n:]
	}
	return done, nil
}

func (b *batched) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.timer.Stop()
	for {
		for !b.due && b.err == nil {
			b.changed.Wait()
		}
		if b.err != nil {
			return
		}
		if len(b.waiting) == batchSize {
			b.changed.Broadcast()
		}
		b.waiting, b.writing, b.due = b.writing[:0], b.waiting, false
		b.mu.Unlock()
		_, err := b.Conn.Write(b.writing)
		if err != nil {
			b.Conn.Close()
		}
		b.mu.Lock()
		if b.err == nil {
			b.err = err
		}
		if b.err != nil {
			b.changed.Broadcast()
		}
	}
}

func (b *batched) Close() error {
	b.mu.Lock()
	if b.err == nil {
		b.err = net.ErrClosed
	}
	b.changed.Broadcast()
	b.mu.Unlock()
	return b.Conn.Close()
}
