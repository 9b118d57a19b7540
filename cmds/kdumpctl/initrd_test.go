package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"compress/gzip"
	"github.com/klauspost/compress/zstd"
)

type file struct {
	name string
	mode uint32
	data string
}

// archive writes newc by the description of the format alone; TestInspectGNU
// holds the reader against another program's archives.
func archive(files ...file) []byte {
	var b bytes.Buffer
	pad := func() {
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	for i, f := range append(files, file{name: trailer}) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", i, f.mode, 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(f.name)+1, 0)
		b.WriteString(f.name + "\x00")
		pad()
		b.WriteString(f.data)
		pad()
	}
	return b.Bytes()
}

func packZstd(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err) // no options, no error
	}
	return w.EncodeAll(data, nil)
}

func packGzip(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestInspect(t *testing.T) {
	conf := func(text string) file { return file{"etc/kdump.conf", 0o100600, text} }
	initFile := file{"init", 0o100755, "#!"}
	module := file{"lib/modules/6.1.0/kernel/a.ko", 0o100644, "ko"}
	plain := archive(initFile, conf("level = 1\n"), module)
	for _, tt := range []struct {
		name string
		data []byte
		conf string
	}{
		{"plain", plain, "level = 1\n"},
		{"zstd", packZstd(plain), "level = 1\n"},
		{"gzip", packGzip(t, plain), "level = 1\n"},
		{"a path with a dot", archive(initFile, file{"./etc/kdump.conf", 0o100600, "x"}, module), "x"},
		{"an absolute path", archive(initFile, file{"/etc/kdump.conf", 0o100600, "x"}, module), "x"},
		{"microcode before", slices.Concat(archive(file{"kernel/x86/microcode/GenuineIntel.bin", 0o100644, "mc"}), make([]byte, 512), packZstd(plain)), "level = 1\n"},
		{"two archives", slices.Concat(plain, make([]byte, 8), archive(conf("level = 2\n"))), "level = 2\n"},
		{"two frames", slices.Concat(packZstd(plain), packZstd(archive(conf("level = 2\n")))), "level = 2\n"},
		{"an empty configuration", archive(initFile, conf(""), module), ""},
		{"configuration as large as it may be", archive(initFile, conf(strings.Repeat("#", maxConf)), module), strings.Repeat("#", maxConf)},
		{"configuration larger than that", archive(initFile, conf(strings.Repeat("#", maxConf+9)), module), strings.Repeat("#", maxConf+1)},
	} {
		got, err := inspect(bytes.NewReader(tt.data))
		if err != nil || string(got.conf) != tt.conf || !got.hasConf || !got.has("/init") || !slices.Equal(got.releases, []string{"6.1.0"}) {
			t.Errorf("%s: %+v %v", tt.name, got, err)
		}
	}
}

func TestInspectRefuses(t *testing.T) {
	plain := archive(file{"init", 0o100755, "#!"})
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, errNotArchive},
		{"zeros", make([]byte, 4096), errNotArchive},
		{"text", []byte("no archive"), errNotArchive},
		{"old cpio", []byte("070707000000"), errNotArchive},
		{"an archive in one in one", packZstd(packZstd(plain)), errNotArchive},
		{"text behind it", slices.Concat(plain, []byte("text")), errNotArchive},
		{"cut in the header", plain[:50], io.ErrUnexpectedEOF},
		{"cut in the name", plain[:112], io.ErrUnexpectedEOF},
		{"cut in the data", plain[:117], io.ErrUnexpectedEOF},
		{"cut before its end", plain[:len(plain)-1], io.ErrUnexpectedEOF},
		{"cut in the frame", packZstd(plain)[:20], io.ErrUnexpectedEOF},
	} {
		if got, err := inspect(bytes.NewReader(tt.data)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// An archive that cpio(1) made.
func TestInspectGNU(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no cpio on this machine to make an archive with:", err)
	}
	script := `mkdir -p etc lib/modules/6.1.0/kernel && echo x >init && echo "level = 3" >etc/kdump.conf && : >lib/modules/6.1.0/kernel/a.ko && find . | ` + cpio + ` -o -H newc --quiet`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = t.TempDir()
	data, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := inspect(bytes.NewReader(data))
	if err != nil || !got.has("/init") || string(got.conf) != "level = 3\n" || !slices.Equal(got.releases, []string{"6.1.0"}) {
		t.Errorf("%+v %v", got, err)
	}
}

// What the files of an image take is counted in pages, and of two archives the later
// one's file takes the place of the earlier one's.
func TestInspectCountsPages(t *testing.T) {
	const page = 4096
	of := func(size int) file { return file{"f", 0o100644, strings.Repeat("x", size)} }
	for _, tt := range []struct {
		data []byte
		want int64
	}{
		{archive(), 0}, {archive(of(0)), 0}, {archive(of(1)), page}, {archive(of(page)), page}, {archive(of(page + 1)), 2 * page},
		{packZstd(archive(of(page), file{"g", 0o100644, "x"})), 2 * page},
		{slices.Concat(archive(of(3*page), file{"g", 0o100644, "x"}), packZstd(archive(of(page)))), 2 * page},
	} {
		if got, err := inspect(bytes.NewReader(tt.data)); err != nil || got.unpacked != tt.want {
			t.Errorf("%d bytes, want %d (%v)", got.unpacked, tt.want, err)
		}
	}
}

func TestContentsHas(t *testing.T) {
	c, err := inspect(bytes.NewReader(archive(
		file{"bbin/bb", 0o100755, "x"}, file{"bbin/kdump-init", 0o120777, "bb"}, file{"init", 0o120777, "bbin/kdump-init"},
		file{"lib", 0o120777, "usr/lib"}, file{"usr/lib/a", 0o100644, ""}, file{"abs", 0o120777, "/usr/lib/a"}, file{"up", 0o120777, "../../usr/lib/a"},
		file{"dangling", 0o120777, "nowhere"}, file{"loop", 0o120777, "loop"}, file{"b/c", 0o120777, "../lib"})))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"/init": true, "init": true, "/bbin/bb": true, "/lib/a": true, "/usr/lib/a": true, "/abs": true, "/up": true, "/b/c/a": true, "/b/../init": true,
		"/dangling": false, "/loop": false, "/none": false, "/lib/b": false, "/ini": false,
	} {
		if c.has(name) != want {
			t.Errorf("%s: %v, want %v", name, !want, want)
		}
	}
	if !(contents{}).has("/anything") {
		t.Error("it misses a name of an image whose names it has not kept")
	}
}

func FuzzInspect(f *testing.F) {
	plain := archive(file{"init", 0o100755, "#!"}, file{"etc/kdump.conf", 0o100600, "level = 1\n"})
	f.Add(plain)
	f.Add(slices.Concat(plain, make([]byte, 8), packZstd(plain)))
	f.Add(packGzip(f, plain))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		c, err := inspect(bytes.NewReader(data))
		c.has("/bin/sh")
		if err == nil && len(c.conf) > maxConf+1 {
			t.Fatal(len(c.conf))
		}
	})
}
