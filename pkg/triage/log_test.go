package triage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// Where the test cores have the ring. The kernel image is mapped from
// imageVaddr to paddr 0 on.
const (
	imageVaddr = 0xffffffff81000000
	prbAt      = 0x1000 // the pointer
	structAt   = 0x2000
	descsAt    = 0x4000
	infosAt    = 0x8000
	dataAt     = 0x10000
	ringEnd    = 0x20000

	descSize = 24
	infoSize = 88
)

// ringInfo is what a kernel says of its ring, and a machine of 4 MiB.
const ringInfo = `
	kernel 0 2M
	load 0 4M offset=0x10000
	info SYMBOL(prb)=ffffffff81001000
	info OFFSET(printk_info.caller_id)=20
` + vmcoretest.RingLayout

// testRing writes records as the kernel does.
type testRing struct {
	countBits, sizeBits uint
	exact               bool // since 6.19 a block may end exactly at the ring's end
	image               [ringEnd]byte
	headID              uint64
	headLpos            uint64
	live                []liveRecord
}

type liveRecord struct {
	id, begin uint64
	line      string // what Log has to write
}

func newTestRing(countBits, sizeBits uint) *testRing {
	r := &testRing{countBits: countBits, sizeBits: sizeBits}
	// The kernel begins so that the first wrap comes soon.
	r.headID = -(1<<countBits + 1) & descIDMask
	r.headLpos = -uint64(1 << sizeBits)
	return r
}

func (r *testRing) put(at int, v uint64) { binary.LittleEndian.PutUint64(r.image[at:], v) }

func (r *testRing) desc(id uint64) int { return descsAt + int(id&(1<<r.countBits-1))*descSize }
func (r *testRing) info(id uint64) int { return infosAt + int(id&(1<<r.countBits-1))*infoSize }

func (r *testRing) state(id, state uint64) { r.put(r.desc(id), state<<descStateShift|id) }

// block reserves room for a text as data_alloc() does.
func (r *testRing) block(text string) (begin, next uint64) {
	size := uint64(8+len(text)+7) &^ 7
	begin, next = r.headLpos, r.headLpos+size
	last := next
	if r.exact {
		last--
	}
	if begin>>r.sizeBits != last>>r.sizeBits {
		next = (begin>>r.sizeBits+1)<<r.sizeBits + size
	}
	r.headLpos = next
	return begin, next
}

// add writes a record and gives its id.
func (r *testRing) add(nanos uint64, text string) uint64 {
	r.headID = (r.headID + 1) & descIDMask
	id := r.headID
	begin, next := r.block(text)
	mask := uint64(1)<<r.sizeBits - 1
	at := begin & mask
	if begin>>r.sizeBits != (next-1)>>r.sizeBits {
		at = 0
	}
	r.put(dataAt+int(at), id)
	copy(r.image[dataAt+int(at)+8:], text)
	r.state(id, descFinalized)
	r.put(r.desc(id)+8, begin)
	r.put(r.desc(id)+16, next)
	r.put(r.info(id)+8, nanos)
	r.put(r.info(id)+16, uint64(len(text))|1<<63)
	r.live = append(r.live, liveRecord{id, begin, fmt.Sprintf("[%5d.%06d] [%8s] %s\n", nanos/1e9, nanos%1e9/1e3, "C0", text)})
	for len(r.live) > 1<<r.countBits || r.headLpos-r.live[0].begin > 1<<r.sizeBits {
		if len(r.live) <= 1<<r.countBits {
			r.state(r.live[0].id, 3) // reusable
		}
		r.live = r.live[1:]
	}
	return id
}

// drop says that Log must not show a record.
func (r *testRing) drop(id uint64) {
	for i := range r.live {
		if r.live[i].id == id {
			r.live[i].line = ""
		}
	}
}

func (r *testRing) want() string {
	var b strings.Builder
	for _, l := range r.live {
		b.WriteString(l.line)
	}
	return b.String()
}

// finish writes what leads to the ring.
func (r *testRing) finish() {
	r.put(prbAt, imageVaddr+structAt)
	r.put(structAt, uint64(r.countBits))
	r.put(structAt+8, imageVaddr+descsAt)
	r.put(structAt+16, imageVaddr+infosAt)
	r.put(structAt+24, r.headID)
	r.put(structAt+48, uint64(r.sizeBits))
	r.put(structAt+56, imageVaddr+dataAt)
}

// core puts the ring into a core; lines of description may be added.
func (r *testRing) core(t testing.TB, more string) *vmcore.Core {
	t.Helper()
	r.finish()
	return patched(t, vmcoretest.File(t, ringInfo+more), r.image[prbAt:])
}

// patched opens a core of which the image from prbAt on is replaced.
func patched(t testing.TB, path string, image []byte) *vmcore.Core {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(image, 0x10000+prbAt)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	core, err := vmcore.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	return core
}

func checkLog(t *testing.T, r *testRing, more string) {
	t.Helper()
	var b strings.Builder
	n, err := Log(r.core(t, more), &b, LogOptions{})
	if err != nil || b.String() != r.want() || n != strings.Count(r.want(), "\n") {
		t.Errorf("%d records, %v:\n%swant\n%s", n, err, b.String(), r.want())
	}
}

func TestLog(t *testing.T) {
	for _, exact := range []bool{false, true} {
		for _, records := range []int{1, 31, 32, 33, 64, 500} {
			r := newTestRing(5, 10)
			r.exact = exact
			rnd := rand.New(rand.NewPCG(1, uint64(records)))
			for i := range records {
				r.add(uint64(i)*1e8, fmt.Sprintf("record %d %s", i, strings.Repeat("x", rnd.IntN(60))))
			}
			checkLog(t, r, "")
		}
	}
}

// A record that ends exactly at the ring's end is whole since Linux 6.19.
func TestLogEndsAtTheRingsEnd(t *testing.T) {
	r := newTestRing(5, 10)
	r.exact = true
	r.add(1, strings.Repeat("a", 1024-64-8))
	r.add(2, strings.Repeat("b", 64-8))
	if r.headLpos&1023 != 0 {
		t.Fatal(r.headLpos)
	}
	checkLog(t, r, "")
	r.add(3, "the next turn")
	checkLog(t, r, "")
}

func TestLogRecordsLeftOut(t *testing.T) {
	r := newTestRing(5, 10)
	first := r.add(1, "first")
	for state, text := range []string{"reserved", "committed", "finalized", "reusable"} {
		id := r.add(2, text)
		r.state(id, uint64(state))
		if state == 0 || state == 3 {
			r.drop(id)
		}
	}
	for _, lpos := range []uint64{1, 3} { // FAILED_LPOS, EMPTY_LINE_LPOS
		id := r.add(3, "dataless")
		r.put(r.desc(id)+8, lpos)
		r.put(r.desc(id)+16, lpos)
		r.drop(id)
	}
	id := r.add(4, "of another turn")
	r.state(id-32, descFinalized)
	r.drop(id)
	id = r.add(5, "torn positions")
	r.put(r.desc(id)+16, r.headLpos-5000)
	r.drop(id)
	id = r.add(6, "torn length")
	r.put(r.info(id)+16, 0xffff|1<<63)
	r.live[len(r.live)-1].line = "[    0.000000] [      C0] torn length\\x00\\x00\\x00\\x00\\x00\n"
	r.add(7, "last")
	r.put(r.desc(first), descFinalized<<descStateShift|first)
	checkLog(t, r, "")
}

// Records whose descriptor, info or text the core does not have cost themselves.
func TestLogUnreadable(t *testing.T) {
	r := newTestRing(7, 12) // 128 infos: 2.75 pages
	for i := range 128 {
		r.add(uint64(i), fmt.Sprintf("%d", i))
	}
	// The second page of infos is not in the core.
	for _, l := range r.live {
		at := r.info(l.id)
		if at+infoSize > infosAt+0x1000 && at < infosAt+0x2000 {
			r.drop(l.id)
		}
	}
	more := "load 0 0x9000 offset=0x10000\nload 0xa000 0x3f6000 offset=0x1a000"
	r.finish()
	text := strings.Replace(ringInfo, "load 0 4M offset=0x10000", more, 1)
	core := patched(t, vmcoretest.File(t, text), r.image[prbAt:])
	var b strings.Builder
	if n, err := Log(core, &b, LogOptions{}); err != nil || b.String() != r.want() || n == 128 || n < 64 {
		t.Errorf("%d records, %v:\n%s", n, err, b.String())
	}
}

func TestLogCallers(t *testing.T) {
	r := newTestRing(5, 10)
	id := r.add(1500000, "task")
	r.put(r.info(id)+16, 4|123<<32)
	r.live[0].line = "[    0.001500] [    T123] task\n"
	id = r.add(2000, "cpu")
	r.put(r.info(id)+16, 3|(1<<31|7)<<32)
	r.live[1].line = "[    0.000002] [      C7] cpu\n"
	checkLog(t, r, "")
	for i, line := range []string{"[    0.001500] task\n", "[    0.000002] cpu\n"} {
		r.live[i].line = line
	}
	checkLog(t, r, "noinfo OFFSET(printk_info.caller_id)")
}

func TestLogPriority(t *testing.T) {
	r := newTestRing(5, 10)
	r.put(r.info(r.add(1500000, "of the kernel"))+16, 13|0<<16|(6<<5|2)<<24|(1<<31)<<32)
	r.put(r.info(r.add(2000000, "of a daemon\nin two lines"))+16, 24|3<<16|(2<<5)<<24|(1<<31)<<32)
	var b strings.Builder
	_, err := Log(r.core(t, ""), &b, LogOptions{Priority: true})
	want := "<6>[    0.001500] [      C0] of the kernel\n<26>[    0.002000] [      C0] of a daemon\n" + strings.Repeat(" ", 26) + "in two lines\n"
	if err != nil || b.String() != want {
		t.Errorf("%v\n%swant\n%s", err, b.String(), want)
	}
}

func TestLogNotToBeHad(t *testing.T) {
	good := func() *testRing {
		r := newTestRing(5, 10)
		r.add(1, "x")
		return r
	}
	for _, tt := range []struct {
		name, more string
		change     func(r *testRing)
		want       string
	}{
		{"no symbol", "noinfo SYMBOL(prb)", nil, "SYMBOL(prb)"},
		{"no VMCOREINFO", "noinfo", nil, "SYMBOL(prb)"},
		{"missing keys", "noinfo SIZE(prb_desc)\nnoinfo OFFSET(prb_data_ring.data)", nil, "SIZE(prb_desc)"},
		{"no size", "info SIZE(prb_desc)=0", nil, "SIZE(prb_desc)=0"},
		{"large size", "info SIZE(printk_info)=4097", nil, "SIZE(printk_info)"},
		{"symbol leads nowhere", "info SYMBOL(prb)=ffffc90000000000", nil, "read prb"},
		{"pointer leads nowhere", "", func(r *testRing) { r.put(prbAt, 0xffffc90000000000) }, "read struct printk_ringbuffer"},
		{"too many records", "", func(r *testRing) { r.put(structAt, 26) }, "2^26 records"},
		{"shift out of range", "", func(r *testRing) { r.put(structAt, 0xffffffff) }, "cannot be"},
		{"too much text", "", func(r *testRing) { r.put(structAt+48, 23) }, "2^23 bytes"},
		{"descriptors nowhere", "", func(r *testRing) { r.put(structAt+8, 0xffffc90000000000) }, "no record can be read in a ring of 32"},
		{"torn head", "", func(r *testRing) { r.put(structAt+24, 12345) }, "no record can be read in a ring of 32"},
	} {
		r := good()
		r.finish()
		if tt.change != nil {
			tt.change(r)
		}
		core := patched(t, vmcoretest.File(t, ringInfo+tt.more), r.image[prbAt:])
		n, err := Log(core, io.Discard, LogOptions{})
		if err == nil || n != 0 || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d records, %v, want %q", tt.name, n, err, tt.want)
		}
		var missing *vmcoreinfo.MissingError
		if strings.Contains(tt.more, "noinfo") && !errors.As(err, &missing) {
			t.Errorf("%s: %v names no keys", tt.name, err)
		}
	}
}

// failing takes some bytes and then no more.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestLogWriteError(t *testing.T) {
	r := newTestRing(5, 10)
	for range 32 {
		r.add(1, "x")
	}
	if _, err := Log(r.core(t, ""), &failing{left: 10}, LogOptions{}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Error(err)
	}
}

// FuzzLog fills the ring, and what leads to it, with anything.
func FuzzLog(f *testing.F) {
	r := newTestRing(5, 10)
	for i := range 100 {
		r.add(uint64(i)*1e6, "fuzz")
	}
	r.finish()
	f.Add(uint16(0), []byte{})
	f.Add(uint16(structAt-prbAt), r.image[structAt:structAt+88])
	f.Add(uint16(descsAt-prbAt), bytes.Repeat([]byte{0xff}, 200))
	f.Add(uint16(infosAt-prbAt+16), []byte{0xff, 0xff, 0xff})
	path := vmcoretest.File(f, ringInfo)
	f.Fuzz(func(t *testing.T, at uint16, data []byte) {
		image := bytes.Clone(r.image[prbAt:])
		copy(image[min(int(at), len(image)):], data)
		var size counter
		n, err := Log(patched(t, path, image), &size, LogOptions{})
		// 4 MiB of memory hold so many records at most, and so much text.
		if n > 4<<20/(descSize+infoSize) || size > 40*4<<20 {
			t.Errorf("%d records in %d bytes, %v", n, size, err)
		}
	})
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func TestReadUname(t *testing.T) {
	const uts = "info SYMBOL(init_uts_ns)=ffffffff81003000\ndata 0x3000 \"\\x05\\x00\\x00\\x00\"\n"
	name := func(at int, words ...string) (text string) {
		for i, w := range words {
			text += fmt.Sprintf("data %#x %q\n", at+65*i, w)
		}
		return text
	}
	full := []string{"Linux", "router", "6.1.0-test", "v1", "x86_64", "(none)"}
	for _, tt := range []struct {
		name, text string
		want       Uname
		err        string
	}{
		{"said where", uts + "info OFFSET(uts_namespace.name)=16\n" + name(0x3010, full...), Uname{"Linux", "router", "6.1.0-test", "v1", "x86_64", "(none)"}, ""},
		{"at the start", uts + name(0x3000, full...), Uname{"Linux", "router", "6.1.0-test", "v1", "x86_64", "(none)"}, ""},
		{"behind a kref", uts + name(0x3004, full...), Uname{"Linux", "router", "6.1.0-test", "v1", "x86_64", "(none)"}, ""},
		{"not terminated", uts + name(0x3004, "Linux", strings.Repeat("n", 65), "6"), Uname{"Linux", strings.Repeat("n", 65), "6", "unknown", "x86_64", ""}, ""},
		{"no symbol", "", Uname{"Linux", "", "6.1.0-test", "unknown", "x86_64", ""}, "SYMBOL(init_uts_ns)"},
		{"garbage", uts + name(0x3004, "Minix"), Uname{"Linux", "", "6.1.0-test", "unknown", "x86_64", ""}, "holds no Linux"},
		{"nowhere", "info SYMBOL(init_uts_ns)=ffffc90000000000", Uname{"Linux", "", "6.1.0-test", "unknown", "x86_64", ""}, "translate"},
	} {
		core, err := vmcore.Open(vmcoretest.File(t, ringInfo+tt.text))
		if err != nil {
			t.Fatal(err)
		}
		u, err := ReadUname(core)
		if u != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %+v, %v", tt.name, u, err)
		}
		core.Close()
	}
}
