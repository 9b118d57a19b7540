package targets

import (
	"net"
	"sync"
)

// batchSize is how many bytes may wait while as many are being written.
const batchSize = 128 << 10

// batched is a connection whose writes are done by a goroutine, as many in one
// system call as have come together. x/crypto/ssh makes two calls of each
// packet, 4 KiB and 28; so it makes less than one, and the next packet is
// encrypted meanwhile. An error comes up in a later Write, and in Read because
// the connection is closed. What is not yet written at Close is lost.
type batched struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond
	waiting []byte // for the goroutine
	writing []byte // in its hands
	err     error
}

func newBatched(c net.Conn) *batched {
	b := &batched{Conn: c, waiting: make([]byte, 0, batchSize), writing: make([]byte, 0, batchSize)}
	b.changed.L = &b.mu
	go b.run()
	return b
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
		if b.waiting = append(b.waiting, p[:n]...); len(b.waiting) == n {
			b.changed.Broadcast()
		}
		done, p = done+n, p[n:]
	}
	return done, nil
}

func (b *batched) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.waiting) == 0 && b.err == nil {
			b.changed.Wait()
		}
		if b.err != nil {
			return
		}
		if len(b.waiting) == batchSize {
			b.changed.Broadcast()
		}
		b.waiting, b.writing = b.writing[:0], b.waiting
		b.mu.Unlock()
		_, err := b.Conn.Write(b.writing)
		if err != nil {
			b.Conn.Close()
		}
		b.mu.Lock()
		if b.err == nil {
			b.err = err
		}
		b.changed.Broadcast()
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
