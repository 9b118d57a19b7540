package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ukdump/ukdump/pkg/memmap"
)

func infoCommand() command {
	return command{
		name: "info", args: "[-json] FILE...", brief: "tell what dump files are and hold",
		text: `Tells of each dump what kind of file it is, whether it is complete, which kernel
crashed when, and how much of its memory is there. The parts of a split dump are taken
together. Exit status: 0, or 1 if a file cannot be read.`,
		setup: func(fs *flag.FlagSet) runner {
			asJSON := fs.Bool("json", false, "print one JSON object for each dump")
			return func(e *env, files []string) (int, error) { return info(e, files, *asJSON) }
		},
	}
}

// description is what info tells of a dump. Sizes are bytes.
type description struct {
	Files      []string   `json:"files"`
	Format     string     `json:"format"` // elf or kdump
	Flattened  bool       `json:"flattened"`
	Complete   bool       `json:"complete"`
	Part       *pfnPart   `json:"part,omitempty"` // of a split dump of which not all was given
	Size       int64      `json:"size"`
	Codec      string     `json:"codec,omitempty"`
	Level      *int       `json:"level,omitempty"`
	Node       string     `json:"node"`
	Release    string     `json:"release"`
	Version    string     `json:"version"`
	Machine    string     `json:"machine"`
	CrashTime  *time.Time `json:"crashTime,omitempty"`
	CPUs       int        `json:"cpus"`
	PageSize   int        `json:"pageSize"`
	MaxPFN     uint64     `json:"maxPfn"`
	RAMPages   uint64     `json:"ramPages"`
	FilePages  uint64     `json:"filePages"` // of them in the file
	PhysBase   int64      `json:"physBase"`
	KASLR      *uint64    `json:"kaslrOffset,omitempty"`
	NoteBytes  int        `json:"noteBytes"`
	VMCoreInfo int        `json:"vmcoreinfoKeys"`
	Doubts     []string   `json:"doubts,omitempty"` // what of the headers could not be right
}

type pfnPart struct {
	Start uint64 `json:"start"`
	End   uint64 `json:"end"`
}

func info(e *env, files []string, asJSON bool) (int, error) {
	if len(files) == 0 {
		return exitUsage, usagef("no file is named")
	}
	status := exitOK
	for i, d := range openEach(files) {
		if d.err != nil {
			e.warn("%v", d.err)
			status = exitFailed
			continue
		}
		about, err := describe(d)
		d.core.Close()
		if err != nil {
			e.warn("%v", err)
			status = exitFailed
		}
		switch {
		case asJSON:
			err = json.NewEncoder(e.stdout).Encode(about)
		default:
			if i > 0 {
				fmt.Fprintln(e.stdout)
			}
			err = about.print(e.stdout)
		}
		if err != nil {
			return exitFailed, err
		}
	}
	return status, nil
}

func describe(d dumpFiles) (description, error) {
	core, u := d.core, uname(d.core)
	about := description{
		Files: d.paths, Format: "elf", Flattened: core.Files().Flattened, Complete: !core.Incomplete(),
		Node: u.Nodename, Release: u.Release, Version: u.Version, Machine: u.Machine,
		CPUs: core.NumCPUs(), PageSize: 1 << core.PageShift(), MaxPFN: uint64(core.MaxPFN()), RAMPages: ramPages(core),
		PhysBase: int64(core.PhysBase()), NoteBytes: len(core.Notes()), VMCoreInfo: core.Info().Len(), Doubts: core.Skipped(),
	}
	for _, path := range d.paths {
		if st, err := os.Stat(path); err == nil {
			about.Size += st.Size()
		}
	}
	if t, ok := core.Info().CrashTime(); ok {
		t = t.UTC()
		about.CrashTime = &t
	}
	if offset, ok := core.Info().KernelOffset(); ok {
		about.KASLR = &offset
	}
	if parts := core.Files().Parts; len(parts) > 0 {
		h := parts[0].Header()
		about.Format, about.Codec, about.Level = "kdump", h.Codec.String(), &h.DumpLevel
		if start, end, split := parts[0].Split(); split && len(parts) == 1 {
			about.Part = &pfnPart{start, end}
		}
	}
	m := memmap.Everything(core)
	absent, err := core.DropAbsent(m.Keep)
	about.FilePages = about.RAMPages - absent
	return about, err
}

func (d *description) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(key, format string, a ...any) { fmt.Fprintf(t, "%s\t%s\n", key, fmt.Sprintf(format, a...)) }
	row("file", "%s", strings.Join(d.Files, " "))
	row("format", "%s", d.format())
	row("complete", "%s", map[bool]string{true: "yes", false: "no"}[d.Complete])
	row("kernel", "%s on %s", d.Release, d.Machine)
	row("version", "%s", d.Version)
	row("node", "%s", d.Node)
	if d.CrashTime != nil {
		row("crash", "%s", d.CrashTime.Format(time.RFC3339))
	}
	row("CPUs", "%d", d.CPUs)
	page := uint64(d.PageSize)
	row("memory", "%s in %d pages of %d, up to pfn %#x", byteText(d.RAMPages*page), d.RAMPages, d.PageSize, d.MaxPFN)
	row("in the file", "%s in %d pages, %s of file", byteText(d.FilePages*page), d.FilePages, byteText(uint64(d.Size)))
	if d.Format == "kdump" {
		row("dump level", "%d", *d.Level)
	}
	row("phys_base", "%#x", d.PhysBase)
	if d.KASLR != nil {
		row("KASLR offset", "%#x", *d.KASLR)
	}
	row("VMCOREINFO", "%d keys in %d bytes of notes", d.VMCoreInfo, d.NoteBytes)
	for _, s := range d.Doubts {
		row("doubt", "%s", s)
	}
	return t.Flush()
}

func (d *description) format() string {
	var b strings.Builder
	if d.Flattened {
		b.WriteString("flattened ")
	}
	if d.Format == "elf" {
		return b.String() + "ELF"
	}
	b.WriteString("kdump-compressed, " + d.Codec)
	switch {
	case d.Part != nil:
		fmt.Fprintf(&b, ", a part of a split dump: pfns %#x to %#x", d.Part.Start, d.Part.End)
	case len(d.Files) > 1:
		fmt.Fprintf(&b, ", split into %d files", len(d.Files))
	}
	return b.String()
}
