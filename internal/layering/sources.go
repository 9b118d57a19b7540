package layering

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// Source is one Go file.
type Source struct {
	Path string // from the root of the repository: "pkg/vmcore/open.go"
	File *ast.File
	fset *token.FileSet
}

// Test tells whether the file is compiled for tests only.
func (s Source) Test() bool { return strings.HasSuffix(s.Path, "_test.go") }

// Dir is the file's package, by its folder.
func (s Source) Dir() string { return path.Dir(s.Path) }

func (s Source) line(pos token.Pos) int { return s.fset.Position(pos).Line }

// Violation is a place where a rule is broken.
type Violation struct {
	Path string
	Line int
	Rule string
}

func (v Violation) String() string { return fmt.Sprintf("%s:%d: %s", v.Path, v.Line, v.Rule) }

func (s Source) violation(pos token.Pos, format string, a ...any) Violation {
	return Violation{Path: s.Path, Line: s.line(pos), Rule: fmt.Sprintf(format, a...)}
}

// Parse reads all Go files below a root, but not those in testdata and in
// folders whose name starts with a dot or an underscore, as go itself does.
func Parse(root fs.FS) ([]Source, error) {
	var sources []Source
	fset := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch base := path.Base(name); {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (base == "testdata" || base[0] == '.' || base[0] == '_'):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(base, ".go") || base[0] == '.' || base[0] == '_':
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		sources = append(sources, Source{Path: name, File: f, fset: fset})
		return nil
	})
	return sources, err
}
