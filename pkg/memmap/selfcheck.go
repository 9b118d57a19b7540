package memmap

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// SelfCheck makes sure that pages which no debugger can do without are RAM and
// kept: the kernel's page tables and version, the printk ring, the mem_map's
// roots, the node list, and the CPUs' stacks at the time of the crash. A mem_map
// that puts one of them among the free pages cannot be believed. The error
// joins one line for each that is missing.
//
// Not every oddity is the mem_map's: one page of them may be broken memory, and
// where most stacks are kept, m gets those that are not.
func SelfCheck(core *vmcore.Core, m *Map) error {
	f := examine(core, m)
	m.keep(f.stacks)
	return errors.Join(f.errs...)
}

// finding is what examine has to say of a map.
type finding struct {
	errs     []error
	missing  []vmcore.PFN // that m leaves out and must not, and that may be read
	stacks   []vmcore.PFN // the same of single CPUs: no reason to doubt m
	poisoned []vmcore.PFN
}

func examine(core *vmcore.Core, m *Map) *finding {
	f, l := &finding{}, newLooker(core, m)
	defer l.close()
	info := core.Info()
	for _, name := range []string{"init_uts_ns", "swapper_pg_dir", "_stext", "node_online_map", "prb", "log_buf", "mem_section", "node_data"} {
		if vaddr, ok := info.Symbol(name); ok {
			pfn, err := m.find(core, vaddr)
			if err == nil {
				err = f.page(l, pfn, true)
			}
			f.fail("SYMBOL("+name+")", err)
		}
	}
	for _, name := range []string{"prb", "log_buf"} { // pointers to what matters
		var raw [8]byte
		vaddr, ok := info.Symbol(name)
		if !ok || core.ReadVirt(raw[:], vaddr) != nil {
			continue
		}
		// One that leads nowhere was written over.
		if pfn, err := m.find(core, core.ByteOrder().Uint64(raw[:])); err == nil {
			f.fail("*"+name, f.page(l, pfn, false))
		}
	}
	f.cpus(core, l)
	if len(f.poisoned) > 1 {
		f.errs = append(f.errs, fmt.Errorf("pfns %#x would all be broken memory", f.poisoned))
	}
	return f
}

func (f *finding) fail(what string, err error) {
	if err != nil {
		f.errs = append(f.errs, fmt.Errorf("%s: %w", what, err))
	}
}

// page looks at one page. What is certainly the kernel's may be read, even if m
// says that it was given back to a hypervisor.
func (f *finding) page(l *looker, pfn vmcore.PFN, certain bool) error {
	switch {
	case l.m.Keep.Get(uint64(pfn)):
		return nil
	case l.poisoned(pfn):
		if !slices.Contains(f.poisoned, pfn) {
			f.poisoned = append(f.poisoned, pfn)
		}
		return nil
	case certain || l.readable(pfn):
		f.missing = append(f.missing, pfn)
	}
	return fmt.Errorf("pfn %#x would be left out", pfn)
}

// cpus looks at the stacks. The stack pointer of one CPU may be garbage; those of
// most are not.
func (f *finding) cpus(core *vmcore.Core, l *looker) {
	stacks := finding{poisoned: f.poisoned}
	seen := 0
	for i, sp := range core.StackPointers() {
		// One that leads nowhere tells of a stack that overflowed, not of the
		// page array.
		if pfn, err := l.m.find(core, sp); err == nil && isKernelAddress(sp) {
			seen++
			stacks.fail(fmt.Sprintf("stack of cpu %d", i), stacks.page(l, pfn, false))
		}
	}
	f.poisoned = stacks.poisoned
	if 2*len(stacks.errs) < seen {
		f.stacks = stacks.missing
		return
	}
	f.errs, f.missing = append(f.errs, stacks.errs...), append(f.missing, stacks.missing...)
}

// isKernelAddress: a CPU that was in user space at the crash has no kernel
// stack pointer in its note.
func isKernelAddress(vaddr uint64) bool { return int64(vaddr) < 0 }

// find gives the page of RAM that holds vaddr.
func (m *Map) find(core *vmcore.Core, vaddr uint64) (pfn vmcore.PFN, err error) {
	paddr, err := core.Translate(vaddr)
	if err != nil {
		return 0, err
	}
	pfn = vmcore.PFN(paddr >> core.PageShift())
	if !m.Ram.Get(uint64(pfn)) {
		return 0, fmt.Errorf("pfn %#x is not RAM of this core", pfn)
	}
	return pfn, nil
}

// keep adds pages to those that m keeps. What they were counted as stays.
func (m *Map) keep(pages []vmcore.PFN) {
	for _, pfn := range pages {
		m.Keep.Set(uint64(pfn))
	}
}

// looker tells why single pages are left out, which a map does not remember.
type looker struct {
	m *Map
	w *worker // for the same pages at level 0; nil: struct pages are not to be had
}

func newLooker(core *vmcore.Core, m *Map) *looker {
	l := &looker{m: m}
	if s, err := newScan(core, &Map{Ram: m.Ram, Keep: m.Keep, MaxPFN: m.MaxPFN}); err == nil {
		l.w = newWorker(s)
	}
	return l
}

func (l *looker) close() {
	if l.w != nil {
		l.w.close()
	}
}

// poisoned says whether the page itself is marked as broken memory.
func (l *looker) poisoned(pfn vmcore.PFN) bool {
	if l.w == nil {
		return false
	}
	sec, err := l.w.model.section(pfn, l.w.layout.size)
	if err != nil || sec.pages == 0 || sec.offline || pfn < sec.Start {
		return false
	}
	page := l.w.headBuf[:l.w.layout.size]
	err = l.w.reader.ReadVirt(page, sec.pages+uint64(pfn-sec.Start)*l.w.layout.size)
	return err == nil && l.w.layout.poisoned(page)
}

// readable says whether level 0 keeps the page. It classifies its section again, in
// the place of what m has of it, which is put back.
func (l *looker) readable(pfn vmcore.PFN) bool {
	if l.w == nil {
		return false
	}
	bits := l.w.model.sectionBits
	start := pfn >> bits << bits
	from, to := uint64(start), uint64(start)+1<<bits
	was := kdumpfile.NewPageSet(l.m.Keep.Len())
	copyPages(was, l.m.Keep, from, to)
	copyPages(l.m.Keep, l.m.Ram, from, to)
	defer copyPages(l.m.Keep, was, from, to)
	l.w.freeEnd = 0
	l.w.section(start)
	return l.m.Keep.Get(uint64(pfn))
}

// copyPages makes [start, end) of to what it is in from.
func copyPages(to, from *kdumpfile.PageSet, start, end uint64) {
	to.ClearRange(start, end)
	for at, ok := from.Next(start); ok && at < end; {
		next := min(from.NextClear(at), end)
		to.SetRange(at, next)
		at, ok = from.Next(next)
	}
}

// Weaker is the level to fall back to when a map made for level l fails its
// self-check or cannot be made: only zero pages are still left out, if they
// were to be.
func Weaker(l Level) Level { return l & LevelZero }
