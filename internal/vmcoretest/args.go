package vmcoretest

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// args are the words of a directive that have not been taken yet. The first
// error stays.
type args struct {
	words []string
	err   error
}

func (a *args) word() string {
	if len(a.words) == 0 {
		if a.err == nil {
			a.err = fmt.Errorf("too few words")
		}
		return ""
	}
	w := a.words[0]
	a.words = a.words[1:]
	return w
}

func (a *args) number() uint64 {
	n, err := number(a.word())
	if a.err == nil {
		a.err = err
	}
	return n
}

// option takes NAME=N from anywhere behind.
func (a *args) option(name string, otherwise uint64) uint64 {
	for i, w := range a.words {
		if value, ok := strings.CutPrefix(w, name+"="); ok {
			a.words = append(a.words[:i:i], a.words[i+1:]...)
			n, err := number(value)
			if a.err == nil {
				a.err = err
			}
			return n
		}
	}
	return otherwise
}

// done runs last unless something went wrong, and says what.
func (a *args) done(last func()) error {
	if a.err == nil && last != nil {
		last()
	}
	if a.err == nil && len(a.words) > 0 {
		a.err = fmt.Errorf("too many words: %s", strings.Join(a.words, " "))
	}
	return a.err
}

func number(s string) (uint64, error) {
	shift := 0
	if s != "" && !strings.HasPrefix(s, "-") {
		if k := strings.IndexByte("KMGT", s[len(s)-1]); k >= 0 {
			s, shift = s[:len(s)-1], 10*(k+1)
		}
	}
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return uint64(n) << shift, nil
	}
	n, err := strconv.ParseUint(s, 0, 64)
	return n << shift, err
}

func le64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
