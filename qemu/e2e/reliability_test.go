package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReliability: every test that doc/reliability.md names is there.
func TestReliability(t *testing.T) {
	doc, err := os.ReadFile("../../doc/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "../../cmds/*/*_test.go", "../../internal/*/*_test.go", "../../pkg/*/*_test.go"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(b)
		}
	}
	found := regexp.MustCompile("`(Test[A-Za-z0-9]+)(/[^`]+)?`").FindAllStringSubmatch(string(doc), -1)
	if len(found) < 30 {
		t.Errorf("%d tests are named, want more", len(found))
	}
	for _, m := range found {
		if !strings.Contains(tests.String(), "func "+m[1]+"(") {
			t.Errorf("%s is nowhere", m[1])
		}
		for sub := range strings.SplitSeq(strings.Trim(m[2], "/"), "/") {
			if sub != "" && !strings.Contains(tests.String(), `"`+sub+`"`) {
				t.Errorf("%s%s: %s is nowhere", m[1], m[2], sub)
			}
		}
	}
}
