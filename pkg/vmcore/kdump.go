package vmcore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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

// kdumpFile is a dump in the kdump-compressed format.
type kdumpFile struct {
	dump      *kdumpfile.Kdump
	parts     []*kdumpfile.Kdump // as they were given
	flattened bool
}

// loadKdump is what load is for ELF. There are no segments, and so no virtual
// addresses of them: the page tables tell them all.
func (c *Core) loadKdump(parts []*kdumpfile.Kdump, flattened bool) error {
	dump, err := kdumpfile.OpenSplit(parts, false)
	if errors.Is(err, kdumpfile.ErrPartMissing) {
		c.skipped.add("%v", err)
		dump, err = kdumpfile.OpenSplit(parts, true)
	}
	if err != nil {
		return err
	}
	c.pages = &kdumpFile{dump, parts, flattened}
	h := dump.Header()
	c.header.machine = machineNamed(h.Machine)
	c.notes = kdumpNotes(dump, &c.header, &c.skipped)
	c.info = vmcoreinfo.Parse(c.notes.vmcoreinfo())
	c.pageShift = uint(bits.TrailingZeros(uint(h.BlockSize)))
	if size, ok := c.info.PageSize(); ok && size != uint64(h.BlockSize) {
		c.skipped.add("vmcoreinfo PAGESIZE %d: the file has blocks of %d", size, h.BlockSize)
	}
	if c.ranges, err = kdumpRanges(dump); err != nil {
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

func (k *kdumpFile) incomplete() bool { return k.dump.Incomplete() }

func (k *kdumpFile) dropAbsent(b pageSet) error {
	has, err := k.dump.Dumped()
	if err != nil {
		return err
	}
	for at, more := uint64(0), true; more; {
		start, end := has.NextClear(at), uint64(math.MaxUint64)
		if at, more = has.Next(start); more {
			end = at
		}
		b.ClearRange(start, end)
	}
	return nil
}

// kdumpReader gives errors of this package.
type kdumpReader struct{ *kdumpfile.PageReader }

func (k *kdumpFile) newReader() pageReader { return kdumpReader{k.dump.NewReader()} }

func (r kdumpReader) ReadPage(pfn uint64, page []byte) error {
	err := r.PageReader.ReadPage(pfn, page)
	if errors.Is(err, kdumpfile.ErrExcluded) {
		return ErrExcluded
	}
	return err
}
