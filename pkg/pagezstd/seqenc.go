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
	llCode [64]uint8
	mlCode [128]uint8
	llBits [64]uint8
	mlBits [64]uint8
	preset [alphabets]preset
	built  [alphabets]fseTable // made for one page
	codes  [alphabets][]uint8  // of each sequence
	count  [alphabets][64]uint32
	norm   [64]int16
}

// preset is a predefined distribution: its table and what each symbol costs, in 1/256 bit.
type preset struct {
	fseTable
	cost [64]uint32
}

func (c *seqEncoder) init() {
	for i := range c.llCode {
		c.llCode[i] = llCodeOf(i)
	}
	for i := range c.mlCode {
		c.mlCode[i] = mlCodeOf(i)
	}
	for i := range c.llBits {
		c.llBits[i], c.mlBits[i] = llBitsOf(i), mlBitsOf(i)
	}
	c.preset[litLength].init(6, []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2,
		1, 1, 1, 1, 1, -1, -1, -1, -1})
	c.preset[offset].init(5, []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		-1, -1, -1, -1, -1})
	c.preset[matchLength].init(6, []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1})
}

func (p *preset) init(log uint, norm []int16) {
	p.build(norm, log)
	for s, c := range norm {
		p.cost[s] = uint32(log)<<8 - log2(uint32(max(c, 1)))
	}
}

// log2 is the logarithm of v >= 1 in 1/256, by a line between the powers of two.
func log2(v uint32) uint32 {
	n := uint32(bits.Len32(v) - 1)
	return n<<8 + (v<<8>>n)&255
}

func (c *seqEncoder) grow(n int) {
	for i := range c.codes {
		c.codes[i] = make([]uint8, n)
	}
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
	switch {
	case n < 128:
		b[p] = byte(n)
		p++
	default: // below 0x7f00 whatever the page
		b[p], b[p+1] = byte(n>>8)+128, byte(n)
		p += 2
	}
	if n == 0 {
		return p, p < limit
	}
	c.toCodes(seqs)
	modes := p
	p++
	var t [alphabets]*fseTable
	var mode [alphabets]byte
	for i := range t {
		t[i], mode[i], p = c.choose(b, p, i, n)
	}
	b[modes] = mode[litLength]<<6 | mode[offset]<<4 | mode[matchLength]<<2
	return c.stream(b, p, seqs, t, limit)
}

func (c *seqEncoder) toCodes(seqs []seq) {
	clear(c.count[0][:])
	clear(c.count[1][:])
	clear(c.count[2][:])
	ll, of, ml := c.codes[0][:len(seqs)], c.codes[1][:len(seqs)], c.codes[2][:len(seqs)]
	for i := range seqs {
		s := &seqs[i]
		l := uint8(bits.Len16(s.ll) + 18)
		if s.ll < 64 {
			l = c.llCode[s.ll&63]
		}
		m := uint8(bits.Len16(s.ml) + 35)
		if s.ml < 128 {
			m = c.mlCode[s.ml&127]
		}
		o := uint8(bits.Len32(s.off) - 1)
		ll[i], of[i], ml[i] = l, o, m
		c.count[litLength][l&63]++
		c.count[offset][o&63]++
		c.count[matchLength][m&63]++
	}
}

const (
	modePreset = 0
	modeRLE    = 1
	modeBuilt  = 2
)

// choose takes the cheapest way to encode alphabet a and writes its description.
func (c *seqEncoder) choose(b []byte, p, a, n int) (*fseTable, byte, int) {
	count := &c.count[a]
	var preCost, entropy uint32
	ln := log2(uint32(n))
	used, last := 0, 0
	for s, k := range count {
		if k == 0 {
			continue
		}
		used++
		last = s
		preCost += k * c.preset[a].cost[s]
		entropy += k * (ln - log2(k))
	}
	if used == 1 && n > 2 {
		b[p] = uint8(last)
		c.built[a].rle()
		return &c.built[a], modeRLE, p + 1
	}
	if used == 1 || n < 24 || preCost < entropy+uint32(used+4)*5<<8 {
		return &c.preset[a].fseTable, modePreset, p
	}
	log := uint(max(bits.Len(uint(n-1))-3, 5, bits.Len(uint(used))))
	log = min(log, 8)
	norm := c.norm[:last+1]
	if !normalize(norm, count[:last+1], n, log) {
		return &c.preset[a].fseTable, modePreset, p
	}
	c.built[a].build(norm, log)
	return &c.built[a], modeBuilt, putNorm(b, p, norm, log)
}

// rle makes t encode its only symbol in no bits.
func (t *fseTable) rle() {
	t.log = 0
	t.next[0], t.next[1] = 1, 1
	clear(t.tt[:])
}

// stream writes the bits of the sequences, last first.
func (c *seqEncoder) stream(b []byte, p int, seqs []seq, t [alphabets]*fseTable, limit int) (int, bool) {
	n := len(seqs)
	ll, of, ml := c.codes[0][:n], c.codes[1][:n], c.codes[2][:n]
	tl, to, tm := t[litLength], t[offset], t[matchLength]
	var acc uint64
	var nb uint
	i := n - 1
	sl, so, sm := tl.first(ll[i]), to.first(of[i]), tm.first(ml[i])
	for {
		s := &seqs[i]
		l, o, m := ll[i]&63, of[i]&63, ml[i]&63
		w := uint(c.llBits[l])
		acc |= uint64(s.ll) & (1<<w - 1) << nb
		nb += w
		w = uint(c.mlBits[m])
		acc |= uint64(s.ml) & (1<<w - 1) << nb
		nb += w
		acc |= uint64(s.off) & (1<<o - 1) << nb
		nb += uint(o)
		store64(b, p, acc)
		p += int(nb >> 3)
		acc >>= nb &^ 7
		nb &= 7
		i--
		if i < 0 {
			break
		}
		if p >= limit {
			return 0, false
		}
		o, m, l = of[i]&63, ml[i]&63, ll[i]&63
		acc, nb, so = to.step(acc, nb, so, o)
		acc, nb, sm = tm.step(acc, nb, sm, m)
		acc, nb, sl = tl.step(acc, nb, sl, l)
		// at most 7 + 8 + 9 + 9 bits here, 12+11+11 above on a 4 KiB page
		store64(b, p, acc)
		p += int(nb >> 3)
		acc >>= nb &^ 7
		nb &= 7
	}
	acc |= uint64(sm) & (1<<tm.log - 1) << nb
	nb += tm.log
	acc |= uint64(so) & (1<<to.log - 1) << nb
	nb += to.log
	acc |= uint64(sl) & (1<<tl.log - 1) << nb
	nb += tl.log
	acc |= 1 << nb
	nb++
	store64(b, p, acc)
	p += int(nb+7) >> 3
	return p, p < limit
}

// step encodes symbol s: it adds the bits that take state to the next one.
func (t *fseTable) step(acc uint64, nb uint, state uint32, s uint8) (uint64, uint, uint32) {
	tt := t.tt[s&63]
	w := (state + tt.deltaBits) >> 16
	acc |= uint64(state) & (1<<w - 1) << nb
	return acc, nb + uint(w), uint32(t.next[(int32(state>>w)+tt.deltaState)&(1<<maxFSELog-1)])
}
