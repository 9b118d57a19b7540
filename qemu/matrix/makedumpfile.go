package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/qemu/rig"
)

// theirs is what makedumpfile makes of a core at one level.
type theirs struct {
	keep   kdumpfile.Bitmap
	counts map[string]uint64 // as its report names them
}

// makedumpfile filters the core and reads back which pages it kept. What it said
// besides its report is an error: a core that it cannot read proves nothing.
func makedumpfile(ctx context.Context, r *rig.Rig, raw, out string, level memmap.Level) (theirs, error) {
	defer os.Remove(out)
	cmd, err := r.Tool(ctx, "makedumpfile", "-l", "-d", fmt.Sprint(level), "--message-level", "16", raw, out)
	if err != nil {
		return theirs{}, err
	}
	said, err := rig.Output(cmd)
	if err != nil {
		return theirs{}, err
	}
	t := theirs{}
	if t.counts, err = parseReport(said); err != nil {
		return t, err
	}
	f, err := os.Open(out)
	if err != nil {
		return t, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return t, err
	}
	k, err := kdumpfile.OpenKdump(f, st.Size())
	if err != nil {
		return t, fmt.Errorf("makedumpfile's dump: %w", err)
	}
	t.keep, err = k.Dumped()
	return t, err
}

// parseReport reads the lines "NAME : 0xNUMBER" of makedumpfile's report.
func parseReport(said string) (map[string]uint64, error) {
	counts := map[string]uint64{}
	for _, m := range regexp.MustCompile(`(?m)^ *([A-Z][A-Za-z -]+?) *: 0x([0-9a-f]+)`).FindAllStringSubmatch(said, -1) {
		n, err := strconv.ParseUint(m[2], 16, 64)
		if err != nil {
			return nil, err
		}
		counts[m[1]] = n
	}
	for _, c := range countedClasses() {
		if _, ok := counts[c.line]; !ok {
			return nil, fmt.Errorf("makedumpfile's report has no line %q: %.400q", c.line, said)
		}
	}
	return counts, nil
}

// counted is a class of ours, the line of makedumpfile's report that it is compared
// with, and the level whose report that is.
type counted struct {
	class memmap.Class
	level memmap.Level
	line  string
}

func countedClasses() []counted {
	return []counted{
		{memmap.Free, memmap.LevelFree, "Free pages"},
		{memmap.Cache, memmap.LevelCache, "Non-private cache pages"},
		{memmap.CachePrivate, memmap.LevelCachePrivate, "Private cache pages"},
		{memmap.User, memmap.LevelUser, "User process data pages"},
		{memmap.HWPoison, 0, "Hwpoison pages"},
		{memmap.Offline, 0, "Offline pages"},
	}
}

// reports are makedumpfile's reports by level.
type reports map[memmap.Level]map[string]uint64

// countsLine shows both sides' counts.
func (s *subject) countsLine(theirs reports) string {
	var parts []string
	for _, c := range countedClasses() {
		parts = append(parts, fmt.Sprintf("%v %d/%d", c.class, s.maps[0].Counts[c.class], theirs[c.level][c.line]))
	}
	return strings.Join(parts, ", ")
}

// checkCounts compares the counts. makedumpfile counts a poisoned page that has a
// class which the level leaves out as one of that class, and all others as
// poisoned; so what must agree is the sum of both, and what the rules explain.
func (s *subject) checkCounts(theirs reports, found *explanation) []error {
	const poisoned = "Hwpoison pages"
	var errs []error
	for _, c := range countedClasses() {
		ours, their := int(s.maps[0].Counts[c.class]), int(theirs[c.level][c.line])
		if c.line != poisoned {
			ours += int(s.maps[0].Counts[memmap.HWPoison])
			their += int(theirs[c.level][poisoned])
		}
		if more := found.more[counted{class: c.class, level: c.level}]; ours+more != their {
			errs = append(errs, fmt.Errorf("%v and poisoned pages at level %d: %d and %d by rules, makedumpfile counts %d", c.class, c.level, ours, more, their))
		}
	}
	return errs
}
