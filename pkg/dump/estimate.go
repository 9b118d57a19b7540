package dump

import (
	"iter"
	"math"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// sample is how many pages Estimate looks at.
const sample = 1024

// Estimate guesses the bytes that Write will produce for m, by compressing a
// sample of the kept pages. It errs on the large side by two standard errors.
func Estimate(core *vmcore.Core, m *memmap.Map, o Options) (uint64, error) {
	kept := m.Keep.Count()
	o.Workers = 1
	p, err := newPipeline(core, m, o)
	if err != nil {
		return 0, err
	}
	w := newWorker(p, p.compressors[0])
	defer w.reader.Close()
	b := <-p.free
	var s moments
	for pfn := range spread(m.Keep, kept, min(kept, sample)) {
		b.reset()
		b.PFNs = append(b.PFNs, pfn)
		w.batch(b)
		s.add(float64(len(b.Data)))
	}
	return uint64(s.upper()*float64(kept)) + overhead(core, m, kept), nil
}

// spread gives n of the kept set bits, evenly over them: memory is in few places
// of a large range of pfns.
func spread(keep kdumpfile.Pages, kept, n uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		const stride = 4096 // bits that are counted at once
		var i, seen uint64  // samples given, set bits before start
		for start := uint64(0); i < n; start += stride {
			first, ok := keep.Next(start)
			if !ok {
				return
			}
			start = first - first%stride
			end := seen + keep.CountRange(start, start+stride)
			if kept*i/n >= end { // sample i is the set bit of this number
				seen = end
				continue
			}
			for pfn, _ := keep.Next(start); seen < end; seen++ {
				if i < n && seen == kept*i/n {
					if i++; !yield(pfn) {
						return
					}
				}
				pfn, _ = keep.Next(pfn + 1)
			}
		}
	}
}

// Most is the size in bytes of a dump of m none of whose pages shrinks.
func Most(core *vmcore.Core, m *memmap.Map) uint64 {
	kept := m.Keep.Count()
	return kept<<core.PageShift() + overhead(core, m, kept)
}

// overhead is what a dump holds besides its pages: header, notes, two bitmaps
// and the descriptors of 24 bytes.
func overhead(core *vmcore.Core, m *memmap.Map, kept uint64) uint64 {
	blocks := uint64(4) << core.PageShift()
	return blocks + uint64(len(core.Notes())) + m.Ram.Len()/4 + 24*kept
}

// moments gathers the mean and the spread of a sample.
type moments struct{ n, sum, squares float64 }

func (m *moments) add(x float64) {
	m.n++
	m.sum += x
	m.squares += x * x
}

// upper is the mean plus two standard errors, 0 for an empty sample.
func (m *moments) upper() float64 {
	if m.n == 0 {
		return 0
	}
	mean := m.sum / m.n
	variance := max(m.squares/m.n-mean*mean, 0)
	return mean + 2*math.Sqrt(variance/m.n)
}
