package vmcoretest

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"strings"
	"testing"
)

func TestFileIsAnELFCore(t *testing.T) {
	f, err := elf.Open(File(t, `
		cpus 1
		info OSRELEASE=1
		load 0x1400 0x3000 vaddr=0xffff888000001400 filesz=0x2000
		load 0x100000 16K
		pattern 0x1000 64K
		data 0x100008 0x1122334455667788 "ab\x00c" 7
		fill 0x102000 3 0xee`))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_CORE || f.Machine != elf.EM_X86_64 || len(f.Progs) != 3 || f.Progs[0].Type != elf.PT_NOTE {
		t.Fatalf("%+v, %d program headers", f.FileHeader, len(f.Progs))
	}
	l := f.Progs[1].ProgHeader
	if l.Type != elf.PT_LOAD || l.Paddr != 0x1400 || l.Vaddr != 0xffff888000001400 || l.Filesz != 0x2000 || l.Memsz != 0x3000 || l.Off%0x1000 != 0x400 {
		t.Errorf("first load %+v", l)
	}
	got := read(t, f.Progs[1])
	want := make([]byte, 0x2000)
	Pattern(want, 0x1400)
	if !bytes.Equal(got, want) {
		t.Error("the first load is not the pattern")
	}
	got = read(t, f.Progs[2])
	if string(got[8:16]) != "\x88\x77\x66\x55\x44\x33\x22\x11" || string(got[16:22]) != "ab\x00c\x07\x00" || string(got[0x2000:0x2004]) != "\xee\xee\xee\x00" {
		t.Errorf("data % x", got[8:24])
	}
	notes := read(t, f.Progs[0])
	if !bytes.Contains(notes, []byte("VMCOREINFO\x00\x00OSRELEASE=1\n")) || !bytes.HasPrefix(notes[12:], []byte("CORE\x00")) {
		t.Errorf("notes %q", notes)
	}
}

func read(t *testing.T, p *elf.Prog) []byte {
	t.Helper()
	b, err := io.ReadAll(p.Open())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFilesAreSparse(t *testing.T) {
	st, err := os.Stat(File(t, "load 0 4T\nfill 3T 1M 1"))
	if err != nil || st.Size() < 4<<40 {
		t.Errorf("size %d, %v", st.Size(), err)
	}
}

func TestPatternDependsOnTheAddressOnly(t *testing.T) {
	whole := make([]byte, 8192)
	Pattern(whole, 0x1000)
	for _, cut := range []int{1, 7, 8, 4095, 4096} {
		part := make([]byte, 8192-cut)
		Pattern(part, 0x1000+uint64(cut))
		if !bytes.Equal(part, whole[cut:]) {
			t.Errorf("from %d on it differs", cut)
		}
	}
	if bytes.Equal(whole[:4096], whole[4096:]) {
		t.Error("two pages are alike")
	}
}

func TestMistakesNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"load 1 2\nbogus":             "line 2, bogus: no such directive",
		"load 1":                      "too few words",
		"load 1 2 3":                  "too many words: 3",
		"load x 2":                    "invalid syntax",
		"machine vax":                 "no such machine",
		"map 0xffffc90000000000 4K 0": "directive kernel",
		"kernel 0 4K":                 "too small",
		"kernel 0 1M\nmap 0xffffc90000000001 4K 0":                              "whole pages",
		"data 0xffffc90000000000 1":                                             "is not in",
		"kernel 0 1M\nmemmap sparse 0xffffea0000000000 0":                       "no loads",
		"kernel 0 1M\nload 0 1M\nmemmap sparse 0xffffea0000000000 0":            "no such model",
		"kernel 0 1M\nmap 0xffffc90000000000 4K 0\nmap 0xffffc90000000000 4K 0": "mapped already",
		"page 1 1":                  "directive memmap",
		"fill 0 1":                  "too few words",
		`data 0 "x`:                 "invalid syntax",
		"truncate":                  "too few words",
		"kernel 0 1M\npage 1 1 x=1": "info OFFSET(page.x) is needed",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
