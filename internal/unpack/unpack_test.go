package unpack

import (
	"bytes"
	"compress/gzip"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const plain = "070701 is how a cpio archive starts, and this is how it goes on"

// packed is plain in every format that can be made here.
func packed(t testing.TB) map[Format][]byte {
	var g, z bytes.Buffer
	gw := gzip.NewWriter(&g)
	zw, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{gw, zw} {
		if _, err := io.WriteString(w, plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files := map[Format][]byte{None: []byte(plain), Gzip: g.Bytes(), Zstd: z.Bytes()}
	for _, f := range []Format{Xz, Bzip2, Lzma} {
		args := []string{"-c"}
		name := string(f)
		if f == Lzma {
			name, args = "xz", append(args, "--format=lzma")
		}
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(plain)
		if out, err := cmd.Output(); err == nil {
			files[f] = out
		} else {
			t.Logf("no %s: %v", f, err)
		}
	}
	return files
}

func TestNewReader(t *testing.T) {
	for want, data := range packed(t) {
		r, format, err := NewReader(bytes.NewReader(data))
		if format != want {
			t.Errorf("%s is taken for %q", want, format)
		}
		if want == Bzip2 || want == Lzma {
			if err == nil || !strings.Contains(err.Error(), string(want)+" compression is not supported") {
				t.Errorf("%s: %v", want, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != plain {
			t.Errorf("%s: %q %v", want, got, err)
		}
		r.Close()
		// Cut off, it is an error and not a short file.
		if want != None {
			r, _, err := NewReader(bytes.NewReader(data[:len(data)-1]))
			if err == nil {
				_, err = io.Copy(io.Discard, r)
				r.Close()
			}
			if err == nil {
				t.Errorf("%s without its last byte is taken for whole", want)
			}
		}
	}
}

func TestShortFiles(t *testing.T) {
	for n := range MagicLen {
		r, format, err := NewReader(strings.NewReader(plain[:n]))
		if err != nil || format != None {
			t.Fatal(n, format, err)
		}
		if got, err := io.ReadAll(r); string(got) != plain[:n] || err != nil {
			t.Error(got, err)
		}
	}
}
