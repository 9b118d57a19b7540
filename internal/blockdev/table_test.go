package blockdev

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// partitioned is a disk image that sfdisk made from a script.
func partitioned(t testing.TB, size int64, script string, args ...string) string {
	t.Helper()
	tool(t, "sfdisk")
	path := image(t, size)
	cmd := exec.Command("sfdisk", append(append([]string{"-q"}, args...), path)...)
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return path
}

func readTable(t testing.TB, path string, sector int64) (Table, error) {
	t.Helper()
	f, size, err := openDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return ReadTable(f, size, sector)
}

const gptScript = `label: gpt
start=2048, size=2048, uuid=01234567-89AB-CDEF-0123-456789ABCDEF, name="CRASH"
start=8192, size=2048, uuid=11111111-2222-3333-4444-555555555555, name="Ünïcode é"
`

func TestGPT(t *testing.T) {
	path := partitioned(t, 16<<20, gptScript)
	want := []Partition{
		{1, "01234567-89ab-cdef-0123-456789abcdef", "CRASH"},
		{2, "11111111-2222-3333-4444-555555555555", "Ünïcode é"},
	}
	check := func(when string, sector int64) {
		t.Helper()
		tab, err := readTable(t, path, sector)
		if err != nil || tab.Kind != "gpt" || !slices.Equal(tab.Partitions, want) {
			t.Errorf("%s: %+v, %v", when, tab, err)
		}
	}
	check("sector size known", 512)
	check("sector size unknown", 0)
	if id, label := must(readTable(t, path, 512)).Find(2); id != want[1].UUID || label != want[1].Label {
		t.Errorf("Find(2): %s %s", id, label)
	}
	if id, _ := must(readTable(t, path, 512)).Find(3); id != "" {
		t.Errorf("Find(3): %s", id)
	}
	if tab, err := readTable(t, path, 4096); err == nil {
		t.Errorf("wrong sector size: %+v", tab)
	}
	patch(t, path, 512+16, []byte{1}) // checksum of the first header
	check("first header damaged", 512)
	path = partitioned(t, 16<<20, gptScript)
	patch(t, path, 1024+60, []byte{1}) // a name in the first copy of the entries
	check("first entries damaged", 512)
	patch(t, path, 16<<20-512, make([]byte, 512))
	if tab, err := readTable(t, path, 512); err == nil {
		t.Errorf("both damaged: %+v", tab)
	} else if !strings.Contains(err.Error(), "checksum") || !strings.Contains(err.Error(), "no signature") {
		t.Errorf("both damaged: %v", err)
	}
}

func TestGPT4KSectors(t *testing.T) {
	tool(t, "losetup")
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device with sectors of 4 KiB")
	}
	path := image(t, 64<<20)
	dev := attach(t, path, "-b", "4096")
	cmd := exec.Command("sfdisk", "-q", dev)
	cmd.Stdin = strings.NewReader("label: gpt\nuuid=01234567-89AB-CDEF-0123-456789ABCDEF, name=\"4K\"\n")
	tool(t, "sfdisk")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	for _, sector := range []int64{0, 4096} {
		tab, err := readTable(t, path, sector)
		if err != nil || len(tab.Partitions) != 1 || tab.Partitions[0].Label != "4K" {
			t.Errorf("sector %d: %+v, %v", sector, tab, err)
		}
	}
}

func must(t Table, err error) Table {
	if err != nil {
		panic(err)
	}
	return t
}

func TestMBR(t *testing.T) {
	path := partitioned(t, 16<<20, "label: dos\nlabel-id: 0x0badcafe\nstart=2048, size=2048\nstart=8192, size=8192, type=5\nstart=10240, size=2048\n")
	tab, err := readTable(t, path, 512)
	if err != nil || tab.Kind != "dos" {
		t.Fatalf("%+v, %v", tab, err)
	}
	for n, want := range map[int]string{1: "0badcafe-01", 5: "0badcafe-05", 16: "0badcafe-10"} {
		if id, label := tab.Find(n); id != want || label != "" {
			t.Errorf("partition %d: %s %s", n, id, label)
		}
	}
}

func TestNoTable(t *testing.T) {
	for name, command := range map[string][]string{
		"zeros": nil, "fat": {"mkfs.vfat"}, "ext4": {"mkfs.ext4", "-q"},
	} {
		if tab, err := readTable(t, image(t, 32<<20, command...), 0); err != nil || tab.Kind != "" {
			t.Errorf("%s: %+v, %v", name, tab, err)
		}
	}
}

func TestName16(t *testing.T) {
	for _, tc := range []struct {
		in   []byte
		want string
	}{
		{nil, ""},
		{[]byte{0, 0, 'x', 0}, ""},
		{[]byte{'a', 0, 0x3d, 0xd8, 0x00, 0xde, 0, 0}, "a\U0001f600"},
		{[]byte{0x3d, 0xd8}, "\ufffd"}, // half of a pair
		{[]byte{'a', 0, 'b'}, "a"},
	} {
		if got := name16(tc.in); got != tc.want {
			t.Errorf("% x: %q, want %q", tc.in, got, tc.want)
		}
	}
}
