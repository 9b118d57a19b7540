package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/config"
)

func TestPlan(t *testing.T) {
	cfg := config.Default()
	cfg.Targets = []string{"disk:///a?dev=LABEL=A&fstype=xfs", "file:///b"}
	cfg.Level, cfg.Compress, cfg.CompressLevel = 17, "zstd", 3
	got := plan(cfg, "0x9000000")
	if len(got) != 3 {
		t.Fatalf("%d attempts, want one for each target and the console", len(got))
	}
	want := "/bbin/savecore -kmsg -elfcorehdr 0x9000000 -level 17 -compress zstd:3 -format kdump -reserve 64M -keep 5 -crash-loop 5/60 -workers 0 " +
		"-checksum=true -target-timeout 30s -stall-timeout 2m0s -mount /mnt 'disk:///a?dev=LABEL=A&fstype=xfs'"
	if got[0].String() != want {
		t.Errorf("first attempt:\n%s\nwant\n%s", got[0], want)
	}
	for i, a := range got {
		if a.timeout <= 0 {
			t.Errorf("attempt %d has no deadline", i)
		}
		if a.console() != (i == 2) {
			t.Errorf("attempt %d: console() is %v", i, a.console())
		}
	}
	if last := got[2].String(); last != "/bbin/savecore -kmsg -elfcorehdr 0x9000000 -" {
		t.Errorf("last resort: %s", last)
	}
}

// What goes to a disk besides leaves the attempt itself alone.
func TestLogOnly(t *testing.T) {
	cfg := config.Default()
	cfg.Targets = []string{"nfs://h/x", "disk:///a?dev=LABEL=A"}
	list := plan(cfg, "")
	if !list[0].network() || list[1].network() || list[2].network() {
		t.Errorf("network: %v %v %v", list[0].network(), list[1].network(), list[2].network())
	}
	before := list[1].String()
	if got, want := list[1].logOnly().String(), strings.Replace(before, "savecore", "savecore -log-only", 1); got != want || list[1].String() != before {
		t.Errorf("got %s\nwant %s\nleft %s", got, want, list[1])
	}
}

// The kernel log is on a disk before a server gets the long core, and a disk that is
// not there does not keep the server waiting.
func TestLogFirst(t *testing.T) {
	for _, tt := range []struct {
		targets []string
		first   string // target of that attempt, "": there is none
	}{
		{nil, ""},
		{[]string{"nfs://h/x"}, ""},
		{[]string{"disk:///a?dev=LABEL=A"}, ""},
		{[]string{"disk:///a?dev=LABEL=A", "nfs://h/x"}, ""},
		{[]string{"nfs://h/x", "disk:///a?dev=LABEL=A"}, "disk:///a?dev=LABEL=A"},
		{[]string{"nfs://h/x", "nfs://h/y", "disk:///a?dev=LABEL=A", "disk:///b?dev=LABEL=A"}, "disk:///a?dev=LABEL=A"},
	} {
		cfg := config.Default()
		cfg.Targets = tt.targets
		list := plan(cfg, "")
		a, ok := logFirst(list)
		if ok != (tt.first != "") {
			t.Errorf("%q: the log first: %v", tt.targets, ok)
		}
		if !ok {
			continue
		}
		if text := a.String(); a.target() != tt.first || a.timeout != logFirstTimeout || !strings.Contains(text, " -log-only ") || !strings.Contains(text, " -target-timeout 5s ") {
			t.Errorf("%q: first attempt %s, want -log-only and a short -target-timeout", tt.targets, text)
		}
		for _, b := range list {
			if strings.Contains(b.String(), "-log-only") || strings.Contains(b.String(), "-target-timeout 5s") {
				t.Errorf("%q: the first attempt has changed %s", tt.targets, b)
			}
		}
	}
}

// Attempts share the start of their argv: one must not write into another's.
func TestPlanAttemptsDoNotShareRoom(t *testing.T) {
	cfg := config.Default()
	cfg.Targets = []string{"file:///a", "file:///b", "file:///c"}
	for i, a := range plan(cfg, "")[:3] {
		if want := cfg.Targets[i]; a.argv[len(a.argv)-1] != want {
			t.Errorf("attempt %d goes to %s, want %s", i, a.argv[len(a.argv)-1], want)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "plain-1.2_/:=@%+,": "plain-1.2_/:=@%+,", "a b": "'a b'", "it's": `'it'\''s'`, "a&b": "'a&b'", "$x": "'$x'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestRunShowsThePlan(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	for name, text := range map[string]string{good: "target = file:///a\n", bad: "target = file:///a\nlevel = 99\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		out    string
		errs   string
	}{
		{"good", []string{"-n", "-config", good}, 0, " file:///a\n", ""},
		{"command line wins", []string{"-n", "-config", good, "-cmdline", "quiet kdump.target=file:///b"}, 0, " file:///b\n", ""},
		{"a mistake, and what is right counts", []string{"-n", "-config", bad}, 1, "-level 31 ", bad + ":2: level = 99: out of range; want a number from 0 to 31"},
		{"no file", []string{"-n", "-config", filepath.Join(dir, "none")}, 1, "", "none: no such file"},
		{"not as PID 1", nil, 2, "", "Usage: kdump-init -n"},
		{"a word too many", []string{"-n", "x"}, 2, "", "Usage: kdump-init -n"},
		{"help", []string{"-h"}, 0, "", "Usage: kdump-init -n"},
	} {
		var out, errs bytes.Buffer
		if got := run(tt.args, &out, &errs); got != tt.status {
			t.Errorf("%s: exit status %d, want %d", tt.name, got, tt.status)
		}
		if !strings.Contains(out.String(), tt.out) || !strings.Contains(errs.String(), tt.errs) {
			t.Errorf("%s: printed %q and complained %q", tt.name, &out, &errs)
		}
	}
}

// The console tells why a target was given up, and not only a number.
func TestWhyNot(t *testing.T) {
	a := attempt{argv: []string{savecorePath, "sftp://h/x"}}
	if got := whyNot(&result.Result{}, a, 1); got != "savecore: exit status 1" {
		t.Errorf("without a result: %q", got)
	}
	r := &result.Result{Attempts: []result.Attempt{{Target: "sftp://h/x", Error: "open sftp://h/x: no route\nno cable"}}}
	if got := whyNot(r, a, 1); got != "open it: no route; no cable" {
		t.Errorf("with one: %q", got)
	}
	a.argv[1] = "disk:///x?dev=/dev/vda"
	if got := whyNot(r, a, 3); got != "savecore: exit status 3" {
		t.Errorf("with that of another target: %q", got)
	}
}

// Who has only the log learns where the core went, or how it was lost.
func TestWhoIsTold(t *testing.T) {
	const a, b, nfs, sftp = "disk:///a?dev=LABEL=A", "disk:///b?dev=LABEL=B", "nfs://h/x", "sftp://u@h/y?key=/k&known_hosts=/h"
	for _, tt := range []struct {
		targets       []string
		log           string // the target that has it
		saved         int    // the attempt that has everything, -1: none
		behind, knows string
	}{
		{[]string{a}, a, -1, "", a},
		{[]string{a}, "", -1, "", a}, // to try it again costs a minute at most
		{[]string{nfs}, "", -1, "", ""},
		{[]string{nfs}, nfs, -1, "", nfs},
		{[]string{nfs, a}, a, 0, a, a},
		{[]string{nfs, a}, "", 0, a, a},
		{[]string{a, nfs}, a, 1, a, a},
		{[]string{a, nfs}, "", 1, "", a}, // that disk took nothing
		{[]string{a, nfs, b}, "", 1, b, a},
		{[]string{a, b}, a, 1, a, a},
		{[]string{a, b}, "", 1, "", a},
		{[]string{nfs, sftp, b}, b, 2, "", b},
	} {
		cfg := config.Default()
		cfg.Targets = tt.targets
		list := plan(cfg, "")
		r := &result.Result{Saved: result.SavedNothing}
		if tt.log != "" {
			r.Saved, r.Target = result.SavedLog, tt.log
			r.Attempts = []result.Attempt{{Target: tt.log, Saved: result.SavedLog}}
		}
		is := func(a attempt, ok bool) string {
			if !ok {
				return ""
			}
			return a.target()
		}
		if got := is(witness(list, r)); got != tt.knows {
			t.Errorf("%q, log on %q, nothing more: told %q, want %q", tt.targets, tt.log, got, tt.knows)
		}
		if tt.saved < 0 {
			continue
		}
		if got := is(behind(list, tt.saved, r)); got != tt.behind {
			t.Errorf("%q, log on %q, all by %d: told %q, want %q", tt.targets, tt.log, tt.saved, got, tt.behind)
		}
	}
}

// The plan shows hooks, and that the kernel log goes to the local disk before servers
// are tried. Every line that is no comment is one that a shell takes.
func TestShow(t *testing.T) {
	cfg := config.Default()
	cfg.Targets = []string{"nfs://h/x", "sftp://u@h/y?key=/k&known_hosts=/h", "disk:///a?dev=LABEL=A&fstype=xfs"}
	cfg.Pre, cfg.Post, cfg.Failure = []string{"/bin/blink it"}, []string{"/bin/tell"}, config.Shell
	var out bytes.Buffer
	show(&out, cfg)
	var lines []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	want := []string{"'/bin/blink it'", "/bbin/savecore -log-only * -target-timeout 5s *disk:*'", "/bbin/savecore -kmsg * nfs://h/x",
		"/bbin/savecore -kmsg * 'sftp://u@h/y?*'", "/bbin/savecore -kmsg * -target-timeout 30s *disk:*", "/bbin/savecore -kmsg -",
		"/bbin/savecore -log-only * -target-timeout *disk:*'", "/bin/tell"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), &out)
	}
	for i, w := range want {
		rest := lines[i]
		for _, part := range strings.Split(w, "*") {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				t.Errorf("line %d: %s\nwant %s", i+1, lines[i], w)
				break
			}
			rest = after
		}
	}
	if !strings.Contains(out.String(), "# then reboot, and if the core was not saved shell") {
		t.Errorf("no end:\n%s", &out)
	}
}
