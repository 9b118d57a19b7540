package targets

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"time"
)

// RawStore is what a partition that raw:// wrote to holds. It is for the
// production system, which takes the dumps out: [OpenRaw], then each of
// [RawStore.Files] through [RawStore.Open], and [RawStore.MarkTaken] when they
// are safe somewhere else.
type RawStore struct {
	disk *os.File // read-only
	path string
	size int64
	cat  *rawCatalogue
	url  string
}

// RawFile is one file or directory of a RawStore.
type RawFile struct {
	Name     string // with its directories
	Dir      bool
	Size     int64 // bytes; of an incomplete file those that are known to be there
	ModTime  time.Time
	Complete bool // it was committed; of a directory: meaningless
	Taken    bool // its space is free for the next dump
}

// ErrChecksum is returned by the last Read of a file whose bytes are not those
// that were written.
const ErrChecksum constError = "checksum mismatch: the device does not give back what was written"

// ErrNoDump is returned by OpenRaw for a device without a dump of raw://.
const ErrNoDump constError = "no dump of raw:// is on it"

// OpenRaw reads what the device of a raw:// URL holds. Nothing is written.
func OpenRaw(ctx context.Context, url string, opts Options) (*RawStore, error) {
	spec, err := Parse(url)
	if err != nil {
		return nil, err
	}
	if spec.Scheme != "raw" {
		return nil, fmt.Errorf("target %q: want %s", clip(Redacted(url)), rawForm)
	}
	s, err := openRawStore(ctx, spec, opts)
	return s, newError("open", "", spec.String(), err)
}

func openRawStore(ctx context.Context, spec Spec, opts Options) (*RawStore, error) {
	dev, err := findRaw(ctx, spec, opts)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(dev.Path)
	if err != nil {
		return nil, err
	}
	holds, err := foreign(f, dev)
	if err == nil && holds != "" {
		err = fmt.Errorf("%s holds %s: %w", dev.Path, holds, ErrNoDump)
	}
	var cat *rawCatalogue
	if err == nil {
		cat, err = readRaw(f, dev.Size)
	}
	if errors.Is(err, errNotRaw) {
		err = fmt.Errorf("%s: %w", dev.Path, ErrNoDump)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &RawStore{disk: f, path: dev.Path, size: dev.Size, cat: cat, url: spec.String()}, nil
}

// Files are all files and directories, in the order of their records.
func (s *RawStore) Files() []RawFile {
	var all []RawFile
	for _, e := range s.cat.entries {
		all = append(all, RawFile{Name: e.name, Dir: e.isDir(), Size: e.size, ModTime: e.time, Complete: e.state == rawComplete, Taken: e.taken})
	}
	return all
}

// Open gives the bytes of a file. Its last Read returns ErrChecksum where a
// complete file is damaged.
func (s *RawStore) Open(name string) (io.Reader, error) {
	e := s.cat.find(name)
	if e == nil || e.isDir() {
		return nil, newError("open", name, s.url, fs.ErrNotExist)
	}
	return &rawReader{store: s, entry: e}, nil
}

type rawReader struct {
	store *RawStore
	entry *rawEntry
	pos   int64
	crc   uint32
}

func (r *rawReader) Read(p []byte) (int, error) {
	e := r.entry
	n := min(int64(len(p)), e.size-r.pos)
	if n == 0 && len(p) > 0 {
		if e.state == rawComplete && r.crc != e.crc {
			return 0, newError("read", e.name, r.store.url, ErrChecksum)
		}
		return 0, io.EOF
	}
	done, err := readPieces(r.store.disk, p[:n], e.pieces(r.pos, n))
	r.crc = crc32.Update(r.crc, castagnoli(), p[:done])
	r.pos += int64(done)
	return done, newError("read", e.name, r.store.url, err)
}

// MarkTaken gives the space of a directory, or of a file, to the next dump.
// Until that comes the bytes stay, and Files still has them. It fails if the
// device was written to since OpenRaw.
func (s *RawStore) MarkTaken(name string) error {
	return newError("mark as taken", name, s.url, s.markTaken(name))
}

func (s *RawStore) markTaken(name string) error {
	if s.cat.find(name) == nil {
		return fs.ErrNotExist
	}
	d, err := claimDisk(s.path)
	if err != nil {
		return err
	}
	defer d.Close()
	now, err := readRaw(d, s.size)
	if err != nil {
		return err
	}
	if now.generation != s.cat.generation || now.id != s.cat.id {
		return errors.New("the device was written to in the meantime")
	}
	for _, e := range s.cat.entries {
		if e.below(name) {
			e.taken = true
		}
	}
	r := &raw{dev: d, cat: s.cat}
	return r.save()
}

// Close lets the device go.
func (s *RawStore) Close() error { return s.disk.Close() }
