package main

import "testing"

func TestPackageOf(t *testing.T) {
	for symbol, want := range map[string]string{
		"main.main":                   "main",
		"golang.org/x/sys/unix.Mount": "golang.org/x/sys/unix",
		"github.com/u-root/u-root/cmds/core/ps.(*p).x": "github.com/u-root/u-root/cmds/core/ps",
		"gopkg.in/yaml%2ev3.parse":                     "gopkg.in/yaml.v3",
		"slices.Sort[go.shape.[]a/b.T]":                "slices",
		"type:.eq.net/netip.Addr":                      "type:",
		"go:string.*":                                  "go:",
		"_rt0_amd64_linux":                             "runtime tables",
		"mvdan.cc/sh/v3/syntax.(*Parser).Parse.func1":  "mvdan.cc/sh/v3/syntax",
	} {
		if got := packageOf(symbol); got != want {
			t.Errorf("packageOf(%q) = %q, want %q", symbol, got, want)
		}
	}
}
