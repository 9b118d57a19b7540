// Package cmdline splits a kernel command line the way the kernel does.
//
// Words is all of it: repeated keys are kept, in order, and nothing that a
// user can type makes it fail. The rules are next_arg's in lib/cmdline.c of
// Linux: words end at white space outside double quotes, and a quote that
// opens the word or the value is taken off together with the one that ends
// the word. Other quotes stay in the text.
package cmdline

import "strings"

// Word is one word of a command line: KEY, KEY= or KEY=VALUE.
type Word struct {
	Key      string
	Value    string
	HasValue bool // an "=" was there, if only with nothing behind it
}

// Words splits a kernel command line.
func Words(line string) []Word {
	var words []Word
	for {
		line = strings.TrimLeft(line, space)
		if line == "" {
			return words
		}
		var w Word
		w, line = next(line)
		words = append(words, w)
	}
}

// What the kernel's isspace is true of. Latin-1's no-break space is too,
// but in UTF-8 its byte belongs to letters.
const space = " \t\n\v\f\r"

// next takes the first word off line, which starts with no white space.
func next(line string) (Word, string) {
	quoted := line[0] == '"'
	if quoted {
		line = line[1:]
	}
	inQuote, equals, end := quoted, 0, 0
	for ; end < len(line); end++ {
		c := line[end]
		if !inQuote && strings.IndexByte(space, c) >= 0 {
			break
		}
		if c == '=' && equals == 0 {
			equals = end // a word that starts with "=" has no value, as in the kernel
		}
		if c == '"' {
			inQuote = !inQuote
		}
	}
	text, rest := line[:end], line[end:]
	if quoted {
		text = strings.TrimSuffix(text, `"`)
	}
	if equals == 0 {
		return Word{Key: text}, rest
	}
	value := text[equals+1:]
	if strings.HasPrefix(value, `"`) {
		value = value[1:]
		// A word quoted as a whole has given its last quote already.
		if !quoted {
			value = strings.TrimSuffix(value, `"`)
		}
	}
	return Word{Key: text[:equals], Value: value, HasValue: true}, rest
}

// String writes the word so that Words reads it back, quoting what needs it.
// The one text that has no such form is one with both white space and quotes.
func (w Word) String() string {
	text := w.Key
	if w.HasValue {
		text += "=" + w.Value
	}
	switch {
	case text == "" || strings.ContainsAny(w.Key, space) || strings.HasPrefix(w.Key, `"`):
		return `"` + text + `"`
	case w.HasValue && (strings.ContainsAny(w.Value, space) || strings.HasPrefix(w.Value, `"`)):
		return w.Key + `="` + w.Value + `"`
	}
	return text
}

// Join writes words as one command line.
func Join(words []Word) string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = w.String()
	}
	return strings.Join(texts, " ")
}

// SameKey compares keys as the kernel does: a dash is an underscore.
func SameKey(a, b string) bool { return Canonical(a) == Canonical(b) }

// Canonical is the spelling of a key with underscores for dashes.
func Canonical(key string) string { return strings.ReplaceAll(key, "-", "_") }
