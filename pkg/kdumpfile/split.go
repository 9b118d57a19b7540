package kdumpfile

import (
	"fmt"
	"io"
)

// maxParts bounds the files of a split dump.
const maxParts = 1024

// SplitWriter writes one dump into several files in the kdump-compressed
// format, which crash opens together and makedumpfile --reassemble makes one of.
// Each file has both whole bitmaps, and descriptors and data of the pages from
// start_pfn to end_pfn of its sub header.
//
// The files are written one after the other, the 2nd bitmap in all of them at
// once. What KdumpWriter says of order holds for each of them.
type SplitWriter struct {
	parts []*KdumpWriter
	ends  []uint64 // of the parts' pfns
	at    int      // part of the next page
	err   error    // sticky
}

var _ Output = (*SplitWriter)(nil)

// NewSplitWriter writes header, notes and ram (the 1st bitmap) to each of ws.
// kept has the pages that may come: the parts get about as many of them each.
// Neither bitmap is used afterwards.
func NewSplitWriter(ws []io.WriterAt, h Header, ram, kept Pages) (*SplitWriter, error) {
	if len(ws) < 1 || len(ws) > maxParts {
		return nil, fmt.Errorf("split dump: %d files, want 1 to %d", len(ws), maxParts)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	s := &SplitWriter{}
	buffers := newPageBuffers()
	for i, part := range balance(kept, h.MaxPFN, len(ws)) {
		k := newKdumpWriter(ws[i], h, ram, kept.CountRange(part.start, part.end), &part)
		k.pageBuffers = buffers
		k.bitsAt, k.bitsFrom, k.bitsTo = part.start&^63, part.start, part.start
		k.others = append(append(k.others, ws[:i]...), ws[i+1:]...)
		if k.err != nil {
			return nil, fmt.Errorf("part %d: %w", i+1, k.err)
		}
		s.parts, s.ends = append(s.parts, k), append(s.ends, part.end)
	}
	return s, nil
}

// balance divides the pfns up to maxPFN into n ranges with about as many bits
// of kept each. They begin at multiples of 64: crash counts the 2nd bitmap from
// start_pfn on in words of 64 bits.
func balance(kept Pages, maxPFN uint64, n int) []splitPart {
	parts := make([]splitPart, 0, n)
	total, at, count := kept.CountRange(0, maxPFN), uint64(0), uint64(0)
	for i := range n {
		start := at
		want := total * uint64(i+1) / uint64(n) // of 2^52 pages and 2^10 parts: no overflow
		for at < maxPFN && count < want {
			count += kept.CountRange(at, min(at+64, maxPFN))
			at = min(at+64, maxPFN)
		}
		if i == n-1 {
			at = maxPFN
		}
		parts = append(parts, splitPart{start, at, total})
	}
	return parts
}

// Batch takes pages; see Output.
func (s *SplitWriter) Batch(b *Batch) error {
	pfns, descs, data := b.PFNs, b.Descs, b.Data
	for len(pfns) > 0 && s.err == nil {
		for s.at+1 < len(s.parts) && pfns[0] >= s.ends[s.at] {
			s.next()
		}
		n, size := 0, uint64(0)
		for ; n < len(pfns) && (pfns[n] < s.ends[s.at] || s.at+1 == len(s.parts)); n++ {
			size += uint64(descs[n].Size)
		}
		size = min(size, uint64(len(data))) // the part refuses what is too short
		if k := s.parts[s.at]; k.kept == 0 && n > 0 {
			k.place(nil, 0) // the page of zeros, see splitPart
		}
		part := Batch{PFNs: pfns[:n], Descs: descs[:n], Data: data[:size]}
		s.fail(s.parts[s.at].Batch(&part))
		pfns, descs, data = pfns[n:], descs[n:], data[size:]
	}
	return s.err
}

// next goes on to the next file, with the buffers of this one.
func (s *SplitWriter) next() {
	k := s.parts[s.at]
	k.flush(true)
	clear(k.bits)
	s.fail(k.err)
	if s.at++; s.at < len(s.parts) && k.dedup != nil {
		clear(k.dedup.buckets)
		s.parts[s.at].dedup = k.dedup
	}
}

func (s *SplitWriter) fail(err error) {
	if s.err == nil && err != nil {
		s.err = fmt.Errorf("part %d: %w", s.at+1, err)
	}
}

// Finish writes the rest, makes all files durable where they can, and only then
// marks their headers complete, all alike: crash compares them.
func (s *SplitWriter) Finish() error {
	if s.err != nil {
		return s.err
	}
	s.next()
	var codecs Codec
	for s.at = range s.parts {
		s.parts[s.at].sync()
		s.fail(s.parts[s.at].err)
		codecs |= s.parts[s.at].codecs
	}
	for s.at = 0; s.at < len(s.parts) && s.err == nil; s.at++ {
		s.parts[s.at].complete(codecs)
		s.fail(s.parts[s.at].err)
	}
	if s.err != nil {
		s.reopen()
		return s.err
	}
	s.err = errFinished
	return nil
}

// reopen marks as incomplete again what was marked complete before another part
// could not be.
func (s *SplitWriter) reopen() {
	for _, k := range s.parts {
		if k.once {
			continue // its end marker is missing
		}
		_, _ = k.w.WriteAt(encodeHeader(&k.h, k.l, statusIncomplete), 0) // the first error counts
	}
}
