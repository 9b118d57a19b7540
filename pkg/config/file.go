package config

import "strings"

// The grammar of kdump.conf, a line at a time:
//
//	# comment
//	key = value          # comment, if a blank stands before the #
//	key = "value # all"  # quotes keep blanks and #; no quote inside
//
// Blanks around key and value go. A network word is written as any key.

// line reads one line.
func (p *parser) line(where, text string) {
	text = trim(text)
	if text == "" || text[0] == '#' {
		return
	}
	key, rest, ok := strings.Cut(text, "=")
	key = trim(key)
	if !ok || key == "" {
		text, _ := cutComment(text)
		if word, _, ok := strings.Cut(text, " "); ok && speaksOfSecret(word) {
			text = word + " " + hidden
		}
		p.problem(Problem{Where: where, Key: redactAny(text), Msg: "not an assignment", Want: "key = value"})
		return
	}
	value, msg := unquote(trim(rest))
	switch {
	case msg != "" && speaksOfSecret(key):
		p.problem(Problem{Where: where, Key: printable(key), Value: hidden, Msg: msg, Want: `"value", with no quote inside`})
	case msg != "":
		p.problem(Problem{Where: where, Key: printable(key), Value: value, Msg: msg, Want: `"value", with no quote inside`})
	case isNetwork(key):
		p.network(where, Word{Key: key, Value: value, HasValue: true})
	default:
		p.assign(where, printable(key), key, value)
	}
}

func trim(s string) string { return strings.Trim(s, " \t\r") }

// unquote takes the quotes or the comment off a value.
func unquote(s string) (value, msg string) {
	if !strings.HasPrefix(s, `"`) {
		value, _ = cutComment(s)
		return value, ""
	}
	value, rest, ok := strings.Cut(s[1:], `"`)
	if !ok {
		return s, "no closing quote"
	}
	if rest, _ := cutComment(rest); rest != "" {
		return s, "text behind the closing quote"
	}
	return value, ""
}

// cutComment takes off a comment and the blanks before it.
func cutComment(s string) (string, bool) {
	for i := range len(s) {
		if s[i] == '#' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t') {
			return trim(s[:i]), true
		}
	}
	return trim(s), false
}

// quote is the inverse of unquote.
func quote(value string) string {
	if _, comment := cutComment(value); comment || trim(value) != value {
		return `"` + value + `"`
	}
	return value
}

// checkText says what keeps a value from being written in a configuration.
func checkText(value string) string {
	if value == "" {
		return "no value"
	}
	for i := range len(value) {
		switch c := value[i]; {
		case c == '"':
			return "a quote inside the value"
		case c < ' ' || c == 0x7f:
			return "a control character inside the value"
		}
	}
	return ""
}

// printable keeps a user's text from driving the terminal it is shown on.
func printable(s string) string {
	const most = 80
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}

// Lines is the configuration in canonical form, a line each: targets, then
// what differs from the defaults, then the network words. Parse reads it back.
func (c Config) Lines() []string {
	var lines []string
	def := Default()
	for _, k := range keys() {
		values := k.print(&c)
		if !k.repeat && values[0] == k.print(&def)[0] {
			continue
		}
		for _, v := range values {
			lines = append(lines, k.name+" = "+quote(v))
		}
	}
	for _, w := range c.Network {
		lines = append(lines, w.Key+" = "+quote(w.Value))
	}
	return lines
}

// String is Lines as the text of a kdump.conf. It may hold what Redact hides.
func (c Config) String() string {
	var b strings.Builder
	for _, line := range c.Lines() {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}
