package vmcoreinfo

import (
	"errors"
	"slices"
	"testing"
	"time"
)

const sample = `OSRELEASE=6.12.107+deb13-cloud-amd64
BUILD-ID=e1b6c81f7afcf08c49c197583920e5307d281cdf
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffffada22000
SYMBOL(_stext)=0xffffffffabe00000
NUMBER(VMALLOC_START)=0xff87043880000000
NUMBER(phys_base)=-346030080
NUMBER(wide)=18446744073709551615
LENGTH(mem_section)=131072
SIZE(page)=64
OFFSET(page.flags)=0
KERNELOFFSET=2ae00000
CRASHTIME=1795243570
`

func TestTypedValues(t *testing.T) {
	i := Parse([]byte(sample))
	if i.Len() != 13 || i.Release() != "6.12.107+deb13-cloud-amd64" {
		t.Errorf("Len %d, Release %q", i.Len(), i.Release())
	}
	unsigned := func(what string, want uint64) func(uint64, bool) {
		return func(got uint64, ok bool) {
			t.Helper()
			if !ok || got != want {
				t.Errorf("%s = %#x, %v, want %#x", what, got, ok, want)
			}
		}
	}
	unsigned("PAGESIZE", 4096)(i.PageSize())
	unsigned("swapper_pg_dir", 0xffffffffada22000)(i.Symbol("swapper_pg_dir"))
	unsigned("_stext", 0xffffffffabe00000)(i.Symbol("_stext"))
	unsigned("LENGTH", 131072)(i.Length("mem_section"))
	unsigned("SIZE", 64)(i.Size("page"))
	unsigned("OFFSET", 0)(i.Offset("page.flags"))
	unsigned("KERNELOFFSET", 0x2ae00000)(i.KernelOffset())
	for name, want := range map[string]int64{"phys_base": -346030080, "VMALLOC_START": -0x0078fbc780000000, "wide": -1} {
		if got, ok := i.Number(name); !ok || got != want {
			t.Errorf("NUMBER(%s) = %d, %v, want %d", name, got, ok, want)
		}
	}
	if at, ok := i.CrashTime(); !ok || !at.Equal(time.Unix(1795243570, 0)) {
		t.Errorf("CrashTime = %v, %v", at, ok)
	}
}

func TestGarbageLinesAreSkipped(t *testing.T) {
	i := Parse([]byte("no equals sign\n=no key\nA=1\nB\x01=2\nC=\xff\nD=\n\n\x00\x00A=9\nA=2\nE=5\x00\x00\x00"))
	var got []string
	for k, v := range i.All() {
		got = append(got, k+"="+v)
	}
	if want := []string{"A=1", "D=", "E=5"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBadValuesAreAbsent(t *testing.T) {
	i := Parse([]byte("PAGESIZE=four\nSIZE(a)=-1\nSYMBOL(b)=xyz\nNUMBER(c)=0x10000000000000000\nCRASHTIME=\nNUMBER(d)=\nKERNELOFFSET=g\n"))
	if _, ok := i.PageSize(); ok {
		t.Error("PAGESIZE=four accepted")
	}
	if _, ok := i.Size("a"); ok {
		t.Error("SIZE=-1 accepted")
	}
	if _, ok := i.Symbol("b"); ok {
		t.Error("SYMBOL=xyz accepted")
	}
	for _, n := range []string{"c", "d"} {
		if _, ok := i.Number(n); ok {
			t.Errorf("NUMBER(%s) accepted", n)
		}
	}
	if _, ok := i.CrashTime(); ok {
		t.Error("empty CRASHTIME accepted")
	}
	if _, ok := i.KernelOffset(); ok {
		t.Error("KERNELOFFSET=g accepted")
	}
}

func TestRequireListsEveryMissingKey(t *testing.T) {
	i := Parse([]byte(sample))
	if err := i.Require("SIZE(page)", "PAGESIZE"); err != nil {
		t.Error(err)
	}
	var missing *MissingError
	err := i.Require("SYMBOL(x)", "SIZE(page)", "OFFSET(y.z)")
	if !errors.As(err, &missing) || !slices.Equal(missing.Keys, []string{"SYMBOL(x)", "OFFSET(y.z)"}) {
		t.Errorf("got %v", err)
	}
}

func TestNilInfoHasNothing(t *testing.T) {
	var i *Info
	if i.Len() != 0 || i.Release() != "" || i.Require("A") == nil {
		t.Error("a nil Info has keys")
	}
	for range i.All() {
		t.Error("a nil Info yields keys")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("A=1\nA=2\n=\n\x00"))
	f.Add([]byte("NUMBER(x)=0x\nNUMBER(x)=-\nSYMBOL()=\n"))
	f.Fuzz(func(t *testing.T, desc []byte) {
		i := Parse(desc)
		n := 0
		for k, v := range i.All() {
			n++
			if got, ok := i.Value(k); !ok || got != v || k == "" {
				t.Fatalf("Value(%q) = %q, %v; All says %q", k, got, ok, v)
			}
		}
		if n != i.Len() {
			t.Fatalf("All yields %d keys, Len says %d", n, i.Len())
		}
		i.Symbol("x")
		i.Number("x")
		i.PageSize()
		i.CrashTime()
	})
}
