package targets_test

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// The tests of servers wait for most of their time: more of them run at once
// than there are CPUs.
func TestMain(m *testing.M) {
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		p.Value.Set("8")
	}
	os.Exit(targetstest.Main(m, prepareServers))
}

func open(t *testing.T, url string) targets.Target {
	t.Helper()
	return openWith(t, t.Context(), url, targets.Options{Log: t.Logf})
}

func openWith(t testing.TB, ctx context.Context, url string, o targets.Options) targets.Target {
	t.Helper()
	tg, err := targets.Open(ctx, url, o)
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on the way")
	url := "file://" + strings.ReplaceAll(dir, " ", "%20")
	s := targetstest.Store{
		Open: func(t *testing.T) targets.Target { return open(t, url) },
		Read: func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) },
	}
	if os.Geteuid() == 0 {
		s.Small = func(t *testing.T) targets.Target {
			return open(t, "file://"+targetstest.Mount(t, "none", "tmpfs", 0, "size=64k"))
		}
		s.ReadOnly = func(t *testing.T) targets.Target {
			return open(t, "file://"+targetstest.Mount(t, "none", "tmpfs", syscall.MS_RDONLY, ""))
		}
	}
	targetstest.Run(t, s)
}

// What is made is for root alone: it is the memory of the machine.
func TestFileModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "crash")
	tg := open(t, "file://"+dir)
	defer tg.Close()
	f, err := tg.Create(t.Context(), "host/vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"": 0o700, "host": 0o700, "host/vmcore": 0o600} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want %v", name, fi.Mode(), err, want)
		}
	}
}

func TestFileOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"file://" + file:         "not a directory",
		"file://" + file + "/in": "not a directory",
		"file:///proc/1/none":    "no such file or directory",
	} {
		_, err := targets.Open(t.Context(), url, targets.Options{})
		var e *targets.Error
		if !errors.As(err, &e) || e.URL != url || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// A link on the disk does not lead a dump elsewhere.
func TestFileLinkLeadsOut(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	if err := os.Symlink(out, filepath.Join(dir, "host")); err != nil {
		t.Fatal(err)
	}
	tg := open(t, "file://"+dir)
	defer tg.Close()
	if _, err := tg.Create(t.Context(), "host/vmcore"); err == nil {
		t.Error("Create went through a link that leads out")
	} else {
		t.Log(err)
	}
	if err := tg.Remove(t.Context(), "host"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(out); err != nil {
		t.Error(err)
	}
}

// Root is refused nothing, so this runs once more as somebody else.
func TestFilePermissionDenied(t *testing.T) {
	const key = "UKDUMP_TEST_DENIED"
	if dir := os.Getenv(key); dir != "" {
		tg := open(t, "file://"+dir)
		_, err := tg.Create(t.Context(), "vmcore")
		var e *targets.Error
		if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &e) || e.Temporary {
			t.Errorf("Create: %v", err)
		}
		_, err = targets.Open(t.Context(), "file://"+dir+"/new", targets.Options{})
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Open: %v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to run as nobody")
	}
	dir, err := os.MkdirTemp("/", "ukdump-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	binary, err := os.ReadFile("/proc/self/exe")
	self := filepath.Join(dir, "self")
	if err = errors.Join(err, os.WriteFile(self, binary, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestFilePermissionDenied$")
	cmd.Dir = dir
	cmd.Env = []string{key + "=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNamesOfIncompleteFiles(t *testing.T) {
	for name, want := range map[string]string{
		"vmcore":               "vmcore-incomplete",
		"d/vmcore":             "d/vmcore-incomplete",
		"d.1/vmcore":           "d.1/vmcore-incomplete",
		"vmcore-dmesg.txt":     "vmcore-dmesg-incomplete.txt",
		"d/vmcore.flat.1":      "d/vmcore.flat-incomplete.1",
		".hidden":              ".hidden-incomplete",
		"d/.hidden.txt":        "d/.hidden-incomplete.txt",
		"kexec-incomplete-log": "kexec-incomplete-log-incomplete",
	} {
		if got := targets.IncompleteName(name); got != want {
			t.Errorf("IncompleteName(%s) = %s, want %s", name, got, want)
		}
		if got, ok := targets.FinalName(want); !ok || got != name {
			t.Errorf("FinalName(%s) = %s, %v", want, got, ok)
		}
	}
	for _, name := range []string{"", "vmcore", "-incomplete", "d/-incomplete.txt", "incomplete", "vmcore-incomplete-x", "a-incomplete/vmcore"} {
		if got, ok := targets.FinalName(name); ok {
			t.Errorf("FinalName(%s) = %s", name, got)
		}
	}
}
