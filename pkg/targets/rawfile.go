package targets

import (
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// rawCheckpoint is how many bytes are written between two moments when what
// there is of a file is made safe, so that a power cut in mid dump leaves a
// part that can be extracted.
const rawCheckpoint = 256 << 20

// rawFile is a file being written.
//
// What lies between the writes reads as zeros: whatever is skipped by a write
// beyond the end is zeroed there and then, before the file's end moves.
type rawFile struct {
	raw   *raw
	entry *rawEntry // its fields belong to raw.mu
	name  string    // final

	position sync.Mutex // of Write
	pos      int64

	busy sync.RWMutex // read: a write is under way; write: none is
	grow sync.Mutex   // moves end
	end  atomic.Int64 // one past the highest byte written

	unsaved atomic.Int64 // since the last checkpoint

	sums  sync.Mutex
	wrote rawSum // of what came through Write
	read  rawSum // of what went through ReadAt since the last write

	mu    sync.Mutex
	err   error // the first one
	good  int64 // after an error: bytes that are still worth something
	ended bool
}

// rawSum is the CRC-32C of the bytes before at, if they came in sequence.
type rawSum struct {
	at     int64
	crc    uint32
	broken bool
}

// next takes bytes that follow, or remembers that they do not.
func (s *rawSum) next(p []byte, off int64) {
	if off != s.at {
		s.broken = true
	}
	if s.broken || len(p) == 0 {
		return
	}
	s.crc = crc32.Update(s.crc, castagnoli(), p)
	s.at += int64(len(p))
}

func (f *rawFile) Size() int64 { return f.end.Load() }

func (f *rawFile) Write(p []byte) (int, error) {
	f.position.Lock()
	defer f.position.Unlock()
	n, err := f.write(p, f.pos)
	f.sums.Lock()
	f.wrote.next(p[:n], f.pos)
	f.sums.Unlock()
	f.pos += int64(n)
	return n, err
}

func (f *rawFile) WriteAt(p []byte, off int64) (int, error) {
	f.sums.Lock()
	f.wrote.broken = true
	f.sums.Unlock()
	return f.write(p, off)
}

func (f *rawFile) write(p []byte, off int64) (int, error) {
	n, err := f.place(p, off)
	if err != nil {
		return n, err
	}
	if f.unsaved.Add(int64(n)) >= f.raw.every {
		f.unsaved.Store(0)
		f.checkpoint()
	}
	return n, nil
}

func (f *rawFile) place(p []byte, off int64) (int, error) {
	f.busy.RLock()
	defer f.busy.RUnlock()
	if err := f.usable(); err != nil || len(p) == 0 {
		return 0, err
	}
	if off < 0 {
		return 0, f.fail("write", fmt.Errorf("offset %d", off), 0)
	}
	f.sums.Lock()
	f.read = rawSum{}
	f.sums.Unlock()
	if err := f.extend(off, off+int64(len(p))); err != nil {
		return 0, f.fail("write", err, f.Size())
	}
	done := 0
	for _, x := range f.pieces(off, int64(len(p))) {
		n, err := f.raw.dev.WriteAt(p[done:done+int(x.len)], x.off)
		done += n
		if err != nil {
			return done, f.fail("write", err, off)
		}
	}
	return done, nil
}

func (f *rawFile) pieces(off, n int64) []rawExtent {
	f.raw.mu.Lock()
	defer f.raw.mu.Unlock()
	return f.entry.pieces(off, n)
}

// extend makes room up to end, and zeros between the present end and off.
func (f *rawFile) extend(off, end int64) error {
	f.grow.Lock()
	defer f.grow.Unlock()
	was := f.end.Load()
	if end <= was {
		return nil
	}
	f.raw.mu.Lock()
	err := f.raw.room(f.entry, end)
	gap := f.entry.pieces(was, off-was)
	f.raw.mu.Unlock()
	if err != nil {
		return err
	}
	for _, x := range gap {
		if err := f.zero(x); err != nil {
			return err
		}
	}
	f.end.Store(end)
	return nil
}

// zero clears bytes, and the rest of their last block, where nothing was
// written yet: a later write may leave it out.
func (f *rawFile) zero(x rawExtent) error {
	head := min(x.len, alignUp(x.off)-x.off)
	if err := writeZeros(f.raw.dev, x.off, head); err != nil {
		return err
	}
	return f.raw.dev.Zero(x.off+head, alignUp(x.len-head))
}

// ReadAt fails without consequences.
func (f *rawFile) ReadAt(p []byte, off int64) (int, error) {
	left := f.Size() - off
	if off < 0 {
		return 0, fmt.Errorf("offset %d", off)
	}
	if left <= 0 {
		return 0, io.EOF
	}
	short := left < int64(len(p))
	p = p[:min(left, int64(len(p)))]
	done, err := readPieces(f.raw.dev, p, f.pieces(off, int64(len(p))))
	f.sums.Lock()
	if off == 0 {
		f.read = rawSum{}
	}
	f.read.next(p[:done], off)
	f.sums.Unlock()
	if err == nil && short {
		err = io.EOF
	}
	return done, err
}

func readPieces(r io.ReaderAt, p []byte, pieces []rawExtent) (done int, err error) {
	for _, x := range pieces {
		n, err := r.ReadAt(p[done:done+int(x.len)], x.off)
		done += n
		if n < int(x.len) {
			return done, err
		}
	}
	return done, nil
}

// fail keeps the first error and returns it; the bytes before good are right.
func (f *rawFile) fail(op string, err error, good int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err, f.good = newError(op, f.name, f.raw.url, err), good
	}
	f.good = min(f.good, good)
	return f.err
}

func (f *rawFile) usable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && f.ended {
		return newError("write", f.name, f.raw.url, fs.ErrClosed)
	}
	return f.err
}

// abandon returns when no write is under way any more, and lets none begin.
func (f *rawFile) abandon(why error) {
	f.busy.Lock()
	defer f.busy.Unlock()
	f.fail("write", why, 0)
}

// checkpoint makes the bytes so far safe. Its error is kept for the next write.
func (f *rawFile) checkpoint() {
	f.busy.Lock()
	defer f.busy.Unlock()
	if f.usable() != nil {
		return
	}
	if err := f.record(f.Size()); err != nil {
		f.fail("sync", err, f.Size())
	}
}

// record syncs what was written and then saves that size bytes of it are there.
func (f *rawFile) record(size int64) error {
	if err := f.raw.dev.Sync(); err != nil {
		return err
	}
	f.raw.mu.Lock()
	defer f.raw.mu.Unlock()
	f.entry.size, f.entry.time = size, time.Now()
	return f.raw.save()
}

func (f *rawFile) Commit() error {
	f.busy.Lock()
	defer f.busy.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	crc, err := f.checksum()
	if err == nil {
		err = f.raw.dev.Sync()
	}
	if err != nil {
		return f.fail("sync", err, f.Size())
	}
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	if err := f.complete(crc); err != nil {
		return f.fail("commit", err, f.Size())
	}
	return nil
}

func (f *rawFile) complete(crc uint32) error {
	r, e := f.raw, f.entry
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usable(); err != nil {
		return err
	}
	name, _ := FinalName(e.name) // its directory may have been renamed since
	if r.cat.find(e.name) != e || r.cat.find(name) != nil {
		return fs.ErrExist
	}
	e.name, e.state, e.size, e.crc, e.time, e.file = name, rawComplete, f.Size(), crc, time.Now(), nil
	e.trim(e.size)
	return r.save()
}

// checksum is that of all bytes. They are read once more only if nobody has
// just done so.
func (f *rawFile) checksum() (uint32, error) {
	f.sums.Lock()
	defer f.sums.Unlock()
	for _, s := range []rawSum{f.wrote, f.read} {
		if !s.broken && s.at == f.Size() {
			return s.crc, nil
		}
	}
	var sum rawSum
	buf := make([]byte, 256<<10)
	for sum.at < f.Size() {
		n := min(int64(len(buf)), f.Size()-sum.at)
		done, err := readPieces(f.raw.dev, buf[:n], f.pieces(sum.at, n))
		if err != nil {
			return 0, err
		}
		sum.next(buf[:done], sum.at)
	}
	return sum.crc, nil
}

// Close keeps the name of an incomplete file, and what is there of it.
func (f *rawFile) Close() error {
	f.mu.Lock()
	ended := f.ended
	f.ended = true
	f.mu.Unlock()
	if ended {
		return nil
	}
	f.busy.Lock()
	defer f.busy.Unlock()
	f.mu.Lock()
	size := f.Size()
	if f.err != nil {
		size = f.good
	}
	f.mu.Unlock()
	r, e := f.raw, f.entry
	r.mu.Lock()
	e.file = nil
	mine := r.cat.find(e.name) == e
	if mine {
		e.trim(size)
	}
	r.mu.Unlock()
	if !mine || r.err != nil { // removed, or the error was told
		return nil
	}
	return newError("close", f.name, r.url, f.record(size))
}
