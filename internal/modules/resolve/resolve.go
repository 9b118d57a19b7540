package resolve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Request asks for a module by name or alias.
type Request struct {
	Name     string
	Optional bool // not there: reported in Missing, and no error
}

// Module is a module to put into an image.
type Module struct {
	Name     string   // ext4
	Path     string   // below the folder: kernel/fs/ext4/ext4.ko.xz
	Firmware []string // what it may ask for below /lib/firmware
}

// Missing is a name that no module answers to.
type Missing struct {
	Name string
	By   string // the module that would like it, "" for a Request
	Why  string
}

func (m Missing) String() string {
	text := m.Name
	if m.By != "" {
		text += " (for " + m.By + ")"
	}
	return text + ": " + m.Why
}

// Result is the answer to requests.
type Result struct {
	Modules []Module  // in load order: each stands behind all that it needs
	BuiltIn []string  // requested, and part of the kernel
	Missing []Missing // optional and soft ones that are not to be had
}

// Resolve finds the modules for requests with all that they need, hard and
// soft. The order of the answer depends on the order of the requests and on
// nothing else.
func (t *Tree) Resolve(requests []Request) (Result, error) {
	s := solver{tree: t, state: make(map[string]state)}
	for _, r := range requests {
		err := s.request(r.Name)
		if err == nil {
			continue
		}
		if !r.Optional {
			return Result{}, fmt.Errorf("module %s: %w", r.Name, err)
		}
		s.missing(Missing{Name: r.Name, Why: err.Error()})
	}
	return s.result, nil
}

type state int

const (
	underway state = iota + 1
	done
)

// A solver walks the dependencies depth first.
type solver struct {
	tree   *Tree
	state  map[string]state
	result Result
}

// ErrUnknown is a name that no module has, nor an alias.
const ErrUnknown Error = "no such module or alias, and not built in"

// ErrCircle is a module that needs itself. A kernel could not load it either.
const ErrCircle Error = "it needs itself"

func (s *solver) request(written string) error {
	name := underscored(written)
	if _, ok := s.tree.files[name]; ok {
		return s.visit(name)
	}
	if s.tree.builtin[name] {
		s.builtIn(written)
		return nil
	}
	names, builtin, err := s.tree.providers(written)
	if err != nil {
		return err
	}
	if builtin {
		s.builtIn(written)
	} else if len(names) == 0 {
		return ErrUnknown
	}
	for _, name := range names {
		if err := s.visit(name); err != nil {
			return err
		}
	}
	return nil
}

func (s *solver) builtIn(name string) {
	if !slices.Contains(s.result.BuiltIn, name) {
		s.result.BuiltIn = append(s.result.BuiltIn, name)
	}
}

func (s *solver) missing(m Missing) {
	if !slices.Contains(s.result.Missing, m) {
		s.result.Missing = append(s.result.Missing, m)
	}
}

// underscored is a name as the kernel writes it. An alias may have slashes.
func underscored(name string) string { return strings.ReplaceAll(name, "-", "_") }

// visit adds a module and what it needs; in case of an error, nothing.
func (s *solver) visit(name string) (err error) {
	if s.state[name] != 0 {
		return nil // there already, or a circle of soft dependencies
	}
	before := len(s.result.Modules)
	s.state[name] = underway
	defer func() {
		if err != nil {
			for _, m := range s.result.Modules[before:] {
				delete(s.state, m.Name)
			}
			s.result.Modules = s.result.Modules[:before]
			delete(s.state, name)
		}
	}()
	info, err := s.tree.Info(name)
	if err != nil {
		return err
	}
	later := s.soft(name, info.Pre)
	for _, dep := range append(slices.Clone(info.Depends), s.tree.deps[name]...) {
		if err := s.hard(underscored(dep)); err != nil {
			return err
		}
	}
	s.state[name] = done
	s.result.Modules = append(s.result.Modules,
		Module{Name: name, Path: s.tree.files[name], Firmware: info.Firmware})
	s.soft(name, slices.Concat(later, info.Post))
	return nil
}

func (s *solver) hard(name string) error {
	if _, ok := s.tree.files[name]; !ok {
		if s.tree.builtin[name] {
			return nil
		}
		return fmt.Errorf("it needs %s: %w", name, ErrUnknown)
	}
	if s.state[name] == underway {
		return fmt.Errorf("it needs %s: %w", name, ErrCircle)
	}
	if err := s.visit(name); err != nil {
		return fmt.Errorf("it needs %s: %w", name, err)
	}
	return nil
}

// soft adds soft dependencies. To be without one is no error, but worth a
// word. Those that need what is underway itself are returned, to come after it.
func (s *solver) soft(by string, names []string) (later []string) {
	builtIn := s.result.BuiltIn
	for _, name := range names {
		err := s.request(name)
		switch {
		case errors.Is(err, ErrCircle) && s.state[by] == underway:
			later = append(later, name)
		case err != nil:
			s.missing(Missing{Name: name, By: by, Why: err.Error()})
		}
	}
	s.result.BuiltIn = builtIn // that list is of requested ones
	return later
}
