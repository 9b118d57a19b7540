package disk

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Filesystems lie where the partition table says, with their names.
func TestPartitioned(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "disk.img")
	const uuid = "0f3a6f5c-8d1b-4a77-b2f5-9a7d4c2e1b22"
	err := Partitioned(ctx, path, []Part{
		{Name: "first part", Size: mib},
		{Name: "crash", UUID: uuid, Size: 64 * mib, FS: FS{Type: "vfat", Label: "CRASH", UUID: "1234-ABCD"}},
		{Size: 16 * mib, FS: FS{Type: "ext4", Label: "LAST"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := (1 + 1 + 64 + 16 + 1) * mib; len(b) != want {
		t.Errorf("image of %d bytes, want %d", len(b), want)
	}
	if got := string(b[2*mib+82 : 2*mib+90]); got != "FAT32   " && string(b[2*mib+54:2*mib+59]) != "FAT16" {
		t.Errorf("no FAT where partition 2 begins: %q", got)
	}
	if got := string(b[66*mib+1024+120 : 66*mib+1024+124]); got != "LAST" {
		t.Errorf("label of ext4 in partition 3: %q", got)
	}
	out, err := exec.CommandContext(ctx, "/usr/sbin/sfdisk", "-d", path).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`name="first part"`, `name="crash"`, strings.ToUpper(uuid)} {
		if !strings.Contains(string(out), want) {
			t.Errorf("sfdisk does not list %s:\n%s", want, out)
		}
	}
	if left, _ := filepath.Glob(path + ".part*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestFormatUnknown(t *testing.T) {
	if err := Format(t.Context(), filepath.Join(t.TempDir(), "x"), mib, FS{Type: "ntfs"}); err == nil {
		t.Error("no error for ntfs")
	}
}

// A tree that debugfs cannot read is an error, though debugfs ends with 0.
func TestExtract(t *testing.T) {
	dir := t.TempDir()
	image, file := filepath.Join(dir, "image"), filepath.Join(dir, "file")
	if err := Format(t.Context(), image, 8*mib, FS{Type: "ext4"}); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("contents "), 10000)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	script := "mkdir crash\ncd crash\nwrite " + file + " vmcore\n"
	if err := command(t.Context(), script, "debugfs", "-w", "-f", "-", image); err != nil {
		t.Fatal(err)
	}
	if err := Extract(t.Context(), image, "/crash", filepath.Join(dir, "to here")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "to here", "crash", "vmcore"))
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("extracted %d bytes, want %d (%v)", len(got), len(text), err)
	}
	if err := Extract(t.Context(), image, "/nothing", filepath.Join(dir, "to here")); err == nil {
		t.Error("a folder that is not there was extracted")
	}
}
