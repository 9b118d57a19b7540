package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
)

// hardware is the watchdog that QEMU has on any machine; its reset is the machine's.
func hardware() []string { return []string{"-device", "i6300esb", "-action", "watchdog=reset"} }

// testWatchdogBites: savecore is stopped in mid write, and what is configured is a
// sooner return than PID 1's patience: the watchdog resets the machine.
func testWatchdogBites(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{
		conf:     "target = disk:///crash?dev=LABEL=CRASH\nwatchdog = 10s\n",
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.stop=savecore:2097152", Extra: hardware()},
	})
	want(t, res, "kdump-init: armed: watchdog0 (i6300ESB timer), timeout 10s", "saboteur: stops savecore: <nil>")
	bitten(t, res)
}

// testSoftdog: the same with the kernel's watchdog in software, which an image has
// if it is asked for.
func testSoftdog(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{
		conf:     "target = disk:///crash?dev=LABEL=CRASH\nwatchdog = 10s\n",
		flags:    []string{"-add-modules", "softdog"},
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.stop=savecore:2097152"},
	})
	want(t, res, "kdump-init: armed: watchdog0 (Software Watchdog), timeout 10s", "softdog: Initiating system reboot")
	bitten(t, res)
}

// bitten checks that the machine was reset while savecore was stopped, and not by
// us, and what the target holds then.
func bitten(t *testing.T, res *rig.Result) {
	t.Helper()
	for _, text := range []string{"kdump-init: done: ", "kdump-init: FAILED: ", "nothing moved for"} {
		if line, ok := res.Said(text); ok {
			t.Errorf("PID 1 ended it: %s", line)
		}
	}
	var stopped, back time.Duration
	for _, line := range res.Lines {
		switch {
		case strings.Contains(line.Text, "saboteur: stops savecore"):
			stopped = line.At
		case stopped > 0 && back == 0 && strings.Contains(line.Text, "Linux version"):
			back = line.At
		}
	}
	if took := back - stopped; stopped == 0 || took < 5*time.Second || took > 2*time.Minute { // a busy host is slow, and the last feeding some time before
		t.Errorf("the next kernel came %s after savecore was stopped, want 10 s and some", took)
	} else {
		t.Logf("reset, and the next kernel up, %s after savecore was stopped", took)
	}
	dir := oneDirectory(t, res)
	got := strings.Join(files(t, dir), " ")
	if !strings.Contains(got, "vmcore-incomplete") || strings.Contains(got+" ", "vmcore ") {
		t.Errorf("files: %s, want vmcore-incomplete and no vmcore", got)
	}
	contains(t, dir, "vmcore-dmesg.txt", unique)
}

// testWatchdogWaits: production had the watchdog armed, to bite a minute later, and
// savecore takes that much longer than usual, 4 s at a time. Nobody is reset.
func testWatchdogWaits(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{
		conf:     "target = disk:///crash?dev=LABEL=CRASH\nwatchdog = 10s\ncompress = none\n", // enough to write for all the stops
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.slow=savecore:2097152", Words: "appliance.watchdog=60", Extra: hardware()},
	})
	want(t, res, "appliance: armed: watchdog0 (i6300ESB timer), timeout 1m0s", "kdump-init: armed: watchdog0 (i6300ESB timer), timeout 10s",
		"saboteur: slows savecore: <nil>", "kdump-init: done: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
}

// testStall: the first attempt stands still in mid write. PID 1 ends it and has the
// dump taken by the second target, with an armed watchdog looking on. A hook that is
// not there costs nothing, and the others run.
func testStall(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{
		conf: "target = disk:///first?dev=LABEL=CRASH\ntarget = disk:///crash?dev=LABEL=CRASH\nstall-timeout = 20s\n" +
			"pre = /bbin/none\npre = /bbin/ps\npost = /bbin/df\nhook-timeout = 30s\n",
		programs: []string{"./saboteur"},
		crash:    rig.Crash{Fill: true, Append: "saboteur.stop=savecore:2097152", Extra: hardware()},
	})
	want(t, res, "kdump-init: armed: watchdog0 (i6300ESB timer), timeout 1m0s", "kdump-init: done: ",
		"pre hooks: pre /bbin/none: start /bbin/none: no such file", "kdump-init: pre /bbin/ps: ", "kdump-init: post /bbin/df: ")
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	stall := found(t, res, `kdump-init: (nothing moved for 2\ds), told to end`)
	contains(t, dir, "capture.log", stall)
	contains(t, dir, "result.json", `"error": "`+stall+`, killed"`, `"saved": "all"`, `"savecore_peak_kib"`)
	contains(t, dir, "capture.log", "crashkernel=", "M would do")
}
