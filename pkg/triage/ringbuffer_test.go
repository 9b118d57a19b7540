package triage

import (
	"bufio"
	"strings"
	"testing"
)

func TestBlock(t *testing.T) {
	r := &ring{dataSize: 1024}
	for _, tt := range []struct {
		name         string
		begin, next  uint64
		offset, size uint64
		ok           bool
	}{
		{"at the start", 0, 32, 8, 24, true},
		{"later turns", 5*1024 + 64, 5*1024 + 96, 72, 24, true},
		{"wrapped: stored at the start", 1000, 1024 + 40, 8, 32, true},
		{"ends exactly at the end, Linux 6.19", 1000, 1024, 1008, 16, true},
		{"ends exactly at the end of a later turn", 3*1024 + 1000, 4 * 1024, 1008, 16, true},
		{"only an id", 0, 8, 8, 0, true},
		{"no data: FAILED_LPOS", 1, 1, 0, 0, false},
		{"no data: EMPTY_LINE_LPOS", 3, 3, 0, 0, false},
		{"torn: next before begin", 64, 32, 0, 0, false},
		{"torn: longer than the ring", 0, 5000 * 1024, 0, 0, false},
	} {
		offset, size, ok := r.block(tt.begin, tt.next)
		if ok != tt.ok || (ok && (offset != tt.offset || size != tt.size)) {
			t.Errorf("%s: block(%d, %d) = %d, %d, %v, want %d, %d, %v", tt.name, tt.begin, tt.next, offset, size, ok, tt.offset, tt.size, tt.ok)
		}
	}
}

func FuzzBlock(f *testing.F) {
	f.Add(uint64(1000), uint64(1064), uint8(10))
	f.Fuzz(func(t *testing.T, begin, next uint64, bits uint8) {
		r := &ring{dataSize: 1 << (bits % 31)}
		if offset, size, ok := r.block(begin, next); ok && offset+size > r.dataSize {
			t.Fatalf("block(%d, %d) of a ring of %d reaches to %d", begin, next, r.dataSize, offset+size)
		}
	})
}

func TestWriteRecord(t *testing.T) {
	for _, tt := range []struct {
		nanos uint64
		text  string
		want  string
	}{
		{0, "", "[    0.000000] \n"},
		{5140900999, "x", "[    5.140900] x\n"},
		{123456000000000, "two\nlines", "[123456.000000] two\n                lines\n"},
		{1, "tab\tbell\x07 caf\xc3\xa9", "[    0.000000] tab\tbell\\x07 caf\\xc3\\xa9\n"},
	} {
		var b strings.Builder
		w := logWriter{Writer: bufio.NewWriter(&b)}
		w.record(record{nanos: tt.nanos, text: []byte(tt.text)})
		w.end()
		if b.String() != tt.want {
			t.Errorf("record(%q) = %q, want %q", tt.text, b.String(), tt.want)
		}
	}
}
