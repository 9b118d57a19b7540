package kdumpfile

import (
	"io"
	"runtime"
	"testing"
)

// allocated is what f allocates, whatever becomes of it.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// stream hands on what is written, and cannot write at an offset.
type countingStream struct{ n int64 }

func (s *countingStream) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), nil
}

// The writers' own memory for a TiB of RAM in pages of 4 KiB, and for 64 TiB: the
// bitmaps that they are given are of 32 MiB each, and none is copied.
func TestWritersMemory(t *testing.T) {
	const bound = 2 << 20
	for _, maxPFN := range []uint64{1 << 28, 1 << 34} {
		ram := NewBitmap(1 << 28) // shorter than the 64 TiB: what is not there is clear
		ram.SetRange(0, 1<<28)
		for i := uint64(0); i < 1<<28; i += 1 << 20 { // a hole of 64 MiB in each 4 GiB
			ram.ClearRange(i, i+1<<14)
		}
		kept := NewBitmap(1 << 28)
		for i := uint64(1 << 14); i < 1<<28; i += 100_003 { // far from each other
			if ram.Get(i) {
				kept.SetRange(i, i+3)
			}
		}
		batch := &Batch{Descs: make([]Desc, 3), PFNs: make([]uint64, 3)}
		write := func(o Output, err error) {
			for pfn, ok := kept.Next(0); ok && err == nil; pfn, ok = kept.Next(pfn + 3) {
				batch.PFNs[0], batch.PFNs[1], batch.PFNs[2] = pfn, pfn+1, pfn+2
				err = o.Batch(batch)
			}
			if err == nil {
				err = o.Finish()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for name, f := range map[string]func(){
			"kdump": func() { write(NewKdumpWriter(discard{}, testHeader(4096, maxPFN), ram, kept.Count())) },
			"flattened": func() {
				write(NewKdumpWriter(NewFlattener(&countingStream{}), testHeader(4096, maxPFN), ram, kept.Count()))
			},
			"split": func() {
				write(NewSplitWriter([]io.WriterAt{discard{}, discard{}, discard{}, discard{}}, testHeader(4096, maxPFN), ram, kept))
			},
			"elf": func() { write(NewELFWriter(&countingStream{}, elfHeader(1<<28), ram, kept)) },
		} {
			n := allocated(f)
			t.Logf("%s, %d TiB: %d KiB", name, maxPFN>>28, n>>10)
			if n > bound {
				t.Errorf("%s, %d TiB: the writer allocates %d bytes, more than %d", name, maxPFN>>28, n, bound)
			}
		}
	}
}
