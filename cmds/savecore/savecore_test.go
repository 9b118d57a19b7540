package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/dump"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/targets"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func TestMain(m *testing.M) { os.Exit(targetstest.Main(m)) }

// machine is 64 MiB of memory with a kernel in it that wrote one line, then
// crashed. Its upper half is noise, pages of processes.
const machine = `
	cpus 2
	info CRASHTIME=1763697600
	info SYMBOL(init_uts_ns)=ffffffff81003000
	info OFFSET(uts_namespace.name)=0
	kernel 0x1000000 4M
	load 0 64M
	memmap extreme 0xffffea0000000000 0x1800000
	pattern 0x2000000 32M
	page 0x2000 8192 mapping=1
	data 0x1003000 "Linux"
	data 0x1003041 "router-7"
	data 0x1003082 "6.1.0-test"
` + vmcoretest.OneRecord

const panicLine = "[    1.000000] panic\n"

// saving is what one run of savecore left.
type saving struct {
	status    int
	out, errs string
	dir       string // of the dump; "" if there is none
}

// save runs savecore with a target in root.
func save(t *testing.T, root, core string, flags ...string) saving {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"-core", core, "-progress", "0"}, flags...)
	r := saving{status: run(append(args, "file://"+root), &out, &errs)}
	r.out, r.errs = out.String(), errs.String()
	dirs, _ := filepath.Glob(filepath.Join(root, "router-7-20251121T040000Z-????"))
	if len(dirs) > 1 {
		t.Fatalf("%d dumps", len(dirs))
	}
	if len(dirs) == 1 {
		r.dir = dirs[0]
	}
	return r
}

func (r saving) want(t *testing.T, status int, said ...string) {
	t.Helper()
	if r.status != status {
		t.Fatalf("exit status %d, want %d:\n%s%s", r.status, status, r.out, r.errs)
	}
	for _, s := range said {
		if !strings.Contains(r.out+r.errs, s) {
			t.Errorf("it does not say %q:\n%s%s", s, r.out, r.errs)
		}
	}
}

// files checks which files are in the dump directory, and their sums.
func (r saving) files(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	sums := make(map[string]string)
	for line := range strings.Lines(r.read(t, "SHA256SUMS")) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		sums[name] = sum
	}
	for _, name := range want {
		if name == "SHA256SUMS" || strings.Contains(name, "incomplete") {
			continue
		}
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(r.read(t, name)))); got != sums[name] {
			t.Errorf("%s has sum %s, SHA256SUMS says %q", name, got, sums[name])
		}
	}
}

func (r saving) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// checkCore compares a kdump-compressed file with the core it was made from and
// gives the number of its pages.
func checkCore(t *testing.T, dump, core string) (pages int) {
	t.Helper()
	k, err := kdumpfile.OpenKdump(strings.NewReader(dump), int64(len(dump)))
	if err != nil {
		t.Fatal(err)
	}
	if k.Incomplete() {
		t.Error("the header says incomplete")
	}
	d := k.NewReader()
	defer d.Close()
	c, err := vmcore.Open(core)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, want := make([]byte, 4096), make([]byte, 4096)
	for pfn := uint64(0); pfn < uint64(c.MaxPFN()); pfn++ {
		if err := d.ReadPage(pfn, got); err != nil {
			continue
		}
		pages++
		if err := c.ReadPhys(want, pfn<<12); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("pfn %#x is not the core's: %v", pfn, err)
		}
	}
	return pages
}

func TestSave(t *testing.T) {
	core := vmcoretest.File(t, machine)
	for _, tt := range []struct {
		flags []string
		pages int
	}{
		{nil, 8192},
		{[]string{"-level", "0"}, 16384},
		{[]string{"-level", "1", "-compress", "none", "-workers", "3"}, 16384},
		{[]string{"-compress", "zlib:6", "-format", "kdump"}, 8192},
		{[]string{"-compress", "snappy"}, 8192},
	} {
		r := save(t, t.TempDir(), core, append(tt.flags, "-reserve", "0")...)
		r.want(t, exitSaved, "Linux 6.1.0-test", "saved vmcore", "saved router-7-20251121T040000Z-")
		r.files(t, "vmcore-dmesg.txt", "vmcore", "capture.log", "result.json", "SHA256SUMS")
		if got := r.read(t, "vmcore-dmesg.txt"); got != panicLine {
			t.Errorf("log %q", got)
		}
		if n := checkCore(t, r.read(t, "vmcore"), core); n != tt.pages {
			t.Errorf("%v: %d pages, want %d", tt.flags, n, tt.pages)
		}
		if log := r.read(t, "capture.log"); !strings.Contains(log, "saved vmcore: ") {
			t.Errorf("capture.log %q", log)
		}
	}
}

func TestSaveOtherFormats(t *testing.T) {
	core := vmcoretest.File(t, machine)
	r := save(t, t.TempDir(), core, "-format", "flat", "-reserve", "0")
	r.want(t, exitSaved)
	if !strings.HasPrefix(r.read(t, "vmcore"), "makedumpfile") {
		t.Error("-format flat: not flattened")
	}
	r = save(t, t.TempDir(), core, "-format", "elf", "-reserve", "0")
	r.want(t, exitSaved)
	got, err := vmcore.Open(filepath.Join(r.dir, "vmcore"))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	page := make([]byte, 5)
	if err := got.ReadPhys(page, 0x1008008); err != nil || string(page) != "panic" {
		t.Errorf("-format elf: %q, %v", page, err)
	}
	if err := got.ReadPhys(page, 0x2000000); err == nil {
		t.Error("-format elf: holds a page that level 31 leaves out")
	}
}

// Pages that could not be read are told one by one, and what a reader finds there: an ELF
// file has zeros that look like memory.
func TestUnreadablePages(t *testing.T) {
	core := vmcoretest.File(t, machine)
	info, err := os.Stat(core)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(core, info.Size()-40<<12); err != nil {
		t.Fatal(err)
	}
	for format, become := range map[string]string{"elf": "read as zeros", "kdump": "are left out", "flat": "are left out"} {
		r := save(t, t.TempDir(), core, "-reserve", "0", "-level", "1", "-format", format)
		r.want(t, exitSaved)
		log := r.read(t, "capture.log")
		for _, want := range []string{"40 pages could not be read and " + become, "not read: read paddr 0x3fd8000: unexpected EOF", "not read: read paddr 0x3ff7000: ", "not read: 8 more"} {
			if !strings.Contains(log, want) {
				t.Errorf("%s: capture.log does not say %q:\n%s", format, want, log)
			}
		}
		if n := strings.Count(log, "not read: read paddr "); n != 32 {
			t.Errorf("%s: %d addresses", format, n)
		}
		if want := "40 pages that could not be read and " + become + ", the first: read paddr 0x3fd8000"; !strings.Contains(r.read(t, "result.json"), want) {
			t.Errorf("%s: result.json does not say %q", format, want)
		}
	}
}

// A second try must not touch what the first one saved.
func TestSaveTwice(t *testing.T) {
	core, root := vmcoretest.File(t, machine), t.TempDir()
	first := save(t, root, core, "-reserve", "0")
	before := first.read(t, "vmcore")
	second := save(t, root, core, "-reserve", "0", "-level", "0")
	second.want(t, exitLogOnly, "vmcore-dmesg.txt is there already", "core not saved: create", "exist")
	if second.read(t, "vmcore") != before {
		t.Error("vmcore was changed")
	}
	second.files(t, "vmcore-dmesg.txt", "vmcore", "capture.log", "result.json", "SHA256SUMS")
}

// The kernel log was saved first, and the core comes to the same place: what tells of
// both is there, not what told of the first.
func TestSaveLogThenCore(t *testing.T) {
	core, root := vmcoretest.File(t, machine), t.TempDir()
	first := save(t, root, core, "-reserve", "0", "-log-only")
	first.want(t, exitSaved)
	first.files(t, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	second := save(t, root, core, "-reserve", "0")
	second.want(t, exitSaved, "vmcore-dmesg.txt is there already")
	second.files(t, "vmcore-dmesg.txt", "vmcore", "capture.log", "result.json", "SHA256SUMS")
	if log := second.read(t, "capture.log"); !strings.Contains(log, "saved vmcore: ") {
		t.Errorf("capture.log is the first one's: %s", log)
	}
	for _, name := range []string{"vmcore-dmesg.txt", "vmcore", "capture.log", "result.json"} {
		if !strings.Contains(second.read(t, "SHA256SUMS"), "  "+name+"\n") {
			t.Errorf("SHA256SUMS does not have %s", name)
		}
	}
	if res, err := result.Load(filepath.Join(second.dir, result.Name)); err != nil || res.Saved != result.SavedAll || len(res.Files) != 3 {
		t.Errorf("result.json: %+v, %v; want all saved, and three files", res, err)
	}
}

// What an attempt that was killed has left does not stop the next.
func TestSaveAfterKilledAttempt(t *testing.T) {
	core, root := vmcoretest.File(t, machine), t.TempDir()
	r := save(t, root, core, "-reserve", "0")
	for _, name := range []string{"capture.log", "result.json", "SHA256SUMS"} {
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(r.dir, "vmcore"), filepath.Join(r.dir, "vmcore-incomplete")); err != nil {
		t.Fatal(err)
	}
	r = save(t, root, core, "-reserve", "0")
	r.want(t, exitSaved)
	if _, err := os.Stat(filepath.Join(r.dir, "vmcore-incomplete")); !errors.Is(err, os.ErrNotExist) {
		t.Error("vmcore-incomplete is still there")
	}
}

func TestRetention(t *testing.T) {
	core, root := vmcoretest.File(t, machine), t.TempDir()
	old := []string{"router-7-20240101T000000Z-bbbb", "router-7-20250101T000000Z-aaaa", "router-7-20251101T000000Z-cccc"}
	others := []string{"router-7-20200101T000000Z-dddd/vmcore-incomplete", "router-7-20200102T000000Z-eeee/vmcore-dmesg.txt", "notes/vmcore", "x-2020-1234/vmcore",
		"router-20200103T000000Z-ffff/vmcore", "router-7-8-20200104T000000Z-0001/vmcore", "db-server-20251121T040001Z-0002/vmcore"}
	for _, name := range append([]string{old[0] + "/vmcore", old[1] + "/vmcore", old[2] + "/vmcore"}, others...) {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool { _, err := os.Stat(filepath.Join(root, name)); return err == nil }

	save(t, root, core, "-reserve", "1T", "-keep", "1").want(t, exitLogOnly) // a failure prunes nothing
	for _, name := range old {
		if !there(name) {
			t.Errorf("%s was removed after a failure", name)
		}
	}
	if err := os.RemoveAll(save(t, root, core, "-reserve", "1T").dir); err != nil {
		t.Fatal(err)
	}
	r := save(t, root, core, "-reserve", "0", "-keep", "2")
	r.want(t, exitSaved, "retention: removed "+old[0], "retention: removed "+old[1])
	if there(old[0]) || there(old[1]) || !there(old[2]) || !there(filepath.Base(r.dir)+"/vmcore") {
		t.Error("keep 2 has to leave the newest old one and the new one")
	}
	for _, name := range others {
		if !there(name) {
			t.Errorf("%s was removed", name)
		}
	}
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	save(t, root, core, "-reserve", "0", "-keep", "1").want(t, exitSaved, "retention: removed "+old[2])
	if !there(others[0]) || !there(filepath.Base(r.dir)+"/vmcore") {
		t.Error("keep 1 has to leave the new one and what is not complete")
	}
}

// unmarked is the machine with noise that level 31 keeps.
func unmarked() string { return strings.Replace(machine, "page 0x2000 8192 mapping=1", "", 1) }

// broken is the machine with a page array that cannot be believed.
func broken() string { return machine + "\npage 0x1000 1 mapping=1\n" }

// sparse is the machine with zeros in every page of the noise that the estimate looks at.
func sparse() string {
	var b strings.Builder
	b.WriteString(machine)
	for pfn := 0x2000; pfn < 0x4000; pfn += 16 {
		fmt.Fprintf(&b, "fill %#x 4K 0\n", pfn<<12)
	}
	return b.String()
}

// On 24 MiB, 32 MiB of noise do not fit. Every level must come to an end.
func TestSpaceLadder(t *testing.T) {
	for _, tt := range []struct {
		name, core string
		flags      []string
		status     int
		said       []string
	}{
		{"fits", machine, nil, exitSaved, []string{"level 31 keeps 8192"}},
		{"level 0 does not fit", machine, []string{"-level", "0"}, exitSaved, []string{"degraded: dump level 0 does not fit", "level 31 keeps"}},
		{"level 23 does not fit", machine, []string{"-level", "23"}, exitSaved, []string{"degraded: dump level 23 does not fit"}},
		{"level 31 does not fit", unmarked(), nil, exitLogOnly, []string{"core not saved: about", "saved only the kernel log"}},
		{"no level fits", unmarked(), []string{"-level", "1"}, exitLogOnly, []string{"trying level 31", "saved only the kernel log"}},
		{"level 0, unbelievable", broken(), []string{"-level", "0"}, exitSaved, []string{"trying level 31 by the page array that is in doubt", "level 31 keeps 8192"}},
		{"level 1, unbelievable", broken(), []string{"-level", "1"}, exitSaved, []string{"trying level 31 by the page array that is in doubt", "level 31 keeps 8192"}},
		{"level 31, unbelievable", broken(), nil, exitSaved, []string{"every page is kept", "trying level 31 by the page array that is in doubt", "level 31 keeps 8192"}},
		{"level 31, unbelievable and too large", unmarked() + "\npage 0x1000 1 mapping=1\n", nil, exitLogOnly, []string{"page array that is in doubt", "saved only the kernel log"}},
		{"no page array, level 1", machine + "noinfo SIZE(page)", []string{"-level", "1"}, exitLogOnly, []string{"SIZE(page)"}},
		{"estimate is wrong", sparse(), []string{"-level", "0"}, exitSaved, []string{"free after", "degraded: dump level 0 does not fit"}},
		{"estimate is wrong, no reserve", sparse(), []string{"-level", "0", "-reserve", "0"}, exitSaved, []string{"degraded: dump level 0 does not fit"}},
		{"reserve is all there is", machine, []string{"-reserve", "24M"}, exitLogOnly, []string{"24.0 MiB reserved"}},
		{"reserve is more than can be", machine, []string{"-reserve", "16777215T"}, exitLogOnly, []string{"not saved"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := targetstest.Mount(t, "none", "tmpfs", 0, "size=24m")
			r := save(t, root, vmcoretest.File(t, tt.core), append([]string{"-reserve", "2M"}, tt.flags...)...)
			r.want(t, tt.status, tt.said...)
			files := []string{"vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS"}
			if tt.status == exitSaved {
				files = append(files, "vmcore")
			}
			r.files(t, files...)
			if lost := strings.Contains(r.read(t, "result.json"), "the page array is in doubt, and every page does not fit"); lost != strings.Contains(r.out, "by the page array that is in doubt") {
				t.Errorf("result.json tells of the doubted page array: %v", lost)
			}
			if strings.Contains(r.out, "degraded") && !strings.Contains(r.read(t, "capture.log"), "degraded") {
				t.Error("capture.log does not tell")
			}
		})
	}
}

// A page array that cannot be believed costs the filter, not the core.
func TestUnbelievablePageArray(t *testing.T) {
	core := vmcoretest.File(t, broken())
	r := save(t, t.TempDir(), core, "-reserve", "0")
	r.want(t, exitSaved, "degraded: dump level 31 cannot be had", "SYMBOL(_stext)")
	if n := checkCore(t, r.read(t, "vmcore"), core); n != 16384 {
		t.Errorf("%d pages", n)
	}
}

// fullTarget has so much room, and loses it by what is written.
type fullTarget struct {
	targets.Target
	free uint64
}

func (f *fullTarget) Space(context.Context) (uint64, error) { return f.free, nil }

// The guard lets no more than a MiB of the reserve go.
func TestSpaceGuard(t *testing.T) {
	const reserve, batch = 64 << 20, 300 << 10
	for _, room := range []uint64{0, 1, 1 << 20, 33 << 20, 500 << 20} {
		var stopped error
		target := &fullTarget{free: reserve + room}
		g := &spaceGuard{ctx: context.Background(), target: target, reserve: reserve, cancel: func(err error) { stopped = err }}
		for written := uint64(0); stopped == nil && written < room+64<<20; {
			g.at(written)
			if stopped == nil {
				written, target.free = written+batch, target.free-batch
			}
		}
		if !errors.Is(stopped, targets.ErrNoSpace) || target.free+guardStepEnd+2*batch < reserve {
			t.Errorf("room %d: stopped with %d of %d left: %v", room, target.free, uint64(reserve), stopped)
		}
	}
}

// cancelling cancels when a line with a word goes by.
type cancelling struct {
	word   string
	cancel func()
}

func (c cancelling) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.word) {
		c.cancel()
	}
	return len(p), nil
}

// result.json tells of the earlier attempts too, and the next one and PID 1 hear of
// this one.
func TestResult(t *testing.T) {
	core := vmcoretest.File(t, machine)
	run := filepath.Join(t.TempDir(), "run.json")
	t.Setenv(result.PathVariable, run)
	root := t.TempDir()
	small := targetstest.Mount(t, "none", "tmpfs", 0, "size=24m")
	save(t, filepath.Join(root, "missing\x01"), core) // refused when its flags are read: no attempt
	save(t, small, core, "-reserve", "24M").want(t, exitLogOnly)
	first, err := result.Load(run)
	if err != nil {
		t.Fatal(err)
	}
	if first.Saved != result.SavedLog || first.Target != "file://"+small || len(first.Attempts) != 1 || !strings.Contains(first.Attempts[0].Error, "24.0 MiB reserved") ||
		len(first.Lost) != 1 || !strings.HasPrefix(first.Lost[0], "the core: ") {
		t.Errorf("after a log: %+v", first)
	}
	r := save(t, root, core, "-reserve", "0")
	r.want(t, exitSaved)
	second, err := result.Load(filepath.Join(r.dir, result.Name))
	if err != nil {
		t.Fatal(err)
	}
	if second.Saved != result.SavedAll || second.Directory != filepath.Base(r.dir) || second.Host != "router-7" || second.Kernel != "6.1.0-test" ||
		!second.CrashTime.Equal(time.Unix(1763697600, 0)) || len(second.Attempts) != 2 || len(second.Lost) != 0 {
		t.Errorf("after a dump: %+v", second)
	}
	var steps, files []string
	for _, s := range second.Attempts[1].Steps {
		steps = append(steps, s.Name)
	}
	for _, f := range second.Files {
		if info, err := os.Stat(filepath.Join(r.dir, f.Name)); err != nil || info.Size() != f.Bytes {
			t.Errorf("%+v: %v", f, err)
		}
		files = append(files, f.Name)
	}
	if got := strings.Join(steps, ", "); got != "open core, open target, kernel log, core" {
		t.Errorf("steps: %s", got)
	}
	if got := strings.Join(files, " "); got != "vmcore-dmesg.txt vmcore capture.log" {
		t.Errorf("files: %s", got)
	}
	for _, a := range second.Attempts {
		if a.Error == result.Unfinished {
			t.Errorf("an attempt that has ended: %+v", a)
		}
	}
	// What comes after a dump does not make it worse.
	log := save(t, filepath.Dir(run), core, "-log-only")
	log.want(t, exitSaved)
	log.files(t, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	last, err := result.Load(run)
	if err != nil || last.Saved != result.SavedAll || last.Target != "file://"+root || len(last.Attempts) != 3 || last.Attempts[2].Saved != result.SavedLog {
		t.Errorf("after one more log: %+v, %v", last, err)
	}
}

// SIGTERM ends the core; how it went is told all the same.
func TestTerminated(t *testing.T) {
	core := vmcoretest.File(t, machine)
	for _, tt := range []struct {
		at     string
		status int
		files  []string
	}{
		{"saved vmcore-dmesg.txt", exitLogOnly, []string{"vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS"}},
		{"core  ", exitLogOnly, []string{"vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS", "vmcore-incomplete"}},
		{" compressed, ", exitSaved, []string{"vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS", "vmcore"}}, // while it is read back
	} {
		root := t.TempDir()
		o, err := parse([]string{"-core", core, "-reserve", "0", "-level", "0", "-progress", "1ns", "file://" + root}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		log := newLogger(cancelling{tt.at, cancel}, false)
		if got := newAttempt(o, log, io.Discard).run(ctx); got != tt.status {
			t.Errorf("%s: exit status %d, want %d\n%s", tt.at, got, tt.status, log.lines)
		}
		cancel()
		dirs, _ := filepath.Glob(root + "/*")
		if len(dirs) != 1 {
			t.Fatal(dirs)
		}
		var names []string
		entries, _ := os.ReadDir(dirs[0])
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(tt.files)
		if !slices.Equal(names, tt.files) {
			t.Errorf("%s: files %v, want %v", tt.at, names, tt.files)
		}
		if tt.status != exitSaved && !strings.Contains(string(log.lines), "core not saved: context canceled") {
			t.Errorf("%s:\n%s", tt.at, log.lines)
		}
	}
}

func TestPrintLog(t *testing.T) {
	var out, errs bytes.Buffer
	if got := run([]string{"-core", vmcoretest.File(t, machine), "-"}, &out, &errs); got != 0 || out.String() != panicLine {
		t.Errorf("exit status %d, printed %q", got, &out)
	}
	if !strings.Contains(errs.String(), "Linux 6.1.0-test") {
		t.Errorf("standard error has %q", &errs)
	}
	out.Reset()
	if got := run([]string{"-core", vmcoretest.File(t, machine+"noinfo SYMBOL(prb)"), "-"}, &out, &errs); got != exitNothing || out.Len() > 0 {
		t.Errorf("no ring: exit status %d, printed %q", got, &out)
	}
}

func TestNoCore(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	text := filepath.Join(t.TempDir(), "text")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(text, []byte("hello, world\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/nonexistent/vmcore":             "no core: stat /nonexistent/vmcore: no such file",
		empty:                             "is empty",
		text:                              "no core: open core " + text,
		vmcoretest.File(t, "cpus 1"):      "describes no memory",
		t.TempDir() + "/does/not/exist.x": "no such file",
	} {
		root := t.TempDir()
		r := save(t, root, path)
		r.want(t, exitNothing, want)
		if entries, _ := os.ReadDir(root); len(entries) > 0 {
			t.Errorf("%s: the target was touched", path)
		}
	}
}

// Without /proc/vmcore the old memory itself is read.
func TestOldMemory(t *testing.T) {
	const headers = 0x1200000 // in the image's free part
	memory := vmcoretest.Memory(t, machine, headers)
	for _, core := range []string{"/nonexistent/vmcore", vmcoretest.File(t, "cpus 1")} {
		r := save(t, t.TempDir(), core, "-elfcorehdr", fmt.Sprintf("%#x", headers), "-devmem", memory, "-reserve", "0")
		r.want(t, exitSaved, "reading old memory through "+memory)
		if got := r.read(t, "vmcore-dmesg.txt"); got != panicLine {
			t.Errorf("log %q", got)
		}
	}
}

// A core none of whose pages can be read is no dump.
func TestNothingReadable(t *testing.T) {
	r := save(t, t.TempDir(), vmcoretest.File(t, "info CRASHTIME=1763697600\nload 0 1M filesz=0"), "-reserve", "0")
	r.want(t, exitNothing, "none of 256 pages is in the core", "kernel log not saved")
}

func TestTargetMissing(t *testing.T) {
	core := vmcoretest.File(t, machine)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	save(t, file, core).want(t, exitNothing, "target: ")
	r := save(t, filepath.Join(t.TempDir(), "new/dir"), core, "-reserve", "0")
	r.want(t, exitSaved)
	if os.Geteuid() == 0 {
		full := targetstest.Mount(t, "none", "tmpfs", 0, "size=4k,nr_inodes=1")
		save(t, full, core, "-reserve", "0").want(t, exitNothing, "kernel log not saved", "core not saved", "capture.log not saved")
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "want one target URL, got 0 arguments"},
		{[]string{"file:///a", "file:///b"}, "want one target URL, got 2"},
		{[]string{"-level", "32", "file:///a"}, "-level 32: want 0 to 31"},
		{[]string{"-level", "-1", "file:///a"}, "-level -1: want 0 to 31"},
		{[]string{"-level", "x", "file:///a"}, `invalid value "x" for flag -level`},
		{[]string{"-compress", "lz4", "file:///a"}, `-compress "lz4": want zstd, snappy, zlib or none`},
		{[]string{"-compress", "zstd:x", "file:///a"}, "-compress zstd:x: the level after the colon is not a number"},
		{[]string{"-compress", "zstd:23", "file:///a"}, "-compress zstd:23: want a level from 1 to 22"},
		{[]string{"-format", "raw", "file:///a"}, "-format raw: want kdump, elf or flat"},
		{[]string{"-format", "kdump elf", "file:///a"}, "-format kdump elf: want"},
		{[]string{"-format", "", "file:///a"}, "-format : want kdump"},
		{[]string{"-reserve", "much", "file:///a"}, "-reserve much: want bytes, or a number with K, M, G or T"},
		{[]string{"-keep", "-1", "file:///a"}, "-keep -1: want"},
		{[]string{"-workers", "-2", "file:///a"}, "-workers -2: want"},
		{[]string{"-target-timeout", "0s", "file:///a"}, "-target-timeout 0s: want"},
		{[]string{"-elfcorehdr", "zz", "file:///a"}, "-elfcorehdr=zz: "},
		{[]string{"-bogus", "file:///a"}, "not defined: -bogus"},
		{[]string{"ftpx://a"}, "ftpx"},
		{[]string{"/var/crash"}, "/var/crash"},
	} {
		var out, errs bytes.Buffer
		got := run(append([]string{"-core", "/nonexistent"}, tt.args...), &out, &errs)
		if got != exitUsage || !strings.Contains(errs.String(), tt.want) || strings.Count(errs.String(), "\n") != 1 || out.Len() > 0 {
			t.Errorf("%q: exit status %d, %q, %q, want %q", tt.args, got, &out, &errs, tt.want)
		}
	}
	var out, errs bytes.Buffer
	if got := run([]string{"-h"}, &out, &errs); got != 0 || !strings.Contains(out.String(), "Usage: savecore") || !strings.Contains(out.String(), "-target-timeout") || errs.Len() > 0 {
		t.Errorf("-h: exit status %d, %q", got, &errs)
	}
}

func TestLoggerIsBounded(t *testing.T) {
	l := newLogger(io.Discard, false)
	for range maxLog / 100 {
		l.printf("%s", strings.Repeat("x", 200))
	}
	if len(l.lines) > maxLog+300 {
		t.Errorf("%d bytes", len(l.lines))
	}
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(newLogger(&out, false), time.Nanosecond, 4096)
	p.start = time.Now().Add(-time.Second)
	time.Sleep(time.Millisecond)
	p.at(dump.Progress{Total: 100}) // nothing done: no rate
	p.at(dump.Progress{Done: 50, Total: 100})
	if got := out.String(); !strings.HasPrefix(got, "core  50%  200.0 KiB of 400.0 KiB") {
		t.Errorf("%q", got)
	}
	if got := mib(math.MaxUint64); got != "17179869184.0 GiB" {
		t.Error(got)
	}
}

func TestNoChecksum(t *testing.T) {
	r := save(t, t.TempDir(), vmcoretest.File(t, machine), "-reserve", "0", "-checksum=false")
	r.want(t, exitSaved, "saved vmcore")
	if sums := r.read(t, "SHA256SUMS"); strings.Contains(sums, " vmcore\n") || !strings.Contains(sums, " vmcore-dmesg.txt\n") {
		t.Errorf("SHA256SUMS:\n%s", sums)
	}
}

// A dead server is given up here, with the reason, before PID 1 ends the attempt.
func TestPatience(t *testing.T) {
	for _, tt := range []struct{ all, stall, reconnect time.Duration }{
		{2 * time.Minute, 30 * time.Second, 75 * time.Second},
		{40 * time.Second, 10 * time.Second, 25 * time.Second},
		{time.Hour, 30 * time.Second, 52 * time.Minute},
		{time.Second, 250 * time.Millisecond, 625 * time.Millisecond},
	} {
		stall, reconnect := patience(tt.all)
		if stall != tt.stall || reconnect != tt.reconnect || stall+reconnect >= tt.all {
			t.Errorf("patience(%s) = %s, %s; want %s, %s", tt.all, stall, reconnect, tt.stall, tt.reconnect)
		}
	}
}

// Readers of the kdump format begin with VMCOREINFO. A core without is saved as an ELF
// file of all its pages, and where that does not fit, compressed all the same.
func TestNoVMCOREINFO(t *testing.T) {
	for _, tt := range []struct {
		name, text, magic string
		said              []string
	}{
		{"fits", "noinfo\nload 0 32M\npattern 0x2000 4M\n", "\x7fELF", []string{"every page, in an ELF core"}},
		{"does not fit", "noinfo\nload 0 32M\nfill 0x2000 30M 7\n", "KDUMP   ", []string{"every page, in an ELF core", "compressed instead"}},
	} {
		root, core := targetstest.Mount(t, "none", "tmpfs", 0, "size=24m"), vmcoretest.File(t, tt.text)
		var out, errs bytes.Buffer
		status := run([]string{"-core", core, "-progress", "0", "-reserve", "2M", "file://" + root}, &out, &errs)
		names, _ := filepath.Glob(filepath.Join(root, "localhost-*", "vmcore"))
		if status != exitSaved || len(names) != 1 {
			t.Fatalf("%s: exit status %d, dumps %q:\n%s", tt.name, status, names, &out)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(names[0]), "vmcore-dmesg-incomplete.txt")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: an empty kernel log is there: %v", tt.name, err)
		}
		b, err := os.ReadFile(names[0])
		if err != nil || !strings.HasPrefix(string(b), tt.magic) {
			t.Errorf("%s: %v, begins with %q", tt.name, err, b[:8])
		}
		for _, s := range tt.said {
			if !strings.Contains(out.String(), s) {
				t.Errorf("%s: it does not say %q:\n%s", tt.name, s, &out)
			}
		}
		got, err := vmcore.OpenFiles(names[0])
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		page, want := make([]byte, 4096), make([]byte, 4096)
		raw, err := vmcore.Open(core)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		for paddr := uint64(0); paddr < 32<<20; paddr += 4096 {
			if err := errors.Join(got.ReadPhys(page, paddr), raw.ReadPhys(want, paddr)); err != nil || !bytes.Equal(page, want) {
				t.Fatalf("%s: page %#x: %v", tt.name, paddr, err)
			}
		}
	}
}

// A capture that has no core to read leaves its log and the reason on the target.
func TestNoCoreButItsLog(t *testing.T) {
	root, state := t.TempDir(), filepath.Join(t.TempDir(), "result.json")
	t.Setenv(result.PathVariable, state)
	var out, errs bytes.Buffer
	status := run([]string{"-core", filepath.Join(root, "none"), "-devmem", "/dev/null", "-elfcorehdr", "0x1000", "file://" + root}, &out, &errs)
	names, _ := filepath.Glob(filepath.Join(root, "localhost-*", "*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	if want := []string{"SHA256SUMS", "capture.log", "result.json"}; status != exitNothing || !slices.Equal(names, want) {
		t.Fatalf("exit status %d, files %q, want %q:\n%s", status, names, want, &out)
	}
	r, err := result.Newest(root)
	if err != nil || r.Saved != result.SavedNothing || r.CrashTime.IsZero() || len(r.Lost) == 0 {
		t.Errorf("result: %+v, %v", r, err)
	}
	last, err := result.Load(state)
	if err != nil || len(last.Attempts) != 1 || !strings.Contains(last.Attempts[0].Error, "no core: ") {
		t.Errorf("result for the next attempt: %+v, %v", last, err)
	}
}

// The kernel log that was saved first, on the disk behind a server, is not in the way of
// the whole dump there, nor of the account of the dump on the server.
func TestLogFirstThenAll(t *testing.T) {
	core, root := vmcoretest.File(t, machine), t.TempDir()
	t.Setenv(result.PathVariable, filepath.Join(t.TempDir(), "result.json"))
	first := save(t, root, core, "-reserve", "0", "-log-only")
	first.want(t, exitSaved)
	first.files(t, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	again := save(t, root, core, "-reserve", "0", "-log-only")
	again.want(t, exitSaved)
	again.files(t, "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	all := save(t, root, core, "-reserve", "0")
	all.want(t, exitSaved)
	all.files(t, "vmcore-dmesg.txt", "vmcore", "capture.log", "result.json", "SHA256SUMS")
	r, err := result.Newest(root)
	if err != nil || r.Saved != result.SavedAll || len(r.Attempts) != 3 {
		t.Errorf("result: %+v, %v", r, err)
	}
}

// Where the core does not follow the log, the result beside the log says why.
func TestLogFirstThenNoRoom(t *testing.T) {
	core, root := vmcoretest.File(t, machine), t.TempDir()
	t.Setenv(result.PathVariable, filepath.Join(t.TempDir(), "result.json"))
	save(t, root, core, "-log-only").want(t, exitSaved)
	save(t, root, core, "-reserve", "1000T").want(t, exitLogOnly)
	r, err := result.Newest(root)
	if err != nil || len(r.Attempts) != 2 || !strings.Contains(r.Attempts[1].Error, "no space") ||
		len(r.Lost) != 1 || !strings.HasPrefix(r.Lost[0], "the core: ") || !strings.Contains(r.Lost[0], "reserved") {
		t.Errorf("result: %+v, %v", r, err)
	}
}

// Words that contradict each other are an error of the command line; a capture does
// without them.
func TestNetworkWordsOfACapture(t *testing.T) {
	args := []string{"-network", "bond=bond0:eth0,eth1 ip=bond0:dhcp bridge=br0:eth0", "nfs://10.0.0.9/x"}
	if _, err := parse(args, io.Discard); err == nil || !strings.Contains(err.Error(), "-network: ") {
		t.Errorf("by hand: %v", err)
	}
	o, err := parse(append([]string{"-kmsg"}, args...), io.Discard)
	if _, wrong := o.plan(); err != nil || len(wrong) == 0 {
		t.Errorf("in a capture: %v, %v", err, wrong)
	}
}

// A reader that gives one piece and then waits for ever, as a server behind a bad line.
type stuckFile struct {
	targets.File
	release chan struct{}
}

func (f stuckFile) Size() int64 { return 1 << 20 }

func (f stuckFile) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		<-f.release
	}
	return len(p), nil
}

// What cannot be read back in time ends neither the attempt nor, when that is told to
// end, its commit.
func TestReadBackGivesUp(t *testing.T) {
	f := stuckFile{release: make(chan struct{})}
	defer close(f.release)
	if _, err := sumFile(t.Context(), "vmcore", f, 50*time.Millisecond, nil); !errors.Is(err, errTooSlow) {
		t.Errorf("a piece that does not come: %v, want %v", err, errTooSlow)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := sumFile(ctx, "vmcore", f, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v, want %v", err, context.Canceled)
	}
}
