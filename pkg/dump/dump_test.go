package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// machine has 2048+512 pages from pfn 1 on, with a hole: all a pattern but every
// page of the second MiB, which is zeros, and 4 pages in the end that the core
// does not have.
const machine = `
	load 0x1000 8M
	load 0x1000000 0x200000 filesz=0x1fc000
	pattern 0x1000 0xff000
	pattern 0x200000 0x601000
	pattern 0x1000000 2M
`

const (
	machinePages = 2048 + 512
	zeroPages    = 256
	absentPages  = 4
)

func openCore(t testing.TB, text string) *vmcore.Core {
	t.Helper()
	core, err := vmcore.Open(vmcoretest.File(t, text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	return core
}

// recorder is an Output that keeps everything.
type recorder struct {
	pfns     []uint64
	descs    []kdumpfile.Desc
	data     []byte
	batches  int
	failAt   int // the batch that fails, from 1 on; 0: none
	finished bool
	finish   error
}

const errOutput = kdumpfile.Error("output broke")

func (r *recorder) Batch(b *kdumpfile.Batch) error {
	if r.batches++; r.batches == r.failAt {
		return errOutput
	}
	if len(b.PFNs) != len(b.Descs) {
		return fmt.Errorf("%d pfns, %d descriptors", len(b.PFNs), len(b.Descs))
	}
	r.pfns = append(r.pfns, b.PFNs...)
	r.descs = append(r.descs, b.Descs...)
	r.data = append(r.data, b.Data...)
	return nil
}

func (r *recorder) Finish() error {
	r.finished = true
	return r.finish
}

// check makes sure that r holds the core's pages, and those of want only.
func (r *recorder) check(t *testing.T, core *vmcore.Core, want []uint64) {
	t.Helper()
	if !slices.Equal(r.pfns, want) {
		t.Fatalf("%d pages, want %d", len(r.pfns), len(want))
	}
	dec, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	defer dec.Close()
	data, page, zero := r.data, make([]byte, 4096), make([]byte, 4096)
	for i, pfn := range r.pfns {
		if err := core.ReadPhys(page, pfn<<12); err != nil {
			t.Fatal(err)
		}
		d := r.descs[i]
		got := data[:d.Size]
		data = data[d.Size:]
		switch {
		case d.Size == 0:
			got = zero
		case d.Flags == uint32(kdumpfile.Zstd):
			var err error
			if got, err = dec.DecodeAll(got, nil); err != nil {
				t.Fatal(err)
			}
		case d.Flags != 0 || d.Size != 4096:
			t.Fatalf("pfn %#x: %+v", pfn, d)
		}
		if !bytes.Equal(got, page) {
			t.Fatalf("pfn %#x is not the core's", pfn)
		}
		if bytes.Equal(page, zero) != (d.Size == 0) {
			t.Fatalf("pfn %#x: %+v", pfn, d)
		}
	}
	if len(data) > 0 {
		t.Errorf("%d bytes too many", len(data))
	}
}

// pages are those of the machine that can be read.
func pages() (list []uint64) {
	for pfn := uint64(1); pfn <= 2048; pfn++ {
		list = append(list, pfn)
	}
	for pfn := uint64(0x1000); pfn < 0x1200-absentPages; pfn++ {
		list = append(list, pfn)
	}
	return list
}

func TestWrite(t *testing.T) {
	core := openCore(t, machine)
	var first *recorder
	for workers := range 5 {
		for _, codec := range []kdumpfile.Codec{kdumpfile.None, kdumpfile.Zstd} {
			m := memmap.Everything(core)
			out := &recorder{}
			var last Progress
			stats, err := Write(context.Background(), core, m, out, Options{Codec: codec, Workers: workers, Progress: func(p Progress) {
				if p.Done <= last.Done || p.Written < last.Written || p.Total != machinePages {
					t.Errorf("progress %+v after %+v", p, last)
				}
				last = p
			}})
			if err != nil || !out.finished {
				t.Fatal(err, out.finished)
			}
			out.check(t, core, pages())
			if stats.Written != machinePages-absentPages || stats.Zero != zeroPages || stats.Unreadable != absentPages ||
				stats.Bytes != uint64(len(out.data)) || len(stats.Errors) != absentPages || last.Done != machinePages {
				t.Errorf("%d workers: %+v, %+v", workers, stats, last)
			}
			if codec == kdumpfile.None {
				continue
			}
			if first == nil {
				first = out
			}
			if !bytes.Equal(out.data, first.data) || !slices.Equal(out.descs, first.descs) {
				t.Errorf("%d workers write another dump", workers)
			}
		}
	}
}

// The level's zero bit changes nothing: pages of zeros stay, as one.
func TestWriteZeroBit(t *testing.T) {
	core := openCore(t, machine)
	for _, level := range []memmap.Level{0, memmap.LevelZero} {
		m := memmap.Everything(core)
		m.Level = level
		out := &recorder{}
		stats, err := Write(context.Background(), core, m, out, Options{Workers: 1})
		if err != nil || stats.Zero != zeroPages || len(out.data) != (machinePages-absentPages-zeroPages)*4096 {
			t.Errorf("level %d: %+v, %v", level, stats, err)
		}
	}
}

func TestWriteOnlyKept(t *testing.T) {
	core := openCore(t, machine)
	var want []uint64
	m := memmap.Everything(core)
	for i, pfn := range pages() {
		if i%3 > 0 {
			m.Keep.Clear(pfn)
		} else {
			want = append(want, pfn)
		}
	}
	out := &recorder{}
	if _, err := Write(context.Background(), core, m, out, Options{Codec: kdumpfile.Zstd, Workers: 2}); err != nil {
		t.Fatal(err)
	}
	out.check(t, core, want)
	m.Keep.ClearRange(0, 0x2000)
	out = &recorder{}
	stats, err := Write(context.Background(), core, m, out, Options{Workers: 2})
	if err != nil || !out.finished || out.batches != 0 || stats.Written != 0 {
		t.Errorf("nothing kept: %+v %+v %v", out, stats, err)
	}
}

// Many unreadable pages: all are counted, few remembered.
func TestWriteUnreadable(t *testing.T) {
	core := openCore(t, "load 0x1000 4M filesz=0")
	stats, err := Write(context.Background(), core, memmap.Everything(core), &recorder{}, Options{Workers: 2})
	if err != nil || stats.Unreadable != 1024 || len(stats.Errors) != maxErrors || !errors.Is(stats.Errors[0], vmcore.ErrExcluded) {
		t.Errorf("%+v, %v", stats, err)
	}
}

// settle waits for the goroutines of a Write to end.
func settle(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func TestWriteOutputFails(t *testing.T) {
	core := openCore(t, machine)
	m := memmap.Everything(core)
	for _, at := range []int{1, 2, 7, 20} {
		before := runtime.NumGoroutine()
		out := &recorder{failAt: at}
		_, err := Write(context.Background(), core, m, out, Options{Workers: 2})
		if !errors.Is(err, errOutput) || out.finished || out.batches != at {
			t.Errorf("batch %d: %v, %+v batches", at, err, out.batches)
		}
		settle(t, before)
	}
	out := &recorder{finish: errOutput}
	if _, err := Write(context.Background(), core, m, out, Options{Workers: 1}); !errors.Is(err, errOutput) {
		t.Error(err)
	}
}

func TestWriteIsCancelled(t *testing.T) {
	core := openCore(t, machine)
	m := memmap.Everything(core)
	for _, at := range []int{0, 1, 5, 20} {
		before := runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(context.Background())
		out := &recorder{}
		calls := 0
		if at == 0 {
			cancel()
		}
		stats, err := Write(ctx, core, m, out, Options{Workers: 2, Progress: func(Progress) {
			if calls++; calls == at {
				cancel()
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) || out.finished || out.batches != at {
			t.Errorf("after %d: %v, %d batches", at, err, out.batches)
		}
		if stats.Written != uint64(len(out.pfns)) {
			t.Errorf("after %d: %d pages written, says %d", at, len(out.pfns), stats.Written)
		}
		settle(t, before)
	}
}

// Cancelled by another goroutine, at any moment: batches that no worker has
// looked at must not reach the output.
func TestWriteIsCancelledFromOutside(t *testing.T) {
	core := openCore(t, machine)
	m := memmap.Everything(core)
	for i := range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Duration(i)*50*time.Microsecond, cancel)
		out := &recorder{}
		_, err := Write(ctx, core, m, out, Options{Codec: kdumpfile.Zstd, Workers: 2})
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) || out.finished != (err == nil) {
			t.Fatal(err, out.finished)
		}
		out.check(t, core, pages()[:len(out.pfns)])
	}
}

func TestWriteRefuses(t *testing.T) {
	core := openCore(t, machine)
	if _, err := Write(context.Background(), core, memmap.Everything(core), &recorder{}, Options{Codec: kdumpfile.LZO}); err == nil {
		t.Error("LZO is written")
	}
	if _, err := Estimate(core, memmap.Everything(core), Options{Codec: kdumpfile.Zstd, Level: 99}); err == nil {
		t.Error("zstd:99 is estimated")
	}
}

// Memory is bounded by bytes, not by pages.
func TestBatchesOfLargePages(t *testing.T) {
	core := openCore(t, "machine arm64 64K\nkernel 0x1000000 4M\nload 0x10000 16M\npattern 0x10000 16M")
	p, err := newPipeline(core, memmap.Everything(core), Options{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range cap(p.free) {
		if b := <-p.free; cap(b.Data) > batchBytes+2<<16 || cap(b.PFNs) != 8 {
			t.Errorf("a batch of %d bytes and %d pages", cap(b.Data), cap(b.PFNs))
		}
	}
	out := &recorder{}
	if _, err := Write(context.Background(), core, memmap.Everything(core), out, Options{Workers: 2}); err != nil || len(out.data) != 16<<20 {
		t.Errorf("%d bytes, %v", len(out.data), err)
	}
}

// compressible is a core of MiB that shrink to about a third, and zeros, and noise.
func compressible(mib int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "load 0x100000 %dM\npattern 0x100000 %dM\n", mib, mib/4)
	words := strings.Repeat("kworker/u8:3-events_unbound", 20)
	for i := range mib * 128 {
		fmt.Fprintf(&text, "data %#x %q %d\n", 0x100000+mib<<18+i*4096+i%300*8, words[i%20:], i*7919)
	}
	return text.String()
}

func TestEstimate(t *testing.T) {
	for name, text := range map[string]string{
		"mixed":     compressible(16),
		"zeros":     "load 0x1000 16M",
		"noise":     "load 0x1000 16M\npattern 0x1000 16M",
		"one page":  "load 0x1000 4K\npattern 0x1000 4K",
		"far apart": "load 0x1000 4M\nload 0x4000000000 4M\npattern 0x4000000000 4M",
		"nothing":   "load 0x1000 4K filesz=0",
	} {
		core := openCore(t, text)
		m := memmap.Everything(core)
		if name == "mixed" {
			for pfn := range m.MaxPFN {
				if pfn%2 == 0 {
					m.Keep.Clear(uint64(pfn))
				}
			}
		}
		o := Options{Codec: kdumpfile.Zstd, Workers: 2}
		need, err := Estimate(core, m, o)
		if err != nil {
			t.Fatal(err)
		}
		stats, err := Write(context.Background(), core, m, &recorder{}, o)
		if err != nil {
			t.Fatal(err)
		}
		size := stats.Bytes + overhead(core, m, m.Keep.Count())
		if need < size || need > size*5/4+100 {
			t.Errorf("%s: estimate %d, it is %d", name, need, size)
		}
		if most := Most(core, m); need > most*5/4 || size > most {
			t.Errorf("%s: %d bytes, at most %d were said", name, size, most)
		}
	}
}

func TestSpread(t *testing.T) {
	keep := kdumpfile.NewBitmap(1 << 20)
	rnd := rand.New(rand.NewPCG(1, 2))
	var set []uint64
	for pfn := uint64(0); pfn < 1<<20; pfn++ {
		if pfn%50000 < 700 && rnd.IntN(3) > 0 {
			keep.Set(pfn)
			set = append(set, pfn)
		}
	}
	kept := uint64(len(set))
	for _, n := range []uint64{0, 1, 2, 7, sample, kept - 1, kept} {
		var want []uint64
		for i := range n {
			want = append(want, set[kept*i/n])
		}
		if got := slices.Collect(spread(keep, kept, n)); !slices.Equal(got, want) {
			t.Errorf("%d of %d: got %d others", n, kept, len(got))
		}
	}
}

// discard takes pages and keeps none.
type discard struct{}

func (discard) Batch(*kdumpfile.Batch) error { return nil }
func (discard) Finish() error                { return nil }

// BenchmarkWrite shows that nothing is allocated per page: allocs/op is that of
// a whole dump of 16384 pages.
func BenchmarkWrite(b *testing.B) {
	core := openCore(b, compressible(64))
	m := memmap.Everything(core)
	for _, codec := range []kdumpfile.Codec{kdumpfile.None, kdumpfile.Snappy, kdumpfile.Zlib, kdumpfile.Zstd} {
		b.Run(codec.String(), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(64 << 20)
			for b.Loop() {
				if _, err := Write(context.Background(), core, m, discard{}, Options{Codec: codec, Workers: 2}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a dump allocates does not depend on how many pages it has.
func TestNothingIsAllocatedPerPage(t *testing.T) {
	for _, codec := range []kdumpfile.Codec{kdumpfile.None, kdumpfile.Snappy, kdumpfile.Zlib, kdumpfile.Zstd} {
		allocs := func(mib int) float64 {
			core := openCore(t, compressible(mib))
			m := memmap.Everything(core)
			return testing.AllocsPerRun(2, func() {
				if _, err := Write(context.Background(), core, m, discard{}, Options{Codec: codec, Workers: 2}); err != nil {
					t.Fatal(err)
				}
			})
		}
		if small, large := allocs(4), allocs(16); large > small+1500 { // 3072 pages more; the race detector has some of its own
			t.Errorf("%s: %.0f allocations for 4 MiB, %.0f for 16", codec, small, large)
		}
	}
}
