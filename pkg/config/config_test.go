package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// visible is what a caller sees of c.
func visible(c Config) Config {
	c.set = nil
	return c
}

func parse(text string) (Config, []Problem) { return Parse(strings.NewReader(text), "kdump.conf") }

const complete = `# a comment
target = disk:///crash?dev=LABEL=CRASH
  target = nfs://server/export/crash?vers=4   # the second
level = 17
compress = zstd:3
format=flat
checksum = no
reserve = 1G
final = halt
failure = poweroff
timeout = 1h
attempt-timeout = 600
net-timeout = 1m30s
device-timeout = 5
workers = 2
`

func TestParse(t *testing.T) {
	got, problems := parse(complete)
	for _, p := range problems {
		t.Error(p)
	}
	want := Default()
	want.Targets = []string{"disk:///crash?dev=LABEL=CRASH", "nfs://server/export/crash?vers=4"}
	want.Level, want.Compress, want.CompressLevel, want.Format = 17, "zstd", 3, "flat"
	want.Checksum, want.Reserve, want.Final, want.Failure, want.Workers = false, 1<<30, Halt, PowerOff, 2
	want.Timeout, want.AttemptTimeout = time.Hour, 10*time.Minute
	want.NetTimeout, want.DeviceTimeout = 90*time.Second, 5*time.Second
	if !reflect.DeepEqual(visible(got), want) {
		t.Errorf("got %+v\nwant %+v", visible(got), want)
	}
	if w := got.Where("level"); w != "kdump.conf:4" {
		t.Errorf("level was set at %q", w)
	}
	if w := got.Where("keep"); w != "" {
		t.Errorf("keep was set at %q", w)
	}
}

func TestParseOfNothingIsDefault(t *testing.T) {
	for _, text := range []string{"", "\n", "\r\n#\r\n", "\ufeff# from an editor that marks its files\n", "#"} {
		got, problems := parse(text)
		if len(problems) != 0 || !reflect.DeepEqual(visible(got), Default()) {
			t.Errorf("%q: %+v %v", text, got, problems)
		}
	}
}

// Each line is wrong; the message names where, key, value and what would be
// right, and the default stands.
func TestProblems(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"level = 32", "kdump.conf:1: level = 32: out of range; want a number from 0 to 31"},
		{"level = -1", "kdump.conf:1: level = -1: out of range; want a number from 0 to 31"},
		{"level = all", "kdump.conf:1: level = all: not a number; want a number from 0 to 31"},
		{"level =", "kdump.conf:1: level: no value; want a number from 0 to 31"},
		{"level", "kdump.conf:1: level: not an assignment; want key = value"},
		{"= 3", "kdump.conf:1: = 3: not an assignment; want key = value"},
		{"Level = 3", "kdump.conf:1: Level = 3: unknown key; want level"},
		{"net_timeout = 3", "kdump.conf:1: net_timeout = 3: unknown key; want net-timeout"},
		{"kdump.level = 3", "kdump.conf:1: kdump.level = 3: unknown key; want level"},
		{"targets = x", "kdump.conf:1: targets = x: unknown key; want target"},
		{"target = /var/crash", "kdump.conf:1: target = /var/crash: not a URL; want a URL such as disk:///crash?dev=LABEL=CRASH"},
		{"target = 1://x", "kdump.conf:1: target = 1://x: not a URL; want a URL such as disk:///crash?dev=LABEL=CRASH"},
		{"compress = lzo", "kdump.conf:1: compress = lzo: unknown compression; want zstd, zstd:1 to zstd:22, snappy, zlib or none"},
		{"compress = zstd:23", "kdump.conf:1: compress = zstd:23: unknown level; want zstd, zstd:1 to zstd:22, snappy, zlib or none"},
		{"compress = zlib:3", "kdump.conf:1: compress = zlib:3: unknown level; want zstd, zstd:1 to zstd:22, snappy, zlib or none"},
		{"format = raw", "kdump.conf:1: format = raw: unknown format; want kdump, elf or flat"},
		{"reserve = 64MB", "kdump.conf:1: reserve = 64MB: not a size; want bytes, or a number with K, M, G or T"},
		{"reserve = 18446744073709551615K", "kdump.conf:1: reserve = 18446744073709551615K: not a size; want bytes, or a number with K, M, G or T"},
		{"final = restart", "kdump.conf:1: final = restart: unknown action; want reboot, halt, poweroff or shell"},
		{"timeout = 0", "kdump.conf:1: timeout = 0: out of range; want a time from 1s to 168h, such as 90, 90s, 15m or 1h30m"},
		{"watchdog = 3", "kdump.conf:1: watchdog = 3: out of range; want auto, off, or a time from 4s to 1h"},
		{"watchdog = 3601", "kdump.conf:1: watchdog = 3601: out of range; want auto, off, or a time from 4s to 1h"},
		{"watchdog = on", "kdump.conf:1: watchdog = on: not a time; want auto, off, or a time from 4s to 1h"},
		{"crash-loop = 1/60", "kdump.conf:1: crash-loop = 1/60: not a number of crashes and of minutes; want off, or CRASHES/MINUTES such as 5/60"},
		{"crash-loop = 5/0", "kdump.conf:1: crash-loop = 5/0: not a number of crashes and of minutes; want off, or CRASHES/MINUTES such as 5/60"},
		{"crash-loop = 5/10081", "kdump.conf:1: crash-loop = 5/10081: not a number of crashes and of minutes; want off, or CRASHES/MINUTES such as 5/60"},
		{"crash-loop = 5", "kdump.conf:1: crash-loop = 5: not a number of crashes and of minutes; want off, or CRASHES/MINUTES such as 5/60"},
		{"timeout = never", "kdump.conf:1: timeout = never: not a time; want a time from 1s to 168h, such as 90, 90s, 15m or 1h30m"},
		{"checksum = sha1", "kdump.conf:1: checksum = sha1: neither yes nor no; want yes or no"},
		{"workers = -1", "kdump.conf:1: workers = -1: out of range; want a number from 0 (one for each CPU) to 1024"},
		{`level = "3`, `kdump.conf:1: level = "3: no closing quote; want "value", with no quote inside`},
		{`level = "3" 4`, `kdump.conf:1: level = "3" 4: text behind the closing quote; want "value", with no quote inside`},
		{`level = 3"`, `kdump.conf:1: level = 3": a quote inside the value; want a number from 0 to 31`},
		{"level = 3\x1b[2J", "kdump.conf:1: level = 3?[2J: a control character inside the value; want a number from 0 to 31"},
		{"pre = hook.sh", "kdump.conf:1: pre = hook.sh: not an absolute path; want an absolute path"},
		{"recipient = AGE-SECRET-KEY-1", "kdump.conf:1: recipient = AGE-SECRET-KEY-1: not an age public key; want an age public key, age1..."},
		{"notify = mailto://a", "kdump.conf:1: notify = mailto://a: unknown scheme; want a URL with syslog:, http: or https:"},
	} {
		c, problems := parse(tt.line + "\n")
		if len(problems) != 1 || problems[0].Error() != tt.want {
			t.Errorf("%q: got %v\nwant %v", tt.line, problems, tt.want)
		}
		if !reflect.DeepEqual(visible(c), Default()) {
			t.Errorf("%q changed the configuration: %+v", tt.line, c)
		}
	}
}

func TestUnknownKeyListsAll(t *testing.T) {
	_, problems := parse("colour = red\n")
	if len(problems) != 1 {
		t.Fatal(problems)
	}
	for _, k := range keys() {
		if !strings.Contains(problems[0].Error(), k.name) {
			t.Errorf("%v does not name %s", problems[0], k.name)
		}
	}
}

func TestSameKeyTwice(t *testing.T) {
	c, problems := parse("level = 1\nformat = elf\nlevel = 3\n")
	want := "kdump.conf:3: level = 3: already set at kdump.conf:1; want one line with level"
	if len(problems) != 1 || problems[0].Error() != want || c.Level != 3 {
		t.Errorf("level %d, %v", c.Level, problems)
	}
}

func TestAttemptLongerThanAll(t *testing.T) {
	_, problems := parse("timeout = 10m\nattempt-timeout = 11m\n")
	want := "kdump.conf:2: attempt-timeout = 11m: longer than timeout, which is 10m; want at most 10m"
	if len(problems) != 1 || problems[0].Error() != want {
		t.Error(problems)
	}
	// The default of the one is no mistake in the other.
	if _, problems := parse("timeout = 10m\n"); len(problems) != 0 {
		t.Error(problems)
	}
}

// What the grammar has and nothing acts on is said, not passed over.
func TestNotSupportedYet(t *testing.T) {
	for _, line := range []string{
		"recipient = age1qqqq",
		"notify = syslog://loghost",
	} {
		c, problems := parse(line + "\n")
		want := "kdump.conf:1: " + line + ": not supported by this version"
		if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), want) {
			t.Errorf("%q: %v", line, problems)
		}
		if key, _, _ := strings.Cut(line, " "); c.Where(key) == "" {
			t.Errorf("%q is not in the configuration", line)
		}
	}
}

func TestLimits(t *testing.T) {
	c, problems := parse("level = 1\n" + strings.Repeat("#", maxFile) + "\nlevel = 2\n")
	if len(problems) != 1 || c.Level != 1 {
		t.Errorf("level %d, %v", c.Level, problems)
	}
	exact := "level = 1\n" + strings.Repeat("#", maxFile-len("level = 1\n"))
	if _, problems := parse(exact); len(problems) != 0 {
		t.Error(problems)
	}
	c, problems = Parse(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader("level = 1\n"))), "f")
	if len(problems) == 0 || !strings.Contains(problems[0].Error(), "f: read: timeout") {
		t.Errorf("%+v %v", c, problems)
	}
	_, problems = Parse(iotest.ErrReader(errors.New("input/output error")), "f")
	if len(problems) != 1 || problems[0].Error() != "f: read: input/output error" {
		t.Error(problems)
	}
}

func TestManyProblems(t *testing.T) {
	for _, n := range []int{maxProblems - 1, maxProblems, maxProblems + 1, 9000} {
		c, problems := parse(strings.Repeat("x=1\n", n) + "level = 3\n")
		if len(problems) != min(n, maxProblems+1) || c.Level != 3 {
			t.Error(n, len(problems), c.Level)
		}
		if last := problems[len(problems)-1].Error(); (n > maxProblems) != (last == "kdump.conf:51: more is wrong, from here on not listed") {
			t.Error(n, last)
		}
	}
}

func TestLongLists(t *testing.T) {
	for _, n := range []int{maxList, maxList + 1} {
		c, problems := parse(strings.Repeat("target = file:///a\n", n))
		if len(c.Targets) != maxList || len(problems) != n-maxList {
			t.Error(n, len(c.Targets), problems)
		}
	}
	c, problems := parse(strings.Repeat("ip=dhcp\n", maxNetwork+1))
	if len(c.Network) != maxNetwork || len(problems) == 0 {
		t.Error(len(c.Network), problems)
	}
}

func TestApplyCmdline(t *testing.T) {
	file, _ := parse("target = file:///a\ntarget = file:///b\nlevel = 1\nip = eth0:dhcp\nvlan = vlan5:eth0\n")
	for _, tt := range []struct {
		line     string
		change   func(c *Config)
		problems []string
	}{
		{"", func(c *Config) {}, nil},
		{"quiet root=/dev/sda1 target=file:///x kdump level=3", func(c *Config) {}, nil},
		{"kdump.level=3 kdump.level=7", func(c *Config) { c.Level = 7 }, nil},
		{"kdump.net_timeout=5", func(c *Config) { c.NetTimeout = 5 * time.Second }, nil},
		{`kdump.target="file:///a b" "kdump.target=file:///c d"`,
			func(c *Config) { c.Targets = []string{"file:///a b", "file:///c d"} }, nil},
		{"kdump.target=x kdump.level=5", func(c *Config) { c.Level = 5 },
			[]string{"command line: kdump.target=x: not a URL; want a URL such as disk:///crash?dev=LABEL=CRASH"}},
		{"kdump.level", func(c *Config) {}, []string{"command line: kdump.level: no value; want a number from 0 to 31"}},
		{"kdump.levle=3 -- kdump.level=4", func(c *Config) {}, []string{"command line: kdump.levle=3: unknown key; want one of "}},
		{"ip=eth1:dhcp ip=eth2:dhcp", func(c *Config) {
			c.Network = Words("vlan=vlan5:eth0 ip=eth1:dhcp ip=eth2:dhcp")
		}, nil},
		{"ip=eth1", func(c *Config) {}, []string{"command line: ip=eth1: unknown method eth1; want dhcp, "}},
		{"ip", func(c *Config) {}, []string{"command line: ip: no value; want dhcp, "}},
		{"kdump.netconfig=eth1:dhcp", func(c *Config) {
			c.Network = Words("ip=eth0:dhcp vlan=vlan5:eth0 netconfig=eth1:dhcp")
		}, nil},
		{"netconfig=eth1:dhcp", func(c *Config) {}, nil},
	} {
		want := visible(file)
		tt.change(&want)
		got := file
		problems := got.ApplyCmdline(tt.line)
		if !reflect.DeepEqual(visible(got), want) {
			t.Errorf("%q: got %+v\nwant %+v", tt.line, got, want)
		}
		if len(problems) != len(tt.problems) {
			t.Errorf("%q: %v", tt.line, problems)
			continue
		}
		for i, p := range problems {
			if !strings.HasPrefix(p.Error(), tt.problems[i]) {
				t.Errorf("%q: %v\nwant %v", tt.line, p, tt.problems[i])
			}
		}
	}
	if again, _ := parse("target = file:///a\ntarget = file:///b\nlevel = 1\nip = eth0:dhcp\nvlan = vlan5:eth0\n"); !reflect.DeepEqual(file, again) {
		t.Error("ApplyCmdline on a copy changed the original")
	}
}

// A network word is kept if it is right; the message of another names its line.
func TestNetworkWords(t *testing.T) {
	c, problems := parse("ip = eth0:dhcp\nnetconfig = auto\nrd.route = \"10.1.0.0/16:10.0.0.1\" # x\n")
	want := Words("ip=eth0:dhcp netconfig=auto rd.route=10.1.0.0/16:10.0.0.1")
	if len(problems) != 0 || !reflect.DeepEqual(c.Network, want) {
		t.Errorf("%v, %v", c.Network, problems)
	}
	for line, want := range map[string]string{
		"vlan = vlan:eth0":          "kdump.conf:1: vlan = vlan:eth0: vlan does not end in a VLAN id from 1 to 4094; want NAME:PHY, ",
		"nameserver = dns":          "kdump.conf:1: nameserver = dns: not an address; want an IP address",
		"rd.net.timeout.route = 5":  "kdump.conf:1: rd.net.timeout.route = 5: unknown network word; want ip, vlan, ",
		"ip = \"eth0:dhcp eth1\"":   "kdump.conf:1: ip = eth0:dhcp eth1: unknown method dhcp eth1; want dhcp, ",
		"bond = bond0:eth0:x\x1b=1": "kdump.conf:1: bond = bond0:eth0:x?=1: a control character inside the value; want NAME",
	} {
		c, problems := parse(line)
		if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), want) || len(c.Network) != 0 {
			t.Errorf("%s: %v %v", line, c.Network, problems)
		}
	}
}

func TestRedact(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"disk:///crash?dev=LABEL=CRASH", "disk:///crash?dev=LABEL=CRASH"},
		{"sftp://user@host:22/path", "sftp://user@host:22/path"},
		{"cifs://user:secret@host/share", "cifs://user:xxxxx@host/share"},
		{"cifs://user:se/cr@t@host/share", "cifs://user:xxxxx@host/share"},
		{"cifs://host/share?user=a&password=secret&vers=3", "cifs://host/share?user=a&password=xxxxx&vers=3"},
		{"https://hooks.example/services/T0/B0/secret", "https://hooks.example/xxxxx"},
		{"https://u:secret@h?token=secret", "https://h/xxxxx"},
		{"not a URL", "not a URL"},
		{"ftp:/crash:hunter2@h/d", "ftp:xxxxx@h/d"},
		{"ftp//crash:hunter2@h/d", "ftp//crash:xxxxx@h/d"},
		{"cifs:/h/share?password=hunter2&vers=3", "cifs:/h/share?password=xxxxx&vers=3"},
		{"10.0.0.2::10.0.0.1:24::eth0:none", "10.0.0.2::10.0.0.1:24::eth0:none"},
		{"ops@example.org", "ops@example.org"},
	} {
		if got := Redact(tt.url); got != tt.want {
			t.Errorf("Redact(%q) = %q, want %q", tt.url, got, tt.want)
		}
	}
	// The message of a mistake beside a password does not give it away.
	for _, text := range []string{"notify = ftp://u:hunter2@host/x", "target = ftp:/crash:hunter2@h/d", "password = hunter2", "smb-passwd = \"hunter2",
		"SFTP_PASS = hunter2 # comment", "target ftp://crash:hunter2@h/d", "password hunter2", "password: hunter2"} {
		_, problems := parse(text + "\n")
		if len(problems) != 1 || strings.Contains(problems[0].Error(), "hunter2") {
			t.Error(text, problems)
		}
		c := Default()
		problems = c.ApplyCmdline("kdump." + strings.ReplaceAll(text, " = ", "="))
		for _, p := range problems {
			if strings.Contains(p.Error(), "hunter2") {
				t.Error(text, p)
			}
		}
	}
	// What is no secret stays: it shows the mistake.
	_, problems := parse("levle = 3\nkeep 3\n")
	if len(problems) != 2 || problems[0].Value != "3" || problems[1].Key != "keep 3" {
		t.Error(problems)
	}
}

// It is a mistake only of who sets both: with the defaults each of them alone may be
// the longer, and an attempt has what is left of timeout.
func TestOneTimeoutAlone(t *testing.T) {
	for _, text := range []string{"attempt-timeout = 40m\n", "timeout = 10m\n"} {
		if c, problems := parse(text); len(problems) > 0 || c.AttemptTimeout <= c.Timeout {
			t.Error(text, problems)
		}
	}
}

func TestSizeAndDurationReadBack(t *testing.T) {
	for _, n := range []uint64{0, 1, 1023, 1024, 1025, 64 << 20, 1 << 40, 1<<50 + 1<<40, 1<<64 - 1} {
		if got, ok := ParseSize(FormatSize(n)); !ok || got != n {
			t.Errorf("%d is written %s, read %d %v", n, FormatSize(n), got, ok)
		}
	}
	if n, ok := ParseSize("16777215t"); !ok || n != 16777215<<40 {
		t.Error("the largest number of T:", n, ok)
	}
	if _, ok := ParseSize("16777216T"); ok {
		t.Error("1<<64 was taken")
	}
	for _, d := range []time.Duration{minTimeout, 90 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 20 * time.Hour, 90 * time.Minute, maxTimeout, 1500 * time.Millisecond} {
		if got, msg := parseDuration(formatDuration(d)); msg != "" || got != d {
			t.Errorf("%v is written %s, read %v %s", d, formatDuration(d), got, msg)
		}
	}
}

func TestCanonical(t *testing.T) {
	c, _ := parse(complete)
	want := `target = disk:///crash?dev=LABEL=CRASH
target = nfs://server/export/crash?vers=4
level = 17
compress = zstd:3
format = flat
checksum = no
reserve = 1G
final = halt
failure = poweroff
timeout = 1h
attempt-timeout = 10m
net-timeout = 1m30s
device-timeout = 5s
workers = 2
`
	want = strings.Replace(want, "net-timeout = 1m30s\n", "", 1) // the default
	if got := c.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func readsBack(t *testing.T, c Config) {
	t.Helper()
	text := c.String()
	again, _ := parse(text)
	if !reflect.DeepEqual(visible(again), visible(c)) {
		t.Fatalf("canonical text\n%sreads back as %+v\nwant %+v", text, visible(again), visible(c))
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{complete, `target = "file:///a # b"`, "ip = \"eth0:dhcp # x\"", "level = 3\rx", "notify=http://a@b/c?d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, problems := parse(text)
		for _, p := range problems {
			_ = p.Error()
		}
		if len(text) <= maxFile/2 {
			readsBack(t, c)
		}
	})
}

func FuzzApplyCmdline(f *testing.F) {
	for _, s := range []string{`kdump.target="file:///a b" kdump.level=1 ip=dhcp -- kdump.keep=1`, `kdump.target="`, "kdump.=", "kdump.timeout=1h kdump.attempt_timeout=2h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, _ := parse(complete)
		for _, p := range c.ApplyCmdline(line) {
			_ = p.Error()
		}
		if len(line) <= maxFile/2 {
			readsBack(t, c)
		}
	})
}
