package pagezstd

import "math/bits"

// The three alphabets of a sequence, in the order of their table descriptions.
const (
	litLength = iota
	offset
	matchLength
	alphabets
)

// seqEncoder writes the sequences section (RFC 8878, 3.1.1.3.2).
type seqEncoder struct {
	llTab  [64]uint16  // bits<<8 | code of short literals lengths
	mlTab  [128]uint16 // and match lengths
	preset [alphabets]preset
	table  [alphabets]fseTable // of one page
	packed []packed
	count  [alphabets][64]uint32
	dist   dist
	size   [alphabets]int // of the alphabets, up to MaxPage
	finer  int            // log2 of how much larger than usual the tables are
}

// preset is a predefined distribution: its table and what each symbol costs, in 1/256 bit.
type preset struct {
	fseTable
	cost [64]uint32
}

func (c *seqEncoder) init() {
	c.size = [alphabets]int{litLength: 35, offset: 17, matchLength: 52}
	for i := range c.llTab {
		k := llCodeOf(i)
		c.llTab[i] = uint16(llBitsOf(int(k)))<<8 | uint16(k)
	}
	for i := range c.mlTab {
		k := mlCodeOf(i)
		c.mlTab[i] = uint16(mlBitsOf(int(k)))<<8 | uint16(k)
	}
	c.preset[litLength].init(6, []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2,
		1, 1, 1, 1, 1, -1, -1, -1, -1})
	c.preset[offset].init(5, []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		-1, -1, -1, -1, -1})
	c.preset[matchLength].init(6, []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1})
}

// init takes the distribution of RFC 8878, 3.1.1.3.2.2.
func (p *preset) init(log uint, norm []int16) {
	var d dist
	for s, c := range norm {
		d.sym[s], d.norm[s] = uint8(s), c
		p.cost[s] = uint32(log)<<8 - log2(uint32(max(c, 1)))
	}
	d.n = len(norm)
	p.build(&d, log)
}

// log2 is about the logarithm of v >= 1 in 1/256, by a line between the powers of two.
func log2(v uint32) uint32 {
	n := uint32(bits.Len32(v) - 1)
	return n<<8 + (v<<8>>n)&255
}

// llCodeOf is the code of a literals length below 64.
func llCodeOf(n int) uint8 {
	switch {
	case n < 16:
		return uint8(n)
	case n < 24:
		return uint8(16 + (n-16)/2)
	case n < 32:
		return uint8(20 + (n-24)/4)
	case n < 48:
		return uint8(22 + (n-32)/8)
	}
	return 24
}

// mlCodeOf is the code of a match length less 3, below 128.
func mlCodeOf(n int) uint8 {
	switch {
	case n < 32:
		return uint8(n)
	case n < 40:
		return uint8(32 + (n-32)/2)
	case n < 48:
		return uint8(36 + (n-40)/4)
	case n < 64:
		return uint8(38 + (n-48)/8)
	case n < 96:
		return uint8(40 + (n-64)/16)
	}
	return 42
}

func llBitsOf(code int) uint8 {
	switch {
	case code < 16:
		return 0
	case code < 20:
		return 1
	case code < 22:
		return 2
	case code < 24:
		return 3
	case code == 24:
		return 4
	}
	return uint8(code - 19)
}

func mlBitsOf(code int) uint8 {
	switch {
	case code < 32:
		return 0
	case code < 36:
		return 1
	case code < 38:
		return 2
	case code < 40:
		return 3
	case code < 42:
		return 4
	case code == 42:
		return 5
	}
	return uint8(code - 36)
}

// encode writes the section at b[p:]; it reports false once it cannot end below limit.
func (c *seqEncoder) encode(b []byte, p int, seqs []seq, limit int) (int, bool) {
	n := len(seqs)
	if p+8 > limit {
		return 0, false
	}
	if n < 128 {
		b[p] = byte(n)
		p++
	} else { // MaxPage has less than 0x7f00
		b[p], b[p+1] = byte(n>>8)+128, byte(n)
		p += 2
	}
	if n == 0 {
		return p, p < limit
	}
	c.toCodes(seqs)
	modes := p
	p++
	var mode [alphabets]byte
	for i := range mode {
		mode[i], p = c.choose(b, p, i, n)
	}
	b[modes] = mode[litLength]<<6 | mode[offset]<<4 | mode[matchLength]<<2
	p = c.stream(b, p, c.packed[:n])
	return p, p < limit
}

// packed is a sequence as it is written: its codes, and its extra bits in one word.
type packed struct {
	extra      uint64 // of literals length, match length, offset, from the low end
	width      uint8  // of extra
	ll, of, ml uint8
}

// toCodes fills packed and count.
func (c *seqEncoder) toCodes(seqs []seq) {
	clear(c.count[0][:])
	clear(c.count[1][:])
	clear(c.count[2][:])
	out := c.packed[:len(seqs)]
	for i, s := range seqs {
		off, ll, ml := uint32(s), uint16(s>>32), uint16(s>>48)
		l, m := c.llTab[ll&63], c.mlTab[ml&127]
		if ll >= 64 {
			k := uint16(bits.Len16(ll) - 1)
			l = k<<8 | (k + 19)
		}
		if ml >= 128 {
			k := uint16(bits.Len16(ml) - 1)
			m = k<<8 | (k + 36)
		}
		o := uint8(bits.Len32(off) - 1)
		wl, wm := uint8(l>>8), uint8(m>>8)
		x := uint64(ll) & (1<<(wl&63) - 1)
		x |= uint64(ml) & (1<<(wm&63) - 1) << (wl & 63)
		wl += wm
		x |= (uint64(off) ^ 1<<(o&63)) << (wl & 63)
		q := &out[i]
		q.extra = x
		q.width = wl + o
		q.ll = uint8(l)
		q.of = o
		q.ml = uint8(m)
		c.count[litLength][l&63]++
		c.count[offset][o&63]++
		c.count[matchLength][m&63]++
	}
}

const (
	// manySequences always get a table of their own.
	manySequences = 64

	modePreset = 0
	modeRLE    = 1
	modeBuilt  = 2
)

// choose makes the table of alphabet a in the cheapest way and writes its description.
func (c *seqEncoder) choose(b []byte, p, a, n int) (byte, int) {
	d, t := &c.dist, &c.table[a]
	d.collect(c.count[a][:c.size[a]])
	if d.n == 1 && n > 2 {
		b[p] = d.sym[0]
		t.rle()
		return modeRLE, p + 1
	}
	log := uint(min(max(bits.Len(uint(n-1))-3+c.finer, 5, bits.Len(uint(d.n))), maxFSELog))
	if n < manySequences && c.presetPays(a, n) || !d.normalize(n, log) {
		*t = c.preset[a].fseTable
		return modePreset, p
	}
	t.build(d, log)
	return modeBuilt, d.put(b, p, log)
}

// presetPays reports whether the predefined table of alphabet a beats one for the n sequences with its description.
func (c *seqEncoder) presetPays(a, n int) bool {
	var pre, entropy uint32
	ln := log2(uint32(n))
	for i, s := range c.dist.sym[:c.dist.n] {
		k := c.dist.count[i]
		pre += k * c.preset[a].cost[s&63]
		entropy += k * (ln - log2(k))
	}
	const description = 5 << 8 // bits of each symbol, and as much as four more
	return pre < entropy+uint32(c.dist.n+4)*description
}

// rle makes t encode its only symbol in no bits.
func (t *fseTable) rle() {
	t.log = 0
	t.next[0], t.next[1] = 1, 1
	clear(t.tt[:])
}

// stream writes the bits of the sequences, last first.
func (c *seqEncoder) stream(b []byte, p int, seqs []packed) int {
	tl, to, tm := &c.table[litLength], &c.table[offset], &c.table[matchLength]
	i := len(seqs) - 1
	s := &seqs[i]
	sl, so, sm := tl.first(s.ll), to.first(s.of), tm.first(s.ml)
	acc, nb := s.extra, uint(s.width)
	for i--; i >= 0; i-- {
		store64(b, p, acc)
		p += int(nb >> 3)
		acc >>= nb & 56
		nb &= 7
		s = &seqs[i]
		acc, nb, so = to.step(acc, nb, so, s.of)
		acc, nb, sm = tm.step(acc, nb, sm, s.ml)
		acc, nb, sl = tl.step(acc, nb, sl, s.ll)
		if s.width > 32 { // 7+8+8+8 bits are there
			store64(b, p, acc)
			p += int(nb >> 3)
			acc >>= nb & 56
			nb &= 7
		}
		acc |= s.extra << (nb & 63)
		nb += uint(s.width)
	}
	store64(b, p, acc)
	p += int(nb >> 3)
	acc >>= nb & 56
	nb &= 7
	acc |= uint64(sm) & (1<<tm.log - 1) << (nb & 63)
	nb += tm.log
	acc |= uint64(so) & (1<<to.log - 1) << (nb & 63)
	nb += to.log
	acc |= uint64(sl) & (1<<tl.log - 1) << (nb & 63)
	nb += tl.log
	acc |= 1 << (nb & 63)
	nb++
	store64(b, p, acc)
	return p + int(nb+7)>>3
}

// step encodes symbol s: it adds the bits that take state to the next one.
func (t *fseTable) step(acc uint64, nb uint, state uint32, s uint8) (uint64, uint, uint32) {
	tt := t.tt[s&63]
	w := (state + tt.deltaBits) >> 16
	acc |= uint64(state) & (1<<(w&63) - 1) << (nb & 63)
	return acc, nb + uint(w), uint32(t.next[(int32(state>>(w&31))+tt.deltaState)&(1<<maxFSELog-1)])
}
