package main

import (
	"debug/elf"
	"os"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func (a *attempt) elfHeader(m *memmap.Map) kdumpfile.ELFHeader {
	return kdumpfile.ELFHeader{Machine: a.core.Machine(), BlockSize: 1 << a.core.PageShift(), MaxPFN: uint64(m.MaxPFN),
		Notes: a.core.Notes(), Segments: elfSegments(a.o.core, a.core)}
}

// elfSegments gives the segments of the core file, for their virtual addresses.
// What is not within the core's memory is left out, and without a file that can
// be read so is everything: ELFWriter makes segments without virtual addresses
// of what is missing here.
func elfSegments(path string, core *vmcore.Core) (out []kdumpfile.ELFSegment) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	header, err := elf.NewFile(f)
	if err != nil {
		return nil
	}
	for _, p := range header.Progs {
		if p.Type == elf.PT_LOAD && within(core, p.Paddr, p.Memsz) {
			out = append(out, kdumpfile.ELFSegment{Paddr: p.Paddr, Vaddr: p.Vaddr, Memsz: p.Memsz})
		}
	}
	return out
}

// within reports whether the memory at paddr lies in one range of the core.
func within(core *vmcore.Core, paddr, size uint64) bool {
	for _, r := range core.Ranges() {
		start, end := uint64(r.Start)<<core.PageShift(), uint64(r.End)<<core.PageShift()
		if paddr >= start && paddr < end {
			return size <= end-paddr
		}
	}
	return false
}
