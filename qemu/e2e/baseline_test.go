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

// testBaseline makes sure that what ukdump is measured against works at all.
func testBaseline(t *testing.T, l *lab) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	k, err := l.Kernel("6.1")
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "baseline.cpio.zst")
	a, err := baseline.Image(filepath.Join(l.Cache, "tools"), "-l -d 31")
	if err != nil {
		t.Fatal(err)
	}
	if err := rig.Overlay(image, "", a); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target.img")
	if err := disk.Format(ctx, target, 1<<30, disk.FS{Type: "ext4"}); err != nil {
		t.Fatal(err)
	}
	res, err := l.Run(ctx, rig.Crash{Name: "baseline", Kernel: k, Capture: image, Load: "self", Fill: true, Target: &rig.Target{Path: target}})
	if err != nil {
		t.Fatalf("%v\n%s", err, res.Tail(30))
	}
	want(t, res, "baseline: saved", "appliance: production is back")
}
