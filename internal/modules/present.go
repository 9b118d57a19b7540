package modules

import (
	"bytes"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoDevice is a driver that was not loaded since this machine has none of its
// devices.
const ErrNoDevice Error = "no device here is one of its"

// deviceIDs gives the modalias of each device that is there, as the kernel's buses
// show them below sys.
func deviceIDs(sys string) []string {
	files, _ := filepath.Glob(filepath.Join(sys, "bus/*/devices/*/modalias")) // its one error is a bad pattern
	var ids []string
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil {
			ids = append(ids, strings.TrimSpace(string(b)))
		}
	}
	return ids
}

// info is what a module says of itself in its section .modinfo.
type info struct {
	gone    bool     // there is no file
	aliases []string // patterns of modalias, and names of protocols
	depends []string // modules that it does not load without
	before  []string // modules that it works better with, such as a NIC's PHY drivers
}

// readInfo reads it where the module is: files are memory in a capture kernel, which
// a copy would take twice.
func readInfo(name string) (m info) {
	f, err := os.Open(name)
	if err != nil {
		return info{gone: errors.Is(err, os.ErrNotExist)}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return info{}
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return info{}
	}
	defer unix.Munmap(b)
	return parseInfo(b)
}

func parseInfo(module []byte) (m info) {
	for text := range fields(module, "alias") {
		m.aliases = append(m.aliases, text)
	}
	for text := range fields(module, "depends") {
		for name := range strings.SplitSeq(text, ",") {
			if name != "" {
				m.depends = append(m.depends, Name(name))
			}
		}
	}
	for text := range fields(module, "softdep") { // "pre: a b post: c"
		pre := false
		for _, word := range strings.Fields(text) {
			if strings.HasSuffix(word, ":") {
				pre = word == "pre:"
			} else if pre {
				m.before = append(m.before, Name(word))
			}
		}
	}
	return m
}

// hardware tells that a module is a driver: one of its aliases names a bus. Others
// are names of protocols, or what the module was called once.
func (m info) hardware() bool {
	return slices.ContainsFunc(m.aliases, func(a string) bool { return strings.Contains(a, ":") })
}

// matches tells whether a driver may be of use to one of the devices. One of USB
// devices always may: they are found some time after their bus.
func (m info) matches(ids []string) bool {
	for _, alias := range m.aliases {
		if strings.HasPrefix(alias, "usb:") {
			return true
		}
		for _, id := range ids {
			if ok, err := path.Match(alias, id); ok || err != nil {
				return true
			}
		}
	}
	return false
}

// fields are the values of a key of .modinfo: strings "KEY=VALUE", each ended by a
// NUL.
func fields(module []byte, key string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		mark := []byte("\x00" + key + "=")
		for {
			i := bytes.Index(module, mark)
			if i < 0 {
				return
			}
			module = module[i+len(mark):]
			end := bytes.IndexByte(module, 0)
			if end < 0 || !yield(string(module[:end])) {
				return
			}
			module = module[end:]
		}
	}
}
