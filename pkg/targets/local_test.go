package targets

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestCommitOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b")
	tg, err := Open(t.Context(), "file://"+dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := tg.Create(t.Context(), "host-1/vmcore")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("core")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "host-1/vmcore")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before Commit: %v", err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "host-1/vmcore"))
	if err != nil || string(got) != "core" {
		t.Errorf("after Commit: %q, %v", got, err)
	}
	if _, err := tg.Create(t.Context(), "host-1/vmcore"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v", err)
	}
	if err := tg.Close(); err != nil {
		t.Error(err)
	}
}
