package targets

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/blockdev"
)

const rawForm = "raw:///dev/NAME or raw:///?dev=PARTLABEL=NAME"

// parseRaw takes the device as the path or, where it is found by a tag, as
// dev=. LABEL= and UUID= are names of a file system, which the first dump would
// write over; the second crash would then wait for it in vain.
func parseRaw(u *rawURL) (Spec, error) {
	p, err := u.local(rawForm, "dev", "force", "overwrite")
	if err != nil {
		return Spec{}, err
	}
	dev := u.param("dev")
	switch {
	case dev == "" && p == "/":
		return Spec{}, fmt.Errorf("no device: want %s", rawForm)
	case dev != "" && p != "/":
		return Spec{}, fmt.Errorf("two devices, %s and %s: want %s", clip(p), clip(dev), rawForm)
	case dev == "":
		dev = p
	}
	spec, err := blockdev.ParseSpec(dev)
	if err != nil {
		return Spec{}, err
	}
	if spec.Tag == blockdev.Label || spec.Tag == blockdev.UUID {
		return Spec{}, fmt.Errorf("dev=%s names a file system, and raw:// writes without one: want /dev/NAME, PARTLABEL=NAME or PARTUUID=ID", spec)
	}
	for _, key := range []string{"force", "overwrite"} {
		if v := u.param(key); v != "" && v != "0" && v != "1" {
			return Spec{}, fmt.Errorf("%s=%s: want 0 or 1", key, clip(v))
		}
	}
	return Spec{Path: "/", Device: spec.String(), params: u.params}, nil
}

// raw is a partition without a file system.
//
// Dumps that were not taken yet stay: the first crash is worth most, and a new
// dump has what they leave free. Those that were taken make room. With
// overwrite=1 dumps of earlier crashes make room too, oldest first, but only
// when the new one needs it.
type raw struct {
	dev       rawIO
	url       string // without secrets
	logf      func(format string, a ...any)
	overwrite bool
	every     int64 // bytes between two checkpoints of a file

	mu     sync.Mutex
	cat    *rawCatalogue
	err    error // of a catalogue that could not be written; nothing is safe after it
	closed bool
}

func openRaw(ctx context.Context, s Spec, opts Options) (Target, error) {
	dev, cat, size, err := openRawDisk(ctx, s, opts)
	if err != nil {
		return nil, newError("open", "", s.String(), err)
	}
	r, err := newRaw(dev, cat, size, s, opts.logf)
	if err != nil {
		dev.Close()
		return nil, newError("open", "", s.String(), err)
	}
	return r, nil
}

// newRaw starts anew where there is no catalogue.
func newRaw(dev rawIO, cat *rawCatalogue, size int64, s Spec, logf func(string, ...any)) (*raw, error) {
	r := &raw{dev: dev, url: s.String(), logf: logf, overwrite: s.param("overwrite") == "1", every: rawCheckpoint, cat: cat}
	if cat == nil {
		return r, r.format(size)
	}
	fate := "it stays"
	if r.overwrite {
		fate = "it stays while there is room beside it"
	}
	r.cat.entries = slices.DeleteFunc(r.cat.entries, func(e *rawEntry) bool { return e.taken })
	for _, e := range r.cat.entries {
		e.old = true
		if !strings.Contains(e.name, "/") {
			logf("%s holds %s, which was not taken yet: %s", s.Device, e.name, fate)
		}
	}
	return r, nil
}

// format also clears the places where other uses of the device have their
// magic numbers, so that what is found there later is newer than this.
func (r *raw) format(size int64) error {
	r.cat = &rawCatalogue{end: rawEnd(size)}
	rand.Read(r.cat.id[:]) // never fails
	for _, off := range []int64{0, r.cat.end - rawArea} {
		if err := r.dev.Zero(off, rawArea); err != nil {
			return err
		}
	}
	if err := r.dev.Sync(); err != nil {
		return err
	}
	return r.save()
}

// save makes the catalogue durable; r.mu is held. After an error it is unknown
// what the device has, so that nothing more may be changed.
func (r *raw) save() error {
	if r.err != nil {
		return r.err
	}
	r.cat.generation++
	p := r.cat.encode(time.Now())
	for _, off := range []int64{r.cat.end - rawArea, 0} {
		if _, r.err = r.dev.WriteAt(p, off); r.err == nil {
			r.err = r.dev.Sync()
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

func (r *raw) Space(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var free int64
	for _, g := range r.cat.gaps() {
		free += g.len
	}
	if r.overwrite {
		for _, e := range r.cat.entries {
			if e.old {
				free += e.allocated()
			}
		}
	}
	return uint64(free), ctx.Err()
}

func (r *raw) Create(ctx context.Context, name string) (File, error) {
	f, err := r.create(ctx, name)
	if err != nil {
		return nil, newError("create", name, r.url, err)
	}
	return f, nil
}

func (r *raw) create(ctx context.Context, name string) (*rawFile, error) {
	temp := IncompleteName(name)
	if err := errors.Join(ctx.Err(), checkName(name), checkRawName(temp)); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usable(); err != nil {
		return nil, err
	}
	if r.cat.find(name) != nil {
		return nil, fs.ErrExist
	}
	if err := r.mkdirs(path.Dir(name)); err != nil {
		return nil, err
	}
	if e := r.cat.find(temp); e != nil {
		if e.isDir() {
			return nil, unix.EISDIR
		}
		r.drop(temp)
	}
	e := &rawEntry{name: temp, state: rawIncomplete, time: time.Now()}
	if err := r.add(e); err != nil {
		return nil, err
	}
	e.file = &rawFile{raw: r, entry: e, name: name}
	return e.file, r.save()
}

func checkRawName(name string) error {
	if len(name) > rawMaxName {
		return fmt.Errorf("name of %d bytes: a raw partition has room for %d", len(name), rawMaxName-len(incomplete))
	}
	return nil
}

func (r *raw) usable() error {
	if r.err == nil && r.closed {
		return fs.ErrClosed
	}
	return r.err
}

// mkdirs adds records for dir and what is missing above it; r.mu is held.
func (r *raw) mkdirs(dir string) error {
	if dir == "." {
		return nil
	}
	if e := r.cat.find(dir); e != nil {
		if !e.isDir() {
			return unix.ENOTDIR
		}
		return nil
	}
	if err := r.mkdirs(path.Dir(dir)); err != nil {
		return err
	}
	return r.add(&rawEntry{name: dir, state: rawDir, time: time.Now()})
}

func (r *raw) add(e *rawEntry) error {
	for len(r.cat.entries) >= rawMaxCount {
		if evicted, err := r.evict(); err != nil || !evicted {
			return errors.Join(err, fmt.Errorf("%d files and directories are all the catalogue has room for: %w", rawMaxCount, unix.ENOSPC))
		}
	}
	r.cat.entries = append(r.cat.entries, e)
	return nil
}

// drop takes records away; r.mu is held. Their space may be used when the
// catalogue is saved.
func (r *raw) drop(name string) (found bool) {
	r.cat.entries = slices.DeleteFunc(r.cat.entries, func(e *rawEntry) bool {
		if !e.below(name) {
			return false
		}
		found = true
		return true
	})
	return found
}

// evict removes the oldest dump of an earlier crash, where overwrite=1 allows
// it; r.mu is held.
func (r *raw) evict() (bool, error) {
	var oldest *rawEntry
	for _, e := range r.cat.entries {
		if !strings.Contains(e.name, "/") && r.old(e.name) && (oldest == nil || e.time.Before(oldest.time)) {
			oldest = e
		}
	}
	if oldest == nil || !r.overwrite {
		return false, nil
	}
	r.drop(oldest.name)
	r.logf("overwrite=1: removed %s, which was not taken, to make room", oldest.name)
	return true, r.save()
}

// old is true where nothing in the directory is of this crash.
func (r *raw) old(name string) bool {
	return !slices.ContainsFunc(r.cat.entries, func(e *rawEntry) bool { return e.below(name) && !e.old })
}

// room makes e large enough for size bytes. r.mu is held.
func (r *raw) room(e *rawEntry, size int64) error {
	for !r.cat.allocate(e, size) {
		if evicted, err := r.evict(); err != nil || !evicted {
			return errors.Join(err, unix.ENOSPC)
		}
	}
	return nil
}

func (r *raw) List(ctx context.Context, dir string) ([]Entry, error) {
	entries, err := r.list(ctx, dir)
	return entries, newError("list", dir, r.url, err)
}

func (r *raw) list(ctx context.Context, dir string) ([]Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if dir == "" {
		dir = "."
	} else if err := checkPath(dir); err != nil {
		return nil, err
	} else if e := r.cat.find(dir); e == nil {
		return nil, fs.ErrNotExist
	} else if !e.isDir() {
		return nil, unix.ENOTDIR
	}
	entries := []Entry{}
	for _, e := range r.cat.entries {
		if path.Dir(e.name) != dir {
			continue
		}
		size := e.size
		if e.file != nil {
			size = e.file.Size()
		}
		entries = append(entries, Entry{Name: path.Base(e.name), Dir: e.isDir(), Size: size, ModTime: e.time})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return entries, ctx.Err()
}

func (r *raw) Remove(ctx context.Context, name string) error {
	err := errors.Join(ctx.Err(), checkPath(name))
	if err == nil {
		err = r.remove(name)
	}
	return newError("remove", name, r.url, err)
}

// remove first stops those that still write to what goes away: its blocks may
// soon be another's.
func (r *raw) remove(name string) error {
	r.mu.Lock()
	var open []*rawFile
	for _, e := range r.cat.entries {
		if e.below(name) && e.file != nil {
			open = append(open, e.file)
		}
	}
	r.mu.Unlock()
	for _, f := range open {
		f.abandon(errors.New("the file was removed"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usable(); err != nil {
		return err
	}
	if !r.drop(name) {
		return nil
	}
	return r.save()
}

func (r *raw) Rename(ctx context.Context, from, to string) error {
	err := errors.Join(ctx.Err(), checkPath(from), checkName(to))
	if err == nil {
		err = r.rename(from, to)
	}
	return newError("rename "+from+" to", to, r.url, err)
}

func (r *raw) rename(from, to string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch err := r.usable(); {
	case err != nil:
		return err
	case r.cat.find(from) == nil:
		return fs.ErrNotExist
	case r.cat.find(to) != nil:
		return fs.ErrExist
	case strings.HasPrefix(to, from+"/"):
		return unix.EINVAL
	}
	for _, e := range r.cat.entries {
		if e.below(from) {
			if err := checkRawName(to + e.name[len(from):]); err != nil {
				return err
			}
		}
	}
	if err := r.mkdirs(path.Dir(to)); err != nil {
		return err
	}
	for _, e := range r.cat.entries {
		if e.below(from) {
			e.name = to + e.name[len(from):]
		}
	}
	return r.save()
}

// Close ends what is still open: it keeps its incomplete name.
func (r *raw) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	var open []*rawFile
	for _, e := range r.cat.entries {
		if e.file != nil {
			open = append(open, e.file)
		}
	}
	r.mu.Unlock()
	var err error
	for _, f := range open {
		err = errors.Join(err, f.Close())
	}
	return errors.Join(err, newError("sync", "", r.url, r.dev.Sync()), newError("close", "", r.url, r.dev.Close()))
}
