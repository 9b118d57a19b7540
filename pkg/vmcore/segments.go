package vmcore

import (
	"cmp"
	"debug/elf"
	"slices"

	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// physBits is how many bits a physical address can have.
func physBits(machine elf.Machine, info *vmcoreinfo.Info) uint {
	bits := uint(52) // x86_64 and arm64
	if machine == elf.EM_RISCV {
		bits = 56
	}
	if n, ok := info.Number("MAX_PHYSMEM_BITS"); ok && n >= 32 && n < int64(bits) {
		bits = uint(n)
	}
	return bits
}

// plausible gives the PT_LOAD segments that can be memory, sorted by paddr. A
// torn one costs itself only.
func plausible(h *header, info *vmcoreinfo.Info, skip *skipList) []segment {
	limit := uint64(1) << physBits(h.machine, info)
	loads := make([]segment, 0, len(h.segments))
	for _, s := range h.segments {
		switch {
		case s.note || s.memsz == 0 && s.filesz == 0:
			continue
		case s.paddr >= limit || s.memsz > limit-s.paddr:
			skip.add("PT_LOAD %d: p_paddr %#x with p_memsz %#x is no physical memory", s.index, s.paddr, s.memsz)
			continue
		case s.filesz > s.memsz:
			skip.add("PT_LOAD %d: p_filesz %#x is above p_memsz %#x: cut", s.index, s.filesz, s.memsz)
			s.filesz = s.memsz
		}
		loads = append(loads, s)
	}
	sortByPaddr(loads)
	cutTornSizes(loads, skip)
	return slices.DeleteFunc(loads, func(s segment) bool { return s.memsz == 0 })
}

func sortByPaddr(loads []segment) {
	slices.SortStableFunc(loads, func(a, b segment) int { return cmp.Compare(a.paddr, b.paddr) })
}

// cutTornSizes takes back a p_memsz that reaches over another segment's data
// without having data of its own there. Segments with data on both sides do
// overlap in a real core: the kernel's text has one of its own.
func cutTornSizes(sorted []segment, skip *skipList) {
	nextData := ^uint64(0) // paddr of the next segment with data
	for i := len(sorted) - 1; i >= 0; i-- {
		s := &sorted[i]
		if s.memsz > s.filesz && s.paddr+s.memsz > nextData && s.paddr+s.filesz <= nextData {
			skip.add("PT_LOAD %d: p_memsz %#x reaches over the segment at %#x: cut", s.index, s.memsz, nextData)
			s.memsz = max(s.filesz, nextData-s.paddr)
		}
		if s.filesz > 0 {
			nextData = s.paddr
		}
	}
}

// roundToPages widens segments that begin or end within a page to the whole
// page, where the file has the bytes: /proc/vmcore has, since it can only be
// mapped by whole pages (process_ptload_program_headers_elf64() in
// fs/proc/vmcore.c).
func roundToPages(loads []segment, used spans, src *source, page uint64) []segment {
	loads = slices.Clone(loads)
	for i := range loads {
		s := &loads[i]
		head, tail := s.paddr%page, -(s.paddr+s.filesz)%page
		if s.filesz == 0 || uint64(s.offset)%page != head || head == 0 && tail == 0 {
			continue
		}
		end := s.offset + int64(s.filesz)
		if head > 0 && (src.oldMem || used.free(span{s.offset - int64(head), s.offset})) {
			s.paddr, s.offset = s.paddr-head, s.offset-int64(head)
			s.filesz, s.memsz = s.filesz+head, s.memsz+head
		}
		behind := span{end, end + int64(tail)}
		if tail > 0 && s.filesz == s.memsz && (src.oldMem || behind.end <= src.size && used.free(behind)) {
			s.filesz, s.memsz = s.filesz+tail, s.memsz+tail
		}
	}
	sortByPaddr(loads)
	return loads
}

// spans are sorted by start; each ends where it or one before it does at most.
type spans []span

// fileSpans are the parts of the file that headers and segments take.
func fileSpans(all []segment, headerEnd int64) spans {
	used := make(spans, 1, len(all)+1)
	used[0] = span{0, headerEnd}
	for _, s := range all {
		if s.filesz > 0 {
			used = append(used, span{s.offset, s.offset + int64(s.filesz)})
		}
	}
	slices.SortFunc(used, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(used); i++ {
		used[i].end = max(used[i].end, used[i-1].end)
	}
	return used
}

// free reports whether nothing else lies in s, which has bytes.
func (u spans) free(s span) bool {
	i, _ := slices.BinarySearchFunc(u, s.end, func(e span, end int64) int { return cmp.Compare(e.start, end) })
	return s.start >= 0 && (i == 0 || u[i-1].end <= s.start)
}

// ramRanges merges sorted segments into ranges of page frames.
func ramRanges(segments []segment, shift uint) []Range {
	var ranges []Range
	for _, s := range segments {
		r := Range{PFN(s.paddr >> shift), PFN((s.paddr + s.memsz + 1<<shift - 1) >> shift)}
		if n := len(ranges); n > 0 && r.Start <= ranges[n-1].End {
			ranges[n-1].End = max(ranges[n-1].End, r.End)
			continue
		}
		ranges = append(ranges, r)
	}
	return slices.Clip(ranges)
}

// extent is a run of physical addresses that reads in one way.
type extent struct {
	start, end uint64 // paddr
	offset     int64  // in the file, of start; or one of the two below
}

const (
	offsetExcluded int64 = -1 - iota // not in the file
	offsetZero                       // the rest of a page that a segment covers in part
)

// buildExtents turns sorted segments, which may overlap, into disjoint extents
// that cover ranges. Data goes before no data, then the lower start wins.
func buildExtents(segments []segment, ranges []Range, shift uint) []extent {
	data := make([]extent, 0, len(segments))
	var end uint64
	for _, s := range segments {
		e := extent{s.paddr, s.paddr + s.filesz, s.offset}
		if e.start < end {
			e.offset += int64(end - e.start)
			e.start = end
		}
		if s.filesz == 0 || e.start >= e.end {
			continue
		}
		data = appendExtent(data, e)
		end = e.end
	}
	var excluded []extent
	for _, s := range segments {
		if s.memsz > s.filesz {
			excluded = appendExtent(excluded, extent{s.paddr + s.filesz, s.paddr + s.memsz, offsetExcluded})
		}
	}
	all := fillGaps(data, excluded)
	pages := make([]extent, len(ranges))
	for i, r := range ranges {
		pages[i] = extent{uint64(r.Start) << shift, uint64(r.End) << shift, offsetZero}
	}
	return slices.Clip(fillGaps(all, pages))
}

// appendExtent adds e, or lengthens the last extent where e continues it.
func appendExtent(list []extent, e extent) []extent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if e.offset < 0 && last.offset == e.offset && e.start <= last.end {
			last.end = max(last.end, e.end)
			return list
		}
		if e.offset >= 0 && last.end == e.start && last.offset+int64(last.end-last.start) == e.offset {
			last.end = e.end
			return list
		}
	}
	return append(list, e)
}

// fillGaps adds to the disjoint list what filler covers outside of it. Both are
// sorted; fillers have one negative offset and are sorted by start.
func fillGaps(list, filler []extent) []extent {
	if len(filler) == 0 {
		return list
	}
	out := make([]extent, 0, len(list)+len(filler))
	next := 0
	for _, f := range filler {
		at := f.start
		if n := len(out); n > 0 {
			at = max(at, out[n-1].end)
		}
		for ; next < len(list) && list[next].start < f.end; next++ {
			e := list[next]
			if at < e.start {
				out = append(out, extent{at, e.start, f.offset})
			}
			out = append(out, e)
			at = max(at, e.end)
		}
		if at < f.end {
			out = append(out, extent{at, f.end, f.offset})
		}
	}
	return append(out, list[next:]...)
}
