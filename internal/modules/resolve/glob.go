package resolve

import "strings"

// match tells whether an alias pattern fits a name: fnmatch(3) without flags,
// where * takes slashes too, after dashes have become underscores on both
// sides, except in brackets.
func match(pattern, name string) bool {
	// Greedy with one point to come back to: a later * makes the earlier one
	// final, so the time is len(pattern)*len(name) at most.
	star, from := -1, 0
	p, n := 0, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, n
			p++
			continue
		}
		if width := matchOne(pattern[p:], name[n]); width > 0 {
			p += width
			n++
			continue
		}
		if star < 0 {
			return false
		}
		from++
		p, n = star+1, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one byte against the head of pattern, and returns how long
// that head is, 0 where it does not match.
func matchOne(pattern string, c byte) int {
	if pattern == "" {
		return 0
	}
	switch pattern[0] {
	case '?':
		return 1
	case '[':
		if end := strings.IndexByte(pattern[1:], ']'); end > 0 {
			if inSet(pattern[1:1+end], c) {
				return end + 2
			}
			return 0
		}
	}
	if pattern[0] == c || dash(pattern[0]) && dash(c) {
		return 1
	}
	return 0
}

func dash(c byte) bool { return c == '-' || c == '_' }

// inSet is [set]: bytes and ranges, a leading ! or ^ for all others.
func inSet(set string, c byte) bool {
	not := false
	if len(set) > 1 && (set[0] == '!' || set[0] == '^') {
		not, set = true, set[1:]
	}
	in := false
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			in = in || set[i] <= c && c <= set[i+2]
			i += 2
			continue
		}
		in = in || set[i] == c
	}
	return in != not
}
