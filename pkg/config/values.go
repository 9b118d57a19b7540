package config

import (
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// ParseSize reads bytes with an optional suffix K, M, G or T of powers of 1024.
func ParseSize(s string) (uint64, bool) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("KMGT", s[len(s)-1]&^0x20); i >= 0 {
			shift = 10 * (i + 1)
			s = s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || bits.Len64(n)+shift > 64 {
		return 0, false
	}
	return n << shift, true
}

// FormatSize writes n with the largest suffix that is exact.
func FormatSize(n uint64) string {
	unit := 0
	for n != 0 && n%1024 == 0 && unit < 4 {
		n /= 1024
		unit++
	}
	return strconv.FormatUint(n, 10) + strings.TrimSpace(" KMGT"[unit:unit+1])
}

// maxLoop bounds both numbers of a Loop: a week has 10080 minutes.
const maxLoop = 10080

// ParseLoop reads CRASHES/MINUTES, both from 1 to 10080 and at least 2 crashes, or off.
func ParseLoop(s string) (Loop, bool) {
	if s == "off" {
		return Loop{}, true
	}
	crashes, minutes, ok := strings.Cut(s, "/")
	n, err := strconv.ParseUint(crashes, 10, 16)
	m, err2 := strconv.ParseUint(minutes, 10, 16)
	if !ok || err != nil || err2 != nil || n < 2 || n > maxLoop || m < 1 || m > maxLoop {
		return Loop{}, false
	}
	return Loop{int(n), int(m)}, true
}

// Every wait is bounded, from above as from below.
const (
	minTimeout = time.Second
	maxTimeout = 7 * 24 * time.Hour
)

// parseDuration reads seconds, or a duration as Go writes it.
func parseDuration(s string) (d time.Duration, msg string) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if d, err = time.ParseDuration(s); err != nil {
		return 0, "not a time"
	}
	if d < minTimeout || d > maxTimeout {
		return 0, "out of range"
	}
	return d, ""
}

// formatDuration writes d without the zeros that Duration.String ends with.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// scheme is the lower case scheme of a URL, "" if s has not the form
// scheme://something.
func scheme(s string) string {
	name, rest, ok := strings.Cut(s, "://")
	if !ok || name == "" || rest == "" {
		return ""
	}
	for i := range len(name) {
		c := name[i] | 0x20
		letter := c >= 'a' && c <= 'z'
		digit := c >= '0' && c <= '9' || name[i] == '+' || name[i] == '-' || name[i] == '.'
		if !letter && (i == 0 || !digit) {
			return ""
		}
	}
	return strings.ToLower(name)
}

func checkTarget(value string) string {
	if scheme(value) == "" {
		return "not a URL"
	}
	return ""
}

func checkPath(value string) string {
	if value[0] != '/' {
		return "not an absolute path"
	}
	return ""
}

// checkRecipient looks at the alphabet of age's Bech32 keys only.
func checkRecipient(value string) string {
	rest, ok := strings.CutPrefix(value, "age1")
	if !ok || rest == "" {
		return "not an age public key"
	}
	for i := range len(rest) {
		if c := rest[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return "not an age public key"
		}
	}
	return ""
}

// Redact takes passwords out of a URL: in user:password@, and in values of
// the query whose key speaks of one. What it cannot take apart it cuts short: of a
// text that is meant to be one, what is between the first colon and the last @.
// A webhook's path is often its password, so of http only the host stays.
func Redact(url string) string {
	name, rest, ok := strings.Cut(url, "://")
	if s := strings.ToLower(name); ok && (s == "http" || s == "https") {
		host, path, _ := strings.Cut(rest[strings.LastIndexByte(rest, '@')+1:], "/")
		host, query, _ := strings.Cut(host, "?")
		if path != "" || query != "" {
			host += "/" + hidden
		}
		return name + "://" + host
	}
	if !ok {
		rest = url
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	// The last @, for a password may hold one, or a slash.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if user, _, ok := strings.Cut(rest[:at], ":"); ok {
			rest = user + ":" + hidden + rest[at:]
		}
	}
	if hasQuery {
		rest += "?" + redactQuery(query)
	}
	if !ok {
		return rest
	}
	return name + "://" + rest
}

// hidden stands for a password.
const hidden = "xxxxx"

func redactQuery(query string) string {
	fields := strings.Split(query, "&")
	for i, f := range fields {
		if k, _, ok := strings.Cut(f, "="); ok && secret(k) {
			fields[i] = k + "=" + hidden
		}
	}
	return strings.Join(fields, "&")
}

func secret(key string) bool {
	switch strings.ToLower(key) {
	case "pass", "password", "passwd", "pw", "secret", "token":
		return true
	}
	return false
}

// speaksOfSecret tells whether the value of a key that is not known may be a password.
func speaksOfSecret(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"pass", "pw", "secret", "token", "key", "credential"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// redactAny is Redact for a value of any key, made fit for a terminal.
func redactAny(value string) string { return printable(Redact(value)) }
