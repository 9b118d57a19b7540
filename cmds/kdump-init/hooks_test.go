package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/config"
)

// A hook that fails, one that hangs and one that is not there cost nothing but
// their time, and each is told of.
func TestHooks(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	said := filepath.Join(dir, "said")
	paths := []string{
		script("fails", "exit 3\n"),
		script("hangs", "exec /bin/sleep 60\n"),
		filepath.Join(dir, "missing"),
		script("good", `echo "$UKDUMP_HOOK,$UKDUMP_STATUS,$UKDUMP_TARGET,$UKDUMP_DIR" > `+said+"\n"),
	}
	c := &capture{cfg: config.Default(), until: time.Now().Add(time.Hour)}
	c.cfg.HookTimeout = 5 * time.Second
	start := time.Now()
	err := c.hooks("post", paths)
	for i, want := range []string{"fails: exit status 3", "hangs: not done after 5s, killed", "missing: start "} {
		if err == nil || !strings.Contains(err.Error(), "post "+filepath.Join(dir, want)) {
			t.Errorf("%d: %v does not tell %q", i, err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "good") {
		t.Error(err)
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("took %s", took)
	}
	if b, err := os.ReadFile(said); err != nil || string(b) != "post,nothing,,\n" {
		t.Errorf("its environment: %q, %v", b, err)
	}
	if err := c.hooks("pre", paths[3:]); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(said); string(b) != "pre,,,\n" {
		t.Errorf("before: %q", b)
	}
	c.until = time.Now().Add(time.Second) // nothing is begun that could not be ended
	if err := c.hooks("pre", paths[:1]); err == nil || !strings.Contains(err.Error(), "no time is left") {
		t.Error(err)
	}
}
