package vmcore

import (
	"github.com/ukdump/ukdump/pkg/kdumpfile"
)

// Segments are the core's runs of physical memory with the virtual addresses at
// which the kernel has them, for another ELF core. They are those of the ELF
// headers, as far as they are memory; a kdump-compressed file has none, and
// there they are calculated. Where no virtual address is known there is no segment.
func (c *Core) Segments() []kdumpfile.ELFSegment {
	if c.pages != nil {
		return c.calculatedSegments()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h, err := readHeader(c.shared, c.headerAt, &skipList{})
	if err != nil {
		return nil // it could be read before: the file is gone
	}
	var out []kdumpfile.ELFSegment
	for _, s := range plausible(&h, c.info, &skipList{}) {
		if _, end, ok := c.ramAround(s.paddr); ok && s.memsz <= end-s.paddr {
			out = append(out, kdumpfile.ELFSegment{Paddr: s.paddr, Vaddr: s.vaddr, Memsz: s.memsz})
		}
	}
	return out
}

// calculatedSegments is every range of RAM in every linear region.
func (c *Core) calculatedSegments() (out []kdumpfile.ELFSegment) {
	for _, l := range c.mmu.linears {
		first, last := l.start-l.delta, l.end-l.delta
		if first > last {
			first = 0 // of a region that begins below paddr 0, as with a negative phys_base
		}
		for _, r := range c.ranges {
			start := max(uint64(r.Start)<<c.pageShift, first)
			end := min(uint64(r.End)<<c.pageShift-1, last) + 1
			if start < end {
				out = append(out, kdumpfile.ELFSegment{Paddr: start, Vaddr: start + l.delta, Memsz: end - start})
			}
		}
	}
	return out
}
