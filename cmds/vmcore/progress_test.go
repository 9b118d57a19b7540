package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// The bar is never wider than the terminal, however narrow.
func TestBar(t *testing.T) {
	text := "convert  50%  1.0 GiB of 2.0 GiB  400 MB/s  3 s left"
	for width := range 200 {
		got := bar(text, width, 1, 2)
		if len(got) > width {
			t.Fatalf("width %d: %q", width, got)
		}
		if _, graph, ok := strings.Cut(got, "["); ok && len(got) != width || ok && (strings.Count(graph, "#") != strings.Count(graph+"x", "#")) {
			t.Errorf("width %d: %q", width, got)
		}
	}
	for done, want := range map[uint64]string{0: "[....................]", 1: "[##########..........]", 2: "[####################]"} {
		if got := bar("x", 25, done, 2); got != "x  "+want {
			t.Errorf("%d of 2: %q", done, got)
		}
	}
}

// Off a terminal there is a line every interval and no control characters.
func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "convert", 4096)
	p.at(1, 4)
	if out.Len() > 0 {
		t.Errorf("at once: %q", &out)
	}
	p.start, p.due = p.start.Add(-200*time.Second), time.Now()
	p.at(0, 4)
	p.at(1<<18, 1<<20)
	p.at(1<<19, 1<<20)
	p.end()
	if got := out.String(); !strings.HasPrefix(got, "convert  25%  1.0 GiB of 4.0 GiB  5 MB/s  ") || !strings.HasSuffix(got, " s left\n") || strings.Count(got, "\n") != 1 || strings.Contains(got, "\r") {
		t.Errorf("%q", got)
	}
}

// What is drawn over leaves nothing of a longer line.
func TestDraw(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "x", 1)
	p.draw("long line")
	p.draw("short")
	p.end()
	if got := out.String(); got != "\rlong line\rshort    \r     \r" {
		t.Errorf("%q", got)
	}
}
