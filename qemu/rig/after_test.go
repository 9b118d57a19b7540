package rig

import (
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/vm"
)

func TestTimeline(t *testing.T) {
	lines := []vm.Line{
		{At: 1 * time.Second, Text: "[    0.000000] Linux version 6.1"}, // of the first production
		{At: 5 * time.Second, Text: "[    9.1] sysrq: Trigger a crash"},
		{At: 6 * time.Second, Text: "[    0.000000] Linux version 6.1"},
		{At: 8 * time.Second, Text: "[    2.1] Run /init as init process"},
		{At: 9 * time.Second, Text: "[    3.0] reboot: Restarting system"}, // nothing was saved
		{At: 10 * time.Second, Text: "[    0.000000] Linux version 6.1"},
		{At: 12 * time.Second, Text: "[    2.0] appliance: production is back"},
	}
	got := Timeline(lines)
	for name, at := range map[string]time.Duration{
		"panic": 0, "capture kernel": time.Second, "its init": 3 * time.Second, "reboot": 4 * time.Second,
		"production kernel": 5 * time.Second, "production back": 7 * time.Second,
	} {
		if m, ok := Find(got, name); !ok || m.At != at {
			t.Errorf("%s: %v %v, want %v", name, m.At, ok, at)
		}
	}
	if _, ok := Find(got, "core saved"); ok || len(got) != 6 {
		t.Errorf("steps that were not reached: %v", got)
	}
	if got := Timeline(lines[:1]); got != nil {
		t.Errorf("without a panic: %v, want none", got)
	}
}
