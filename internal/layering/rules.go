package layering

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Module is the import path of the repository's root.
const Module = "github.com/ukdump/ukdump"

// Ground is the floor of what imports nothing of ours but its like.
const Ground = -1

// MaxFuncLines is two screens, a little stretched.
const MaxFuncLines = 90

// Floors gives each package, or folder of packages, its floor. Imports go down
// only; inside one folder of this table they are free, and so they are on
// the ground.
func Floors() map[string]int {
	return map[string]int{
		"internal":     Ground,
		"pkg/pagezstd": Ground,

		"pkg/vmcoreinfo": 0,
		"pkg/kdumpfile":  0,
		"pkg/targets":    0,
		"pkg/netcfg":     0,
		"pkg/config":     0,
		"pkg/kexec":      0,
		// They make inputs for tests, and are imported by tests alone.
		"internal/vmcoretest":  1,
		"internal/targetstest": 1,
		"internal/moduletest":  1,

		"pkg/vmcore": 1,
		"pkg/memmap": 2,
		"pkg/triage": 2,
		"pkg/dump":   3,

		"cmds/kdump-init": 4,
		"cmds/kdump-sh":   4,
		"cmds/savecore":   4,
		"cmds/kdumpctl":   4,
		"cmds/vmcore":     4,
		"initramfs":       4,
	}
}

// testOnly are packages that nothing but tests may import.
func testOnly() []string {
	return []string{"internal/vmcoretest", "internal/targetstest", "internal/moduletest", "internal/layering"}
}

// strangers are pairs of packages that must not reach each other, directly or
// through others.
func strangers() [][2]string {
	return [][2]string{
		{"pkg/dump", "pkg/targets"}, // they meet at io.Writer and io.WriterAt
	}
}

// Heavy lists what must stay out of a command of the capture image, where each
// megabyte of the binary is a megabyte of memory less.
func Heavy() map[string][]string {
	large := []string{"net/http", "text/template", "html/template", "go/ast", "testing"}
	return map[string][]string{
		// os/exec waits for its children itself, and PID 1's wait for any
		// child takes them away: "no child processes" in 1 of 5 runs.
		"cmds/kdump-init": append([]string{"os/exec"}, large...),
		"cmds/kdump-sh":   large,
		"cmds/savecore":   large,
		"cmds/kdumpctl":   large,
	}
}

// Unlinked lists prefixes of symbols that the linker must leave out of a command
// of the capture image: its packages have them for others. The readers of
// dump files bring every decompressor with them, half a megabyte.
func Unlinked() map[string][]string {
	readers := []string{
		Module + "/pkg/vmcore.OpenFiles", Module + "/pkg/vmcore.SalvageFiles",
		Module + "/pkg/kdumpfile.(*Kdump)", Module + "/pkg/kdumpfile.(*PageReader)", Module + "/pkg/kdumpfile.(*FlattenedReader)",
		"github.com/klauspost/compress/s2.Decode",
		"github.com/klauspost/compress/zlib.(*reader)", "github.com/anchore/go-lzo.Decompress",
	}
	zstd := append([]string{"github.com/klauspost/compress/zstd.(*Decoder)"}, readers...)
	return map[string][]string{
		"cmds/kdump-init": zstd,
		"cmds/savecore":   zstd,
		"cmds/kdumpctl":   readers, // it looks into zstd compressed images
	}
}

// unit is the line of Floors that a folder belongs to: the longest that is the
// folder or above it.
func unit(dir string) (string, bool) {
	for d := dir; d != "."; d = path.Dir(d) {
		if _, ok := Floors()[d]; ok {
			return d, true
		}
	}
	return "", false
}

// Imports checks who imports whom. The files of tests are free, but for cycles,
// which the compiler refuses.
func Imports(sources []Source) []Violation {
	var found []Violation
	floors := Floors()
	for _, s := range sources {
		if s.Test() || !strings.Contains(s.Path, "/") || strings.HasPrefix(s.Path, "qemu/") { // its own module
			continue
		}
		from, ok := unit(s.Dir())
		if !ok {
			found = append(found, s.violation(s.File.Package, "package %s has no floor: give it one in internal/layering/rules.go", s.Dir()))
			continue
		}
		for _, spec := range s.File.Imports {
			dir, ours := target(spec)
			to, known := unit(dir)
			free := from == to || floors[from] == Ground && floors[to] == Ground
			switch {
			case !ours || !known: // a package without a floor is reported at its own files
			case slices.Contains(testOnly(), to) && from != to:
				found = append(found, s.violation(spec.Pos(), "%s is for tests only", dir))
			case !free && floors[to] >= floors[from]:
				found = append(found, s.violation(spec.Pos(), "%s (%s) imports %s (%s): imports go down only",
					s.Dir(), floorName(floors[from]), dir, floorName(floors[to])))
			}
		}
	}
	return append(found, reached(sources)...)
}

// target is the folder of an import of ours.
func target(spec *ast.ImportSpec) (dir string, ours bool) {
	p, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(p, Module+"/")
}

func floorName(f int) string {
	if f == Ground {
		return "the ground"
	}
	return fmt.Sprintf("floor %d", f)
}

// reached reports strangers that meet.
func reached(sources []Source) []Violation {
	var found []Violation
	for _, pair := range strangers() {
		for _, p := range [][2]string{pair, {pair[1], pair[0]}} {
			if chain := chainTo(sources, p[0], p[1], nil); chain != nil {
				v := chain[0]
				v.Rule = fmt.Sprintf("%s and %s must not know each other, and meet over %s", p[0], p[1], v.Rule)
				found = append(found, v)
			}
		}
	}
	return found
}

// chainTo is the way from one package to another over imports, as violations
// whose first names the whole chain; nil if there is none.
func chainTo(sources []Source, from, to string, seen []string) []Violation {
	for _, s := range sources {
		if s.Dir() != from || s.Test() {
			continue
		}
		for _, spec := range s.File.Imports {
			dir, ours := target(spec)
			if !ours || slices.Contains(seen, dir) {
				continue
			}
			step := s.violation(spec.Pos(), "%s -> %s", from, dir)
			if dir == to {
				return []Violation{step}
			}
			if rest := chainTo(sources, dir, to, append(seen, from)); rest != nil {
				step.Rule = from + " -> " + rest[0].Rule
				return append([]Violation{step}, rest...)
			}
		}
	}
	return nil
}

// Names checks that no package is called after nothing.
func Names(sources []Source) []Violation {
	var found []Violation
	seen := make(map[string]bool)
	for _, s := range sources {
		for _, name := range []string{s.File.Name.Name, path.Base(s.Dir())} {
			name = strings.TrimSuffix(name, "_test")
			vague := []string{"util", "common", "misc", "helper", "shared", "base"}
			if slices.Contains(vague, strings.TrimSuffix(strings.ToLower(name), "s")) && !seen[s.Dir()] {
				seen[s.Dir()] = true
				found = append(found, s.violation(s.File.Name.Pos(), "package %s: the name does not say what it does", name))
			}
		}
	}
	return found
}

// Declarations checks what a file may declare outside tests: no variables of a
// package, no function longer than MaxFuncLines.
func Declarations(sources []Source) []Violation {
	var found []Violation
	for _, s := range sources {
		if s.Test() {
			continue
		}
		for _, d := range s.File.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					found = append(found, variables(s, d)...)
				}
			case *ast.FuncDecl:
				if n := s.line(d.End()) - s.line(d.Pos()) + 1; n > MaxFuncLines {
					found = append(found, s.violation(d.Pos(), "func %s has %d lines, more than %d: split it", d.Name.Name, n, MaxFuncLines))
				}
			}
		}
	}
	return found
}

// variables allows "var _ X = ..." and what go:embed fills.
func variables(s Source, d *ast.GenDecl) []Violation {
	var found []Violation
	for _, spec := range d.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok || embedded(d.Doc) || embedded(v.Doc) {
			continue
		}
		for _, name := range v.Names {
			if name.Name != "_" {
				found = append(found, s.violation(name.Pos(), "package variable %s: make a sentinel a typed constant, a table a function", name.Name))
			}
		}
	}
	return found
}

func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return strings.HasPrefix(c.Text, "//go:embed ")
	})
}
