package main

import (
	"io"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// patient beats, and lets what moves from now on ask for as much patience. Commits
// need it: their last bytes move long before their sync ends.
func (a *attempt) patient(grace time.Duration) {
	a.grace.Store(int64(grace))
	a.moved()
}

// moved beats for bytes that were taken.
func (a *attempt) moved() { a.beat.Beat(time.Duration(a.grace.Load())) }

const (
	// movingPiece is written between two beats: 10 kB/s are enough for PID 1.
	movingPiece = 1 << 20

	// movingGap is how much of a file is skipped at once. Some targets write zeros
	// there, within that one call: vfat does, and a raw disk.
	movingGap = 32 << 20
)

// moving is a file that beats for each piece of it that was taken.
type moving struct {
	targets.File
	beat func()
}

// movingAt is for a file that can be written at an offset.
type movingAt struct {
	moving
	at io.WriterAt
}

// moving wraps f for its writes. What else it can do, wrapped it cannot.
func (a *attempt) moving(f targets.File) targets.File {
	m := moving{f, a.moved}
	if at, ok := f.(io.WriterAt); ok {
		return movingAt{m, at}
	}
	return m
}

func (m moving) Write(p []byte) (int, error) { return m.pieces(p, m.File.Write) }

func (m movingAt) WriteAt(p []byte, off int64) (done int, err error) {
	for at := m.Size() + movingGap; at < off && err == nil; at += movingGap {
		_, err = m.pieces([]byte{0}, func(p []byte) (int, error) { return m.at.WriteAt(p, at-1) })
	}
	if err != nil {
		return 0, err
	}
	return m.pieces(p, func(p []byte) (int, error) {
		n, err := m.at.WriteAt(p, off)
		off += int64(n)
		return n, err
	})
}

func (m moving) pieces(p []byte, write func(p []byte) (int, error)) (done int, err error) {
	for done < len(p) && err == nil {
		n := 0
		n, err = write(p[done:min(len(p), done+movingPiece)])
		if done += n; err == nil {
			m.beat()
		}
	}
	return done, err
}
