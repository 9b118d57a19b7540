package kexec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReserved(t *testing.T) {
	const iomem = `00001000-0009fbff : System RAM
00100000-7ffdcfff : System RAM
  01000000-02000df0 : Kernel code
  77000000-7effffff : Crash kernel
100000000-17fffffff : System RAM
  178000000-17fffffff : Crash kernel
`
	got, err := Reserved(strings.NewReader(iomem))
	want := []Range{{0x77000000, 0x7effffff}, {0x178000000, 0x17fffffff}}
	if err != nil || !slices.Equal(got, want) {
		t.Error(got, err)
	}
	if s := got[0].String(); s != "0x77000000-0x7effffff" || got[0].Size() != 128<<20 {
		t.Error(s, got[0].Size())
	}
	// As one who is not root sees it.
	if got, err := Reserved(strings.NewReader("00000000-00000000 : Crash kernel\n")); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
}

func TestBootCPUWord(t *testing.T) {
	const cpuinfo = "processor\t: 0\nflags\t\t: fpu vme\ninitial apicid\t: 16\n\nprocessor\t: 1\ninitial apicid\t: 18\n"
	if got := BootCPUWord(strings.NewReader(cpuinfo)); got != "disable_cpu_apicid=16" {
		t.Error(got)
	}
	if got := BootCPUWord(strings.NewReader("processor\t: 0\nBogoMIPS\t: 48.00\n")); got != "" {
		t.Error(got)
	}
}

func TestNeedsBootCPUWord(t *testing.T) {
	for line, want := range map[string]bool{
		"nr_cpus=1": false, "nr_cpus=4": true, "": true, "nr_cpus=1 nr_cpus=2": true, "nr_cpus=2 disable_cpu_apicid=0": false,
	} {
		if got := NeedsBootCPUWord(line); got != (want && runtime.GOARCH == "amd64") {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// bzImage is the start of one, with a version string behind.
func bzImage(version string, initSize uint32) []byte {
	b := make([]byte, 0x400)
	copy(b[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offKernelVersion:], 0x300-0x200)
	binary.LittleEndian.PutUint32(b[offInitSize:], initSize)
	copy(b[0x300:], version)
	return b
}

func TestReadImage(t *testing.T) {
	arm := make([]byte, 0x1000)
	copy(arm[0x38:], "ARM\x64")
	binary.LittleEndian.PutUint64(arm[16:], 30<<20)
	for _, tt := range []struct {
		data []byte
		want Image
		err  error
	}{
		{bzImage("6.1.0-50-cloud-amd64 (debian) #1\x00", 51<<20), Image{"6.1.0-50-cloud-amd64", 51 << 20}, nil},
		{bzImage(strings.Repeat("x", 0x100), 51<<20), Image{"", 51 << 20}, nil},
		{arm, Image{"", 30 << 20}, nil},
		{make([]byte, 0x1000), Image{}, ErrNotKernel},
		{bzImage("", 1)[:setupLen], Image{"", 1}, nil},
		{bzImage("", 1)[:setupLen-1], Image{}, ErrNotKernel},
		{nil, Image{}, ErrNotKernel},
	} {
		got, err := ReadImage(bytes.NewReader(tt.data))
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("got %+v %v, want %+v %v", got, err, tt.want, tt.err)
		}
	}
}

func FuzzReadImage(f *testing.F) {
	f.Add(bzImage("6.1.0 ", 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		if info, err := ReadImage(bytes.NewReader(data)); err == nil && info.RunSize < 0 {
			t.Fatal(info)
		}
	})
}

// The call itself, on a kernel that has it or not: with a file that is no
// kernel it ends in an error that tells an operator something. Nothing can be
// loaded by it; a capture kernel that this machine has loaded would be lost,
// so then it is not made.
func TestLoadExplains(t *testing.T) {
	if loaded, err := Loaded(); err == nil && loaded {
		t.Skip("this machine has a capture kernel loaded, which a try would drop")
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = Load(f, nil, "panic=1")
	var errno unix.Errno
	if !errors.As(err, &errno) || !strings.HasPrefix(err.Error(), "kexec_file_load /proc/self/exe: ") {
		t.Fatal(err)
	}
	t.Log(err)
}

func TestExplain(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENOSYS: "CONFIG_KEXEC_FILE", unix.EPERM: "kexec_load_disabled", unix.ENOEXEC: "bzImage", unix.EBUSY: "try again",
		unix.EKEYREJECTED: "signature", unix.ENOMEM: "too small", unix.EADDRNOTAVAIL: "too small", unix.EINVAL: "command line",
		unix.EIO: "kernel log",
	} {
		if got := explain(errno, nil, nil); !strings.Contains(got, want) {
			t.Errorf("%v: %s", errno, got)
		}
	}
}

func TestForbidden(t *testing.T) {
	root := t.TempDir() + "/"
	for _, tt := range []struct{ file, text, want string }{
		{"sys/kernel/security/lockdown", "[none] integrity confidentiality\n", "want root"},
		{"sys/kernel/security/lockdown", "none [integrity] confidentiality\n", "locked down (none [integrity]"},
		{"proc/sys/kernel/kexec_load_disabled", "0\n", "locked down"},
		{"proc/sys/kernel/kexec_load_disabled", "1\n", "kexec_load_disabled is 1"},
	} {
		if err := os.MkdirAll(filepath.Dir(root+tt.file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+tt.file, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := forbidden(root); !strings.Contains(got, tt.want) {
			t.Errorf("%s %q: %s", tt.file, tt.text, got)
		}
	}
}

func TestEstimate(t *testing.T) {
	// Debian's 6.1 cloud kernel takes 51 MiB, the initramfs 5.
	if got := Estimate(51<<20, 5<<20) >> 20; got != 128 {
		t.Error(got)
	}
	if Estimate(0, 0)%(16<<20) != 0 {
		t.Error("not rounded")
	}
}

func TestSystemRAM(t *testing.T) {
	const iomem = "00000000-00000fff : Reserved\n00001000-00001fff : System RAM\n100000000-17fffffff : virtio0\n  100000000-10fffffff : System RAM (virtio_mem)\n" +
		"    100000000-1000fffff : System RAM\n00000000-00000000 : System RAM\nfee00000-fee00fff : Local APIC\n"
	if got, err := SystemRAM(strings.NewReader(iomem)); err != nil || got != 4096+256<<20 {
		t.Errorf("%#x %v", got, err)
	}
}
