package vmcore

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
)

// Files is what a core's files are.
type Files struct {
	Flattened bool               // at least one of them
	Torn      bool               // at least one flattened file has no end
	Dump      *kdumpfile.Kdump   // all of a kdump-compressed dump; nil: an ELF core
	Parts     []*kdumpfile.Kdump // of a split dump, or its only file
}

// OpenFiles opens a core of any kind: ELF or kdump-compressed, either of them
// flattened or not, or all parts of a split dump in any order. Files that were
// cut off open for what they hold, if their headers and bitmaps are there, and so
// does a split dump without all of its parts; see Incomplete.
//
// It brings decompressors with it: commands of a capture image use Open.
func OpenFiles(paths ...string) (*Core, error) {
	return openFiles(paths, func(src *source, head []byte) (*kdumpfile.Kdump, error) {
		if !strings.HasPrefix(string(head), kdumpSignature) {
			return nil, fmt.Errorf("%s is no dump: neither ELF nor kdump-compressed nor flattened; it begins with % x", src.file.Name(), head)
		}
		return kdumpfile.OpenKdump(src.plain, src.size)
	})
}

// SalvageFiles opens what is left of torn files: kdump-compressed ones through
// kdumpfile.Salvage, which looks for pages, so that none that cannot be read is
// among them. It tells what became of the pages of each of them, in the order of
// paths; of an ELF core nothing.
func SalvageFiles(ctx context.Context, o kdumpfile.SalvageOptions, paths ...string) (*Core, []kdumpfile.Salvaged, error) {
	var all []kdumpfile.Salvaged
	c, err := openFiles(paths, func(src *source, _ []byte) (*kdumpfile.Kdump, error) {
		k, found, err := kdumpfile.Salvage(ctx, src.plain, src.size, o)
		all = append(all, found)
		return k, err
	})
	return c, all, err
}

// kdumpOpener opens what does not begin as an ELF file.
type kdumpOpener func(src *source, head []byte) (*kdumpfile.Kdump, error)

func openFiles(paths []string, open kdumpOpener) (*Core, error) {
	c := &Core{}
	if err := c.openFiles(paths, open); err != nil {
		err = fmt.Errorf("open core %s: %w", strings.Join(paths, " "), err)
		if c.shared == nil {
			return nil, errors.Join(err, closeAll(c.files))
		}
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Core) openFiles(paths []string, open kdumpOpener) error {
	if len(paths) == 0 {
		return errors.New("no file is named")
	}
	var parts []*kdumpfile.Kdump
	var flattened bool
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		c.files = append(c.files, f)
		src := newSource(f)
		flat, err := c.unflatten(&src)
		if err != nil {
			return err
		}
		flattened = flattened || flat
		head, err := readHead(&src)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(head), elf.ELFMAG) {
			k, err := open(&src, head)
			if err != nil {
				return err
			}
			parts = append(parts, k)
			continue
		}
		if len(paths) > 1 {
			return fmt.Errorf("%s is an ELF core, and those come in one file", path)
		}
		c.src = src
		return c.load(0)
	}
	return c.loadKdump(parts, flattened)
}

// unflatten makes src read the plain file where it is a flattened one.
func (c *Core) unflatten(src *source) (flattened bool, err error) {
	head, err := readHead(src)
	if err != nil || !kdumpfile.IsFlattened(head) {
		return false, err
	}
	plain, err := kdumpfile.OpenFlattened(src.plain, src.size, true)
	if err != nil {
		return true, err
	}
	src.plain, src.size = plain, plain.Size()
	if plain.Torn() {
		c.torn = true
		c.skipped.add("%s: %v", src.file.Name(), kdumpfile.ErrTorn)
	}
	return true, nil
}

// readHead gives the first 16 bytes of a file, fewer of a shorter one.
func readHead(src *source) ([]byte, error) {
	head := make([]byte, 16)
	n, err := src.plain.ReadAt(head, 0)
	switch {
	case n == 0 && (err == nil || err == io.EOF):
		return nil, fmt.Errorf("%s is empty", src.file.Name())
	case err != nil && err != io.EOF:
		return nil, fmt.Errorf("read header: %w", err)
	}
	return head[:n], nil
}

// Files says what the core was opened from.
func (c *Core) Files() Files {
	k, ok := c.pages.(*kdumpFile)
	if !ok {
		_, plain := c.src.plain.(*os.File)
		return Files{Flattened: !plain, Torn: c.torn}
	}
	return Files{Flattened: k.flattened, Torn: c.torn, Dump: k.dump, Parts: k.parts}
}
