package cmdline

import (
	"slices"
	"strings"
	"testing"
)

func w(key string) Word         { return Word{Key: key} }
func kv(key, value string) Word { return Word{Key: key, Value: value, HasValue: true} }

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []Word
	}{
		{"", nil},
		{" \n\t ", nil},
		{"quiet", []Word{w("quiet")}},
		{"a=1", []Word{kv("a", "1")}},
		{"a=", []Word{kv("a", "")}},
		{"a=1 a=2  a=1\n", []Word{kv("a", "1"), kv("a", "2"), kv("a", "1")}},
		{"url=disk:///crash?dev=LABEL=X", []Word{kv("url", "disk:///crash?dev=LABEL=X")}},
		{`a="b c" d`, []Word{kv("a", "b c"), w("d")}},
		{`"a=b c" d`, []Word{kv("a", "b c"), w("d")}},
		{`"b c"`, []Word{w("b c")}},
		{`a=b" "c`, []Word{kv("a", `b" "c`)}},
		{`a="`, []Word{kv("a", "")}},
		{`a=""`, []Word{kv("a", "")}},
		{`a="b c`, []Word{kv("a", "b c")}},
		{`"`, []Word{w("")}},
		{`""`, []Word{w("")}},
		{`"a`, []Word{w("a")}},
		{`=b`, []Word{w("=b")}},
		{`a"="b`, []Word{kv(`a"`, "b")}},
		{`"a="b c""`, []Word{kv("a", "b"), w(`c""`)}},
		{"root=/dev/sda1 -- init args", []Word{kv("root", "/dev/sda1"), w("--"), w("init"), w("args")}},
	} {
		if got := Words(tt.line); !slices.Equal(got, tt.want) {
			t.Errorf("Words(%q) = %+v, want %+v", tt.line, got, tt.want)
		}
	}
}

func TestWordStringReadsBack(t *testing.T) {
	for _, word := range []Word{w("quiet"), w("a b"), kv("a", ""), kv("a", "b c"), kv("a b", "c"), kv("a", `b"c`), kv("a", "b=c"), w("")} {
		got := Words(word.String())
		if len(got) != 1 || got[0] != word {
			t.Errorf("Words(%q) = %+v, want %+v", word.String(), got, word)
		}
	}
}

// nextArg is next_arg of lib/cmdline.c rendered as closely to C as Go allows,
// to hold next against.
func nextArg(args []byte) (param, val []byte, rest []byte) {
	equals, inQuote, quoted := 0, false, false
	if args[0] == '"' {
		args, inQuote, quoted = args[1:], true, true
	}
	at := func(i int) byte { return args[i] } // args ends in NUL
	i := 0
	for ; at(i) != 0; i++ {
		if strings.IndexByte(space, at(i)) >= 0 && !inQuote {
			break
		}
		if equals == 0 && at(i) == '=' {
			equals = i
		}
		if at(i) == '"' {
			inQuote = !inQuote
		}
	}
	more := at(i) != 0
	end := i
	if equals != 0 {
		args[equals] = 0
		v := equals + 1
		if at(v) == '"' {
			v++
			if at(i-1) == '"' {
				args[i-1] = 0
			}
		}
		val = args[v:]
	}
	if quoted && i > 0 && at(i-1) == '"' {
		args[i-1] = 0
	}
	args[end] = 0
	cut := func(b []byte) []byte { return b[:slices.Index(b, 0)] }
	if val != nil {
		val = cut(val)
	}
	if more {
		end++
	}
	return cut(args), val, args[end:]
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"a", `a="b c" "d=e f" g`, `a=""`, `"a="b""`, `=" x`, `a="b"c" d`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsRune(line, 0) {
			return // the kernel's line ends there
		}
		words := Words(line)
		rest := append([]byte(line), 0)
		for _, got := range words {
			rest = append([]byte(strings.TrimLeft(string(rest), space)), 0)
			rest = rest[:slices.Index(rest, 0)+1]
			var param, val []byte
			param, val, rest = nextArg(rest)
			if string(param) != got.Key || string(val) != got.Value || (val != nil) != got.HasValue {
				t.Fatalf("%q: got %+v, the kernel has %q %q", line, got, param, val)
			}
		}
		for _, word := range words {
			if strings.ContainsRune(word.Key+word.Value, '"') {
				continue
			}
			if again := Words(word.String()); len(again) != 1 || again[0] != word {
				t.Fatalf("%+v is written as %q, which is %+v", word, word.String(), again)
			}
		}
	})
}
