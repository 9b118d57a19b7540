// Package config reads ukdump's configuration: kdump.conf and the kdump. words
// of a kernel command line.
//
// Start with Parse for the file and ApplyCmdline for the command line, which
// wins key by key. Neither fails: what is wrong comes back as Problems, and
// what is right is in the Config. Where a capture is prepared (mkinitramfs,
// kdumpctl load) any Problem should stop the work; where it runs, evidence
// goes first, and Problems are warnings.
//
// The package looks at the form of values only. What a target URL means is
// checked by pkg/targets, what the network words mean together by pkg/netcfg.
package config

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/cmdline"
)

// Config is one complete configuration. Its zero value is of no use: start
// from Default.
type Config struct {
	Targets       []string // URLs, tried in this order
	Level         int      // dump level 0-31, the bits of makedumpfile -d
	Compress      string   // zstd, snappy, zlib or none
	CompressLevel int      // of zstd, 1-22; 0: the fastest
	Format        string   // kdump, elf or flat
	Checksum      bool     // read the core back for its line in SHA256SUMS
	Reserve       uint64   // bytes that must stay free on the target
	Keep          int      // complete dumps to keep on the target; 0: all
	CrashLoop     Loop
	Final         Action // after a dump was saved
	Failure       Action // after none was

	Timeout        time.Duration // from the start of PID 1 to the reboot
	AttemptTimeout time.Duration // one target's attempt; what is left of Timeout if that is less
	NetTimeout     time.Duration // until the network to a target is up
	DeviceTimeout  time.Duration // until a target's device is there
	StallTimeout   time.Duration // that an attempt may stand still
	Watchdog       time.Duration // that the capture may stand still before it is reset, or one of the next two

	Pre, Post   []string      // hooks: absolute paths of programs in the image
	HookTimeout time.Duration // of each hook

	Workers    int      // compressing workers; 0: as many as CPUs are online
	Recipients []string // age public keys
	Notify     string   // syslog:, http: or https: URL
	Network    []Word   // dracut's network words, in the order given

	set map[string]string // key -> where it was set; never written in place
}

// Loop is what counts as a crash loop: more than Crashes within Minutes. Of those
// the first and the newest dump keep their cores. Without Crashes none is one.
type Loop struct{ Crashes, Minutes int }

// String is "5/60" or "off".
func (l Loop) String() string {
	if l.Crashes == 0 {
		return "off"
	}
	return fmt.Sprintf("%d/%d", l.Crashes, l.Minutes)
}

// Other values of Config.Watchdog.
const (
	WatchdogAuto time.Duration = 0  // armed where there is one; resets the machine only when PID 1 itself is stuck
	WatchdogOff  time.Duration = -1 // not touched
)

// Word is a word of a kernel command line.
type Word = cmdline.Word

// Words splits a kernel command line as the kernel does. Repeated keys stay.
func Words(line string) []Word { return cmdline.Words(line) }

// Action is what ends a capture.
type Action string

// The actions.
const (
	Reboot   Action = "reboot"
	Halt     Action = "halt"
	PowerOff Action = "poweroff"
	Shell    Action = "shell"
)

// Default is the configuration of an empty kdump.conf.
func Default() Config {
	return Config{
		Level:          31,
		Compress:       "zstd",
		Format:         "kdump",
		Checksum:       true,
		Reserve:        64 << 20,
		Keep:           5,
		CrashLoop:      Loop{Crashes: 5, Minutes: 60},
		Final:          Reboot,
		Failure:        Reboot,
		Timeout:        30 * time.Minute,
		AttemptTimeout: 20 * time.Minute,
		NetTimeout:     90 * time.Second,
		DeviceTimeout:  30 * time.Second,
		StallTimeout:   2 * time.Minute,
		HookTimeout:    30 * time.Second,
		Watchdog:       WatchdogAuto,
	}
}

// Problem is one thing wrong with a configuration. It is an error.
type Problem struct {
	Where string // "kdump.conf:7" or "command line"
	Key   string // as it was written
	Value string // as it was written, without passwords
	Msg   string // what is wrong
	Want  string // what would be right; may be empty
}

const onCmdline = "command line"

func (p Problem) Error() string {
	assign := " = "
	if p.Where == onCmdline {
		assign = "="
	}
	text := p.Where + ": "
	if p.Key != "" {
		text += p.Key
		if p.Value != "" {
			text += assign + p.Value
		}
		text += ": "
	}
	text += p.Msg
	if p.Want != "" {
		text += "; want " + p.Want
	}
	return text
}

// Where says which line set a key ("kdump.conf:7", "command line"), and ""
// where the default stands.
func (c Config) Where(key string) string { return c.set[key] }

// maxFile bounds what is read of a file; a real one has a few lines.
const maxFile = 64 << 10

// Parse reads a kdump.conf on top of the defaults. name is what Problems call
// the file.
func Parse(r io.Reader, name string) (Config, []Problem) {
	c := Default()
	p := newParser(&c)
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		p.problem(Problem{Where: name, Msg: "read: " + err.Error()})
	}
	if len(data) > maxFile {
		data = data[:maxFile]
		p.problem(Problem{Where: name, Msg: fmt.Sprintf("longer than %d bytes, the rest is not read", maxFile)})
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	line := 0
	for text := range strings.SplitSeq(text, "\n") {
		line++
		p.line(fmt.Sprintf("%s:%d", name, line), text)
	}
	p.finish()
	return c, p.problems
}

// ApplyCmdline puts the kdump. words and the network words of a kernel command
// line on top of c. A key that is given there replaces what c has of it: all
// targets, or all words ip=, not one of them. Other words, and those behind
// "--", are not looked at.
func (c *Config) ApplyCmdline(line string) []Problem {
	p := newParser(c)
	p.lastWins = true
	for _, w := range Words(line) {
		if w == (Word{Key: "--"}) {
			break
		}
		name, ours := strings.CutPrefix(w.Key, "kdump.")
		switch {
		case cmdline.IsNetwork(w.Key):
			p.network(onCmdline, w)
		case ours && name == netconfig:
			p.network(onCmdline, Word{Key: name, Value: w.Value, HasValue: true})
		case ours:
			name = strings.ReplaceAll(name, "_", "-") // the same letter to the kernel
			p.assign(onCmdline, w.Key, name, w.Value)
		}
	}
	p.finish()
	return p.problems
}

// A parser applies one source, a file or a command line, to a Config.
type parser struct {
	c        *Config
	keys     map[string]key
	lastWins bool              // a single key may be given again
	seen     map[string]string // key -> where, in this source
	problems []Problem
}

func newParser(c *Config) *parser {
	p := &parser{c: c, keys: make(map[string]key), seen: make(map[string]string)}
	for _, k := range keys() {
		p.keys[k.name] = k
	}
	c.set = maps.Clone(c.set)
	if c.set == nil {
		c.set = make(map[string]string)
	}
	return p
}

// maxProblems bounds what a file of garbage says on the capture's console.
const maxProblems = 50

func (p *parser) problem(pr Problem) {
	switch {
	case len(p.problems) > maxProblems:
		return
	case len(p.problems) == maxProblems:
		pr = Problem{Where: pr.Where, Msg: "more is wrong, from here on not listed"}
	}
	pr.Value = redactAny(pr.Value)
	p.problems = append(p.problems, pr)
}

// assign gives a key a value. written is the key as the user wrote it.
func (p *parser) assign(where, written, name, value string) {
	pr := Problem{Where: where, Key: written, Value: value}
	k, ok := p.keys[name]
	if !ok {
		pr.Msg = "unknown key"
		if speaksOfSecret(written) {
			pr.Value = hidden
		}
		if len(p.problems) < maxProblems {
			pr.Want = p.suggest(written)
		}
		p.problem(pr)
		return
	}
	pr.Want = k.want
	if pr.Msg = checkText(value); pr.Msg != "" {
		p.problem(pr)
		return
	}
	if before := p.seen[name]; before != "" && !k.repeat && !p.lastWins {
		p.problem(Problem{Where: where, Key: written, Value: value,
			Msg: "already set at " + before, Want: "one line with " + name})
	}
	next := *p.c
	if k.repeat && p.seen[name] == "" {
		k.clear(&next) // the first good value of a source, and only that, replaces
	}
	if pr.Msg = k.parse(&next, value); pr.Msg != "" {
		p.problem(pr)
		return
	}
	*p.c = next
	p.seen[name] = where
	p.c.set[name] = where
	if k.later {
		p.problem(Problem{Where: where, Key: written, Value: value, Msg: "not supported by this version"})
	}
}

// finish looks at what only makes sense together.
func (p *parser) finish() {
	c := p.c
	if c.set["timeout"] != "" && c.set["attempt-timeout"] != "" && c.AttemptTimeout > c.Timeout {
		p.problem(Problem{Where: c.set["attempt-timeout"], Key: "attempt-timeout", Value: formatDuration(c.AttemptTimeout),
			Msg:  "longer than timeout, which is " + formatDuration(c.Timeout),
			Want: "at most " + formatDuration(c.Timeout)})
	}
}

// suggest says what could have been meant by an unknown key.
func (p *parser) suggest(written string) string {
	guess := strings.ToLower(strings.ReplaceAll(written, "_", "-"))
	guess = strings.TrimPrefix(guess, "kdump.")
	if _, ok := p.keys[guess]; ok {
		return guess
	}
	if g, ok := p.keys[strings.TrimSuffix(guess, "s")]; ok {
		return g.name
	}
	var names []string
	for _, k := range keys() {
		names = append(names, k.name)
	}
	return "one of " + strings.Join(names, ", ") + ", or a network word"
}
