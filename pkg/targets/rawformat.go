package targets

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

// A partition that raw:// writes to, little endian. Everything stands at a
// multiple of 4096; END is the size of the device rounded down to one.
//
//	0            header area, 1 MiB: a catalogue, then zeros
//	1 MiB        the files
//	END - 1 MiB  trailer area, 1 MiB: the same catalogue, then zeros
//
// A catalogue, at most 256 KiB:
//
//	0     char magic[16]     "ukdump raw dump\n"
//	16    u32  version       1
//	20    u32  crc           CRC-32C of the head and its records, with 0 here
//	24    u64  generation    one more with each write
//	32    u64  end           END
//	40    u32  count         of records
//	48    i64  time          of the write, seconds since 1970
//	64    u8   id[16]        made when the partition was first used
//	128   char text[]        what to do with this, for people with a hex dump
//	4096  records of 1024 bytes
//
// A record is one file or directory:
//
//	0     u32  state         1 directory, 2 incomplete file, 3 complete file
//	4     u32  flags         1: taken, the partition may be used for something new
//	8     u64  size          bytes; of an incomplete file those that are safe
//	16    i64  time          nanoseconds since 1970
//	24    u32  crc           CRC-32C of the bytes of a complete file
//	28    u16  name_len
//	30    u16  extents       how many
//	64    {u64 offset, u64 length} extents[32]   in order of the file's bytes
//	576   char name[432]     with its directories; no NUL at the end
//	1008  16 zeros
//
// The catalogue is replaced as a whole: first the trailer, a sync, then the
// header, a sync. So after a power cut at least one of them is whole, and of two
// the one with the higher generation counts. What a catalogue calls complete
// was synced before that catalogue was written, and space that a catalogue
// gives free is used only after that one is synced.
//
// The areas leave no room for what tells other uses of a device: where those
// have their magic numbers, here are zeros or numbers. The trailer area covers
// the places of md 0.90 and 1.0.
const (
	rawMagic     = "ukdump raw dump\n"
	rawVersion   = 1
	rawBlock     = 4096
	rawArea      = 1 << 20
	rawHead      = 4096
	rawRecord    = 1024
	rawMaxCount  = 252 // records
	rawMaxCat    = rawHead + rawMaxCount*rawRecord
	rawMaxExtent = 32
	rawMaxName   = 432
	rawMinSize   = 2*rawArea + 16*rawBlock

	rawDir        = 1
	rawIncomplete = 2
	rawComplete   = 3
	rawTaken      = 1

	rawText = "Crash dumps, written by ukdump. To get them out:\n    savecore raw:///dev/THIS file:///var/crash\n"
)

// rawExtent is a run of blocks on the device, in bytes.
type rawExtent struct{ off, len int64 }

func (e rawExtent) end() int64 { return e.off + e.len }

// rawEntry is one record.
type rawEntry struct {
	name    string
	state   uint32
	taken   bool
	size    int64
	time    time.Time
	crc     uint32
	extents []rawExtent

	// Not on the device:
	old  bool     // was there when the target was opened
	file *rawFile // that writes to it, or nil
}

func (e *rawEntry) isDir() bool { return e.state == rawDir }

func (e *rawEntry) allocated() (n int64) {
	for _, x := range e.extents {
		n += x.len
	}
	return n
}

// rawCatalogue is what the partition holds.
type rawCatalogue struct {
	generation uint64
	end        int64 // of what is used of the device
	id         [16]byte
	entries    []*rawEntry
}

func rawEnd(size int64) int64 { return size &^ (rawBlock - 1) }

func alignUp(n int64) int64 { return (n + rawBlock - 1) &^ (rawBlock - 1) }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by package crc32

// encode makes the bytes that are written, whole blocks.
func (c *rawCatalogue) encode(now time.Time) []byte {
	n := rawHead + len(c.entries)*rawRecord
	p := make([]byte, alignUp(int64(n)))
	le := binary.LittleEndian
	copy(p, rawMagic)
	le.PutUint32(p[16:], rawVersion)
	le.PutUint64(p[24:], c.generation)
	le.PutUint64(p[32:], uint64(c.end))
	le.PutUint32(p[40:], uint32(len(c.entries)))
	le.PutUint64(p[48:], uint64(now.Unix()))
	copy(p[64:], c.id[:])
	copy(p[128:], rawText)
	for i, e := range c.entries {
		e.encode(p[rawHead+i*rawRecord:][:rawRecord])
	}
	le.PutUint32(p[20:], crc32.Checksum(p[:n], castagnoli()))
	return p
}

func (e *rawEntry) encode(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p[0:], e.state)
	if e.taken {
		le.PutUint32(p[4:], rawTaken)
	}
	le.PutUint64(p[8:], uint64(e.size))
	le.PutUint64(p[16:], uint64(e.time.UnixNano()))
	le.PutUint32(p[24:], e.crc)
	le.PutUint16(p[28:], uint16(len(e.name)))
	le.PutUint16(p[30:], uint16(len(e.extents)))
	for i, x := range e.extents {
		le.PutUint64(p[64+16*i:], uint64(x.off))
		le.PutUint64(p[72+16*i:], uint64(x.len))
	}
	copy(p[576:576+rawMaxName], e.name)
}

const (
	// errNotRaw: nothing of ours is there.
	errNotRaw constError = "holds no dump of raw://"

	// errRawVersion: something of ours is there that this build cannot read.
	errRawVersion constError = "holds dumps in a version of the format that this build does not know"
)

// parseRawCatalogue checks all that a reader or writer relies on. size is that
// of the device.
func parseRawCatalogue(p []byte, size int64) (*rawCatalogue, error) {
	le := binary.LittleEndian
	if len(p) < rawHead || string(p[:len(rawMagic)]) != rawMagic {
		return nil, errNotRaw
	}
	if v := le.Uint32(p[16:]); v != rawVersion {
		return nil, fmt.Errorf("version %d: %w", v, errRawVersion)
	}
	count := le.Uint32(p[40:])
	if count > rawMaxCount || rawHead+int(count)*rawRecord > len(p) {
		return nil, fmt.Errorf("catalogue of %d records", count)
	}
	p = p[:rawHead+int(count)*rawRecord]
	sum := crc32.Update(crc32.Checksum(p[:20], castagnoli()), castagnoli(), make([]byte, 4))
	if crc32.Update(sum, castagnoli(), p[24:]) != le.Uint32(p[20:]) {
		return nil, errors.New("catalogue: checksum mismatch")
	}
	c := &rawCatalogue{generation: le.Uint64(p[24:])}
	copy(c.id[:], p[64:])
	end := le.Uint64(p[32:])
	if end < rawMinSize || end%rawBlock != 0 || end > math.MaxInt64 || int64(end) > size {
		return nil, fmt.Errorf("catalogue of %d bytes on a device of %d", end, size)
	}
	c.end = int64(end)
	for i := range int(count) {
		e, err := parseRawEntry(p[rawHead+i*rawRecord:][:rawRecord])
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
		c.entries = append(c.entries, e)
	}
	return c, c.check()
}

func parseRawEntry(p []byte) (*rawEntry, error) {
	le := binary.LittleEndian
	e := &rawEntry{state: le.Uint32(p[0:]), taken: le.Uint32(p[4:])&rawTaken != 0,
		time: time.Unix(0, int64(le.Uint64(p[16:]))), crc: le.Uint32(p[24:])}
	size, nameLen, extents := le.Uint64(p[8:]), int(le.Uint16(p[28:])), int(le.Uint16(p[30:]))
	switch {
	case e.state < rawDir || e.state > rawComplete:
		return nil, fmt.Errorf("state %d", e.state)
	case size > math.MaxInt64:
		return nil, fmt.Errorf("size %d", size)
	case nameLen > rawMaxName || extents > rawMaxExtent:
		return nil, fmt.Errorf("name of %d bytes, %d extents", nameLen, extents)
	}
	e.size = int64(size)
	e.name = string(p[576 : 576+nameLen])
	for i := range extents {
		off, n := le.Uint64(p[64+16*i:]), le.Uint64(p[72+16*i:])
		if off > math.MaxInt64/2 || n > math.MaxInt64/2 || n == 0 || off%rawBlock != 0 || n%rawBlock != 0 {
			return nil, fmt.Errorf("%.40q: extent of %d bytes at %d", e.name, n, off)
		}
		e.extents = append(e.extents, rawExtent{int64(off), int64(n)})
	}
	return e, checkPath(e.name)
}

// check finds records that contradict each other.
func (c *rawCatalogue) check() error {
	names := make(map[string]*rawEntry)
	for _, e := range c.entries {
		if names[e.name] != nil {
			return fmt.Errorf("record %.40q: twice", e.name)
		}
		names[e.name] = e
		if e.isDir() && (e.size != 0 || len(e.extents) != 0) || e.size > e.allocated() {
			return fmt.Errorf("record %.40q: %d bytes in %d", e.name, e.size, e.allocated())
		}
	}
	for _, e := range c.entries {
		if dir := path.Dir(e.name); dir != "." && (names[dir] == nil || !names[dir].isDir()) {
			return fmt.Errorf("record %.40q: its directory is not there", e.name)
		}
	}
	last := rawExtent{off: rawArea}
	for _, x := range c.extents() {
		if x.off < last.end() || x.end() > c.end-rawArea {
			return fmt.Errorf("extent of %d bytes at %d overlaps another or is not on the device", x.len, x.off)
		}
		last = x
	}
	return nil
}

// extents are those of all files, in order of their place.
func (c *rawCatalogue) extents() []rawExtent {
	var all []rawExtent
	for _, e := range c.entries {
		all = append(all, e.extents...)
	}
	slices.SortFunc(all, func(a, b rawExtent) int { return cmp.Compare(a.off, b.off) })
	return all
}

// gaps are the free runs of blocks, in order of their place.
func (c *rawCatalogue) gaps() []rawExtent {
	var free []rawExtent
	at := int64(rawArea)
	for _, x := range append(c.extents(), rawExtent{off: c.end - rawArea}) {
		if x.off > at {
			free = append(free, rawExtent{at, x.off - at})
		}
		at = x.end()
	}
	return free
}

// rawPiece is the least length of an extent that is a file's first; each next
// one is at least twice as long, so that 32 are enough for any device.
const rawPiece = 64 << 10

// allocate makes room for size bytes in e, or changes nothing.
func (c *rawCatalogue) allocate(e *rawEntry, size int64) bool {
	before := slices.Clone(e.extents)
	for need := alignUp(size) - e.allocated(); need > 0; need = alignUp(size) - e.allocated() {
		if !c.lengthen(e, need) && !c.another(e, need) {
			e.extents = before
			return false
		}
	}
	return true
}

// lengthen goes on where the file's last extent ends.
func (c *rawCatalogue) lengthen(e *rawEntry, need int64) bool {
	if len(e.extents) == 0 {
		return false
	}
	last := &e.extents[len(e.extents)-1]
	for _, g := range c.gaps() {
		if g.off == last.end() {
			last.len += min(need, g.len)
			return true
		}
	}
	return false
}

// another begins a new extent in the largest gap.
func (c *rawCatalogue) another(e *rawEntry, need int64) bool {
	var best rawExtent
	for _, g := range c.gaps() {
		if g.len > best.len {
			best = g
		}
	}
	if n := len(e.extents); n > 0 { // something is in the way, and may come again
		need = max(need, rawPiece<<n)
	}
	if best.len == 0 || len(e.extents) == rawMaxExtent {
		return false
	}
	best.len = min(best.len, need)
	e.extents = append(e.extents, best)
	return true
}

// trim gives back what is allocated beyond size.
func (e *rawEntry) trim(size int64) {
	surplus := e.allocated() - alignUp(size)
	for surplus > 0 {
		last := &e.extents[len(e.extents)-1]
		if last.len > surplus {
			last.len -= surplus
			return
		}
		surplus -= last.len
		e.extents = e.extents[:len(e.extents)-1]
	}
}

// pieces are where the n bytes at off of the file are on the device.
func (e *rawEntry) pieces(off, n int64) []rawExtent {
	var out []rawExtent
	for _, x := range e.extents {
		if off < x.len && n > 0 {
			p := rawExtent{x.off + off, min(n, x.len-off)}
			out = append(out, p)
			off, n = off+p.len, n-p.len
		}
		off -= x.len
	}
	return out
}

// find is the entry with that name, or nil.
func (c *rawCatalogue) find(name string) *rawEntry {
	for _, e := range c.entries {
		if e.name == name {
			return e
		}
	}
	return nil
}

// below is true for an entry that is dir or in it.
func (e *rawEntry) below(dir string) bool {
	return e.name == dir || strings.HasPrefix(e.name, dir+"/")
}

// readRaw reads both catalogues of a device and gives the one that counts.
func readRaw(r io.ReaderAt, size int64) (*rawCatalogue, error) {
	if size < rawMinSize {
		return nil, errNotRaw
	}
	buf := make([]byte, rawMaxCat)
	var best *rawCatalogue
	var errs []error
	ends := []int64{0, rawEnd(size) - rawArea}
	for i := 0; i < len(ends); i++ {
		c, err := rawAt(r, buf, ends[i], size)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if i == 0 && c.end != rawEnd(size) { // the partition has grown since
			ends[1] = c.end - rawArea
		}
		if best == nil || c.id == best.id && c.generation > best.generation {
			best = c
		}
	}
	if best != nil {
		return best, nil
	}
	for _, err := range errs { // the one that says more
		if !errors.Is(err, errNotRaw) {
			return nil, err
		}
	}
	return nil, errNotRaw
}

func rawAt(r io.ReaderAt, buf []byte, off, size int64) (*rawCatalogue, error) {
	n, err := r.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
	if n < rawHead {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read at %d: %w", off, err)
	}
	return parseRawCatalogue(buf[:n], size)
}
