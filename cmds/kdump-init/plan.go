package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/targets"
)

// savecorePath is where gobusybox puts the command.
const savecorePath = "/bbin/savecore"

// mountDir is where an attempt mounts a disk.
const mountDir = "/mnt"

// attempt is one run of savecore, or of a hook. Its argv can be pasted into a shell.
type attempt struct {
	argv    []string
	timeout time.Duration
	hook    string   // "pre" or "post"; "": savecore
	env     []string // of a hook, besides what all have
}

func (a attempt) String() string {
	words := make([]string, len(a.argv))
	for i, w := range a.argv {
		words[i] = quote(w)
	}
	return strings.Join(words, " ")
}

// console says whether this is the last resort, the kernel log on the consoles.
func (a attempt) console() bool { return a.argv[len(a.argv)-1] == "-" }

// network says whether its target is on a server.
func (a attempt) network() bool {
	spec, err := targets.Parse(a.argv[len(a.argv)-1])
	return err == nil && spec.Network()
}

// local says whether its target is on this machine.
func (a attempt) local() bool {
	spec, err := targets.Parse(a.argv[len(a.argv)-1])
	return err == nil && !spec.Network()
}

// logOnly is the same attempt without the core.
func (a attempt) logOnly() attempt {
	a.argv = slices.Insert(slices.Clone(a.argv), 1, "-log-only")
	return a
}

// soon is the same attempt with a short time for all of it and for its target.
func (a attempt) soon(all, target time.Duration) attempt {
	a.argv, a.timeout = slices.Clone(a.argv), all
	if i := slices.Index(a.argv, targetTimeoutFlag) + 1; i > 0 {
		if d, err := time.ParseDuration(a.argv[i]); err != nil || d > target {
			a.argv[i] = target.String()
		}
	}
	return a
}

// target is where it goes, without secrets.
func (a attempt) target() string { return targets.Redacted(a.argv[len(a.argv)-1]) }

// redacted is String without secrets, for logs.
func (a attempt) redacted() string {
	argv := append(slices.Clone(a.argv[:len(a.argv)-1]), a.target())
	return attempt{argv: argv}.String()
}

// plan lists the attempts in order: each target of the configuration, and at last
// the console, which can always take the kernel log.
func plan(cfg config.Config, elfcorehdr string) []attempt {
	var list []attempt
	common := []string{savecorePath, "-kmsg"}
	if elfcorehdr != "" {
		common = append(common, "-elfcorehdr", elfcorehdr)
	}
	compress := cfg.Compress
	if cfg.CompressLevel != 0 {
		compress += ":" + strconv.Itoa(cfg.CompressLevel)
	}
	for _, target := range cfg.Targets {
		argv := append(common[:len(common):len(common)],
			"-level", strconv.Itoa(cfg.Level), "-compress", compress, "-format", cfg.Format,
			"-reserve", config.FormatSize(cfg.Reserve), "-keep", strconv.Itoa(cfg.Keep), "-crash-loop", cfg.CrashLoop.String(), "-workers", strconv.Itoa(cfg.Workers),
			"-checksum="+strconv.FormatBool(cfg.Checksum), targetTimeoutFlag, targetTimeout(cfg, target).String(), "-stall-timeout", cfg.StallTimeout.String(), "-mount", mountDir)
		if words := networkWords(cfg, target); words != "" {
			argv = append(argv, "-network", words)
		}
		argv = append(argv, target)
		list = append(list, attempt{argv: argv, timeout: cfg.AttemptTimeout})
	}
	return append(list, attempt{argv: append(common[:len(common):len(common)], "-"), timeout: cfg.Timeout})
}

const targetTimeoutFlag = "-target-timeout"

// The kernel log goes to the first disk behind servers before anything goes to
// these: it must not depend on them. That takes a second or two.
const (
	logFirstTimeout = 30 * time.Second
	logFirstWait    = 5 * time.Second // for the disk to appear
)

// logFirst is that attempt; it is not needed where a disk comes first.
func logFirst(list []attempt) (a attempt, ok bool) {
	if !list[0].network() {
		return a, false
	}
	a, ok = firstLocal(list)
	return a.logOnly().soon(logFirstTimeout, logFirstWait), ok
}

// firstLocal is the first attempt of list whose target is on this machine.
func firstLocal(list []attempt) (a attempt, ok bool) {
	i := slices.IndexFunc(list, attempt.local)
	if i < 0 {
		return attempt{argv: []string{savecorePath}}, false
	}
	return list[i], true
}

// consoleReserve is kept for the last resort, which may take all that is left: a
// serial line at 9600 baud takes two minutes for a log of 128 KiB.
const consoleReserve = 3 * time.Minute

// networkWords are those that a target's network is brought up with.
func networkWords(cfg config.Config, target string) string {
	spec, err := targets.Parse(target)
	switch {
	case err != nil || !spec.Network():
		return ""
	case len(cfg.Network) == 0:
		return "auto"
	}
	return cmdline.Join(cfg.Network)
}

// targetTimeout is how long a target may take to appear.
func targetTimeout(cfg config.Config, target string) time.Duration {
	if strings.HasPrefix(target, "disk:") || strings.HasPrefix(target, "raw:") || strings.HasPrefix(target, "file:") {
		return cfg.DeviceTimeout
	}
	return cfg.NetTimeout
}

// quote makes one word of s for a shell.
func quote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return fmt.Sprintf("'%s'", strings.ReplaceAll(s, "'", `'\''`))
}
