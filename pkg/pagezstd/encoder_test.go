package pagezstd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func levels() []int { return []int{LevelFast, LevelDefault, LevelSmall} }

func newDecoder(tb testing.TB) *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Close)
	return d
}

// checker encodes pages, decodes each with klauspost's decoder, and keeps the frames for libzstd.
type checker struct {
	tb     testing.TB
	e      *Encoder
	d      *zstd.Decoder
	back   []byte
	pages  []byte
	frames []byte
	keep   bool
	shrunk int
}

func newChecker(tb testing.TB, level int) *checker {
	return &checker{tb: tb, e: New(level), d: newDecoder(tb), keep: true}
}

func (c *checker) page(p []byte) {
	c.tb.Helper()
	at := len(c.frames)
	out, ok := c.e.Encode(c.frames, p)
	if !ok {
		if len(out) != at {
			c.tb.Fatalf("%d bytes: dst grew by %d without ok", len(p), len(out)-at)
		}
		return
	}
	frame := out[at:]
	if len(frame) >= len(p) {
		c.tb.Fatalf("%d bytes became %d", len(p), len(frame))
	}
	var err error
	c.back, err = c.d.DecodeAll(frame, c.back[:0])
	if err != nil || !bytes.Equal(c.back, p) {
		c.tb.Fatalf("%d bytes do not come back: %v\npage  %.400x\nframe %.400x", len(p), err, p, frame)
	}
	c.shrunk++
	if c.keep {
		c.frames = out
		c.pages = append(c.pages, p...)
	}
}

// libzstd decodes all frames so far with the zstd command, and forgets them.
func (c *checker) libzstd() {
	c.tb.Helper()
	path, err := exec.LookPath("zstd")
	if err != nil {
		c.tb.Skip("no zstd command: not decoded with libzstd")
	}
	cmd := exec.Command(path, "-dc")
	cmd.Stdin = bytes.NewReader(c.frames)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	got, err := cmd.Output()
	if err != nil {
		c.tb.Fatalf("zstd -dc: %v: %s", err, errs.Bytes())
	}
	if !bytes.Equal(got, c.pages) {
		n := 0
		for n < min(len(got), len(c.pages)) && got[n] == c.pages[n] {
			n++
		}
		c.tb.Fatalf("libzstd decodes %d bytes of %d to something else from byte %d on", len(got), len(c.pages), n)
	}
	c.frames, c.pages = c.frames[:0], c.pages[:0]
}

func eachLevel(t *testing.T, f func(t *testing.T, c *checker)) {
	for _, level := range levels() {
		t.Run(fmt.Sprint("level", level), func(t *testing.T) {
			c := newChecker(t, level)
			f(t, c)
			if c.shrunk == 0 {
				t.Fatal("no page shrank: nothing was tested")
			}
			c.libzstd()
		})
	}
}

func TestSizes(t *testing.T) {
	sizes := []int{0, 1, 2, 7, 8, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 2048,
		4095, 4096, 4097, 8192, 16383, 16384, 16385, 32768, 65535, 65536}
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, kind := range pageKinds() {
			for _, n := range sizes {
				for range 3 {
					p := make([]byte, n)
					fillPage(r, kind, p)
					c.page(p)
				}
			}
		}
	})
}

// TestAlphabets goes through the forms of literals: one symbol, both forms of table description, code lengths that hit
// the limit, one stream and four, each length of header.
func TestAlphabets(t *testing.T) {
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, n := range []int{40, 100, 1000, 1100, 4096, 16300, 16500, 65536} {
			for _, used := range []int{1, 2, 3, 17, 100, 128, 129, 130, 200, 255, 256} {
				for _, skew := range []int{1, 2, 4, 16} {
					p := make([]byte, n)
					perm := r.Perm(256)
					for i := range p {
						k := used
						for range skew {
							k = min(k, 1+r.IntN(used))
						}
						p[i] = byte(k - 1)
						if skew&1 == 0 {
							p[i] = byte(perm[k-1])
						}
					}
					c.page(p)
				}
			}
		}
	})
}

// TestFibonacci makes counts for which Huffman's code would be longer than the format allows.
func TestFibonacci(t *testing.T) {
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(5, 6))
		for last := 5; last < 23; last++ {
			var p []byte
			for a, b, s := 1, 1, 0; s < last && len(p)+a <= MaxPage; a, b, s = b, a+b, s+1 {
				p = append(p, bytes.Repeat([]byte{byte(s * 11)}, a)...)
			}
			r.Shuffle(len(p), func(i, j int) { p[i], p[j] = p[j], p[i] })
			c.page(p)
		}
		c.page(make([]byte, 4096))
	})
}

// TestLengths has every literals and match length around the edges of their codes, near and far offsets.
func TestLengths(t *testing.T) {
	edges := []int{0, 1, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 67, 127, 128, 129, 130, 131, 255, 256, 257,
		1023, 1024, 2047, 8191, 16383, 16384, 32767, 32768}
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(7, 8))
		noise := make([]byte, MaxPage)
		fillPage(r, "noise", noise)
		for _, ll := range edges {
			for _, ml := range edges {
				for _, gap := range []int{0, 1, 7, 300, 20000} {
					p := bytes.Clone(noise[:ml])
					p = append(p, make([]byte, gap)...)
					p = append(p, noise[40000-ll:40000]...)
					p = append(p, noise[:ml]...)
					p = append(p, noise[50000:50000+r.IntN(40)]...)
					if len(p) <= MaxPage {
						c.page(p)
					}
				}
			}
		}
	})
}

// TestManySequences goes over the borders of the count of sequences, up to as many as fit into a page.
func TestManySequences(t *testing.T) {
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(9, 10))
		for _, n := range []int{120, 127, 128, 129, 2000, 16000} {
			dict := make([]byte, 64)
			fillPage(r, "noise", dict)
			p := bytes.Clone(dict)
			for range n {
				k := r.IntN(60)
				p = append(p, dict[k:k+4]...)
				if r.IntN(4) == 0 {
					p = append(p, byte(r.Uint32()))
				}
			}
			c.page(p[:min(len(p), MaxPage)])
		}
	})
}

func TestMixedPages(t *testing.T) {
	n := 10000
	if testing.Short() {
		n = 2000
	}
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(11, 12))
		p := make([]byte, MaxPage)
		for range n {
			c.page(mixPage(r, p))
		}
	})
}

func TestDoesNotShrink(t *testing.T) {
	eachLevel(t, func(t *testing.T, c *checker) {
		e := c.e
		p := make([]byte, MaxPage+1)
		if out, ok := e.Encode([]byte("head"), p); ok || string(out) != "head" {
			t.Errorf("a page longer than MaxPage: %d bytes, %v", len(out), ok)
		}
		if out, ok := e.Encode(nil, nil); ok || len(out) != 0 {
			t.Errorf("an empty page: %d bytes, %v", len(out), ok)
		}
		r := rand.New(rand.NewPCG(13, 14))
		for _, n := range []int{1, 31, 32, 4096, MaxPage} {
			fillPage(r, "noise", p[:n])
			if out, ok := e.Encode([]byte("head"), p[:n]); ok || string(out) != "head" {
				t.Errorf("%d random bytes: %d bytes, %v", n, len(out), ok)
			}
		}
		c.page(make([]byte, MaxPage))
	})
}

func TestNoAllocation(t *testing.T) {
	for _, level := range levels() {
		e := New(level)
		pages := corpus(64, 4096)
		dst := make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(10, func() {
			for i := 0; i < len(pages); i += 4096 {
				e.Encode(dst, pages[i:i+4096])
			}
		}); n != 0 {
			t.Errorf("level %d: %v allocations in 64 pages", level, n)
		}
	}
}

// TestGuarded: src may be a read-only mapping with nothing before and after it; not a byte outside is touched.
func TestGuarded(t *testing.T) {
	size := os.Getpagesize()
	room := MaxPage + 2*size
	m, err := syscall.Mmap(-1, 0, room, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(m)
	in := m[size : room-size]
	protect := func(b []byte, prot int) {
		if err := syscall.Mprotect(b, prot); err != nil {
			t.Fatal(err)
		}
	}
	protect(m[:size], syscall.PROT_NONE)
	protect(m[room-size:], syscall.PROT_NONE)
	eachLevel(t, func(t *testing.T, c *checker) {
		r := rand.New(rand.NewPCG(15, 16))
		buf := make([]byte, MaxPage)
		for range 300 {
			p := mixPage(r, buf)
			protect(in, syscall.PROT_READ|syscall.PROT_WRITE)
			first, last := in[:len(p)], in[len(in)-len(p):]
			copy(first, p)
			copy(last, p)
			protect(in, syscall.PROT_READ)
			c.page(last)
			if len(p) <= MaxPage/2 {
				c.page(first)
			}
		}
	})
}

// TestSoak runs for as long as PAGEZSTD_SOAK says ("20m") and tells how many pages went through both decoders.
func TestSoak(t *testing.T) {
	v := os.Getenv("PAGEZSTD_SOAK")
	if v == "" {
		t.Skip("PAGEZSTD_SOAK is not set to a duration")
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var cs []*checker
	for _, level := range levels() {
		cs = append(cs, newChecker(t, level))
	}
	p := make([]byte, MaxPage)
	n := 0
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 2000 {
			q := mixPage(r, p)
			for range 3 { // each page, and two that differ a little
				cs[n%len(cs)].page(q)
				n++
				for range 1 + r.IntN(30) {
					q[r.IntN(len(q))] = byte(r.Uint32())
				}
			}
		}
		for _, c := range cs {
			c.libzstd()
		}
	}
	shrunk := 0
	for _, c := range cs {
		shrunk += c.shrunk
	}
	t.Logf("%d pages encoded, %d of them as frames that both decoders read", n, shrunk)
}
