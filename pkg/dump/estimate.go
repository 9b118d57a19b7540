package dump

import (
	"math"

	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Estimate guesses the bytes that Write will produce for m, by compressing a
// sample of the kept pages. It errs on the large side by two standard errors.
func Estimate(core *vmcore.Core, m *memmap.Map, o Options) (uint64, error) {
	const sample = 1024
	kept := m.Keep.Count()
	o.Workers = 1
	p, err := newPipeline(core, m, o)
	if err != nil {
		return 0, err
	}
	w := newWorker(p, p.compressors[0])
	defer w.reader.Close()
	b := <-p.free
	step := max(uint64(m.MaxPFN)/sample, 1)
	var s moments
	for at := uint64(0); ; {
		pfn, ok := m.Keep.Next(at)
		if !ok {
			break
		}
		b.reset()
		b.PFNs = append(b.PFNs, pfn)
		w.batch(b)
		s.add(float64(len(b.Data)))
		at = max(pfn+1, at+step)
	}
	return uint64(s.upper()*float64(kept)) + overhead(core, m, kept), nil
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
	return blocks + uint64(len(core.Notes())) + 2*uint64(len(m.Ram)) + 24*kept
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
