package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/qemu/rig"
)

//go:embed testdata/*.py
var scripts embed.FS

// script puts one of the embedded programs where python finds it.
func (s *subject) script(name string) (string, error) {
	b, err := scripts.ReadFile("testdata/" + name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, b, 0o644)
}

// variant is one way to write a dump.
type variant struct {
	level    memmap.Level
	compress string
	format   string
	dedup    bool
}

func (v variant) String() string {
	if v.format == "elf" {
		return fmt.Sprintf("level %d elf", v.level)
	}
	s := fmt.Sprintf("level %d %s %s", v.level, v.compress, v.format)
	if v.dedup {
		s += " dedup"
	}
	return s
}

// variants are all of them, or one for each format.
func variants(all bool) []variant {
	if !all {
		return []variant{{level: 31, compress: "zstd", format: "kdump"}, {level: 31, compress: "snappy", format: "flat"}, {level: 31, format: "elf"}}
	}
	var list []variant
	for _, level := range []memmap.Level{0, 1, 16, 31} {
		for _, codec := range []string{"zstd", "snappy", "zlib", "none"} {
			list = append(list, variant{level: level, compress: codec, format: "kdump"}, variant{level: level, compress: codec, format: "flat"})
		}
		list = append(list, variant{level: level, compress: "zstd", format: "kdump", dedup: true}, variant{level: level, format: "elf"})
	}
	return list
}

// save has "vmcore convert" make a dump of the raw core. The caller removes it.
func (s *subject) save(ctx context.Context, vmcore string, v variant) (path string, err error) {
	path = filepath.Join(s.dir, "dump")
	args := []string{"convert", "-f", "-level", fmt.Sprint(v.level), "-format", v.format, "-workers", "2"}
	if v.format != "elf" {
		args = append(args, "-compress", v.compress)
	}
	if v.dedup {
		args = append(args, "-dedup")
	}
	_, err = rig.Output(exec.CommandContext(ctx, vmcore, append(args, s.raw, path)...))
	return path, err
}

// pages reads every kept page of every variant with foreign readers.
func (m *matrix) pages(ctx context.Context, c *subject, s shape) error {
	var errs []error
	done, pages := 0, uint64(0)
	kdumps := map[string]string{} // variants of the format kdump, kept for the flattened ones
	defer func() {
		for _, path := range kdumps {
			_ = os.Remove(path)
		}
	}()
	for _, v := range variants(s.all) {
		path, err := c.save(ctx, m.vmcore, v)
		if err == nil {
			err = c.readBack(ctx, path, v, kdumps)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", v, err))
			continue
		}
		done++
		pages += c.maps[v.level].Keep.Count()
	}
	_ = os.Remove(filepath.Join(c.dir, "dump"))
	fmt.Fprintf(m.out, "    %d dumps exact, %d pages in all\n", done, pages)
	return errors.Join(errs...)
}

// readBack compares one dump.
func (s *subject) readBack(ctx context.Context, path string, v variant, kdumps map[string]string) error {
	switch v.format {
	case "elf":
		return errors.Join(s.drgn(ctx, path, v.level), s.gdb(ctx, path, v.level))
	case "flat":
		whole := filepath.Join(s.dir, "rearranged")
		defer os.Remove(whole)
		if err := s.rearrange(ctx, path, whole); err != nil {
			return err
		}
		key := variant{level: v.level, compress: v.compress, format: "kdump"}.String()
		if kdumps[key] != "" {
			return sameFile(kdumps[key], whole)
		}
		return s.drgn(ctx, whole, v.level)
	}
	if err := s.drgn(ctx, path, v.level); err != nil {
		return err
	}
	if err := s.sameBitmap(path, v.level); err != nil {
		return err
	}
	keep := filepath.Join(s.dir, "exact.kdump")
	clear(kdumps) // the flattened one comes next
	kdumps[v.String()] = keep
	return os.Rename(path, keep)
}

// sameBitmap: the file lists the pages that the map keeps, those and no others.
func (s *subject) sameBitmap(path string, level memmap.Level) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	k, err := kdumpfile.OpenKdump(f, st.Size())
	if err != nil {
		return err
	}
	dumped, err := k.Dumped()
	if err != nil {
		return err
	}
	if n := len(differences(level, s.maps[level].Keep.Bitmap(), dumped)); n > 0 {
		return fmt.Errorf("the 2nd bitmap differs in %d pages from what level %d keeps", n, level)
	}
	return nil
}

// rearrange has makedumpfile turn a flattened dump into a plain one.
func (s *subject) rearrange(ctx context.Context, flat, out string) error {
	f, err := os.Open(flat)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd, err := s.Tool(ctx, "makedumpfile", "-f", "-R", out)
	if err != nil {
		return err
	}
	cmd.Stdin = f
	_, err = rig.Output(cmd)
	return err
}

func sameFile(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	// A rearranged file may lack a hole at its end.
	if n := min(len(x), len(y)); !bytes.Equal(x[:n], y[:n]) || len(bytes.Trim(x[n:], "\x00"))+len(bytes.Trim(y[n:], "\x00")) > 0 {
		return fmt.Errorf("the rearranged flattened dump is not the plain one")
	}
	return nil
}

// reading is what the scripts print.
type reading struct {
	Compared   uint64
	Different  int
	Unreadable int
	Readable   int
	PFNs       any
	Where      any
}

func (s *subject) drgn(ctx context.Context, path string, level memmap.Level) error {
	script, err := s.script("read.py")
	if err != nil {
		return err
	}
	keep, err := s.keepFile(level)
	if err != nil {
		return err
	}
	cmd, err := s.Tool(ctx, "python3", script, path, s.raw, keep)
	if err != nil {
		return err
	}
	out, err := rig.Output(cmd)
	if err != nil {
		return err
	}
	return s.check("drgn", out, s.maps[level].Keep.Count())
}

func (s *subject) gdb(ctx context.Context, path string, level memmap.Level) error {
	script, err := s.script("gdb.py")
	if err != nil {
		return err
	}
	keep, err := s.keepFile(level)
	if err != nil {
		return err
	}
	cmd, err := s.Gdb(ctx, "-ex", fmt.Sprintf("python import sys; sys.argv = ['gdb.py', %q, %q, %q]", path, s.raw, keep), "-x", script)
	if err != nil {
		return err
	}
	out, err := rig.Output(cmd)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return s.check("gdb", lines[len(lines)-1], s.maps[level].Keep.Count())
}

// check wants at least pages compared: where segments overlap, some come twice.
func (s *subject) check(who, out string, pages uint64) error {
	var r reading
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return fmt.Errorf("%s: %w in %.200q", who, err, out)
	}
	if r.Different > 0 || r.Unreadable > 0 || r.Readable > 0 || r.Compared < pages {
		return fmt.Errorf("%s: %d pages kept, %.600s", who, pages, out)
	}
	return nil
}

func (s *subject) keepFile(level memmap.Level) (string, error) {
	path := filepath.Join(s.dir, "keep.bitmap")
	return path, os.WriteFile(path, s.maps[level].Keep.Bitmap(), 0o644)
}
