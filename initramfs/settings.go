package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"slices"

	"github.com/ukdump/ukdump/initramfs/cpio"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
)

// settings is the configuration of an image.
type settings struct {
	name    string // of the file
	text    []byte // as it is baked in: line numbers stay what the user knows
	config  config.Config
	targets []targets.Spec
	network netcfg.Plan
}

// problems is a configuration that must not go into an image.
type problems []error

func (p problems) Error() string {
	var b bytes.Buffer
	for i, err := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

// readSettings reads and checks a kdump.conf. No name is an empty one. The
// error is one of the file system, or problems with all that is wrong.
func readSettings(name string) (*settings, error) {
	s := &settings{name: name}
	if name != "" {
		var err error
		if s.text, err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	var wrong problems
	cfg, found := config.Parse(bytes.NewReader(s.text), name)
	for _, p := range found {
		wrong = append(wrong, p)
	}
	s.config = cfg
	for _, text := range cfg.Targets {
		spec, err := targets.Parse(text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
			continue
		}
		s.targets = append(s.targets, spec)
	}
	plan, errs := netcfg.Parse(cfg.Network)
	for _, err := range errs {
		wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
	}
	s.network = plan
	if len(wrong) > 0 {
		return nil, wrong
	}
	return s, nil
}

// fits checks that the image has what the configuration tells PID 1 to run.
func (s *settings) fits(a *cpio.Archive) error {
	var wrong problems
	_, hasShell := a.Get(shellPath)
	for _, k := range []struct {
		key    string
		action config.Action
	}{{"final", s.config.Final}, {"failure", s.config.Failure}} {
		if k.action == config.Shell && !hasShell {
			wrong = append(wrong, fmt.Errorf("%s: %s = shell: the image has none; leave out -no-shell", s.where(k.key), k.key))
		}
	}
	for _, hook := range slices.Concat(s.config.Pre, s.config.Post) {
		if err := runs(a, hook); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: hook %s %w", s.name, hook, err))
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// runs tells why the kernel would not run a hook.
func runs(a *cpio.Archive, hook string) error {
	e, ok, err := follow(a, hook)
	regular := e.Mode&cpio.TypeMask == cpio.Regular
	line, _, _ := bytes.Cut(e.Data, []byte("\n"))
	switch {
	case err != nil:
		return fmt.Errorf("is not a program in the image: %w", err)
	case !ok || e.Mode&0o111 == 0:
		return fmt.Errorf("is not a program in the image: want -files PROGRAM:%s", hook)
	case !regular || e.Name == busyboxPath || bytes.HasPrefix(e.Data, []byte(elf.ELFMAG)):
		return nil
	case !bytes.HasPrefix(line, []byte("#!")):
		return fmt.Errorf("is neither a static program nor a script: want #!/bin/sh as its first line")
	case bytes.Contains(line, []byte("\r")):
		return fmt.Errorf("has a carriage return in its first line, which the kernel takes for a part of the name: want lines that end as on Unix")
	}
	return nil
}

func (s *settings) where(key string) string {
	if w := s.config.Where(key); w != "" {
		return w
	}
	return s.name
}
