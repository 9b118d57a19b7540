package result

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func example() *Result {
	return &Result{
		Version: 1, Directory: "h-20251121T040000Z-abcd", CrashTime: time.Date(2025, 11, 21, 4, 0, 0, 0, time.UTC), Host: "h", Kernel: "6.1.0",
		Saved: SavedAll, Target: "nfs://server/dumps", Seconds: 41.3,
		Files: []File{{"vmcore", 12345678}}, Lost: []string{"3 pages could not be read"},
		Attempts: []Attempt{
			{Target: "sftp://a@b/c", Saved: SavedNothing, Error: "dial: timeout", Seconds: 30, Steps: []Step{{"target", 30, "dial: timeout"}}},
			{Target: "nfs://server/dumps", Saved: SavedAll, Seconds: 10.5, Steps: []Step{{Name: "core", Seconds: 9}}},
		},
		Memory: &Memory{SystemKiB: 163840, TotalKiB: 130000, UnpackKiB: 80000, LeastAvailableKiB: 90000, PeakKiB: 30000, CrashkernelMiB: 96},
	}
}

func TestReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a/b", Name)
	want := example()
	if err := want.Store(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, got, want)
	}
	if left, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	var small bytes.Buffer
	if err := (&Result{Saved: SavedNothing, Attempts: []Attempt{}}).Write(&small); err != nil || strings.Contains(small.String(), "crash_time") {
		t.Errorf("%v: %s", err, &small)
	}
}

func TestString(t *testing.T) {
	r := example()
	if got := r.String(); got != "saved to nfs://server/dumps in 41 s; failed: sftp://a@b/c: dial: timeout" {
		t.Error(got)
	}
	r.Saved, r.Attempts = SavedLog, nil
	if got := r.String(); got != "only the kernel log saved to nfs://server/dumps in 41 s" {
		t.Error(got)
	}
	if got := (&Result{}).String(); got != "nothing saved in 0 s" {
		t.Error(got)
	}
}

// What an attempt had saved before it was killed stays; an earlier one of the same
// target is another one.
func TestDied(t *testing.T) {
	r := &Result{Attempts: []Attempt{{Target: "a", Saved: SavedLog, Error: "no space"}}}
	r.Died("a", errors.New("killed"), 1500*time.Millisecond)
	r.Attempts = append(r.Attempts, Attempt{Target: "b", Saved: SavedLog, Error: Unfinished, Steps: []Step{{Name: "kernel log"}}})
	r.Died("b", errors.New("stuck"), time.Second)
	want := []Attempt{
		{Target: "a", Saved: SavedLog, Error: "no space"}, {Target: "a", Saved: SavedNothing, Error: "killed", Seconds: 1.5},
		{Target: "b", Saved: SavedLog, Error: "stuck", Seconds: 1, Steps: []Step{{Name: "kernel log"}}},
	}
	if !reflect.DeepEqual(r.Attempts, want) {
		t.Errorf("%+v", r.Attempts)
	}
}

// A folder holds dumps that an older version took, torn files, and other people's.
func TestNewest(t *testing.T) {
	root := t.TempDir()
	if _, err := Newest(root); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	old, last := example(), example()
	old.CrashTime, old.Directory = old.CrashTime.Add(-time.Hour), "z-first"
	for name, r := range map[string]*Result{"z-first": old, "a-last": last} {
		if err := r.Store(filepath.Join(root, name, Name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"torn": `{"version": 1, "crash_time": "2099-`, "future": `{"version": 2, "crash_time": "2099-01-01T00:00:00Z"}`} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name, Name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Newest(root); err != nil || !reflect.DeepEqual(got, last) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Who can write to the folder may not keep the reader waiting, or show it other files.
func TestNewestReadsRegularFilesOnly(t *testing.T) {
	root := t.TempDir()
	secret := filepath.Join(t.TempDir(), Name)
	if err := example().Store(secret); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"pipe", "link"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "pipe", Name), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(root, "link", Name)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := Newest(root)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for somebody to write into the pipe")
	}
	t.Chdir(filepath.Dir(filepath.Dir(secret)))
	if _, err := Newest(""); !errors.Is(err, fs.ErrNotExist) {
		t.Error("no folder is not the working directory:", err)
	}
}

func TestRecommend(t *testing.T) {
	for _, tt := range []struct{ system, least, unpack, want int }{
		{160 << 10, 100 << 10, 0, 80}, // 60 used, 15 more are under 16: 76
		{160 << 10, 96 << 10, 0, 80},  // 64 and 16
		{160<<10 + 1, 96 << 10, 0, 96},
		{160 << 10, 0, 0, 0}, {0, 1, 0, 0}, {10, 11, 0, 0}, {1 << 20, 1 << 20, 0, 16}, {256 << 10, 1, 0, 320},
		// 64 were enough once the image was unpacked, which took more.
		{160 << 10, 100 << 10, 76 << 10, 80}, {160 << 10, 100 << 10, 76<<10 + 1, 96}, {160 << 10, 100 << 10, 92 << 10, 96},
		{160 << 10, 0, 92 << 10, 0},
	} {
		if got := Recommend(tt.system, tt.least, tt.unpack); got != tt.want {
			t.Errorf("%d KiB, %d free, %d to unpack: %d MiB, want %d", tt.system, tt.least, tt.unpack, got, tt.want)
		}
	}
}

// The image is in memory twice until the kernel has freed the compressed one: what is
// there when PID 1 runs does not show that.
func TestUnpacking(t *testing.T) {
	const log = "[    0.070000] Freeing SMP alternatives memory: 32K\n[    1.519609] Freeing initrd memory: 7612K\n" +
		"[    2.270000] Freeing unused decrypted memory: 2036K\n[    2.280230] Freeing unused kernel image (initmem) memory: 2600K\n" +
		"[    2.3] Freeing nothing memory: K\n[    2.4] Freeing hope memory\n"
	for _, tt := range []struct {
		system, available int
		log               string
		want              int
	}{
		{100 << 10, 60 << 10, log, 40<<10 + 7612 + 2036 + 2600},
		{100 << 10, 60 << 10, strings.ReplaceAll(log, "initrd", "other"), 0}, // that line was overwritten
		{100 << 10, 0, log, 0}, {0, 60 << 10, log, 0}, {100, 101, log, 0}, {100 << 10, 60 << 10, "", 0},
	} {
		if got := unpacking(tt.system, tt.available, strings.NewReader(tt.log)); got != tt.want {
			t.Errorf("%d KiB, %d available: %d, want %d", tt.system, tt.available, got, tt.want)
		}
	}
}

// Linux 6.1 with an image of 31 MiB, and 112 MiB reserved: 53780 KiB of it are the
// kernel's to give, and its root had room for 26.
func TestRooting(t *testing.T) {
	const system, limit = 115_316, 53_780 / 2
	for _, tt := range []struct{ system, limit, used, want int }{
		{system, limit, limit, system}, {system, limit, limit + 1, system + 2}, {system, limit, limit - 1024, system - 2048},
		{system, 0, 10, 0}, {0, limit, 10, 0}, {2 * limit, limit, 7, 14},
	} {
		if got := rooting(tt.system, tt.limit, tt.used); got != tt.want {
			t.Errorf("%d KiB, room for %d, %d used: %d, want %d", tt.system, tt.limit, tt.used, got, tt.want)
		}
	}
}

func TestSystemRAM(t *testing.T) {
	const iomem = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n0a000000-13ffffff : System RAM\n  0b000000-0bffffff : Kernel code\n" +
		"x-y : System RAM\n10-1 : System RAM\nfee00000-fee00fff : Local APIC\n"
	if got, want := systemRAM(strings.NewReader(iomem)), 0x9ec00>>10+160<<10; got != want {
		t.Errorf("%d KiB, want %d", got, want)
	}
}

func TestMeter(t *testing.T) {
	m := NewMeter()
	defer m.Stop()
	got := m.Memory(nil)
	if got.TotalKiB <= 0 || got.LeastAvailableKiB <= 0 || got.LeastAvailableKiB > got.TotalKiB || got.PeakKiB <= 0 {
		t.Errorf("%+v", got)
	}
	if got := m.Memory(&Memory{LeastAvailableKiB: 1, UnpackKiB: 7}); got.LeastAvailableKiB != 1 || got.UnpackKiB != 7 {
		t.Errorf("what others measured is lost: %+v", got)
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := example().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1,"attempts":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		_ = r.String()
		var again bytes.Buffer
		if err := r.Write(&again); err != nil {
			return // a year that JSON has no form for
		}
		if _, err := Read(&again); err != nil {
			t.Errorf("not read back: %v", err)
		}
	})
}
