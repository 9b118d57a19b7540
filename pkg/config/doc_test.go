package config

import (
	"os"
	"strings"
	"testing"
)

// The manual has each key, and its default as the code has it.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../doc/kdump.conf.5")
	if err != nil {
		t.Fatal(err)
	}
	// A paragraph is all from one .It Ic to the next.
	paragraphs := strings.Split(string(text), "\n.It ")
	def := Default()
	for _, k := range keys() {
		found := false
		for _, p := range paragraphs {
			head, body, _ := strings.Cut(p, "\n")
			if !strings.Contains(head, "Ic "+k.name+" No =") {
				continue
			}
			found = true
			if k.repeat || k.later {
				continue
			}
			_, value, _ := strings.Cut(body, "Default:")
			if !strings.Contains(strings.SplitN(value, ".\n", 2)[0]+" ", k.print(&def)[0]) {
				t.Errorf("%s: the manual's default is %.40q, the code's %s", k.name, value, k.print(&def)[0])
			}
		}
		if !found {
			t.Errorf("the manual does not have %s", k.name)
		}
	}
}
