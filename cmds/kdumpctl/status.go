package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/kexec"
)

// A report is what status -json prints. What is not known is left out.
type report struct {
	ReservedBytes uint64     `json:"reserved_bytes"`
	Ranges        []string   `json:"ranges"` // of physical addresses, ends included
	Loaded        bool       `json:"loaded"`
	Kernel        string     `json:"kernel,omitempty"`
	Initrd        string     `json:"initrd,omitempty"`
	Cmdline       string     `json:"cmdline,omitempty"`
	Targets       []string   `json:"targets,omitempty"`
	LoadedAt      *time.Time `json:"loaded_at,omitempty"`
	Warnings      []string   `json:"warnings,omitempty"`
	SavesNothing  bool       `json:"saves_nothing,omitempty"`

	LastCrash *result.Result `json:"last_crash,omitempty"`

	node string // name of this machine
}

func (h *host) status(args []string, stdout, stderr io.Writer) (int, error) {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "print JSON")
	crashes := fs.String("crashes", "", "`folder` with dump directories, to look for the last crash in\n(default: those of the loaded image's targets that are mounted)")
	if err := parse(fs, args, stdout); err != nil {
		return exitUsage, err
	}
	if err := h.needRoot(); err != nil {
		return exitError, err
	}
	r, err := h.report(stderr)
	if err != nil {
		return exitError, err
	}
	if r.LastCrash, err = h.lastCrash(*crashes, r.Targets); err != nil {
		fmt.Fprintf(stderr, "kdumpctl status: warning: the last crash is not known: %v\n", err)
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(r)
	} else {
		_, err = io.WriteString(stdout, r.String())
	}
	switch {
	case err != nil:
		return exitError, err
	case r.Loaded && r.SavesNothing:
		return exitSavesNothing, nil
	case r.Loaded:
		return exitOK, nil
	case r.ReservedBytes == 0:
		return exitNotReserved, nil
	}
	return exitNotLoaded, nil
}

func (h *host) report(stderr io.Writer) (report, error) {
	r := report{Ranges: []string{}, node: h.node}
	size, ranges, err := h.reserved()
	if errors.Is(err, kexec.ErrNoKexec) {
		fmt.Fprintf(stderr, "kdumpctl status: %v\n", err)
		return r, nil
	}
	if err != nil {
		return r, err
	}
	r.ReservedBytes = size
	for _, rg := range ranges {
		r.Ranges = append(r.Ranges, rg.String())
	}
	if r.Loaded, err = h.loaded(); err != nil || !r.Loaded {
		return r, err
	}
	s, err := h.readState()
	if err != nil {
		fmt.Fprintf(stderr, "kdumpctl status: warning: what is loaded is not known: %v\n", err)
	}
	if s != nil {
		r.Kernel, r.Initrd, r.Cmdline, r.Targets, r.LoadedAt = s.Kernel, s.Initrd, s.Cmdline, s.Targets, &s.LoadedAt
		r.Warnings, r.SavesNothing = s.Warnings, s.SavesNothing
		if text := h.memoryChanged(s.SystemRAM); text != "" {
			r.Warnings = append(r.Warnings, text)
		}
	}
	return r, nil
}

func (r report) String() string {
	var b strings.Builder
	r.capture(func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", name+":", fmt.Sprintf(format, args...))
	})
	r.crash(&b)
	return b.String()
}

// crash tells of the last one. Its text is what a file says that others may have written.
func (r report) crash(b *strings.Builder) {
	last := r.LastCrash
	if last == nil {
		return
	}
	of := ""
	if last.Host != r.node {
		of = fmt.Sprintf("of %s, ", printable(last.Host))
	}
	fmt.Fprintf(b, "last crash: %s, %s%s\n", last.CrashTime.Format(time.RFC3339), of, printable(last.String()))
	for _, l := range last.Lost {
		fmt.Fprintf(b, "  lost: %s\n", printable(l))
	}
	if m := last.Memory; m != nil && of == "" && uint64(m.CrashkernelMiB)<<20 > r.ReservedBytes && r.ReservedBytes > 0 {
		fmt.Fprintf(b, "  memory was short: crashkernel=%dM would do\n", m.CrashkernelMiB)
	}
}

// capture tells how the capture kernel stands.
func (r report) capture(line func(name, format string, args ...any)) {
	switch {
	case r.ReservedBytes == 0:
		line("reserved", "nothing: add crashkernel= to the boot line (kdumpctl load says how much)")
	case len(r.Ranges) == 0:
		line("reserved", "%s", mib(r.ReservedBytes))
	default:
		line("reserved", "%s, %s", mib(r.ReservedBytes), strings.Join(r.Ranges, " and "))
	}
	switch {
	case !r.Loaded:
		line("loaded", "no")
		return
	case r.LoadedAt == nil:
		line("loaded", "yes, by another program or kdumpctl could not note what")
		return
	}
	line("loaded", "yes, at %s", r.LoadedAt.Format(time.RFC3339))
	line("kernel", "%s", r.Kernel)
	line("initrd", "%s", r.Initrd)
	line("cmdline", "%s", r.Cmdline)
	for _, t := range r.Targets {
		line("target", "%s", t)
	}
	if len(r.Targets) == 0 {
		line("target", "none: a crash is reported to the console only")
	}
	for _, w := range r.Warnings {
		line("warning", "%s", w)
	}
	if r.SavesNothing {
		line("crash", "would not be saved")
	}
}
