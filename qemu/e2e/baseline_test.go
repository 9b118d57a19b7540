package e2e

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/baseline"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
)

// TestBaseline makes sure that what ukdump is measured against works at all.
func TestBaseline(t *testing.T) {
	r, err := rig.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	k, err := r.Kernel("6.1")
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "baseline.cpio.zst")
	a, err := baseline.Image(filepath.Join(r.Cache, "tools"), "-l -d 31")
	if err != nil {
		t.Fatal(err)
	}
	if err := baseline.Write(image, a); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target.img")
	if err := disk.Format(ctx, target, 1<<30, disk.FS{Type: "ext4"}); err != nil {
		t.Fatal(err)
	}
	res, err := r.Run(ctx, rig.Crash{Name: "baseline", Kernel: k, Capture: image, Load: "self", Fill: true, Target: &rig.Target{Path: target}})
	if err != nil {
		t.Fatalf("%v\n%s", err, res.Tail(30))
	}
	for _, m := range rig.Timeline(res.Lines) {
		t.Logf("%7.2f s %s", m.At.Seconds(), m.Name)
	}
}
