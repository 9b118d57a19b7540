package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

// noTarget is a configuration with which nothing can be saved.
const noTarget = "target = disk:///crash?dev=LABEL=NOSUCH\ndevice-timeout = 5s\n"

// testPowerOff: the machine is to stay off once the crash is saved.
func testPowerOff(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:  diskLine + "final = poweroff\n",
		crash: rig.Crash{Fill: true, Extra: hardware(), Down: poweredOff},
	})
	wantInOrder(t, res, "kdump-init: done: ", "next: poweroff", "reboot: Power down", "appliance: production is back")
	whole(t, l, res)
}

// testHalt: the machine is to stand still once the crash is saved, although a watchdog
// was armed. That of QEMU is stopped by the kernel too when the machine halts.
func testHalt(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{
		conf:  diskLine + "final = halt\nwatchdog = 10s\n",
		crash: rig.Crash{Fill: true, Extra: hardware(), Down: halted},
	})
	wantInOrder(t, res, "kdump-init: armed: watchdog0 (i6300ESB timer), timeout 10s", "kdump-init: done: ", "next: halt", "reboot: System halted", "appliance: production is back")
	whole(t, l, res)
}

// testFailurePowerOff and testFailureHalt: nothing could be saved. The kernel log is on the
// console before the machine goes down.
func testFailurePowerOff(t *testing.T, l *lab) {
	res := l.run(t, "6.12", setup{conf: noTarget + "failure = poweroff\n", crash: rig.Crash{Down: poweredOff}})
	wantInOrder(t, res, "appliance: crash", unique, "kdump-init: FAILED: ", "next: poweroff", "reboot: Power down", "appliance: production is back")
}

func testFailureHalt(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:  noTarget + "failure = halt\nwatchdog = 10s\n",
		crash: rig.Crash{Extra: hardware(), Down: halted},
	})
	wantInOrder(t, res, "appliance: crash", unique, "kdump-init: FAILED: ", "next: halt", "reboot: System halted", "appliance: production is back")
}

// whole checks the only dump.
func whole(t *testing.T, l *lab, res *rig.Result) {
	t.Helper()
	dir := oneDirectory(t, res)
	checkFiles(t, dir, "vmcore", "vmcore-dmesg.txt", "capture.log", "result.json", "SHA256SUMS")
	contains(t, dir, "vmcore-dmesg.txt", unique, "Kernel panic - not syncing: sysrq triggered crash")
	contains(t, dir, "result.json", `"saved": "all"`)
	l.verify(t, filepath.Join(dir, "vmcore"))
	checkDmesg(t, l, dir)
}

// wantInOrder fails the test unless the console said the texts one after the other; two
// may be in one line.
func wantInOrder(t *testing.T, res *rig.Result, texts ...string) {
	t.Helper()
	at := 0
	for _, text := range texts {
		for at < len(res.Lines) && !strings.Contains(res.Lines[at].Text, text) {
			at++
		}
	}
	if at < len(res.Lines) {
		return
	}
	for _, text := range texts {
		want(t, res, text)
	}
	t.Errorf("the console does not say these in this order: %q", texts)
}

// poweredOff waits until the machine has switched itself off. Anything else that the
// firmware is asked for comes first, if it comes.
func poweredOff(ctx context.Context, m *vm.Machine) error {
	q, err := m.Monitor(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	e, err := q.Event(ctx)
	if err != nil {
		return err
	}
	if e.Event != "SHUTDOWN" || !e.Data.Guest || e.Data.Reason != "guest-shutdown" {
		return fmt.Errorf("the machine did not switch itself off: %+v", e)
	}
	return m.Done(ctx)
}

// still is how long a machine that stands still is looked at: longer than the watchdogs
// here wait.
const still = 30 * time.Second

// halted waits until the machine stands still, and for some time after that.
func halted(ctx context.Context, m *vm.Machine) error {
	q, err := m.Monitor(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	if _, _, err := m.Wait(ctx, "reboot: System halted"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, still)
	defer cancel()
	e, err := q.Event(ctx)
	if err == nil {
		return fmt.Errorf("the machine does not stand still: %+v", e)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if lines := m.Lines(); !strings.Contains(lines[len(lines)-1].Text, "reboot: System halted") {
		return fmt.Errorf("after it halted the machine says: %s", lines[len(lines)-1].Text)
	}
	return nil
}

// testShell: where the crash cannot be saved a shell is asked for, but nobody is there.
func testShell(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:  noTarget + "failure = shell\ntimeout = 1m\n",
		crash: rig.Crash{Limit: 6 * time.Minute, Extra: hardware()},
	})
	want(t, res, "kdump-init: FAILED: ", "next: shell", "emergency shell; the machine reboots when it ends, or after 1m0s", "kdump-init: nothing saved in ")
}

// testShellUsed: somebody is there, and has job control. The machine reboots when the
// shell ends, long before its time is over.
func testShellUsed(t *testing.T, l *lab) {
	res := l.run(t, "6.1", setup{
		conf:  noTarget + "failure = shell\ntimeout = 30m\n",
		crash: rig.Crash{Extra: hardware(), Watch: typist},
	})
	wantInOrder(t, res, "kdump-init: FAILED: ", "emergency shell; the machine reboots when it ends, or after 30m0s", "alive-42", "reboot: Restarting system", "appliance: production is back")
	if line, ok := res.Said("there is no job control"); ok {
		t.Error(line)
	}
}

// typist waits for the shell and types; each answer is one that the echo of what was
// typed does not have.
func typist(ctx context.Context, m *vm.Machine) error {
	if _, _, err := m.Wait(ctx, "emergency shell; "); err != nil {
		return err
	}
	for _, step := range []struct{ keys, answer string }{
		{"echo alive-$((6*7))\r", "alive-42"},
		{"sleep 1000 &\r", "[1]"},
		{"echo front-$((1+1)); sleep 2000\r", "front-2"},
		{"\x03", ""}, // Ctrl-C ends that one and no other
		{"echo back-$((7*7))\r", "back-49"},
		{"jobs\r", "[1] running: sleep 1000"},
		{"kill %1; sleep 1\r", "[1] done: sleep 1000"},
		{"echo front-$((1+2)); cat\r", "front-3"},
		{"\x1a", "[1] stopped: cat"}, // Ctrl-Z
		{"fg\r", "cat"},
		{"through\r", "through"}, // as it is typed
		{"", "through"},          // as cat has it
		{"\x04", ""},             // Ctrl-D
		{"false\r", ""},
		{"exit\r", ""},
	} {
		if strings.HasPrefix(step.keys, "\x1a") || strings.HasPrefix(step.keys, "\x03") {
			time.Sleep(2 * time.Second) // the program starts after the answer
		}
		if err := m.Type(step.keys); err != nil {
			return err
		}
		if step.answer == "" {
			continue
		}
		if _, _, err := m.Wait(ctx, step.answer); err != nil {
			return err
		}
	}
	return nil
}
