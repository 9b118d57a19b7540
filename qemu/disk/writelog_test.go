package disk

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// logFile makes a log of writes with the sectors of 512 bytes.
func logFile(t *testing.T, counted int, writes ...Write) string {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint64(nil, logMagic)
	b = le.AppendUint64(b, 1)
	b = le.AppendUint64(b, uint64(counted))
	b = le.AppendUint32(b, 512)
	b = append(b, make([]byte, 512-len(b))...)
	for i, w := range writes {
		flags := uint64(0)
		if w.Flush {
			flags |= logFlush
		}
		if w.FUA {
			flags |= logFUA
		}
		e := le.AppendUint64(nil, uint64(w.Offset/512))
		e = le.AppendUint64(e, uint64(w.Size/512))
		e = le.AppendUint64(e, flags)
		b = append(append(b, e...), make([]byte, 512-len(e))...)
		b = append(b, bytes.Repeat([]byte{byte(i + 1)}, int(w.Size))...)
	}
	name := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// What was flushed is there at every cut behind the flush; what was not may be lost.
func TestCut(t *testing.T) {
	l, err := ReadLog(logFile(t, 6,
		Write{Offset: 0, Size: 4096}, Write{Flush: true}, Write{Offset: 4096, Size: 8192}, Write{Offset: 16384, Size: 512, FUA: true}, Write{Flush: true}, Write{Offset: 0, Size: 4096}))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if len(l.Writes) != 6 {
		t.Fatalf("%d entries, want 6: %+v", len(l.Writes), l.Writes)
	}
	for _, tt := range []struct {
		cut  int
		keep float64
		at   int64
		may  []byte // what may be there
	}{
		{0, 1, 0, []byte{0}},
		{1, 1, 0, []byte{1}},
		{1, 0, 0, []byte{0, 1}},
		{2, 0, 0, []byte{1}},
		{3, 0, 4096, []byte{0, 3}},
		{3, 1, 8192, []byte{3}},
		{4, 0, 16384, []byte{4}},
		{5, 0, 4096, []byte{3}},
		{5, 0, 8192, []byte{3}},
		{6, 0, 0, []byte{1, 6}},
		{6, 1, 0, []byte{6}},
	} {
		seen := map[byte]bool{}
		for seed := range uint64(40) {
			img, err := os.Create(filepath.Join(t.TempDir(), "img"))
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Cut(img, tt.cut, tt.keep, rand.New(rand.NewPCG(1, seed))); err != nil {
				t.Fatal(err)
			}
			b := []byte{0}
			_, _ = img.ReadAt(b, tt.at) // behind the end is nothing: 0
			seen[b[0]] = true
			img.Close()
		}
		for b := range seen {
			if !bytes.Contains(tt.may, []byte{b}) {
				t.Errorf("cut %d, keep %.0f: %d at %d, want one of %d", tt.cut, tt.keep, b, tt.at, tt.may)
			}
		}
		if len(seen) != len(tt.may) {
			t.Errorf("cut %d, keep %.0f: only %v at %d, want all of %d", tt.cut, tt.keep, seen, tt.at, tt.may)
		}
	}
}

// A log whose writer was killed ends with its last whole entry.
func TestReadLogOfTheKilled(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	short := logFile(t, 2, Write{Offset: 0, Size: 4096}, Write{Offset: 4096, Size: 4096})
	if err := os.Truncate(short, 512+512+4096+512+100); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		want int
		ok   bool
	}{
		{empty, 0, true},
		{short, 1, true},
		{logFile(t, 5, Write{Offset: 0, Size: 4096}), 1, true},
		{logFile(t, 0), 0, true},
		{other, 0, false},
	} {
		l, err := ReadLog(tt.name)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if err == nil {
			if len(l.Writes) != tt.want {
				t.Errorf("%s: %d entries, want %d", tt.name, len(l.Writes), tt.want)
			}
			l.Close()
		}
	}
}
