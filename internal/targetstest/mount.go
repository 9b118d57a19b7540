package targetstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Main is for TestMain of tests that mount: as root they run in a mount
// namespace of their own, so that nothing stays behind. There, prepare comes
// before the tests; they tell what is missing where it fails.
//
//	func TestMain(m *testing.M) { os.Exit(targetstest.Main(m)) }
func Main(m *testing.M, prepare ...func() error) int {
	const inside = "UKDUMP_TEST_MOUNTS"
	if os.Getenv(inside) != "" {
		for _, p := range prepare {
			if err := p(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = fuzzFiles()
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	}
	fmt.Fprintf(os.Stderr, "no mount namespace here (%v): tests that mount will skip\n", err)
	return m.Run()
}

// fuzzFiles are the pipes that a worker of go test -fuzz gets as files 3 to 5.
func fuzzFiles() []*os.File {
	for _, a := range os.Args {
		if strings.Contains(a, "test.fuzzworker") {
			return []*os.File{os.NewFile(3, ""), os.NewFile(4, ""), os.NewFile(5, "")}
		}
	}
	return nil
}

// Mount mounts on a new folder for the time of the test, or skips.
func Mount(t *testing.T, source, fstype string, flags uintptr, data string) string {
	t.Helper()
	if os.Getenv("UKDUMP_TEST_MOUNTS") == "" {
		t.Skip("needs root and a mount namespace")
	}
	dir := t.TempDir()
	if err := syscall.Mount(source, dir, fstype, flags, data); err != nil {
		t.Skipf("mount %s (%s): %v", source, fstype, err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// Image is a sparse file of size bytes, made into a file system by a command
// whose last argument is the file.
func Image(t *testing.T, dir string, size int64, mkfs ...string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	Tool(t, mkfs[0])
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], f.Name())...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", mkfs, err, out)
	}
	return f.Name()
}

// Loop makes a loop device of a file for the time of the test, or skips.
func Loop(t *testing.T, file string, args ...string) string {
	t.Helper()
	dev, _ := LoopUntil(t, file, args...)
	return dev
}

// LoopUntil makes a loop device of a file until it is detached, at the end of
// the test at the latest. That happens once: the device may be another test's
// then, in another process.
func LoopUntil(t *testing.T, file string, args ...string) (dev string, detach func()) {
	t.Helper()
	Tool(t, "losetup")
	if os.Getenv("UKDUMP_TEST_MOUNTS") == "" {
		t.Skip("needs root and a mount namespace")
	}
	out, err := exec.Command("losetup", append(append([]string{}, args...), "-f", "--show", file)...).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %v: %s", err, out)
	}
	dev = strings.TrimSpace(string(out))
	detach = sync.OnceFunc(func() { exec.Command("losetup", "-d", dev).Run() })
	t.Cleanup(detach)
	return dev, detach
}

// Tool skips where a program is missing; in CI that is a failure.
func Tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is missing", name)
	}
}
