package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/initramfs/cpio"
	"github.com/ukdump/ukdump/internal/modules"
)

// report tells what is in an image and how large it is.
type report struct {
	options  options
	contents *contentsOf
	bare     int // size of a busybox without the shell
	archive  *cpio.Archive
	size     int64 // of the file
	took     time.Duration
}

func (r *report) print(w io.Writer) {
	c := r.contents
	fmt.Fprintf(w, "%s for linux/%s", r.options.out, r.options.arch)
	if c.modules.release != "" {
		fmt.Fprintf(w, ", kernel %s", c.modules.release)
	}
	fmt.Fprintf(w, ", %.1f s\n\n", r.took.Seconds())
	commands, _ := r.options.packages()
	r.row(w, len(c.busybox), "busybox", strings.Join(c.commands[:len(commands)], " "))
	if r.bare > 0 {
		r.row(w, len(c.busybox)-r.bare, "  of it the shell", "what -no-shell saves: "+strings.Join(c.commands[len(commands):], " "))
	}
	r.row(w, len(c.settings.text), "configuration", r.targets())
	r.modules(w)
	for _, f := range c.files {
		_, dst, _ := strings.Cut(f, ":")
		r.row(w, r.below(inArchive(dst)), "file", path.Clean("/"+dst))
	}
	if strings.Contains(c.init, "/") {
		r.row(w, r.below("init"), "init", c.init)
	}
	raw, pages := r.totals()
	fmt.Fprintln(w)
	r.row(w, raw, "archive", "")
	r.row(w, pages, "memory", "that it takes once it is unpacked, in pages of 4 KiB")
	r.row(w, int(r.size), "compressed", fmt.Sprintf("zstd, window %d KiB, %.0f %% of the archive", windowSize>>10, 100*float64(r.size)/float64(raw)))
	r.advice(w)
}

func (r *report) row(w io.Writer, size int, what, note string) {
	line(w, human(size), what, note)
}

func line(w io.Writer, size, what, note string) {
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%8s  %-24s  %s", size, what, note), " "))
}

// human is a size as people read it, in at most 5 characters and a unit.
func human(n int) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%d K", (n+512)>>10)
	}
	return fmt.Sprintf("%.1f M", float64(n)/(1<<20))
}

func (r *report) targets() string {
	var all []string
	for _, t := range r.contents.settings.targets {
		all = append(all, t.String())
	}
	if len(all) == 0 {
		return "no targets"
	}
	return strings.Join(all, ", ")
}

// modules prints a line for each reason, and one for each module below it.
func (r *report) modules(w io.Writer) {
	m := r.contents.modules
	total := 0
	for _, mod := range m.modules {
		total += len(mod.data)
	}
	r.row(w, total, "modules", fmt.Sprintf("%d files", len(m.modules)))
	for _, reason := range m.reasons() {
		for _, mod := range m.modules {
			if mod.reason != reason {
				continue
			}
			note := reason
			switch {
			case slices.Contains(m.lists[""], mod.path):
			case slices.Contains(m.lists[modules.WatchdogList], mod.path):
				note += ", loaded first if the machine has one"
			case slices.Contains(m.lists[modules.NetList], mod.path):
				note += ", loaded if the machine has one or a driver needs it"
			default:
				note += ", loaded to mount one"
			}
			r.row(w, len(mod.data), "  "+strings.TrimSuffix(path.Base(mod.path), ".ko"), note)
		}
	}
	if len(m.builtIn) > 0 {
		line(w, "-", "  built in", strings.Join(m.builtIn, " "))
	}
	if len(m.absent) > 0 {
		line(w, "-", "  not in this kernel", strings.Join(m.absent, " "))
	}
}

// below is the size of a file, or of all that is in a directory.
func (r *report) below(name string) int {
	total := 0
	for _, e := range r.archive.Entries() {
		if e.Name == name || strings.HasPrefix(e.Name, name+"/") {
			total += len(e.Data)
		}
	}
	return total
}

// totals are the bytes of the archive, and of the pages that its files fill.
func (r *report) totals() (raw, pages int) {
	var n counter
	_ = r.archive.Write(&n) // a counter has no errors
	for _, e := range r.archive.Entries() {
		if e.Mode&cpio.TypeMask == cpio.Regular {
			pages += (len(e.Data) + 4095) &^ 4095
		}
	}
	return int(n), pages
}

type counter int

func (n *counter) Write(p []byte) (int, error) {
	*n += counter(len(p))
	return len(p), nil
}

// advice says what an operator may want to change.
func (r *report) advice(w io.Writer) {
	c := r.contents
	lines := slices.Concat(c.notes, c.modules.notes)
	if len(c.settings.targets) == 0 {
		lines = append(lines, "no target: unless the command line has kdump.target=, a crash leaves its log on the console and no dump")
	}
	if r.options.modules == "" {
		lines = append(lines, "no -modules: the kernel must have the drivers of the target's disk and file system built in")
	}
	_, guessed := fstypes(c.settings.targets)
	size := 0
	for _, mod := range c.modules.modules {
		if slices.Contains(guessed, mod.reason) {
			size += len(mod.data)
		}
	}
	if size > 0 {
		lines = append(lines, fmt.Sprintf("a target without fstype=: %s of modules for %s are there on suspicion", human(size), strings.Join(guessed, ", ")))
	}
	for i, note := range lines {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, "note: "+note)
	}
}
