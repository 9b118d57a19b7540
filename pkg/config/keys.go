package config

import (
	"strconv"
	"strings"
	"time"
)

// A key of the configuration. A new one is a line in keys and a field in
// Config.
type key struct {
	name   string
	want   string // what a right value is, for Problems
	repeat bool
	later  bool                                 // checked, but nothing acts on it yet
	parse  func(c *Config, value string) string // sets or appends; says what is wrong with value
	print  func(c *Config) []string             // canonical values, exactly one unless repeat
	clear  func(c *Config)                      // of repeat keys
}

// keys is the table of all keys, in the order in which they are printed.
func keys() []key {
	return []key{
		listKey("target", "a URL such as disk:///crash?dev=LABEL=CRASH", checkTarget,
			func(c *Config) *[]string { return &c.Targets }),
		intKey("level", "a number from 0 to 31", 0, 31, func(c *Config) *int { return &c.Level }),
		compressKey(),
		choiceKey("format", func(c *Config) *string { return &c.Format }, "kdump", "elf", "flat"),
		yesNoKey("checksum", func(c *Config) *bool { return &c.Checksum }),
		reserveKey(),
		intKey("keep", "a number from 0 (all) to 100000", 0, 100000, func(c *Config) *int { return &c.Keep }),
		{name: "crash-loop", want: "off, or CRASHES/MINUTES such as 5/60",
			parse: func(c *Config, value string) string {
				l, ok := ParseLoop(value)
				if !ok {
					return "not a number of crashes and of minutes"
				}
				c.CrashLoop = l
				return ""
			},
			print: func(c *Config) []string { return []string{c.CrashLoop.String()} }},
		actionKey("final", func(c *Config) *Action { return &c.Final }),
		actionKey("failure", func(c *Config) *Action { return &c.Failure }),
		durationKey("timeout", func(c *Config) *time.Duration { return &c.Timeout }),
		durationKey("attempt-timeout", func(c *Config) *time.Duration { return &c.AttemptTimeout }),
		durationKey("net-timeout", func(c *Config) *time.Duration { return &c.NetTimeout }),
		durationKey("device-timeout", func(c *Config) *time.Duration { return &c.DeviceTimeout }),
		durationKey("stall-timeout", func(c *Config) *time.Duration { return &c.StallTimeout }),
		watchdogKey(),
		listKey("pre", "an absolute path", checkPath, func(c *Config) *[]string { return &c.Pre }),
		listKey("post", "an absolute path", checkPath, func(c *Config) *[]string { return &c.Post }),
		durationKey("hook-timeout", func(c *Config) *time.Duration { return &c.HookTimeout }),
		intKey("workers", "a number from 0 (one for each CPU) to 1024", 0, 1024, func(c *Config) *int { return &c.Workers }),
		later(listKey("recipient", "an age public key, age1...", checkRecipient,
			func(c *Config) *[]string { return &c.Recipients })),
		later(notifyKey()),
	}
}

func later(k key) key {
	k.later = true
	return k
}

// maxList bounds how often a key that may be repeated is.
const maxList = 64

func listKey(name, want string, check func(string) string, field func(*Config) *[]string) key {
	return key{name: name, want: want, repeat: true,
		parse: func(c *Config, value string) string {
			if msg := check(value); msg != "" {
				return msg
			}
			// A full slice expression, so that copies of a Config share no room.
			list := *field(c)
			if len(list) >= maxList {
				return "one too many, " + strconv.Itoa(maxList) + " are there"
			}
			*field(c) = append(list[:len(list):len(list)], value)
			return ""
		},
		print: func(c *Config) []string { return *field(c) },
		clear: func(c *Config) { *field(c) = nil },
	}
}

func intKey(name, want string, low, high int, field func(*Config) *int) key {
	return key{name: name, want: want,
		parse: func(c *Config, value string) string {
			n, err := strconv.Atoi(value)
			if err != nil {
				return "not a number"
			}
			if n < low || n > high {
				return "out of range"
			}
			*field(c) = n
			return ""
		},
		print: func(c *Config) []string { return []string{strconv.Itoa(*field(c))} },
	}
}

func choiceKey(name string, field func(*Config) *string, choices ...string) key {
	return key{name: name, want: list(choices),
		parse: func(c *Config, value string) string {
			for _, choice := range choices {
				if value == choice {
					*field(c) = value
					return ""
				}
			}
			return "unknown " + name
		},
		print: func(c *Config) []string { return []string{*field(c)} },
	}
}

func yesNoKey(name string, field func(*Config) *bool) key {
	return key{name: name, want: "yes or no",
		parse: func(c *Config, value string) string {
			if value != "yes" && value != "no" {
				return "neither yes nor no"
			}
			*field(c) = value == "yes"
			return ""
		},
		print: func(c *Config) []string {
			if *field(c) {
				return []string{"yes"}
			}
			return []string{"no"}
		},
	}
}

func actionKey(name string, field func(*Config) *Action) key {
	k := choiceKey(name, func(c *Config) *string { return (*string)(field(c)) },
		string(Reboot), string(Halt), string(PowerOff), string(Shell))
	inner := k.parse
	k.parse = func(c *Config, value string) string {
		if inner(c, value) != "" {
			return "unknown action"
		}
		return ""
	}
	return k
}

func compressKey() key {
	const maxZstd = 22
	k := choiceKey("compress", func(c *Config) *string { return &c.Compress }, "zstd", "snappy", "zlib", "none")
	inner := k.parse
	k.want = "zstd, zstd:1 to zstd:22, snappy, zlib or none"
	k.parse = func(c *Config, value string) string {
		name, text, hasLevel := strings.Cut(value, ":")
		level := 0
		if hasLevel {
			n, err := strconv.Atoi(text)
			if name != "zstd" || err != nil || n < 1 || n > maxZstd {
				return "unknown level"
			}
			level = n
		}
		msg := inner(c, name)
		if msg == "" {
			c.CompressLevel = level
		} else {
			msg = "unknown compression"
		}
		return msg
	}
	k.print = func(c *Config) []string {
		if c.CompressLevel != 0 {
			return []string{c.Compress + ":" + strconv.Itoa(c.CompressLevel)}
		}
		return []string{c.Compress}
	}
	return k
}

func reserveKey() key {
	return key{name: "reserve", want: "bytes, or a number with K, M, G or T",
		parse: func(c *Config, value string) string {
			n, ok := ParseSize(value)
			if !ok {
				return "not a size"
			}
			c.Reserve = n
			return ""
		},
		print: func(c *Config) []string { return []string{FormatSize(c.Reserve)} },
	}
}

func durationKey(name string, field func(*Config) *time.Duration) key {
	return key{name: name, want: "a time from 1s to 168h, such as 90, 90s, 15m or 1h30m",
		parse: func(c *Config, value string) string {
			d, msg := parseDuration(value)
			if msg == "" {
				*field(c) = d
			}
			return msg
		},
		print: func(c *Config) []string { return []string{formatDuration(*field(c))} },
	}
}

// Watchdogs count whole seconds: 4 is the least that can be fed in time on a busy
// machine, and more than an hour guards nothing.
const (
	minWatchdog = 4 * time.Second
	maxWatchdog = time.Hour
)

func watchdogKey() key {
	return key{name: "watchdog", want: "auto, off, or a time from 4s to 1h",
		parse: func(c *Config, value string) string {
			switch value {
			case "auto":
				c.Watchdog = WatchdogAuto
				return ""
			case "off":
				c.Watchdog = WatchdogOff
				return ""
			}
			d, msg := parseDuration(value)
			if msg == "" && (d < minWatchdog || d > maxWatchdog) {
				msg = "out of range"
			}
			if msg == "" {
				c.Watchdog = d
			}
			return msg
		},
		print: func(c *Config) []string {
			switch c.Watchdog {
			case WatchdogAuto:
				return []string{"auto"}
			case WatchdogOff:
				return []string{"off"}
			}
			return []string{formatDuration(c.Watchdog)}
		},
	}
}

func notifyKey() key {
	return key{name: "notify", want: "a URL with syslog:, http: or https:",
		parse: func(c *Config, value string) string {
			switch scheme(value) {
			case "syslog", "http", "https":
				c.Notify = value
				return ""
			case "":
				return "not a URL"
			}
			return "unknown scheme"
		},
		print: func(c *Config) []string { return []string{c.Notify} },
	}
}

// list is "a, b or c".
func list(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
