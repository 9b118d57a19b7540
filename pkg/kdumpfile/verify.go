package kdumpfile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// verifyStep is how many pfns a worker of Verify takes at a time.
const verifyStep = 1 << 15

// ProblemKind is what is wrong with a dump.
type ProblemKind string

const (
	ProblemHeader     ProblemKind = "header"     // a field of block 0 that readers stumble over
	ProblemNotes      ProblemKind = "notes"      // ELF notes or VMCOREINFO are not whole, or not where they belong
	ProblemBitmap     ProblemKind = "bitmap"     // bits of pages that are no RAM, or do not exist
	ProblemDescriptor ProblemKind = "descriptor" // one that cannot be right
	ProblemBeyond     ProblemKind = "beyond"     // data beyond the end of the file: it was cut off
	ProblemData       ProblemKind = "data"       // data without their checksum, or that are not one page
	ProblemOverlap    ProblemKind = "overlap"    // data of different pages that share some bytes, not all
	ProblemRead       ProblemKind = "read"       // the file cannot be read there
)

// Problem is one thing that is wrong.
type Problem struct {
	Kind ProblemKind
	Text string
}

// Report is what Verify found.
type Report struct {
	Pages      uint64 // in the file
	Zero       uint64 // of them, pages of zeros
	Shared     uint64 // of them, pages whose data stand there for another page already
	Summed     uint64 // of them, pages that have a checksum
	Bad        uint64 // of them, pages that cannot be had
	Bytes      uint64 // of the pages' data
	Trailing   uint64 // bytes of the file behind all data that a descriptor knows of
	Incomplete bool   // the file says so itself

	Found    map[ProblemKind]uint64 // number of problems; nothing is wrong if empty
	Problems []Problem              // the first of them
}

// add notes a problem.
func (r *Report) add(kind ProblemKind, format string, args ...any) {
	if r.Found == nil {
		r.Found = map[ProblemKind]uint64{}
	}
	if r.Found[kind]++; len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, Problem{kind, fmt.Sprintf(format, args...)})
	}
}

// Verify looks at everything in the dump that contradicts itself, and reads every
// page: each has to have its checksum, if it has one, and to decompress to exactly
// one page. With workers 0 it uses all CPUs. progress, if not nil, is called with
// pages done and in all, by one goroutine at a time. The error is ctx's.
func (k *Kdump) Verify(ctx context.Context, workers int, progress func(done, total uint64)) (Report, error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	v := &verifier{k: k, progress: progress}
	v.Incomplete = k.Incomplete()
	for _, file := range k.files() {
		if !file.salvaged {
			v.verifyHeader(file)
			v.verifyBitmaps(file)
		}
		if err := v.verifyExtents(ctx, file); err != nil {
			return v.Report, err
		}
	}
	v.next.Store(k.start)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { v.work(ctx) })
	}
	wg.Wait()
	return v.Report, ctx.Err()
}

type verifier struct {
	k        *Kdump
	progress func(done, total uint64)
	next     atomic.Uint64 // pfn

	mu sync.Mutex // guards what follows, and calls of progress
	Report
}

// verifyHeader looks for what makes readers refuse a dump, and at the notes.
func (v *verifier) verifyHeader(k *Kdump) {
	h := &k.h
	switch {
	case h.Sysname != "Linux" || h.Release == "" || h.Version == "" || h.Machine == "":
		v.add(ProblemHeader, "utsname %q %q %q %q: libkdumpfile wants Linux and no empty field", h.Sysname, h.Release, h.Version, h.Machine)
	case h.NumCPUs <= 0:
		v.add(ProblemHeader, "nr_cpus %d: crash wants one at least", h.NumCPUs)
	}
	var usec [8]byte
	if err := k.readAt(usec[:], offTimestamp+8); err != nil {
		v.add(ProblemRead, "header: %v", err)
	} else if n := binary.LittleEndian.Uint64(usec[:]); n != 0 {
		v.add(ProblemHeader, "tv_usec %d: libkdumpfile may take it for the block size of a 32 bit header", n)
	}
	var sub [subHeaderSize]byte
	if err := k.readAt(sub[:], k.l.block); err != nil {
		v.add(ProblemRead, "sub header: %v", err)
		return
	}
	for _, part := range []struct {
		name        string
		at          int
		fromVersion uint32
	}{{"VMCOREINFO", offVMCoreInfo, 3}, {"notes", offNote, 4}, {"eraseinfo", offEraseinfo, 5}} {
		offset, size := binary.LittleEndian.Uint64(sub[part.at:]), binary.LittleEndian.Uint64(sub[part.at+8:])
		if k.version < part.fromVersion || size == 0 {
			continue
		}
		if end := uint64(k.size); offset < uint64(k.l.block)+subHeaderSize || offset > end || size > end-offset ||
			offset < uint64(k.l.descs) && offset+size > uint64(k.l.bitmap1) {
			v.add(ProblemNotes, "%s: %#x bytes at %#x of a file of %#x with bitmaps from %#x to %#x", part.name, size, offset, end, k.l.bitmap1, k.l.descs)
		}
	}
	v.verifyNotes(k)
}

func (v *verifier) verifyNotes(k *Kdump) {
	found := false
	whole := eachNote(k.h.Notes, func(name string, _ uint32, desc []byte) {
		found = found || name == "VMCOREINFO" && string(desc) == string(k.info)
	})
	switch {
	case !whole:
		v.add(ProblemNotes, "%d bytes of ELF notes do not end with a note", len(k.h.Notes))
	case len(k.info) == 0:
		v.add(ProblemNotes, "there is no VMCOREINFO: most readers need it")
	case !found && len(k.h.Notes) > 0:
		v.add(ProblemNotes, "VMCOREINFO is none of the ELF notes")
	}
}

// verifyBitmaps compares the two.
func (v *verifier) verifyBitmaps(k *Kdump) {
	if k.l.bitmap1 == k.l.bitmap2 {
		return // one map for both purposes
	}
	const step = 64 << 10
	w1, w2 := k.ram.window(), k.dumped.window()
	for at := int64(0); at < k.l.bitmapBytes; at += step {
		n := int(min(step, k.l.bitmapBytes-at))
		ram, err1 := w1.get(k.l.bitmap1+at, n)
		dumped, err2 := w2.get(k.l.bitmap2+at, n)
		if err := errors.Join(err1, err2); err != nil {
			v.add(ProblemRead, "bitmaps: %v", err)
			return
		}
		for i := range dumped {
			if dumped[i]&^ram[i] != 0 {
				v.wrongBits(k, uint64(at)*8+uint64(i)*8, dumped[i]&^ram[i])
			}
		}
		if at*8 < int64(k.h.MaxPFN) && (at+step)*8 <= int64(k.h.MaxPFN) {
			continue
		}
		from := max(int64(k.h.MaxPFN)-at*8, 0)
		if pfn, ok := Bitmap(ram).Next(uint64(from)); ok {
			v.add(ProblemBitmap, "the 1st bitmap has pfn %#x, of %#x", uint64(at)*8+pfn, k.h.MaxPFN)
		}
	}
}

// wrongBits tells of bits of the byte that begins with pfn.
func (v *verifier) wrongBits(k *Kdump, pfn uint64, bits byte) {
	for i := range uint64(8) {
		if bits>>i&1 != 0 {
			v.add(ProblemBitmap, "pfn %#x of %#x is in the 2nd bitmap and is no RAM", pfn+i, k.h.MaxPFN)
		}
	}
}

func (v *verifier) work(ctx context.Context) {
	r := v.k.NewReader()
	defer r.Close()
	page := make([]byte, v.k.h.BlockSize)
	for ctx.Err() == nil {
		start := v.next.Add(verifyStep) - verifyStep
		if start >= v.k.end || start < v.k.start {
			return
		}
		v.step(ctx, r, page, start, min(start+verifyStep, v.k.end))
	}
}

// step reads the pages from start to end.
func (v *verifier) step(ctx context.Context, r *PageReader, page []byte, start, end uint64) {
	var part Report
	pfn, ok, err := r.Next(start)
	for ; ok && pfn < end && ctx.Err() == nil; pfn, ok, err = r.Next(pfn + 1) {
		part.Pages++
		summed, err := r.reader(pfn).verify(pfn, page, &part)
		switch {
		case err != nil:
			part.Bad++
		case allZero(page):
			part.Zero++
		}
		if summed {
			part.Summed++
		}
	}
	if err != nil {
		part.add(ProblemRead, "%v", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.merge(&part)
	if v.progress != nil {
		v.progress(v.Pages, v.k.Pages())
	}
}

func (r *Report) merge(part *Report) {
	r.Pages += part.Pages
	r.Zero += part.Zero
	r.Summed += part.Summed
	r.Bad += part.Bad
	for kind, n := range part.Found {
		if r.Found == nil {
			r.Found = map[ProblemKind]uint64{}
		}
		r.Found[kind] += n
	}
	r.Problems = append(r.Problems, part.Problems[:min(len(part.Problems), maxProblems-len(r.Problems))]...)
}

// reader gives the one of the part that has pfn.
func (r *PageReader) reader(pfn uint64) *PageReader {
	if r.parts == nil {
		return r
	}
	return r.parts[r.part(pfn)]
}

// verify reads a page that the bitmap has.
func (r *PageReader) verify(pfn uint64, page []byte, report *Report) (summed bool, err error) {
	k := r.k
	rank, err := r.rank(pfn)
	if err != nil {
		report.add(ProblemRead, "pfn %#x: %v", pfn, err)
		return false, err
	}
	p, err := r.desc.get(k.l.descs+int64(rank)*descSize, descSize)
	if err != nil {
		report.add(endKind(err, ProblemRead), "pfn %#x: page descriptor %d: %v", pfn, rank, err)
		return false, err
	}
	d := decodeDesc(p)
	if err := d.check(k, pfn); err != nil {
		report.add(ProblemDescriptor, "pfn %#x: page descriptor %d: %v", pfn, rank, err)
		return false, err
	}
	if err := r.readData(d, page); err != nil {
		kind := ProblemData
		if d.offset > uint64(k.size) || uint64(d.size) > uint64(k.size)-d.offset {
			kind = ProblemBeyond
		}
		report.add(kind, "pfn %#x: %v", pfn, err)
		return k.summed, err
	}
	return k.summed, nil
}

// endKind is ProblemBeyond for what is behind the end of the file.
func endKind(err error, other ProblemKind) ProblemKind {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return ProblemBeyond
	}
	return other
}
