package memmap

import (
	"errors"
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// SelfCheck makes sure that pages which no debugger can do without are RAM and
// kept: the kernel's page tables and version, the printk ring, the mem_map's
// roots, the node list, and each CPU's stack at the time of the crash. A mem_map
// that puts one of them among the free pages cannot be believed. The error
// joins one line for each that is missing.
func SelfCheck(core *vmcore.Core, m *Map) error {
	var errs []error
	check := func(what string, vaddr uint64) {
		if err := m.has(core, vaddr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	info := core.Info()
	for _, name := range []string{"init_uts_ns", "swapper_pg_dir", "_stext", "node_online_map", "prb", "log_buf", "mem_section", "node_data"} {
		if vaddr, ok := info.Symbol(name); ok {
			check("SYMBOL("+name+")", vaddr)
		}
	}
	for _, name := range []string{"prb", "log_buf"} { // pointers to what matters
		vaddr, ok := info.Symbol(name)
		if !ok {
			continue
		}
		var raw [8]byte
		if err := core.ReadVirt(raw[:], vaddr); err == nil {
			check("*"+name, core.ByteOrder().Uint64(raw[:]))
		}
	}
	for i, sp := range core.StackPointers() {
		// One that leads nowhere tells of a stack that overflowed, not of the
		// page array.
		if _, err := m.find(core, sp); err == nil && isKernelAddress(sp) {
			check(fmt.Sprintf("stack of cpu %d", i), sp)
		}
	}
	return errors.Join(errs...)
}

// isKernelAddress: a CPU that was in user space at the crash has no kernel
// stack pointer in its note.
func isKernelAddress(vaddr uint64) bool { return int64(vaddr) < 0 }

func (m *Map) has(core *vmcore.Core, vaddr uint64) error {
	pfn, err := m.find(core, vaddr)
	if err == nil && !m.Keep.Get(pfn) {
		return fmt.Errorf("pfn %#x would be left out", pfn)
	}
	return err
}

// find gives the page of RAM that holds vaddr.
func (m *Map) find(core *vmcore.Core, vaddr uint64) (pfn uint64, err error) {
	paddr, err := core.Translate(vaddr)
	if err != nil {
		return 0, err
	}
	pfn = paddr >> core.PageShift()
	if !m.Ram.Get(pfn) {
		return 0, fmt.Errorf("pfn %#x is not RAM of this core", pfn)
	}
	return pfn, nil
}

// Weaker is the level to fall back to when a map made for level l fails its
// self-check or cannot be made: only zero pages are still left out, if they
// were to be.
func Weaker(l Level) Level { return l & LevelZero }
