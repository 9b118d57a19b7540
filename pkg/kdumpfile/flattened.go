package kdumpfile

import (
	"encoding/binary"
	"io"
)

// The flattened format: a header of 4096 bytes, then segments of
// {offset i64, size i64, data}, all big endian, and {-1, -1} at the end.
const (
	flatSignature  = "makedumpfile"
	flatHeaderSize = 4096
	flatType       = 1
	flatVersion    = 1
)

// Flattener is an io.WriterAt for a stream that cannot seek: each write
// becomes a segment, which readers put in its place. makedumpfile -R makes a
// plain file of it.
type Flattener struct {
	w     io.Writer
	begun bool
	err   error // sticky
}

func NewFlattener(w io.Writer) *Flattener { return &Flattener{w: w} }

// WriteAt writes one segment. Readers index segments one by one: few large
// ones are better than many.
func (f *Flattener) WriteAt(p []byte, off int64) (int, error) {
	if !f.begun {
		f.begun = true
		head := make([]byte, flatHeaderSize)
		copy(head, flatSignature)
		binary.BigEndian.PutUint64(head[16:], flatType)
		binary.BigEndian.PutUint64(head[24:], flatVersion)
		f.write(head)
	}
	f.segment(off, int64(len(p)))
	f.write(p)
	if f.err != nil {
		return 0, f.err
	}
	return len(p), nil
}

func (f *Flattener) segment(off, size int64) {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(off))
	binary.BigEndian.PutUint64(b[8:], uint64(size))
	f.write(b[:])
}

func (f *Flattener) write(p []byte) {
	if f.err == nil {
		_, f.err = f.w.Write(p)
	}
}

// Close writes the end marker, without which readers refuse the file. It does
// not close the stream.
func (f *Flattener) Close() error {
	f.segment(-1, -1)
	return f.err
}
