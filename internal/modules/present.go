package modules

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
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

// wanted tells whether a module may be of use to one of the devices: one of its
// aliases matches, or it has none that name hardware, as libraries and protocols
// do. A driver of USB devices always may: they are found some time after their
// bus.
func wanted(module []byte, ids []string) bool {
	hardware := false
	for alias := range aliases(module) {
		bus, _, ok := strings.Cut(alias, ":")
		if !ok {
			continue // the name of a module or of a protocol
		}
		if bus == "usb" {
			return true
		}
		hardware = true
		for _, id := range ids {
			if ok, err := path.Match(alias, id); ok || err != nil {
				return true
			}
		}
	}
	return !hardware
}

// aliases are the patterns of modalias that a module's section .modinfo has:
// strings "alias=PATTERN", each ended by a NUL.
func aliases(module []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		mark := []byte("\x00alias=")
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
