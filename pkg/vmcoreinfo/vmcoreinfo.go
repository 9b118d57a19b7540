// Package vmcoreinfo reads the VMCOREINFO note: the lines by which a kernel
// describes itself to whoever reads its memory later.
//
// Start with [Parse]. The keys are those of the kernel's
// Documentation/admin-guide/kdump/vmcoreinfo.rst; what a kernel does not
// export is absent, so ask for presence key by key, never for a version.
// The package knows no key's meaning beyond how its value is written.
package vmcoreinfo

import (
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Info is a parsed VMCOREINFO note. All methods may be called on a nil *Info,
// which has no keys.
type Info struct {
	values map[string]string
}

// Parse reads the descriptor of a VMCOREINFO note. It never fails: lines that
// are not KEY=VALUE in printable ASCII are skipped, and of a repeated key the
// first counts, so that garbage behind the text cannot change it. desc is
// copied.
func Parse(desc []byte) *Info {
	i := &Info{values: make(map[string]string)}
	for line := range strings.Lines(string(desc)) {
		line = strings.TrimRight(line, "\n\x00")
		key, value, ok := strings.Cut(line, "=")
		if !ok || key == "" || !printable(line) {
			continue
		}
		if _, seen := i.values[key]; !seen {
			i.values[key] = value
		}
	}
	return i
}

func printable(s string) bool {
	for k := range len(s) {
		if s[k] < ' ' || s[k] > '~' {
			return false
		}
	}
	return true
}

// Value gives the text behind the "=" of a key such as "OSRELEASE" or
// "SYMBOL(swapper_pg_dir)".
func (i *Info) Value(key string) (string, bool) {
	if i == nil {
		return "", false
	}
	v, ok := i.values[key]
	return v, ok
}

// Symbol gives the virtual address in SYMBOL(name). KASLR is already applied.
func (i *Info) Symbol(name string) (uint64, bool) {
	return i.unsigned("SYMBOL("+name+")", 16)
}

// Size gives SIZE(name) in bytes.
func (i *Info) Size(name string) (uint64, bool) {
	return i.unsigned("SIZE("+name+")", 10)
}

// Offset gives OFFSET(name) in bytes; name is "struct.member".
func (i *Info) Offset(name string) (uint64, bool) {
	return i.unsigned("OFFSET("+name+")", 10)
}

// Length gives LENGTH(name), a number of array elements.
func (i *Info) Length(name string) (uint64, bool) {
	return i.unsigned("LENGTH("+name+")", 10)
}

// Number gives NUMBER(name). The kernel writes some of them in signed decimal
// and some in hexadecimal with 0x; one above the largest int64 wraps, so an
// address is uint64(n).
func (i *Info) Number(name string) (int64, bool) {
	v, ok := i.Value("NUMBER(" + name + ")")
	if !ok {
		return 0, false
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return n, true
	}
	n, ok := parseUnsigned(v, 10)
	return int64(n), ok
}

// Release gives OSRELEASE, "" if absent.
func (i *Info) Release() string {
	v, _ := i.Value("OSRELEASE")
	return v
}

// PageSize gives PAGESIZE in bytes, as the kernel wrote it.
func (i *Info) PageSize() (uint64, bool) { return i.unsigned("PAGESIZE", 10) }

// CrashTime gives the second of the crash by the crashed kernel's clock.
func (i *Info) CrashTime() (time.Time, bool) {
	v, ok := i.Value("CRASHTIME")
	if !ok {
		return time.Time{}, false
	}
	sec, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(sec, 0).UTC(), true
}

// KernelOffset gives the KASLR displacement of the kernel's text, in bytes.
func (i *Info) KernelOffset() (uint64, bool) { return i.unsigned("KERNELOFFSET", 16) }

// Len is the number of keys.
func (i *Info) Len() int {
	if i == nil {
		return 0
	}
	return len(i.values)
}

// All yields every key and value, sorted by key.
func (i *Info) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if i == nil {
			return
		}
		keys := make([]string, 0, len(i.values))
		for k := range i.values {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if !yield(k, i.values[k]) {
				return
			}
		}
	}
}

// Require gives nil if every key is present, else a *[MissingError]. Keys are
// written as in the note: "SYMBOL(mem_section)".
func (i *Info) Require(keys ...string) error {
	var missing []string
	for _, k := range keys {
		if _, ok := i.Value(k); !ok {
			missing = append(missing, k)
		}
	}
	if missing == nil {
		return nil
	}
	return &MissingError{Keys: missing}
}

// MissingError says which keys a core's VMCOREINFO does not have.
type MissingError struct {
	Keys []string
}

func (e *MissingError) Error() string {
	return "vmcoreinfo lacks " + strings.Join(e.Keys, ", ")
}

func (i *Info) unsigned(key string, base int) (uint64, bool) {
	v, ok := i.Value(key)
	if !ok {
		return 0, false
	}
	return parseUnsigned(v, base)
}

func parseUnsigned(v string, base int) (uint64, bool) {
	if hex, ok := strings.CutPrefix(v, "0x"); ok {
		v, base = hex, 16
	}
	n, err := strconv.ParseUint(v, base, 64)
	return n, err == nil
}
