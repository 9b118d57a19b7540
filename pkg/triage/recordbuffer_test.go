package triage

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// bufferInfo is what Linux 5.4 says of its buffer. The variables are at
// structAt, the buffer at dataAt.
const bufferInfo = `
	kernel 0 2M
	load 0 4M offset=0x10000
	info SYMBOL(log_buf)=ffffffff81002000
	info SYMBOL(log_buf_len)=ffffffff81002008
	info SYMBOL(log_first_idx)=ffffffff81002010
	info SYMBOL(log_next_idx)=ffffffff81002018
	info SIZE(printk_log)=16
	info OFFSET(printk_log.ts_nsec)=0
	info OFFSET(printk_log.len)=8
	info OFFSET(printk_log.text_len)=10
	info OFFSET(printk_log.dict_len)=12
`

const callerInfo = "info SIZE(printk_log)=24\ninfo OFFSET(printk_log.caller_id)=16\n"

// testBuffer writes records as log_store() of Linux 5.4 does.
type testBuffer struct {
	header int // bytes
	length int
	image  [ringEnd]byte
	next   int
}

func newTestBuffer(length int, caller bool) *testBuffer {
	b := &testBuffer{header: 16, length: length}
	if caller {
		b.header = 24
	}
	b.put(structAt, imageVaddr+dataAt, 8)
	b.put(structAt+8, uint64(length), 4)
	return b
}

func (b *testBuffer) put(at int, v uint64, size int) {
	var p [8]byte
	binary.LittleEndian.PutUint64(p[:], v)
	copy(b.image[at:at+size], p[:])
}

// add writes a record and gives where.
func (b *testBuffer) add(micros uint64, flags byte, text, dict string) int {
	size := (b.header + len(text) + len(dict) + 7) &^ 7
	if b.next+size+b.header > b.length { // room for the record that sends to the start
		clear(b.image[dataAt+b.next : dataAt+b.length])
		b.next = 0
	}
	at := dataAt + b.next
	b.put(at, micros*1000, 8)
	b.put(at+8, uint64(size), 2)
	b.put(at+10, uint64(len(text)), 2)
	b.put(at+12, uint64(len(dict)), 2)
	b.image[at+14], b.image[at+15] = 1, 4<<5|flags
	if b.header > 16 {
		b.put(at+16, 77, 4)
	}
	copy(b.image[at+b.header:], text+dict)
	b.next += size
	b.put(structAt+24, uint64(b.next), 4)
	return at
}

func (b *testBuffer) core(t testing.TB, more string) *vmcore.Core {
	t.Helper()
	if b.header > 16 {
		more += callerInfo
	}
	return patched(t, vmcoretest.File(t, bufferInfo+more), b.image[prbAt:])
}

func (b *testBuffer) check(t *testing.T, want string) {
	t.Helper()
	var got strings.Builder
	if n, err := Log(b.core(t, ""), &got, LogOptions{}); err != nil || got.String() != want {
		t.Errorf("%d records, %v:\n%swant\n%s", n, err, got.String(), want)
	}
}

func TestBuffer(t *testing.T) {
	b := newTestBuffer(1024, false)
	b.add(1, logNewline, "one", "SUBSYSTEM=x")
	b.add(2500000, logNewline, "two\nlines", "")
	b.add(3, logNewline, "\x01\xff", "")
	b.check(t, "[    0.000001] one\n[    2.500000] two\n               lines\n[    0.000003] \\x01\\xff\n")
	b = newTestBuffer(1024, true)
	b.add(1, logNewline, "one", "")
	b.check(t, "[    0.000001] [     T77] one\n")
	var got strings.Builder
	if _, err := Log(b.core(t, ""), &got, LogOptions{Priority: true}); err != nil || got.String() != "<12>[    0.000001] [     T77] one\n" {
		t.Errorf("%v %q", err, got.String())
	}
}

// Pieces of a line come as records of their own.
func TestBufferContinuation(t *testing.T) {
	b := newTestBuffer(1024, false)
	b.add(1, logCont, "a", "")
	b.add(2, logCont, "b", "")
	b.add(3, logCont|logNewline, "c", "")
	b.add(4, logNewline, "d", "")
	b.add(5, logCont, "e", "")
	b.add(6, logNewline|logPrefix, "f", "")
	b.add(7, logCont, "never ended", "")
	b.check(t, "[    0.000001] abc\n[    0.000004] d\n[    0.000005] e\n[    0.000006] f\n[    0.000007] never ended\n")
}

func TestBufferWraps(t *testing.T) {
	for _, caller := range []bool{false, true} {
		for many := range 60 {
			b := newTestBuffer(512, caller)
			var at []int
			var lines []string
			for i := range many + 1 {
				text := fmt.Sprintf("line %d%s", i, strings.Repeat(".", i%7))
				at = append(at, b.add(uint64(i), logNewline, text, ""))
				name := ""
				if caller {
					name = "[     T77] "
				}
				lines = append(lines, fmt.Sprintf("[    0.%06d] %s%s\n", i, name, text))
			}
			oldest := len(at) - 1 // the first of those that later ones did not overwrite
			for wrapped := false; oldest > 0; oldest-- {
				wrapped = wrapped || at[oldest-1] > at[oldest]
				if wrapped && at[oldest-1] < dataAt+b.next+64 {
					break
				}
			}
			b.put(structAt+16, uint64(at[oldest]-dataAt), 4)
			b.check(t, strings.Join(lines[oldest:], ""))
		}
	}
}

// A record that cannot be one costs itself, not the log.
func TestBufferTorn(t *testing.T) {
	for _, field := range []int{8, 10, 12} { // len, text_len, dict_len
		for _, v := range []uint64{0, 1, 3, 17, 40, 0x7fff, 0xffff} {
			b := newTestBuffer(2048, false)
			b.add(1, logNewline, "first", "")
			torn := b.add(2, logNewline, "torn", "k=v")
			b.add(3, logNewline, "a line that is long enough to be told from others", "")
			b.add(4, logNewline, "last", "")
			b.put(torn+field, v, 2)
			var got strings.Builder
			_, err := Log(b.core(t, ""), &got, LogOptions{})
			if err != nil || !strings.HasPrefix(got.String(), "[    0.000001] first\n") || !strings.HasSuffix(got.String(), "] last\n") {
				t.Errorf("field %d = %d: %v\n%s", field, v, err, got.String())
			}
		}
	}
}

func TestBufferNotToBeHad(t *testing.T) {
	for _, tt := range []struct {
		name, more string
		at         int
		value      uint64
		want       string
	}{
		{"missing key", "noinfo OFFSET(printk_log.dict_len)", 0, 0, "OFFSET(printk_log.dict_len)"},
		{"small records", "info SIZE(printk_log)=8", 0, 0, "SIZE(printk_log)=8"},
		{"offset outside", "info OFFSET(printk_log.len)=15", 0, 0, "cannot be"},
		{"symbol leads nowhere", "info SYMBOL(log_buf)=ffffc90000000000", 0, 0, "read log_buf"},
		{"no length", "", structAt + 8, 0, "log_buf of 0 bytes"},
		{"too long", "", structAt + 8, 1<<31 + 1, "cannot be"},
		{"first outside", "", structAt + 16, 1024, "cannot be"},
		{"next outside", "", structAt + 24, 1025, "cannot be"},
		{"empty", "", structAt + 24, 0, "no record can be read in a buffer of 1024"},
		{"buffer nowhere", "", structAt, 0xffffc90000000000, "no record can be read"},
	} {
		b := newTestBuffer(1024, false)
		b.add(1, logNewline, "x", "")
		if tt.at != 0 {
			b.put(tt.at, tt.value, 8)
		}
		if tt.at == structAt+8 {
			b.put(tt.at+8, 0, 4)
		}
		n, err := Log(b.core(t, tt.more), new(strings.Builder), LogOptions{})
		if err == nil || n != 0 || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %d records, %v, want %q", tt.name, n, err, tt.want)
		}
	}
}

// FuzzBuffer must end, whatever the buffer holds.
func FuzzBuffer(f *testing.F) {
	path := vmcoretest.File(f, bufferInfo)
	b := newTestBuffer(4096, false)
	b.add(1, logNewline, "one", "")
	b.add(2, logCont, "two", "x=y")
	f.Add(b.image[structAt:structAt+32], b.image[dataAt:dataAt+64])
	f.Fuzz(func(t *testing.T, variables, buffer []byte) {
		var image [ringEnd]byte
		copy(image[structAt:dataAt], variables)
		copy(image[dataAt:], buffer)
		var out strings.Builder
		n, err := Log(patched(t, path, image[prbAt:]), &out, LogOptions{})
		if (err == nil) != (n > 0) || strings.Count(out.String(), "\n") < min(n, 1) {
			t.Errorf("%d records, %v, %q", n, err, out.String())
		}
	})
}
