// Package modules loads the kernel modules that an image lists, in the order
// of the list. What has to be loaded, and in which order, was settled when the
// image was built: internal/modules/resolve does that.
//
// Start with ReadList and Load.
package modules

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// ListPath is where an image keeps the list of what is loaded at the start.
const ListPath = "/etc/kdump/modules"

// FSListPath is where an image keeps the list for one type of file system,
// loaded when it is about to be mounted. It has only what ListPath has not.
func FSListPath(fstype string) string { return ListPath + "." + fstype }

// NetList is the name, in place of a type of file system, of the list that is loaded
// when the network is about to be set up.
const NetList = "net"

// WatchdogList is the name of the list of watchdogs, loaded before anything else.
const WatchdogList = "watchdog"

// Entry is one module to load.
type Entry struct {
	Path   string // of the file: /lib/modules/RELEASE/kernel/fs/ext4/ext4.ko
	Params string // as finit_module(2) takes them: "a=1 b=2"
}

// Name is the module's name as the kernel shows it: ext4, virtio_net.
func (e Entry) Name() string { return Name(e.Path) }

// Name is the module name of a file or of a name in any spelling: the
// kernel's, with underscores for dashes.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// maxLine bounds a line of a list.
const maxLine = 4096

// ReadList reads a list: a path a line, then parameters if there are any.
// Empty lines and those that start with # say nothing.
func ReadList(r io.Reader) ([]Entry, error) {
	var entries []Entry
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, maxLine), maxLine)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		file, params, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(file, "/") {
			return entries, fmt.Errorf("module list line %d: %q is not an absolute path", n, file)
		}
		entries = append(entries, Entry{Path: file, Params: strings.TrimSpace(params)})
	}
	if err := s.Err(); err != nil {
		return entries, fmt.Errorf("module list: %w", err)
	}
	return entries, nil
}

// WriteList writes what ReadList reads.
func WriteList(w io.Writer, entries []Entry) error {
	for _, e := range entries {
		line := e.Path
		if e.Params != "" {
			line += " " + e.Params
		}
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			return err
		}
	}
	return nil
}
