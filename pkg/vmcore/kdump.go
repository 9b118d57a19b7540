package vmcore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// kdumpSignature begins disk_dump_header.
const kdumpSignature = "KDUMP   "

// maxRanges bounds the runs of RAM that a 1st bitmap may have: 16 MiB of them.
// A machine has some tens.
const maxRanges = 1 << 20

// maxCPUs is what a header may say; Linux has at most 8192.
const maxCPUs = 1 << 16

// kdumpFile is a kdump-compressed file, or the parts of a split one.
type kdumpFile struct {
	parts     []*kdumpfile.Kdump // disjoint, sorted by pfn
	flattened bool
	missing   bool // of some pfns there is no part
}

// loadKdump is what load is for ELF. There are no segments, and so no virtual
// addresses of them: the page tables tell them all.
func (c *Core) loadKdump(parts []*kdumpfile.Kdump, flattened bool) error {
	k := &kdumpFile{parts: parts, flattened: flattened}
	if err := k.join(&c.skipped); err != nil {
		return err
	}
	c.pages = k
	first := parts[0]
	h := first.Header()
	c.header.machine = machineNamed(h.Machine)
	c.notes = kdumpNotes(first, &c.header, &c.skipped)
	c.info = vmcoreinfo.Parse(c.notes.vmcoreinfo())
	c.pageShift = uint(bits.TrailingZeros(uint(h.BlockSize)))
	if size, ok := c.info.PageSize(); ok && size != uint64(h.BlockSize) {
		c.skipped.add("vmcoreinfo PAGESIZE %d: the file has blocks of %d", size, h.BlockSize)
	}
	var err error
	if c.ranges, err = kdumpRanges(first); err != nil {
		return err
	}
	c.cpus = min(h.NumCPUs, maxCPUs)
	c.shared = c.NewReader()
	c.mmu = newMMU(c)
	if c.physBase == 0 {
		c.physBase = h.PhysBase
	}
	return nil
}

// join sorts the parts and makes sure that they are of one dump.
func (k *kdumpFile) join(skip *skipList) error {
	slices.SortFunc(k.parts, func(a, b *kdumpfile.Kdump) int {
		x, _, _ := a.Split()
		y, _, _ := b.Split()
		return cmp.Compare(x, y)
	})
	first := k.parts[0].Header()
	at := uint64(0)
	for i, p := range k.parts {
		start, end, split := p.Split()
		h := p.Header()
		switch {
		case len(k.parts) > 1 && !split:
			return fmt.Errorf("one of %d files is a whole dump, not a part of one", len(k.parts))
		case i > 0 && start < at:
			return fmt.Errorf("two parts have pfn %#x", start)
		case !sameDump(&h, &first):
			return errors.New("the files are parts of different dumps")
		case start > at:
			k.absent(skip, at, start)
		}
		at = end
	}
	if at < first.MaxPFN {
		k.absent(skip, at, first.MaxPFN)
	}
	return nil
}

func (k *kdumpFile) absent(skip *skipList, start, end uint64) {
	k.missing = true
	skip.add("split dump: the part with pfns %#x to %#x is missing", start, end-1)
}

// sameDump compares what all parts of a dump have in common.
func sameDump(a, b *kdumpfile.Header) bool {
	return a.MaxPFN == b.MaxPFN && a.BlockSize == b.BlockSize && a.Time.Equal(b.Time) &&
		a.Nodename == b.Nodename && a.Release == b.Release && a.Version == b.Version && a.Machine == b.Machine
}

// kdumpNotes takes the notes of the file; before header version 4 it has the
// text of VMCOREINFO alone, of which a note is made.
func kdumpNotes(k *kdumpfile.Kdump, h *header, skip *skipList) notes {
	raw := k.Notes()
	if len(raw) == 0 && len(k.VMCoreInfo()) > 0 {
		raw = infoNote(k.VMCoreInfo())
	}
	only := header{machine: h.machine, segments: []segment{{note: true, filesz: uint64(len(raw))}}}
	return readNotes(inMemory(raw), &only, skip)
}

// infoNote makes an ELF note of the text of VMCOREINFO.
func infoNote(text []byte) []byte {
	const name = "VMCOREINFO\x00\x00"
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)-1))
	b = le.AppendUint32(b, uint32(len(text)))
	b = le.AppendUint32(b, 0)
	b = append(append(b, name...), text...)
	return append(b, make([]byte, -len(text)&3)...)
}

// inMemory is a bytesAt.
type inMemory []byte

func (b inMemory) readFull(p []byte, off int64) error {
	if off < 0 || off > int64(len(b)) || copy(p, b[off:]) < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// kdumpRanges makes ranges of the 1st bitmap.
func kdumpRanges(k *kdumpfile.Kdump) ([]Range, error) {
	ram, err := k.RAM()
	if err != nil {
		return nil, err
	}
	var ranges []Range
	for at, ok := ram.Next(0); ok; {
		if len(ranges) == maxRanges {
			return nil, fmt.Errorf("1st bitmap: more than %d runs of memory: %w", maxRanges, kdumpfile.ErrCorrupt)
		}
		end := ram.NextClear(at)
		ranges = append(ranges, Range{PFN(at), PFN(end)})
		at, ok = ram.Next(end)
	}
	return slices.Clip(ranges), nil
}

func (k *kdumpFile) incomplete() bool {
	return k.missing || slices.ContainsFunc(k.parts, (*kdumpfile.Kdump).Incomplete)
}

// dropAbsent goes by the 2nd bitmap of each part for the pfns that the part has.
func (k *kdumpFile) dropAbsent(b kdumpfile.Bitmap) error {
	at := uint64(0)
	for _, p := range k.parts {
		start, end, _ := p.Split()
		b.ClearRange(at, start)
		at = end
		has, err := p.Dumped()
		if err != nil {
			return err
		}
		for pfn := start; pfn < end; {
			next, ok := has.Next(pfn)
			if !ok || next > end {
				next = end
			}
			b.ClearRange(pfn, next)
			pfn = min(has.NextClear(next), end)
		}
	}
	b.ClearRange(at, uint64(len(b))*8)
	return nil
}

// kdumpReader reads the parts for one goroutine.
type kdumpReader struct {
	parts   []*kdumpfile.Kdump
	readers []*kdumpfile.PageReader // made when they are needed
	last    int                     // part used last
}

func (k *kdumpFile) newReader() pageReader {
	return &kdumpReader{parts: k.parts, readers: make([]*kdumpfile.PageReader, len(k.parts))}
}

func (r *kdumpReader) ReadPage(pfn uint64, page []byte) error {
	if !r.has(r.last, pfn) {
		i := slices.IndexFunc(r.parts, func(k *kdumpfile.Kdump) bool { _, end, _ := k.Split(); return pfn < end })
		if i < 0 || !r.has(i, pfn) {
			return ErrExcluded
		}
		r.last = i
	}
	d := r.readers[r.last]
	if d == nil {
		d = r.parts[r.last].NewReader()
		r.readers[r.last] = d
	}
	err := d.ReadPage(pfn, page)
	if errors.Is(err, kdumpfile.ErrExcluded) {
		return ErrExcluded
	}
	return err
}

// has reports whether part i is the one for pfn.
func (r *kdumpReader) has(i int, pfn uint64) bool {
	start, end, _ := r.parts[i].Split()
	return pfn >= start && pfn < end
}

func (r *kdumpReader) Close() error {
	var errs []error
	for _, d := range r.readers {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}
