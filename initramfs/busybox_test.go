package main

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func probe(t *testing.T, arch string) []byte {
	t.Helper()
	b, err := newBuilder(t.Context(), arch)
	if err != nil {
		t.Fatal(err)
	}
	data, err := b.build(t.Context(), []string{"./testdata/probe"})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// gobusybox's own settings give a program without inlining that behaves as Go
// 1.20's: timers whose channels hold a value after Stop.
func TestBusyboxIsCompiledAsItsSourcesMean(t *testing.T) {
	t.Setenv("GODEBUG", "asynctimerchan=1") // of the build: must not matter
	data := probe(t, hostArch(t))
	name := filepath.Join(t.TempDir(), "bb")
	if err := os.WriteFile(name, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "probe")
	cmd.Env = []string{} // without GODEBUG
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := "inlined true, timer channel 0, linux/" + hostArch(t) + "\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range f.Sections {
		if s.Name == ".symtab" || strings.HasPrefix(s.Name, ".debug") || strings.HasPrefix(s.Name, ".zdebug") {
			t.Errorf("section %s is not stripped, %d bytes", s.Name, s.Size)
		}
	}
	for _, path := range []string{t.TempDir(), os.TempDir() + "/mkinitramfs-", mustWd(t)} {
		if bytes.Contains(data, []byte(path)) {
			t.Errorf("the program has the path %s of this machine in it", path)
		}
	}
}

func hostArch(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOHOSTARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func mustWd(t *testing.T) string {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return wd
}

// The tool that compiles must be built for this machine, whatever the image is
// for and whatever the caller's environment asks.
func TestCrossBuild(t *testing.T) {
	t.Setenv("GOARCH", "riscv64")
	t.Setenv("GOFLAGS", "-tags=nothing")
	f, err := elf.NewFile(bytes.NewReader(probe(t, "arm64")))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_AARCH64 {
		t.Errorf("built for %v", f.Machine)
	}
	if f.Section(".interp") != nil {
		t.Error("not a static program")
	}
}

func TestBuildErrorNamesTheCommand(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	b, err := newBuilder(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.build(t.Context(), []string{"./testdata/nothing"})
	if err == nil || !strings.Contains(err.Error(), "testdata/nothing") {
		t.Errorf("error %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "mkinitramfs-*")); len(left) > 0 {
		t.Errorf("temporary folders left: %v", left)
	}
}

func TestHermetic(t *testing.T) {
	env := hermetic([]string{"HOME=/root", "GOARCH=arm64", "GOFLAGS=-race", "GOAMD64=v3", "GOPROXY=off", "GODEBUG=x=1"})
	for _, want := range []string{"HOME=/root", "GOPROXY=off", "GOAMD64=v1", "GOARCH=", "GODEBUG=", "CGO_ENABLED=0"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	if strings.Contains(strings.Join(env, " "), "race") {
		t.Errorf("the caller's flags are in %q", env)
	}
}

func TestNames(t *testing.T) {
	got, err := names([]string{"github.com/u-root/u-root/cmds/core/ls", "./testdata/probe", "../initramfs", "."})
	if err == nil {
		t.Errorf("initramfs twice: %q", got)
	}
	got, err = names([]string{"github.com/u-root/u-root/cmds/core/ls", "./testdata/probe", "."})
	if err != nil || !slices.Equal(got, []string{"ls", "probe", "initramfs"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Whoever builds the same sources gets the same image: two copies of the tree in
// two places, and another temporary folder.
func TestImageIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the whole busybox twice: not with -short")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	tree := fakeTree(t)
	conf := configFile(t, "target = disk:///crash?dev=LABEL=CRASH&fstype=ext4\n")
	var images [2][]byte
	for i := range images {
		dir := filepath.Join(t.TempDir(), strings.Repeat("x", i+1))
		copySources(t, root, dir)
		root = dir // the second is a copy of the first: nobody edits that one
		t.Chdir(dir)
		t.Setenv("TMPDIR", t.TempDir())
		out := filepath.Join(t.TempDir(), "image")
		var stdout, stderr strings.Builder
		if code := run([]string{"-config", conf, "-modules", tree, "-o", out}, &stdout, &stderr); code != 0 {
			t.Fatalf("exit status %d: %s", code, &stderr)
		}
		if images[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			t.Logf("%s", &stdout)
			checkImage(t, images[i])
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Errorf("two builds of the same sources differ: %d and %d bytes", len(images[0]), len(images[1]))
	}
	if size := len(images[0]); size > 5<<20 {
		t.Errorf("the image without modules worth mentioning has %d bytes: want at most 5 MiB", size)
	}
}

// copySources copies what go build reads of the module.
func copySources(t *testing.T, root, to string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if rel != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || base == "qemu") {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
