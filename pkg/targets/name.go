package targets

import (
	"fmt"
	"path"
	"strings"
)

const (
	incomplete = "-incomplete"

	// maxElement leaves room for "-incomplete" in the 255 characters that a
	// name may have on every file system here.
	maxElement = 255 - len(incomplete)

	// maxName is far below PATH_MAX, so that the name still fits below the
	// directory that the URL names.
	maxName = 1024

	// notOnVFAT are printable characters that vfat refuses in a name, and a
	// Windows file server too. Control characters are refused everywhere.
	notOnVFAT = "\"*:<>?\\|"
)

// IncompleteName is the name under which a file is written until it is
// committed. The directory part stays: "D/vmcore" gives "D/vmcore-incomplete",
// "D/report.txt" gives "D/report-incomplete.txt".
func IncompleteName(name string) string {
	dir, stem, ext := split(name)
	return dir + stem + incomplete + ext
}

// split takes the extension off; a dot file has none.
func split(name string) (dir, stem, ext string) {
	dir, base := path.Split(name)
	ext = path.Ext(base)
	if ext == base {
		ext = ""
	}
	return dir, strings.TrimSuffix(base, ext), ext
}

// FinalName is the inverse of [IncompleteName]; ok is false for a name that is
// not one of an incomplete file.
func FinalName(name string) (final string, ok bool) {
	dir, stem, ext := split(name)
	stem, ok = strings.CutSuffix(stem, incomplete)
	if !ok || stem == "" {
		return "", false
	}
	final = dir + stem + ext
	return final, IncompleteName(final) == name
}

// checkName is for names that are about to come into being: they must be legal
// on every target, so that a directory can be copied from one to another.
func checkName(name string) error {
	if err := checkPath(name); err != nil {
		return err
	}
	if _, ok := FinalName(name); ok {
		return fmt.Errorf("name %q: %q is kept for files that are not complete", name, incomplete)
	}
	for elem := range strings.SplitSeq(name, "/") {
		if len(elem) > maxElement {
			return fmt.Errorf("name %q: %d bytes: want at most %d", elem, len(elem), maxElement)
		}
		if last := elem[len(elem)-1]; last == '.' || last == ' ' {
			return fmt.Errorf("name %q: vfat drops a dot or space at the end", elem)
		}
		for _, r := range elem {
			if r < 0x20 || r > 0x7e || strings.ContainsRune(notOnVFAT, r) {
				return fmt.Errorf("name %q: character %q: want printable ASCII without %s", elem, r, notOnVFAT)
			}
		}
	}
	return nil
}

// checkPath is for names that exist: whatever a file system gave out in List,
// as long as it stays inside of the target.
func checkPath(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("name is empty")
	case len(name) > maxName:
		return fmt.Errorf("name of %d bytes: want at most %d", len(name), maxName)
	case strings.HasPrefix(name, "/"):
		return fmt.Errorf("name %q: want one below the target, without a slash in front", name)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("name %q: has a zero byte", name)
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem == "." || elem == ".." {
			return fmt.Errorf("name %q: element %q: want plain names between single slashes", name, elem)
		}
	}
	return nil
}
