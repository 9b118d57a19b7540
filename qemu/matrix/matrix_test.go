package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
)

const report = `
Original pages  : 0x00000000000172f2
  Excluded pages   : 0x0000000000001805
    Pages filled with zero  : 0x0000000000000000
    Non-private cache pages : 0x0000000000001c44
    Private cache pages     : 0x0000000000000007
    User process data pages : 0x00000000000059db
    Free pages              : 0x0000000000004ebc
    Hwpoison pages          : 0x0000000000000005
    Offline pages           : 0x0000000000001800
  Remaining pages  : 0x0000000000015aed
Memory Hole     : 0x0000000000008cd0
`

func TestParseReport(t *testing.T) {
	got, err := parseReport(report)
	if err != nil || got["Free pages"] != 0x4ebc || got["Original pages"] != 0x172f2 || got["Offline pages"] != 0x1800 {
		t.Errorf("%v %v", got, err)
	}
	for _, cut := range []string{"Free pages", "Hwpoison pages", "Offline pages"} {
		if _, err := parseReport(strings.Replace(report, cut, "Other", 1)); err == nil {
			t.Errorf("a report without %q is accepted", cut)
		}
	}
}

// A page that only one side keeps must not be missed, at no byte's edge.
func TestDifferences(t *testing.T) {
	ours, theirs := kdumpfile.Bitmap{0x81, 0x00, 0xff}, kdumpfile.Bitmap{0x80, 0x01}
	want := []difference{{0, 8, true}, {8, 8, false}}
	for pfn := uint64(16); pfn < 24; pfn++ {
		want = append(want, difference{pfn, 8, true})
	}
	if got := differences(8, ours, theirs); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := differences(0, ours, ours); got != nil {
		t.Errorf("equal bitmaps: %v", got)
	}
}

// A warning that the raw core does not give is a difference, wherever it stands.
func TestSameLines(t *testing.T) {
	for got, same := range map[string]bool{"a\nb\n": true, "a\nb\nc\n": false, "a\n": false, "warning\na\nb\n": false, "a\nB\n": false} {
		if err := sameLines("a\nb\n", got); (err == nil) != same {
			t.Errorf("%q: %v", got, err)
		}
	}
}

// Without a name a machine cannot be asked for, and no two may share a folder.
func TestShapes(t *testing.T) {
	seen, all := map[string]bool{}, 0
	for _, s := range shapes() {
		if s.name == "" || seen[s.name] {
			t.Errorf("shape %q", s.name)
		}
		seen[s.name] = true
		if s.all {
			all++
		}
	}
	if all == 0 {
		t.Error("on no machine is every level, codec and format tried")
	}
}
