package modules

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestList(t *testing.T) {
	const text = "# made by mkinitramfs\n\n/lib/modules/6.1.0/kernel/fs/ext4/ext4.ko\n  /lib/x.ko a=1  b=\"c d\" \n"
	want := []Entry{{Path: "/lib/modules/6.1.0/kernel/fs/ext4/ext4.ko"}, {Path: "/lib/x.ko", Params: `a=1  b="c d"`}}
	got, err := ReadList(strings.NewReader(text))
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v %v", got, err)
	}
	var b bytes.Buffer
	if err := WriteList(&b, got); err != nil {
		t.Fatal(err)
	}
	again, err := ReadList(&b)
	if err != nil || !slices.Equal(again, want) {
		t.Errorf("%+v %v", again, err)
	}
}

func TestListErrorsKeepWhatStandsBefore(t *testing.T) {
	for _, bad := range []string{"ext4\n", "/a" + strings.Repeat("b", maxLine) + "\n"} {
		got, err := ReadList(strings.NewReader("/x.ko\n" + bad))
		if err == nil || len(got) != 1 {
			t.Errorf("%.20q: %v %v", bad, got, err)
		}
	}
}

func TestName(t *testing.T) {
	for file, want := range map[string]string{
		"/lib/modules/6.1/kernel/fs/ext4/ext4.ko": "ext4", "virtio-net": "virtio_net", "a/snd-hda.ko.xz": "snd_hda", "": ".",
	} {
		if got := Name(file); got != want {
			t.Errorf("Name(%q) = %q, want %q", file, got, want)
		}
	}
}

func TestFromCmdline(t *testing.T) {
	blocked, params := fromCmdline(`quiet modprobe.blacklist=nouveau,snd-hda nvme_core.default_ps_max_latency_us=0 ` +
		`nvme-core.x dm.create="a b" .x=1 y.= -- ext4.z=1`)
	if !blocked["nouveau"] || !blocked["snd_hda"] || len(blocked) != 2 {
		t.Error(blocked)
	}
	if params["nvme_core"] != "default_ps_max_latency_us=0 x" || params["dm"] != `create="a b"` || len(params) != 2 {
		t.Error(params)
	}
}

// The kernel itself answers: that the file is no module, or that we may not.
func TestLoadReportsEachModule(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "bad.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries := []Entry{{Path: "/missing.ko"}, {Path: "/bad.ko"}, {Path: "/bad-one.ko"}}
	results := Load(t.Context(), entries, Options{Root: root, PerModule: time.Minute, Cmdline: "modprobe.blacklist=bad-one"})
	if len(results) != len(entries) {
		t.Fatal(results)
	}
	if !errors.Is(results[0].Err, os.ErrNotExist) || results[0].Path != "/missing.ko" {
		t.Error(results[0])
	}
	if err := results[1].Err; !errors.Is(err, unix.ENOEXEC) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSYS) {
		t.Error(err)
	}
	if !errors.Is(results[2].Err, errBlocked) {
		t.Error(results[2].Err)
	}
}

// A module that never ends its work must not keep the capture from going on.
// A FIFO without a writer blocks in open as a bad driver does in its init.
func TestLoadLeavesAStuckModuleBehind(t *testing.T) {
	root := t.TempDir()
	fifo := filepath.Join(root, "stuck.ko")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	entries := []Entry{{Path: "/stuck.ko"}, {Path: "/missing.ko"}}
	results := Load(t.Context(), entries, Options{Root: root, PerModule: time.Second})
	if !errors.Is(results[0].Err, ErrStuck) || !errors.Is(results[1].Err, os.ErrNotExist) {
		t.Error(results)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	results = Load(ctx, entries, Options{Root: root})
	if !errors.Is(results[0].Err, ErrStuck) || !errors.Is(results[1].Err, context.DeadlineExceeded) {
		t.Error(results)
	}
	// Let the abandoned goroutines go.
	for range 2 {
		if f, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	}
}

func FuzzReadList(f *testing.F) {
	f.Add("/a.ko x=1\n#\n/b.ko")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := ReadList(strings.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteList(&b, entries); err != nil {
			t.Fatal(err)
		}
		again, err := ReadList(&b)
		if err != nil || !slices.Equal(again, entries) {
			t.Fatalf("%q: %+v, again %+v %v", text, entries, again, err)
		}
	})
}
