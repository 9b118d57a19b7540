package targets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// crashOp is a write, or a sync where data is nil.
type crashOp struct {
	off  int64
	data []byte
}

// crashDisk remembers all that was done to it, so that a test can cut the power
// at any moment of it.
type crashDisk struct {
	mu    sync.Mutex
	first []byte // before any op
	now   []byte
	ops   []crashOp
	fail  int  // op that fails, -1: none
	once  bool // those after it do not
}

const junk = 0xa5 // what a used partition holds; no content of these tests has it

func newCrashDisk(size int64) *crashDisk {
	d := &crashDisk{first: bytes.Repeat([]byte{junk}, int(size)), fail: -1}
	d.now = bytes.Clone(d.first)
	return d
}

func (d *crashDisk) op(o crashOp) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail >= 0 && len(d.ops) >= d.fail {
		if d.once {
			d.fail = -1
		}
		return errors.New("injected")
	}
	copy(d.now[o.off:], o.data)
	d.ops = append(d.ops, o)
	return nil
}

func (d *crashDisk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(d.now)) {
		panic(fmt.Sprintf("%d bytes at %d", len(p), off))
	}
	if err := d.op(crashOp{off, bytes.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *crashDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.NewReader(d.now).ReadAt(p, off)
}

func (d *crashDisk) Zero(off, n int64) error {
	if off%rawBlock != 0 || n%rawBlock != 0 {
		panic(fmt.Sprintf("zero %d at %d", n, off))
	}
	_, err := d.WriteAt(make([]byte, n), off)
	return err
}

func (d *crashDisk) Sync() error  { return d.op(crashOp{}) }
func (d *crashDisk) Close() error { return nil }

// at is what the disk may hold when the power is cut behind op n: all that was
// synced, and of the rest any sectors in any order.
func (d *crashDisk) at(n int, rng *rand.Rand) []byte {
	last := 0
	for i, o := range d.ops[:n] {
		if o.data == nil {
			last = i + 1
		}
	}
	img := bytes.Clone(d.first)
	for _, o := range d.ops[:last] {
		copy(img[o.off:], o.data)
	}
	pending := slices.Clone(d.ops[last:n])
	rng.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
	for _, o := range pending {
		arrived := rng.IntN(4) // 0, 1: all of it; 2: nothing; 3: some sectors
		for at := 0; at < len(o.data); {
			end := min(len(o.data), int((o.off+int64(at))/512*512+512-o.off))
			if arrived < 2 || arrived == 3 && rng.IntN(2) == 0 {
				copy(img[o.off+int64(at):], o.data[at:end])
			}
			at = end
		}
	}
	return img
}

// story is what was done to a raw partition, and when what was sure.
type story struct {
	t    *testing.T
	disk *crashDisk
	raw  *raw
	want map[string][]byte // contents, by final name
	sure map[string]span   // when a file is complete for sure
}

type span struct{ from, to int } // in ops; to 0: for ever

func (s *story) open(url string) {
	s.t.Helper()
	spec, err := Parse(url)
	if err != nil {
		s.t.Fatal(err)
	}
	cat, err := readRaw(s.disk, int64(len(s.disk.now)))
	if err != nil && !errors.Is(err, errNotRaw) {
		s.t.Fatal(err)
	}
	s.raw, err = newRaw(s.disk, cat, int64(len(s.disk.now)), spec, s.t.Logf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.raw.every = 100 << 10
}

func (s *story) create(name string) File {
	s.t.Helper()
	f, err := s.raw.Create(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *story) commit(name string, f File) {
	s.t.Helper()
	s.want[name] = make([]byte, f.Size())
	if _, err := f.(io.ReaderAt).ReadAt(s.want[name], 0); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		s.t.Fatal(err)
	}
	s.sure[name] = span{from: len(s.disk.ops)}
}

func (s *story) put(name string, n int) {
	s.t.Helper()
	f := s.create(name)
	if _, err := f.Write(plain(n, len(name))); err != nil {
		s.t.Fatal(err)
	}
	s.commit(name, f)
}

// plain is n bytes without junk and without zeros.
func plain(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + (i+seed+i/255)%150)
	}
	return b
}

// tell is a crash saved, extracted, and a second one saved over it.
func (s *story) tell() {
	s.open("raw:///dev/x")
	s.put("one/vmcore-dmesg.txt", 5000)
	core := s.create("one/vmcore")
	w := core.(io.WriterAt)
	write := func(off, n int) {
		if _, err := w.WriteAt(plain(n, off), int64(off)); err != nil {
			s.t.Fatal(err)
		}
	}
	write(0, 4096)
	write(50000, 1)
	for off := 50001; off < 400000; off += 30011 {
		write(off, 30011)
	}
	s.put("one/report.txt", 70000) // in the middle of the core
	write(6000, 3000)              // into the hole
	for off := 500000; off < 700000; off += 30011 {
		write(off, 30011)
	}
	s.commit("one/vmcore", core)
	s.put("one/SHA256SUMS", 100)
	left := s.create("one/capture.log")
	if _, err := left.Write(plain(9000, 3)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.raw.Close(); err != nil { // without a Commit
		s.t.Fatal(err)
	}

	taken := len(s.disk.ops)
	cat, err := readRaw(s.disk, int64(len(s.disk.now)))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range cat.entries {
		e.taken = true
	}
	if err := (&raw{dev: s.disk, cat: cat}).save(); err != nil {
		s.t.Fatal(err)
	}
	s.open("raw:///dev/x")
	for name, when := range s.sure {
		when.to = taken
		s.sure[name] = when
	}
	s.put("two/vmcore-dmesg.txt", 300000)
	s.put("two/vmcore", 900000)
	if err := s.raw.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// check is what must hold after a power cut behind op n.
func (s *story) check(n int, img []byte) {
	s.t.Helper()
	cat, err := readRaw(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		for name, when := range s.sure {
			if n >= when.from {
				s.t.Fatalf("cut behind op %d: %v, and %s was complete at %d", n, err, name, when.from)
			}
		}
		return
	}
	store := &RawStore{cat: cat, size: int64(len(img)), url: "raw:///dev/x"}
	seen := make(map[string]bool)
	for _, e := range cat.entries {
		if e.isDir() {
			continue
		}
		got := make([]byte, e.size)
		if _, err := readPieces(bytes.NewReader(img), got, e.pieces(0, e.size)); err != nil {
			s.t.Fatal(err)
		}
		if e.state == rawComplete && !e.taken {
			seen[e.name] = true
			if !bytes.Equal(got, s.want[e.name]) {
				s.t.Fatalf("cut behind op %d: %s is complete and its bytes are wrong", n, e.name)
			}
			var sum rawSum
			if sum.next(got, 0); sum.crc != e.crc {
				s.t.Fatalf("cut behind op %d: %s: checksum", n, e.name)
			}
		}
		if i := bytes.IndexByte(got, junk); i >= 0 && !e.taken {
			s.t.Fatalf("cut behind op %d: %s: byte %d of %d is what was there before", n, e.name, i, e.size)
		}
	}
	for name, when := range s.sure {
		if n >= when.from && (when.to == 0 || n < when.to) && !seen[name] {
			s.t.Fatalf("cut behind op %d: %s was complete at %d and is not there: %+v", n, name, when.from, store.Files())
		}
	}
}

// A power cut at any moment, with what was not synced lost, torn or in another
// order: what was committed is there, and nothing looks complete that is not.
func TestRawPowerCut(t *testing.T) {
	s := &story{t: t, disk: newCrashDisk(4 << 20), want: make(map[string][]byte), sure: make(map[string]span)}
	s.tell()
	t.Logf("%d operations", len(s.disk.ops))
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range len(s.disk.ops) + 1 {
		for range 8 {
			s.check(n, s.disk.at(n, rng))
		}
	}
}

// An error of the device at any moment: the call says so, nothing after it
// succeeds that could not be trusted, and what was committed stays.
func TestRawDeviceError(t *testing.T) {
	whole := &story{t: t, disk: newCrashDisk(4 << 20), want: make(map[string][]byte), sure: make(map[string]span)}
	whole.tell()
	for n := range 2 * len(whole.disk.ops) {
		d := newCrashDisk(4 << 20)
		d.fail, d.once = n/2, n%2 == 1
		spec, _ := Parse("raw:///dev/x")
		r, err := newRaw(d, nil, int64(len(d.now)), spec, t.Logf)
		if err != nil {
			continue
		}
		committed := 0
		var bad error
		for i := range 20 {
			f, err := r.Create(t.Context(), fmt.Sprintf("d/f%d", i))
			if err == nil {
				_, err = f.(io.WriterAt).WriteAt(plain(30000, i), 10000)
				err = errors.Join(err, f.Commit(), f.Close())
			}
			switch {
			case err != nil && bad == nil:
				bad = err
			case err == nil && bad != nil && !d.once:
				t.Fatalf("op %d: file %d is complete after %v", n, i, bad)
			case err == nil:
				committed++
			}
		}
		r.Close()
		cat, err := readRaw(d, int64(len(d.now)))
		if err != nil {
			t.Fatalf("op %d: %v", n, err)
		}
		complete := 0
		for _, e := range cat.entries {
			if e.state == rawComplete {
				complete++
			}
			got := make([]byte, e.size)
			if _, err := readPieces(d, got, e.pieces(0, e.size)); err != nil || bytes.IndexByte(got, junk) >= 0 {
				t.Fatalf("op %d: %s: has what was there before (%v)", n, e.name, err)
			}
		}
		if complete < committed || complete > committed+1 { // the last answer may be lost
			t.Errorf("op %d: %d complete, %d committed", n, complete, committed)
		}
	}
}

// Several files grow at once, some end, some go: no block is ever two files',
// and at the end every block was used.
func TestRawAllocation(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		c := &rawCatalogue{end: rawEnd(int64(rawMinSize + rng.IntN(8<<20)))}
		var total, used int64 = c.end - 2*rawArea, 0
		for i := range 6 {
			c.entries = append(c.entries, &rawEntry{name: fmt.Sprint(i), state: rawIncomplete})
		}
		for full := false; !full; {
			e := c.entries[rng.IntN(len(c.entries))]
			switch rng.IntN(200) {
			case 0:
				e.trim(e.size)
			case 1:
				e.size = e.size / 3
				e.trim(e.size)
			default:
				want := e.size + rng.Int64N(200<<10)
				if full = !c.allocate(e, want); !full {
					e.size = want
				}
			}
			if err := c.check(); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range c.entries {
			used += e.allocated()
			if len(e.extents) > 20 {
				t.Errorf("%d extents", len(e.extents))
			}
			var sum int64
			for _, p := range e.pieces(0, e.size) {
				sum += p.len
			}
			if sum != e.size {
				t.Errorf("pieces of %d bytes, want %d", sum, e.size)
			}
		}
		for _, g := range c.gaps() {
			used += g.len
		}
		if used != total {
			t.Errorf("%d bytes in all, want %d", used, total)
		}
	}
}

func TestRawCatalogue(t *testing.T) {
	c := &rawCatalogue{end: 64 << 20, generation: 7, id: [16]byte{1, 2, 3}}
	c.entries = []*rawEntry{
		{name: "d", state: rawDir, taken: true},
		{name: "d/vmcore", state: rawComplete, size: 5000, crc: 9, extents: []rawExtent{{rawArea, 8192}}},
		{name: "d/" + strings.Repeat("x", rawMaxName-2), state: rawIncomplete, size: 1, extents: []rawExtent{{rawArea + 8192, 4096}}},
	}
	good := c.encode(c.entries[0].time)
	got, err := parseRawCatalogue(good, 64<<20)
	if err != nil || got.generation != 7 || got.id != c.id || len(got.entries) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, e := range got.entries {
		if e.name != c.entries[i].name || e.state != c.entries[i].state || e.taken != c.entries[i].taken || e.size != c.entries[i].size || !slices.Equal(e.extents, c.entries[i].extents) {
			t.Errorf("%+v, want %+v", e, c.entries[i])
		}
	}
	for what, n := range map[string]int{"nothing": 0, "half a head": 100, "a head": rawHead, "no last record": len(good) - rawBlock} {
		if _, err := parseRawCatalogue(good[:n], 64<<20); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := parseRawCatalogue(good, 64<<20-1); err == nil {
		t.Error("a smaller device: no error")
	}
	for _, bit := range []int{0, 16 * 8, 20*8 + 3, 24 * 8, 40 * 8, rawHead * 8, (rawHead+rawRecord+64)*8 + 4, (rawHead + 3*rawRecord) * 8} {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		_, err := parseRawCatalogue(bad, 64<<20)
		if beyond := bit >= (rawHead+3*rawRecord)*8; (err == nil) != beyond {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
	// What a writer must never make, a reader must not take.
	for what, e := range map[string]*rawEntry{
		"no directory": {name: "e/x", state: rawComplete},
		"twice":        {name: "d", state: rawComplete},
		"outside":      {name: "../x", state: rawComplete},
		"too large":    {name: "x", state: rawComplete, size: 4097, extents: []rawExtent{{2 << 20, 4096}}},
		"overlap":      {name: "x", state: rawComplete, extents: []rawExtent{{rawArea + 4096, 4096}}},
		"in header":    {name: "x", state: rawComplete, extents: []rawExtent{{rawArea - 4096, 4096}}},
		"in trailer":   {name: "x", state: rawComplete, extents: []rawExtent{{63 << 20, 4096}}},
		"crooked":      {name: "x", state: rawComplete, extents: []rawExtent{{2<<20 + 512, 4096}}},
		"huge":         {name: "x", state: rawComplete, extents: []rawExtent{{1 << 62, 1 << 62}}},
		"empty extent": {name: "x", state: rawComplete, extents: []rawExtent{{2 << 20, 0}}},
		"state":        {name: "x", state: 9},
		"in a file":    {name: "d/vmcore/x", state: rawComplete},
	} {
		bad := *c
		bad.entries = append(slices.Clone(c.entries), e)
		if _, err := parseRawCatalogue(bad.encode(e.time), 64<<20); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func FuzzRawCatalogue(f *testing.F) {
	c := &rawCatalogue{end: 8 << 20, entries: []*rawEntry{
		{name: "d", state: rawDir},
		{name: "d/f", state: rawComplete, size: 1, extents: []rawExtent{{rawArea, 4096}, {rawArea + 8192, 4096}}},
	}}
	whole := c.encode(c.entries[0].time)
	f.Add(whole[16:64], whole[rawHead:rawHead+64], whole[rawHead+rawRecord:rawHead+rawRecord+100], "d", "d/f")
	f.Fuzz(func(t *testing.T, head, one, two []byte, name1, name2 string) {
		p := make([]byte, rawHead+2*rawRecord)
		copy(p[16:], head[:min(len(head), 112)])
		for i, r := range [][]byte{one, two} {
			rec := p[rawHead+i*rawRecord:][:rawRecord]
			copy(rec, r)
			copy(rec[576:576+rawMaxName], []string{name1, name2}[i])
		}
		copy(p, rawMagic)
		refill(p)
		c, err := parseRawCatalogue(p, 8<<20)
		if err != nil {
			return
		}
		var sum int64
		for _, g := range c.gaps() {
			sum += g.len
		}
		for _, e := range c.entries {
			sum += e.allocated()
			if err := checkPath(e.name); err != nil {
				t.Error(err)
			}
			if n := len(e.pieces(0, e.size)); n > len(e.extents) {
				t.Errorf("%d pieces", n)
			}
		}
		if sum != c.end-2*rawArea {
			t.Errorf("%d bytes in all of %d", sum, c.end)
		}
		again, err := parseRawCatalogue(c.encode(time.Now()), 8<<20)
		if err != nil || len(again.entries) != len(c.entries) {
			t.Errorf("again: %v", err)
		}
	})
}

// refill makes the checksum right, so that fuzzing gets behind it.
func refill(p []byte) {
	le := binary.LittleEndian
	n := min(len(p), rawHead+int(min(le.Uint32(p[40:]), rawMaxCount))*rawRecord)
	le.PutUint32(p[20:], 0)
	le.PutUint32(p[20:], crc32.Checksum(p[:n], castagnoli()))
}
