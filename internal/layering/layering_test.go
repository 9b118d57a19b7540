package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const root = "../.."

func TestHouse(t *testing.T) {
	sources, err := Parse(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) < 50 {
		t.Fatalf("only %d Go files found below %s", len(sources), root)
	}
	for _, v := range slices.Concat(Imports(sources), Names(sources), Declarations(sources)) {
		t.Error(v)
	}
}

func TestPlanOfTheHouse(t *testing.T) {
	for _, name := range []string{
		"cmds/kdump-init", "cmds/savecore", "cmds/kdumpctl", "initramfs", "qemu", "pkg", "internal", "doc", ".ci/run",
		"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile",
	} {
		if _, err := os.Stat(root + "/" + name); err != nil {
			t.Errorf("%v: every design of this project has it", err)
		}
	}
}

// listed is what go list -json tells of a package.
type listed struct {
	ImportPath string
	Imports    []string
}

func TestCaptureCommandsStayLight(t *testing.T) {
	for cmd, heavy := range Heavy() {
		packages := dependencies(t, Module+"/"+cmd)
		for _, h := range heavy {
			if chain := chain(packages, Module+"/"+cmd, h, make(map[string]bool)); chain != nil {
				t.Errorf("%s must not depend on %s: %s", cmd, h, strings.Join(chain, " -> "))
			}
		}
	}
}

// Packages may hold what a command does not use: the linker is asked. The rule
// itself is tested with a command that has all of it.
func TestCaptureCommandsLinkNoReaders(t *testing.T) {
	if testing.Short() {
		t.Skip("it links four commands")
	}
	for cmd, prefixes := range Unlinked() {
		text := symbols(t, cmd)
		for _, p := range prefixes {
			if at := strings.Index(text, " "+p); at >= 0 {
				line, _, _ := strings.Cut(text[at+1:], "\n")
				t.Errorf("%s must not link %s", cmd, line)
			}
		}
	}
	text := symbols(t, "cmds/vmcore")
	for _, prefixes := range Unlinked() {
		for _, p := range prefixes {
			if !strings.Contains(text, " "+p) {
				t.Errorf("cmds/vmcore has no %s, so the rule that forbids it to others checks nothing", p)
			}
		}
	}
}

// symbols is what go tool nm prints of a command.
func symbols(t *testing.T, cmd string) string {
	t.Helper()
	bin := t.TempDir() + "/cmd"
	build := exec.Command("go", "build", "-o", bin, Module+"/"+cmd)
	build.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", cmd, err, out)
	}
	out, err := exec.Command("go", "tool", "nm", bin).Output()
	if err != nil {
		t.Fatalf("go tool nm: %v", err)
	}
	return string(out)
}

func dependencies(t *testing.T, pkg string) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", pkg)
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", pkg, err, &stderr)
	}
	packages := make(map[string][]string)
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatal(err)
		}
		packages[p.ImportPath] = p.Imports
	}
}

func chain(packages map[string][]string, from, to string, seen map[string]bool) []string {
	if from == to {
		return []string{to}
	}
	if seen[from] {
		return nil
	}
	seen[from] = true
	for _, imported := range packages[from] {
		if rest := chain(packages, imported, to, seen); rest != nil {
			return append([]string{from}, rest...)
		}
	}
	return nil
}

// The rules find what they are there for.
func TestRules(t *testing.T) {
	ours := func(dirs ...string) string {
		var b strings.Builder
		for _, d := range dirs {
			b.WriteString("import _ \"" + Module + "/" + d + "\"\n")
		}
		return b.String()
	}
	long := "func f() {" + strings.Repeat("\n", MaxFuncLines) + "}\n" // one line too many
	for _, c := range []struct{ name, path, text, want string }{
		{"down", "pkg/vmcore/a.go", ours("pkg/vmcoreinfo", "internal/kmsg"), ""},
		{"up", "pkg/vmcore/a.go", ours("pkg/memmap"), "pkg/vmcore/a.go:2: pkg/vmcore (floor 1) imports pkg/memmap (floor 2)"},
		{"across", "pkg/memmap/a.go", ours("pkg/triage"), "imports go down only"},
		{"across floor 0", "pkg/config/a.go", ours("pkg/targets"), "imports go down only"},
		{"ground up", "internal/kmsg/a.go", ours("pkg/config"), "internal/kmsg (the ground) imports pkg/config (floor 0)"},
		{"ground across", "internal/blockdev/a.go", ours("internal/cmdline", "internal/kmsg"), ""},
		{"test helper down", "internal/vmcoretest/a.go", ours("pkg/kdumpfile", "internal/kmsg"), ""},
		{"test helper up", "internal/vmcoretest/a.go", ours("pkg/vmcore"), "imports go down only"},
		{"test helper outside tests", "pkg/vmcore/a.go", ours("internal/vmcoretest"), "for tests only"},
		{"test helper in a test", "pkg/vmcore/a_test.go", ours("internal/vmcoretest"), ""},
		{"own folder", "initramfs/a.go", ours("initramfs/cpio"), ""},
		{"command and command", "cmds/savecore/a.go", ours("cmds/kdump-init"), "imports go down only"},
		{"no floor", "pkg/new/a.go", "", "pkg/new/a.go:1: package pkg/new has no floor"},
		{"strangers", "pkg/dump/a.go", ours("pkg/vmcore", "pkg/targets"), "pkg/dump/a.go:3: pkg/dump and pkg/targets must not know each other"},
		{"variable", "pkg/dump/a.go", "var (\n\ta = 1\n\t_ error\n)\n", "pkg/dump/a.go:3: package variable a"},
		{"variable of a test", "pkg/dump/a_test.go", "var a = 1\n", ""},
		{"assertion", "pkg/dump/a.go", "var _ error = (*T)(nil)\n", ""},
		{"embedded file", "pkg/dump/a.go", "//go:embed x\nvar a string\n", ""},
		{"constant", "pkg/dump/a.go", "const a = 1\n", ""},
		{"long function", "pkg/dump/a.go", long, "func f has 91 lines, more than 90"},
		{"longest function", "pkg/dump/a.go", strings.Replace(long, "\n", "", 1), ""},
		{"long function of a test", "pkg/dump/a_test.go", long, ""},
		{"vague folder", "internal/utils/a.go", "", "the name does not say"},
	} {
		sources, err := Parse(fstest.MapFS{c.path: {Data: []byte("package a\n" + c.text)}})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got []string
		for _, v := range slices.Concat(Imports(sources), Names(sources), Declarations(sources)) {
			got = append(got, v.String())
		}
		text := strings.Join(got, "\n")
		if (c.want == "") != (text == "") || !strings.Contains(text, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, text, c.want)
		}
	}
}

func TestStrangersMeetOverOthers(t *testing.T) {
	sources, err := Parse(fstest.MapFS{
		"pkg/dump/a.go":       {Data: []byte("package dump\nimport _ \"" + Module + "/pkg/vmcore\"\n")},
		"pkg/vmcore/a.go":     {Data: []byte("package vmcore\nimport _ \"" + Module + "/pkg/targets\"\n")},
		"pkg/vmcore/_skip.go": {Data: []byte("not Go")},
		"_out/a.go":           {Data: []byte("not Go")},
		"x/testdata/a.go":     {Data: []byte("not Go")},
	})
	if err != nil {
		t.Fatal(err)
	}
	found := Imports(sources)
	want := "pkg/dump/a.go:2: pkg/dump and pkg/targets must not know each other, and meet over pkg/dump -> pkg/vmcore -> pkg/targets"
	if len(found) != 1 || found[0].String() != want {
		t.Errorf("got %v, want %s", found, want)
	}
}
