package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// streamBuffer is what standard output is written in.
const streamBuffer = 1 << 20

// outFile is a file that has another name until it is complete.
type outFile struct {
	f          *os.File
	name, temp string
	force      bool // replace a file of that name
}

// createOut starts the file name as NAME-incomplete, which replaces one that an
// earlier run left. inputs are not replaced.
func createOut(name string, force bool, inputs []string) (*outFile, error) {
	switch st, err := os.Stat(name); {
	case err == nil && !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file; with - as OUT the dump goes to standard output", name)
	case err == nil && !force:
		return nil, fmt.Errorf("%s is there already: -f replaces it", name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	temp := name + "-incomplete"
	for i := 2; isInput(temp, inputs); i++ {
		temp = fmt.Sprintf("%s-incomplete-%d", name, i)
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &outFile{f: f, name: name, temp: temp, force: force}, nil
}

func isInput(path string, inputs []string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	for _, in := range inputs {
		if other, err := os.Stat(in); err == nil && os.SameFile(st, other) {
			return true
		}
	}
	return false
}

// commit makes the file durable and gives it its name.
func (o *outFile) commit() error {
	if err := errors.Join(o.f.Sync(), o.f.Close()); err != nil {
		return err
	}
	flags := uint(unix.RENAME_NOREPLACE)
	if o.force {
		flags = 0
	}
	err := unix.Renameat2(unix.AT_FDCWD, o.temp, unix.AT_FDCWD, o.name, flags)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // not every file system has NOREPLACE
		err = os.Rename(o.temp, o.name)
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", o.temp, o.name, err)
	}
	dir, err := os.Open(filepath.Dir(o.name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// output is where a dump goes: files, or standard output.
type output struct {
	files  []*outFile
	stream *bufio.Writer
	sent   *countWriter // what stream has written
}

// open makes the outputs: split files NAME.1, NAME.2 ..., or NAME, or standard
// output for "-".
func (e *env) open(name string, split int, force bool, inputs []string) (*output, error) {
	if name == "-" {
		if f, ok := e.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, usagef("OUT is -, but standard output is a terminal")
		}
		sent := &countWriter{w: e.stdout}
		return &output{stream: bufio.NewWriterSize(sent, streamBuffer), sent: sent}, nil
	}
	names := []string{name}
	if split > 1 {
		names = nil
		for i := range split {
			names = append(names, fmt.Sprintf("%s.%d", name, i+1))
		}
	}
	o := &output{}
	for _, name := range names {
		f, err := createOut(name, force, inputs)
		if err != nil {
			for _, made := range o.files { // nothing is in them yet
				made.f.Close()
				os.Remove(made.temp)
			}
			return nil, err
		}
		o.files = append(o.files, f)
	}
	return o, nil
}

// writer is where the only file of a dump, or the stream, goes.
func (o *output) writer() io.Writer {
	if o.stream != nil {
		return o.stream
	}
	return o.files[0].f
}

func (o *output) writersAt() (all []io.WriterAt) {
	for _, f := range o.files {
		all = append(all, f.f)
	}
	return all
}

// commit is for a dump that is complete; size is what it takes in bytes.
func (o *output) commit() (size int64, err error) {
	if o.stream != nil {
		err := o.stream.Flush()
		return o.sent.n, err
	}
	for _, f := range o.files {
		if st, err := f.f.Stat(); err == nil {
			size += st.Size()
		}
		if err := f.commit(); err != nil {
			return size, err
		}
	}
	return size, nil
}

// abandon leaves what there is under the names of incomplete files, and says so.
func (o *output) abandon(e *env) {
	for _, f := range o.files {
		f.f.Close()
		e.warn("%s stays, incomplete", f.temp)
	}
}

// countWriter counts what goes through.
type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
