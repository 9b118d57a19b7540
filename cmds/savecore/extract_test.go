package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// partition is a loop device that was used before.
func partition(t *testing.T, size int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "partition")
	if err := os.WriteFile(name, bytes.Repeat([]byte("used"), size/4), 0o600); err != nil {
		t.Fatal(err)
	}
	return targetstest.Loop(t, name)
}

func command(args ...string) saving {
	var out, errs bytes.Buffer
	r := saving{status: run(args, &out, &errs)}
	r.out, r.errs = out.String(), errs.String()
	return r
}

// extracted is the one dump in root.
func (r saving) extracted(t *testing.T, root string) saving {
	t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(root, "router-7-20251121T040000Z-????"))
	if len(dirs) != 1 {
		t.Fatalf("%d dumps\n%s%s", len(dirs), r.out, r.errs)
	}
	r.dir = dirs[0]
	return r
}

// A crash goes to a partition without a file system, in each format, and comes
// out of it as it would have been saved on a disk.
func TestExtract(t *testing.T) {
	for _, format := range []string{"kdump", "elf", "flat"} {
		t.Run(format, func(t *testing.T) {
			core, dev, root := vmcoretest.File(t, machine), partition(t, 128<<20), t.TempDir()
			command("-core", core, "-progress", "0", "-format", format, "-level", "0", "-reserve", "1M", "raw://"+dev).want(t, exitSaved)
			r := command("raw://"+dev, "file://"+root)
			r.want(t, exitSaved, "copied router-7-", "is on file://"+root+"; marked as taken on raw://"+dev)
			r = r.extracted(t, root)
			r.files(t, "result.json", "vmcore-dmesg.txt", "vmcore", "capture.log", "SHA256SUMS")
			if got := r.read(t, "vmcore-dmesg.txt"); got != panicLine {
				t.Errorf("%q", got)
			}
			direct := save(t, t.TempDir(), core, "-format", format, "-level", "0")
			if r.read(t, "vmcore") != direct.read(t, "vmcore") {
				t.Error("vmcore differs from one that was saved in a directory")
			}
			if format == "kdump" {
				checkCore(t, r.read(t, "vmcore"), core)
			}
			command("raw://"+dev, "file://"+root).want(t, exitSaved, "nothing to take from raw://"+dev)
			again := t.TempDir()
			r = command("-again", "raw://"+dev, "file://"+again)
			r.want(t, exitSaved, "copied")
			r.extracted(t, again)
		})
	}
}

// What was cut off in the capture comes out as what it is, and a second try
// goes on where the first one ended.
func TestExtractIncomplete(t *testing.T) {
	dev, root := partition(t, 16<<20), t.TempDir()
	tg, err := targets.Open(t.Context(), "raw://"+dev, targets.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/vmcore-dmesg.txt", "d/vmcore"} {
		f, err := tg.Create(t.Context(), name)
		if err == nil {
			_, err = f.Write(bytes.Repeat([]byte("core"), 100000))
		}
		if err == nil && name != "d/vmcore" {
			err = f.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tg.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root+"/d", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/d/vmcore-dmesg.txt", bytes.Repeat([]byte("core"), 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	command("raw://"+dev, "file://"+root).want(t, exitSaved, "d/vmcore-dmesg.txt is there already", "copied d/vmcore-incomplete, which is incomplete", "marked as taken")
	if b, err := os.ReadFile(root + "/d/vmcore-incomplete"); err != nil || len(b) != 400000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// Where not all got out, nothing is given free.
func TestExtractFails(t *testing.T) {
	core, dev := vmcoretest.File(t, machine), partition(t, 64<<20)
	command("-core", core, "-progress", "0", "-reserve", "1M", "raw://"+dev).want(t, exitSaved)

	full := targetstest.Mount(t, "none", "tmpfs", 0, "size=64k")
	command("raw://"+dev, "file://"+full).want(t, exitNothing, "no space left on the target")
	if entries, _ := os.ReadDir(full); len(entries) > 0 {
		t.Errorf("%s was written to", full)
	}

	other := t.TempDir()
	r := command("raw://"+dev, "file://"+other).extracted(t, other)
	if err := os.WriteFile(filepath.Join(r.dir, "vmcore-dmesg.txt"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	command("-again", "raw://"+dev, "file://"+other).want(t, exitNothing, "vmcore-dmesg.txt on file://")
}

// Bytes that the device changed are not passed off as good ones.
func TestExtractDamage(t *testing.T) {
	core, dev, root := vmcoretest.File(t, machine), partition(t, 64<<20), t.TempDir()
	command("-core", core, "-progress", "0", "-reserve", "1M", "raw://"+dev).want(t, exitSaved)
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("DAMAGE"), 1<<20+100<<10); err != nil { // in the core
		t.Fatal(err)
	}
	r := command("raw://"+dev, "file://"+root)
	r.want(t, exitNothing, "vmcore on raw://"+dev+": checksum mismatch")
	r = r.extracted(t, root)
	r.files(t, "result.json", "vmcore-dmesg.txt", "vmcore-incomplete", "capture.log", "SHA256SUMS")
	if strings.Contains(r.out, "marked as taken") {
		t.Error(r.out)
	}
}

func TestExtractNothing(t *testing.T) {
	dev, root := partition(t, 16<<20), t.TempDir()
	command("raw://"+dev, "file://"+root).want(t, exitSaved, "nothing to take: open raw://"+dev+": "+dev+": no dump of raw:// is on it")
	for want, args := range map[string][]string{
		"want raw:///dev/NAME":           {"x", "raw://" + dev, "file://" + root},
		"flag provided but not defined":  {"-level", "1", "raw://" + dev, "file://" + root},
		"-reserve x: want bytes":         {"-reserve", "x", "raw://" + dev, "file://" + root},
		`unknown scheme "nowhere"`:       {"raw://" + dev, "nowhere://x"},
		"no device: want raw:///dev/NAM": {"raw:///", "file://" + root},
	} {
		command(args...).want(t, exitUsage, want)
	}
	command("-target-timeout", "100ms", "raw:///dev/none", "file://"+root).want(t, exitNothing, "open raw:///dev/none")
	if r := command("-h", "raw://"+dev, "file://"+root); r.status != 0 || !strings.Contains(r.out, "marks them as taken") {
		t.Errorf("%+v", r)
	}
}

// A small partition as the last target takes the kernel log and the account of a crash
// that no other target could take: from the attempt that brings the log first, too.
func TestSmallPartitionTakesTheLog(t *testing.T) {
	core, dev, root := vmcoretest.File(t, unmarked()), partition(t, 8<<20), t.TempDir()
	t.Setenv(result.PathVariable, filepath.Join(t.TempDir(), "result.json"))
	command("-core", core, "-progress", "0", "-log-only", "raw://"+dev).want(t, exitSaved)
	command("-core", core, "-progress", "0", "raw://"+dev).want(t, exitLogOnly, "core not saved")
	r := command("raw://"+dev, "file://"+root)
	r.want(t, exitSaved)
	r = r.extracted(t, root)
	r.files(t, "result.json", "vmcore-dmesg.txt", "capture.log", "SHA256SUMS")
	if got := r.read(t, "vmcore-dmesg.txt"); got != panicLine {
		t.Errorf("%q", got)
	}
}
