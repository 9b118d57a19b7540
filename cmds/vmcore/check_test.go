package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/vmcoretest"
)

func TestVerify(t *testing.T) {
	core := vmcoretest.File(t, machine)
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	vmcoreRun("convert", "-level", "31", core, good).want(t, exitOK)
	all, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	vmcoreRun("verify", core, good).want(t, exitOK, core+": good, 10240 pages", fmt.Sprintf("%s: good, %d pages", good, keptAt(31)))

	bad := filepath.Join(dir, "bad")
	for name, change := range map[string]func([]byte) []byte{
		"a bit of the data":     func(b []byte) []byte { b[len(b)-100] ^= 4; return b },
		"a bit of a descriptor": func(b []byte) []byte { b[5*4096+17] ^= 1; return b },
		"the end":               func(b []byte) []byte { return b[:len(b)-1] },
		"the incomplete mark":   func(b []byte) []byte { b[424] |= 8; return b },
		"page that is no RAM":   func(b []byte) []byte { b[2*4096+4096] &^= 1; return b },
	} {
		if err := os.WriteFile(bad, change(append([]byte(nil), all...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := vmcoreRun("verify", "-workers", "2", good, bad); r.status != exitFailed || !strings.Contains(r.out, bad+": ") || !strings.Contains(r.out, good+": good") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if err := os.WriteFile(bad, []byte("no dump at all, but text"), 0o600); err != nil {
		t.Fatal(err)
	}
	vmcoreRun("verify", bad, good).want(t, exitUsage, "neither ELF nor kdump-compressed nor flattened", "good: good")
	vmcoreRun("verify", filepath.Join(dir, "missing")).want(t, exitUsage, "no such file")
}

// SHA256SUMS counts where it names the file.
func TestVerifySums(t *testing.T) {
	core := vmcoretest.File(t, machine)
	file := filepath.Join(t.TempDir(), "vmcore")
	vmcoreRun("convert", core, file).want(t, exitOK)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sums := filepath.Join(filepath.Dir(file), "SHA256SUMS")
	for text, status := range map[string]int{
		fmt.Sprintf("%x  other\n%x  vmcore\n", 0, sha256.Sum256(b)):                   exitOK,
		fmt.Sprintf("%x  vmcore\n", sha256.Sum256(b[1:])):                             exitFailed,
		fmt.Sprintf("%x  vmcore.2\n%x  my vmcore\n", sha256.Sum256(nil), 1):           exitOK,
		fmt.Sprintf("%x  not-vmcore\n%x  vmcore\n", 1, sha256.Sum256([]byte("what"))): exitFailed,
	} {
		if err := os.WriteFile(sums, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		vmcoreRun("verify", file).want(t, status)
	}
}

func TestCompare(t *testing.T) {
	const more = machine + "\nload 0x8000000 8K"
	core := vmcoretest.File(t, machine)
	dir := t.TempDir()
	dump := func(name, core string, flags ...string) string {
		out := filepath.Join(dir, name)
		vmcoreRun(append(append([]string{"convert"}, flags...), core, out)...).want(t, exitOK)
		return out
	}
	all, filtered, elf := dump("all", core), dump("31", core, "-level", "31"), dump("elf", core, "-level", "31", "-format", "elf")
	other := dump("other", vmcoretest.File(t, machine+"\nfill 0x2700000 1 0xee\nfill 0x2702000 0x2000 0xee"))
	larger := vmcoretest.File(t, more)

	vmcoreRun("compare", core, all).want(t, exitOK, "the same: 10240 pages of memory, 10240 of them compared")
	vmcoreRun("compare", all, filtered).want(t, exitFailed, "only in "+all+": 1536 pages\n  pfn 0x2000 to 0x25ff (1536)\n")
	vmcoreRun("compare", filtered, all).want(t, exitFailed, "only in "+all+": 1536 pages")
	vmcoreRun("compare", "-common", all, filtered).want(t, exitOK)
	vmcoreRun("compare", "-zero", filtered, all).want(t, exitFailed, "only in "+all+": 1536 pages")
	vmcoreRun("compare", "-zero", filtered, elf).want(t, exitOK)
	vmcoreRun("compare", all, other).want(t, exitFailed, "different contents: 3 pages\n  pfn 0x2700 to 0x2700 (1)\n  pfn 0x2702 to 0x2703 (2)\n")
	vmcoreRun("compare", "-max", "1", all, other).want(t, exitFailed, "pfn 0x2700 to 0x2700 (1)\n  and 1 runs more")
	vmcoreRun("compare", core, larger).want(t, exitFailed, "memory only in "+larger+": 2 pages\n  pfn 0x8000 to 0x8001 (2)")
	vmcoreRun("compare", larger, core).want(t, exitFailed, "memory only in "+larger)
	vmcoreRun("compare", core, vmcoretest.File(t, machine+"\ninfo OSRELEASE=other")).want(t, exitFailed, "VMCOREINFO differs")
	vmcoreRun("compare", core, filepath.Join(dir, "missing")).want(t, exitUsage, "no such file")
	vmcoreRun("compare", core, vmcoretest.File(t, machine+"\ntruncate 30M")).want(t, exitUsage, "cannot be read")
	vmcoreRun("compare", core, vmcoretest.File(t, "machine arm64 64K\ninfo PAGESIZE=65536\nload 0 1M")).want(t, exitUsage, "cannot be compared")
}

func TestInfo(t *testing.T) {
	core := vmcoretest.File(t, machine)
	out := filepath.Join(t.TempDir(), "out")
	vmcoreRun("convert", "-level", "31", "-format", "flat", "-compress", "snappy", core, out).want(t, exitOK)
	vmcoreRun("info", core, out).want(t, exitOK, "file         "+core, "format       ELF", "format       flattened kdump-compressed, snappy",
		"kernel       6.1.0-test on x86_64", "node         router-7", "crash        2025-11-21T04:00:00Z", "CPUs         2",
		"memory       40.0 MiB in 10240 pages of 4096, up to pfn 0x2800", "in the file  34.0 MiB in 8704 pages", "dump level   31")
	r := vmcoreRun("info", "-json", out).want(t, exitOK)
	var got description
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Format != "kdump" || !got.Flattened || !got.Complete || got.Codec != "snappy" || *got.Level != 31 || got.RAMPages != machinePages ||
		got.FilePages != uint64(keptAt(31)) || got.CPUs != 2 || got.Node != "router-7" || got.CrashTime.Unix() != 1763697600 || got.Size == 0 {
		t.Errorf("%s", r.out)
	}
	vmcoreRun("info", out, filepath.Join(t.TempDir(), "missing")).want(t, exitFailed, "no such file", "router-7")
	vmcoreRun("dmesg", vmcoretest.File(t, "load 0 1M")).want(t, exitFailed, "SYMBOL(prb)")
}

func TestUsage(t *testing.T) {
	core := vmcoretest.File(t, "load 0 1M")
	for _, tt := range []struct {
		args, want string
	}{
		{"", "Usage: vmcore COMMAND"},
		{"konvert", `no command "konvert": want info, dmesg, verify`},
		{"help konvert", `no command "konvert"`},
		{"info", "no file is named (vmcore help info)"},
		{"verify", "no file is named"},
		{"verify -workers -1 x", "-workers -1"},
		{"dmesg", "no file is named"},
		{"compare x", "want two dumps, got 1"},
		{"compare -max -1 x y", "want a number from 0"},
		{"convert x", "want IN and OUT, got 1"},
		{"convert -n", "no file is named"},
		{"convert -level 32 x y", "-level 32: want 0 to 31"},
		{"convert -level x x y", "invalid value"},
		{"convert -compress lzo x y", `compress "lzo": want zstd, snappy, zlib or none`},
		{"convert -compress zstd:99 x y", "zstd:99: want a level from 1 to 22"},
		{"convert -format raw x y", "-format raw: want kdump, elf or flat"},
		{"convert -format kdump x -", "standard output cannot seek"},
		{"convert -format elf -compress zstd x y", "an ELF core has no compressed pages"},
		{"convert -format elf -dedup x y", "cannot share data"},
		{"convert -split 0 x y", "-split 0"},
		{"convert -split 2 -format elf x y", "can be split"},
		{"convert -split 2 x -", "can be split"},
		{"convert -workers -2 x y", "-workers -2"},
		{"salvage -level 3 x y", "not defined"},
	} {
		r := vmcoreRun(strings.Fields(tt.args)...)
		if r.status != exitUsage || r.out != "" || !strings.Contains(r.errs, tt.want) {
			t.Errorf("%s: %+v", tt.args, r)
		}
	}
	for _, args := range []string{"help", "-h", "help convert", "convert -h", "salvage x -h"} {
		if r := vmcoreRun(strings.Fields(args)...); r.status != exitOK || !strings.HasPrefix(r.out, "Usage: vmcore ") || r.errs != "" {
			t.Errorf("%s: %+v", args, r)
		}
	}
	for _, c := range commands() {
		if r := vmcoreRun("help", c.name); !strings.Contains(r.out, "Usage: vmcore "+c.name+" "+c.args) || !strings.Contains(vmcoreRun("help").out, c.brief) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	vmcoreRun("convert", core, "/nonexistent/out").want(t, exitFailed, "no such file")
	vmcoreRun("convert", vmcoretest.File(t, "cpus 1"), filepath.Join(t.TempDir(), "x")).want(t, exitFailed, "describes no memory")
	vmcoreRun("convert", vmcoretest.File(t, "load 0 1M filesz=0"), filepath.Join(t.TempDir(), "x")).want(t, exitFailed, "of 256 pages of memory there is none to write")
}
