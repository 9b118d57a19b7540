package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The shell gets the terminal that /dev/console stands for, under its own name where it
// has one that can be opened.
func TestTerminal(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"console", "tty0", "ttyS0"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	active := filepath.Join(dir, "active")
	for text, want := range map[string]string{
		"tty0 ttyS0\n": "ttyS0", "ttyS0 tty0\n": "tty0", "ttyS0 netcon0\n": "console", "\n": "console", "": "console",
	} {
		if err := os.WriteFile(active, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := terminal(active, dir)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := filepath.Base(f.Name()); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
		f.Close()
	}
	f, err := terminal(filepath.Join(dir, "none"), dir)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
