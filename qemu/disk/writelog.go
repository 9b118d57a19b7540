package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

// A log of writes as QEMU's blklogwrites and the kernel's dm-log-writes make it
// (Documentation/admin-guide/device-mapper/log-writes.rst), in units of a sector:
//
//	0       magic, version (1), number of entries: 8 bytes each; sector size: 4 bytes
//	1       entry: sector, number of sectors, flags, length of a mark: 8 bytes each
//	then    its data, unless it is a discard; then the next entry
const (
	logMagic = 0x6a736677736872

	logFlush   = 1
	logFUA     = 2
	logDiscard = 4

	logPage = 4096 // what of a write is done whole or not at all
)

// Write is one entry of a log.
type Write struct {
	Offset int64 // on the disk
	Size   int64
	Flush  bool // all before it is safe when it is done; Size is 0 as a rule
	FUA    bool // it is safe itself

	data int64 // offset in the log, 0: the range was discarded
}

// Log is an open log of writes.
type Log struct {
	Writes []Write
	file   *os.File
}

// ReadLog opens a log. What stands behind the last whole entry, because its writer
// was killed, is left out.
func ReadLog(path string) (*Log, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &Log{file: f}
	if err := l.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read log of writes %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) read() error {
	st, err := l.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() == 0 { // killed before the first write
		return nil
	}
	var head [28]byte
	if _, err := l.file.ReadAt(head[:], 0); err != nil {
		return err
	}
	unit := int64(binary.LittleEndian.Uint32(head[24:]))
	if binary.LittleEndian.Uint64(head[:]) != logMagic || unit < 512 || unit > 4096 {
		return errors.New("no log")
	}
	count := binary.LittleEndian.Uint64(head[16:])
	at := unit
	for range count {
		var e [24]byte
		if _, err := l.file.ReadAt(e[:], at); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		sector, n, flags := binary.LittleEndian.Uint64(e[:]), binary.LittleEndian.Uint64(e[8:]), binary.LittleEndian.Uint64(e[16:])
		w := Write{Offset: int64(sector) * unit, Size: int64(n) * unit, Flush: flags&logFlush != 0, FUA: flags&logFUA != 0}
		at += unit
		if flags&logDiscard == 0 {
			w.data = at
			at += w.Size
		}
		if at > st.Size() || n == 0 && !w.Flush { // the number counts what was begun
			return nil
		}
		l.Writes = append(l.Writes, w)
	}
	return nil
}

// Close closes the log.
func (l *Log) Close() error { return l.file.Close() }

// Cut does to img, which holds what the disk held before the first write, what is
// left if the power is cut after n writes. What came before the last flush is there.
// Each later write is there with a chance of keep, and else a part of it or nothing.
func (l *Log) Cut(img *os.File, n int, keep float64, random *rand.Rand) error {
	safe := -1
	for i, w := range l.Writes[:n] {
		if w.Flush {
			safe = i
		}
	}
	for i, w := range l.Writes[:n] {
		size := w.Size
		if i > safe && !w.FUA && random.Float64() >= keep {
			size = random.Int64N(w.Size/logPage+1) * logPage
		}
		if err := l.apply(img, w, size); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) apply(img *os.File, w Write, size int64) error {
	if size == 0 {
		return nil
	}
	var data io.Reader = io.NewSectionReader(l.file, w.data, size)
	if w.data == 0 {
		data = io.LimitReader(zeros{}, size)
	}
	_, err := io.Copy(io.NewOffsetWriter(img, w.Offset), data)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
