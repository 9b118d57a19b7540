package cpio

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func archive(t *testing.T, entries ...Entry) *Archive {
	t.Helper()
	var a Archive
	for _, e := range entries {
		if err := a.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return &a
}

func written(t *testing.T, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEmptyArchiveIsItsTrailer(t *testing.T) {
	want := "070701" + strings.Repeat("0", 32) + "00000001" + strings.Repeat("0", 48) + "0000000b" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	if got := string(written(t, &Archive{})); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestOrderOfAddingDoesNotMatter(t *testing.T) {
	e := []Entry{
		{Name: "a/b", Mode: Regular | 0o600, Data: []byte("x")},
		{Name: "a-b", Mode: Regular | 0o644},
		{Name: "a", Mode: Dir | 0o700},
	}
	one := written(t, archive(t, e[0], e[1], e[2]))
	two := written(t, archive(t, e[2], e[1], e[0]))
	if !bytes.Equal(one, two) {
		t.Errorf("the order of Add shows:\n%q\n%q", one, two)
	}
}

func TestDirectoriesAreMadeAndComeFirst(t *testing.T) {
	a := archive(t, Entry{Name: "lib/modules/6.1/x.ko", Mode: Regular | 0o644})
	var names []string
	for _, e := range a.Entries() {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); got != "lib lib/modules lib/modules/6.1 lib/modules/6.1/x.ko" {
		t.Errorf("entries: %s", got)
	}
}

func TestRefused(t *testing.T) {
	for name, e := range map[string]Entry{
		"empty":            {Mode: Regular},
		"absolute":         {Name: "/etc", Mode: Dir},
		"unclean":          {Name: "etc/../x", Mode: Dir},
		"outside":          {Name: "../x", Mode: Dir},
		"trailer":          {Name: "TRAILER!!!", Mode: Regular},
		"NUL":              {Name: "a\x00b", Mode: Regular},
		"too long":         {Name: strings.Repeat("a", pathMax), Mode: Regular},
		"no type":          {Name: "x", Mode: 0o644},
		"socket":           {Name: "x", Mode: 0o140644},
		"empty symlink":    {Name: "x", Mode: Symlink},
		"long symlink":     {Name: "x", Mode: Symlink, Data: bytes.Repeat([]byte("a"), pathMax)},
		"directory's data": {Name: "x", Mode: Dir, Data: []byte("x")},
		"there already":    {Name: "file", Mode: Regular},
		"file as parent":   {Name: "file/x", Mode: Regular},
	} {
		a := archive(t, Entry{Name: "file", Mode: Regular | 0o644})
		if err := a.Add(e); err == nil {
			t.Errorf("%s: Add accepted it", name)
		}
	}
	a := archive(t, Entry{Name: strings.Repeat("a", pathMax-1), Mode: Regular})
	if err := a.Add(Entry{Name: "l", Mode: Symlink, Data: bytes.Repeat([]byte("a"), pathMax-1)}); err != nil {
		t.Error(err)
	}
}

// GNU cpio is a foreign reader with the kernel's idea of the format.
func TestForeignReaderUnpacksIt(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed: apt-get install cpio")
	}
	var entries []Entry
	for n := range 6 { // each length of padding, for names and for contents
		entries = append(entries, Entry{
			Name: "d/" + strings.Repeat("n", n+1),
			Mode: Regular | 0o640,
			Data: bytes.Repeat([]byte{'x'}, n),
		})
	}
	entries = append(entries, Entry{Name: "link", Mode: Symlink, Data: []byte("d/n")})
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-i", "--quiet", "--no-absolute-filenames")
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(written(t, archive(t, entries...)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for _, e := range entries[:6] {
		got, err := os.ReadFile(filepath.Join(dir, e.Name))
		if err != nil || !bytes.Equal(got, e.Data) {
			t.Errorf("%s: %q, %v; want %q", e.Name, got, err, e.Data)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "link")); to != "d/n" {
		t.Errorf("link: %q, %v", to, err)
	}
}

func TestDeviceNodes(t *testing.T) {
	got := string(written(t, archive(t, Entry{Name: "dev/console", Mode: CharDev | 0o600, Major: 5, Minor: 1})))
	// Second entry: ino 2, mode 020600, and rdev 5:1 right in front of the name's size.
	for _, want := range []string{"0707010000000200002180", "00000005000000010000000c00000000dev/console\x00"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}
