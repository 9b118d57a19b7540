package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/blockdev"
	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/targets"
)

// findTimeout bounds the look for the device of a target: what is mounted is there.
const findTimeout = time.Second

// lastCrash is the newest result in the folders where this system can see dumps:
// dir if it is named, and else those of the targets. nil: none is there.
func (h *host) lastCrash(dir string, urls []string) (*result.Result, error) {
	if dir != "" {
		return result.Newest(dir)
	}
	var best *result.Result
	for _, url := range urls {
		r, err := result.Newest(h.folder(url))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return best, err
		}
		if best == nil || r.CrashTime.After(best.CrashTime) {
			best = r
		}
	}
	return best, nil
}

// folder is where the directory of a target is in this system, "" if it is nowhere:
// on a server, or on a disk that is not mounted.
func (h *host) folder(url string) string {
	spec, err := targets.Parse(url)
	switch {
	case err != nil:
		return ""
	case spec.Scheme == "file":
		return h.path(spec.Path)
	case spec.Scheme != "disk":
		return ""
	}
	device, err := blockdev.ParseSpec(spec.Device)
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
	defer cancel()
	found, err := blockdev.Find(ctx, device, nil)
	if err != nil {
		return ""
	}
	mounts, err := os.ReadFile(h.path("/proc/self/mountinfo"))
	if err != nil {
		return ""
	}
	point := mountPoint(string(mounts), func(source string) bool {
		real, err := filepath.EvalSymlinks(source)
		return err == nil && real == found.Path
	})
	if point == "" {
		return ""
	}
	return h.path(filepath.Join(point, spec.Path))
}

// mountPoint is where the root of a file system is mounted, "" if it is not.
// mountinfo is in the form of /proc/self/mountinfo, see proc(5):
//
//	36 35 98:0 /ROOT /POINT OPTIONS ... - FSTYPE SOURCE OPTIONS
func mountPoint(mountinfo string, is func(source string) bool) string {
	octal := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		place, source := strings.Fields(head), strings.Fields(tail)
		if ok && len(place) >= 5 && len(source) >= 2 && place[3] == "/" && is(octal.Replace(source[1])) {
			return octal.Replace(place[4])
		}
	}
	return ""
}
