// Package resolve finds the modules that an image has to hold, and the order
// in which to load them, in a /lib/modules/RELEASE folder.
//
// Start with Open, then Resolve; Tree.Open reads a module's plain contents.
// What depmod leaves in the folder is used where it is there, and not needed:
// a folder just unpacked from a package gives the same answer, out of the
// .modinfo of the modules. The running system is never looked at.
package resolve

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/unpack"
)

// Tree is a /lib/modules/RELEASE folder. It is not safe for concurrent use.
type Tree struct {
	dir     string
	files   map[string]string   // name -> path below dir
	deps    map[string][]string // name -> names, of modules.dep, in load order
	builtin map[string]bool
	aliases []alias // nil until one is asked for
	infos   map[string]Info
}

type alias struct{ pattern, name string }

// Open reads what there is in dir. A folder without one module in it is an
// error, unless it says that some are built in.
func Open(dir string) (*Tree, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	t := &Tree{dir: real, infos: make(map[string]Info)}
	if err := t.walk(); err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	if err := t.readBuiltin(); err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	if err := t.readDep(); err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	if len(t.files) == 0 && len(t.builtin) == 0 {
		return nil, fmt.Errorf("modules: %s: %w", dir, ErrNoModules)
	}
	return t, nil
}

// ErrNoModules is a folder that is not a /lib/modules/RELEASE.
const ErrNoModules Error = "no *.ko below it and no modules.builtin in it"

// Release is the kernel release that the modules are made for, by what one of
// them says, or "" if there is none.
func (t *Tree) Release() (string, error) {
	names := slices.Sorted(maps.Keys(t.files))
	if len(names) == 0 {
		return "", nil
	}
	info, err := t.Info(names[0])
	if err != nil {
		return "", err
	}
	release, _, _ := strings.Cut(info.Vermagic, " ")
	return release, nil
}

func (t *Tree) walk() error {
	t.files = make(map[string]string)
	return filepath.WalkDir(t.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !isModule(d.Name()) {
			return nil // "build" and "source" are symbolic links: not followed
		}
		rel, err := filepath.Rel(t.dir, file)
		if err != nil {
			return err
		}
		name := modules.Name(rel)
		// Where two have one name, depmod's default order: updates first.
		if _, ok := t.files[name]; !ok || strings.HasPrefix(rel, "updates/") {
			t.files[name] = rel
		}
		return nil
	})
}

func isModule(file string) bool {
	for _, suffix := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if strings.HasSuffix(file, suffix) {
			return true
		}
	}
	return false
}

// lines calls f for each line of a file below the folder, in so far as there
// is such a file.
func (t *Tree) lines(name string, f func(line string)) error {
	file, err := os.Open(filepath.Join(t.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			f(line)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// readBuiltin reads the paths of modules.builtin.
func (t *Tree) readBuiltin() error {
	t.builtin = make(map[string]bool)
	return t.lines("modules.builtin", func(line string) { t.builtin[modules.Name(line)] = true })
}

// readDep reads "a.ko: b.ko c.ko" of modules.dep, where c is needed by b.
func (t *Tree) readDep() error {
	t.deps = make(map[string][]string)
	return t.lines("modules.dep", func(line string) {
		file, list, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		var names []string
		for dep := range strings.FieldsSeq(list) {
			names = append(names, modules.Name(dep))
		}
		slices.Reverse(names)
		t.deps[modules.Name(file)] = names
	})
}

// maxModule bounds a module unpacked; the largest real ones have some 100 MB,
// with debugging information.
const maxModule = 512 << 20

// Info is what the named module says of itself.
func (t *Tree) Info(name string) (Info, error) {
	name = modules.Name(name)
	if info, ok := t.infos[name]; ok {
		return info, nil
	}
	info, err := t.readInfo(t.files[name])
	if err == nil {
		t.infos[name] = info
	}
	return info, err
}

// readInfo is safe for concurrent use.
func (t *Tree) readInfo(rel string) (Info, error) {
	r, err := t.open(rel)
	if err != nil {
		return Info{}, fmt.Errorf("module: %w", err)
	}
	defer r.Close()
	var at io.ReaderAt
	if f, ok := r.(*os.File); ok {
		at = f
	} else {
		data, err := io.ReadAll(io.LimitReader(r, maxModule))
		if err != nil {
			return Info{}, fmt.Errorf("module %s: %w", rel, err)
		}
		at = bytes.NewReader(data)
	}
	info, err := ReadInfo(at)
	if err != nil {
		return Info{}, fmt.Errorf("module %s: %w", rel, err)
	}
	return info, nil
}

// Open opens a module that Resolve has found. What comes out is what
// finit_module(2) takes: not compressed.
func (t *Tree) Open(m Module) (io.ReadCloser, error) { return t.open(m.Path) }

func (t *Tree) open(rel string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(t.dir, rel))
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(rel, ".ko") {
		return f, nil
	}
	r, _, err := unpack.NewReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	return &unpacked{ReadCloser: r, file: f}, nil
}

type unpacked struct {
	io.ReadCloser
	file *os.File
}

func (u *unpacked) Close() error {
	return errors.Join(u.ReadCloser.Close(), u.file.Close())
}

// providers are the modules that have an alias for name, sorted, and whether
// one that is built in has.
func (t *Tree) providers(name string) (names []string, builtin bool, err error) {
	if t.aliases == nil {
		if err := t.readAliases(); err != nil {
			return nil, false, err
		}
	}
	for _, a := range t.aliases {
		if !match(a.pattern, name) {
			continue
		}
		if a.name == "" {
			builtin = true
		} else if _, ok := t.files[a.name]; ok {
			names = append(names, a.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), builtin, nil
}

// readAliases collects the aliases: of what is built in from
// modules.builtin.modinfo, of modules from modules.alias or from all of them.
func (t *Tree) readAliases() error {
	t.aliases = []alias{}
	data, err := os.ReadFile(filepath.Join(t.dir, "modules.builtin.modinfo"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for field := range bytes.SplitSeq(data, []byte{0}) {
		if _, pattern, ok := strings.Cut(string(field), ".alias="); ok {
			t.aliases = append(t.aliases, alias{pattern: pattern})
		}
	}
	before := len(t.aliases)
	err = t.lines("modules.alias", func(line string) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			t.aliases = append(t.aliases, alias{f[1], modules.Name(f[2])})
		}
	})
	if err != nil || len(t.aliases) > before {
		return err
	}
	return t.scanAliases()
}

// scanAliases reads all modules, which takes seconds where they are compressed.
func (t *Tree) scanAliases() error {
	names := slices.Sorted(maps.Keys(t.files))
	infos := make([]Info, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				infos[i], errs[i] = t.readInfo(t.files[names[i]])
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	wg.Wait()
	for i, name := range names {
		if errs[i] != nil {
			continue // a torn module that is asked for by name is an error there
		}
		t.infos[name] = infos[i]
		for _, pattern := range infos[i].Aliases {
			t.aliases = append(t.aliases, alias{pattern, name})
		}
	}
	return nil
}
