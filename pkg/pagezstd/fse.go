package pagezstd

import "math/bits"

const maxFSELog = 8

// fseTT is how one symbol changes the state: bits out = (state+deltaBits)>>16, next = next[state>>bits+deltaState].
type fseTT struct {
	deltaBits  uint32
	deltaState int32
}

// fseTable is an FSE encoding table of up to 1<<maxFSELog states and 64 symbols (RFC 8878, 4.1).
type fseTable struct {
	log  uint
	next [1 << maxFSELog]uint16
	tt   [64]fseTT
}

// dist is a distribution over the symbols in use.
type dist struct {
	n     int
	sym   [64]uint8 // ascending
	count [64]uint32
	norm  [64]int16               // sums to 1<<log; -1 counts as one
	line  [1<<maxFSELog + 8]uint8 // the symbols, each as often as its norm
	all   [1 << maxFSELog]uint8   // the same, spread
}

// collect takes the symbols with a count.
func (d *dist) collect(count []uint32) {
	n := 0
	for s, c := range count {
		d.sym[n&63], d.count[n&63] = uint8(s), c
		n += int((uint64(c) + 0xffffffff) >> 32)
	}
	d.n = n
}

// build makes the table of d.
func (t *fseTable) build(d *dist, log uint) {
	size := 1 << log
	line := &d.line
	var cum [64]uint16
	t.log = log
	high, total := size, 0
	at := 0
	for i, s := range d.sym[:d.n] {
		c := int(d.norm[i])
		cum[s&63] = uint16(total)
		if c > 0 {
			v := uint64(s) * 0x0101010101010101
			store64(line[:], at, v)
			for k := 8; k < c; k += 8 {
				store64(line[:], at+k, v)
			}
			at += c
		} else {
			high--
			c = 1
		}
		out := log - uint(bits.Len(uint(c-1))) + 1
		tt := &t.tt[s&63]
		tt.deltaBits = uint32(out)<<16 - uint32(c)<<(out&31)
		tt.deltaState = int32(total - c)
		total += c
	}
	sym := d.all[:size]
	spread(sym, line[:at], high)
	if high < size {
		for i, u := 0, size-1; u >= high; i++ {
			if d.norm[i] < 0 {
				sym[u] = d.sym[i]
				u--
			}
		}
	}
	for u, s := range sym {
		k := cum[s&63]
		t.next[k&(1<<maxFSELog-1)] = uint16(size + u)
		cum[s&63] = k + 1
	}
}

// spread deals line out over sym in the order of RFC 8878, 4.1.1; places from high on are taken.
func spread(sym, line []uint8, high int) {
	mask := len(sym) - 1
	step := len(sym)>>1 + len(sym)>>3 + 3
	pos := 0
	if high == len(sym) {
		for _, s := range line {
			sym[pos&mask] = s
			pos += step
		}
		return
	}
	for _, s := range line {
		sym[pos] = s
		for pos = (pos + step) & mask; pos >= high; {
			pos = (pos + step) & mask
		}
	}
}

// first is the state that stands for symbol s before any other is encoded.
func (t *fseTable) first(s uint8) uint32 {
	tt := t.tt[s&63]
	n := (tt.deltaBits + 1<<15) >> 16
	v := n<<16 - tt.deltaBits
	return uint32(t.next[(int32(v>>n)+tt.deltaState)&(1<<maxFSELog-1)])
}

// normalize scales count (sum total) to norm, sum 1<<log, keeping every symbol at 1 or more.
// It reports false if there are more symbols than states.
func (d *dist) normalize(total int, log uint) bool {
	scale := uint64(1<<32) << log / uint64(total)
	left := 1 << log
	best, bestN := 0, int16(0)
	for i, c := range d.count[:d.n] {
		v := uint64(c)*scale + 1<<31
		n := int16(max(v>>32, 1))
		if n > bestN {
			best, bestN = i, n
		}
		d.norm[i] = n
		left -= int(n)
	}
	if left >= 0 || int(bestN) > -left*2 {
		d.norm[best&63] += int16(left)
		return true
	}
	return d.shave(-left)
}

// shave takes over states away from the largest norms, one at a time.
func (d *dist) shave(over int) bool {
	norm := d.norm[:d.n]
	for ; over > 0; over-- {
		best := 0
		for s, n := range norm {
			if n > norm[best] {
				best = s
			}
		}
		if norm[best] < 2 {
			return false
		}
		norm[best]--
	}
	return true
}

// put writes the table description of d and returns the position after it.
func (d *dist) put(b []byte, p int, log uint) int {
	acc, n := uint64(log-5), uint(4)
	remaining := uint(1<<log + 1)
	at := uint8(0)
	for i, s := range d.sym[:d.n] {
		if gap := s - at; gap > 0 { // a zero, and how many more
			acc, n = putCount(acc, n, remaining, 0)
			for gap--; gap >= 3; gap -= 3 {
				acc |= 3 << (n & 63)
				n += 2
			}
			acc |= uint64(gap) << (n & 63)
			n += 2
		}
		at = s + 1
		store64(b, p, acc)
		p += int(n >> 3)
		acc >>= n & 56
		n &= 7
		c := uint(d.norm[i])
		acc, n = putCount(acc, n, remaining, c)
		remaining -= c
	}
	store64(b, p, acc)
	return p + int(n+7)>>3
}

// putCount writes one norm of a distribution that still misses remaining-1: in Len(remaining) bits, or in one less
// where the value is low.
func putCount(acc uint64, n, remaining, c uint) (uint64, uint) {
	width := uint(bits.Len(remaining))
	half := uint(1) << ((width - 1) & 63)
	top := 2*half - 1 - remaining
	c++
	if c >= half {
		c += top
	}
	acc |= uint64(c) << (n & 63)
	n += width
	if c < top {
		n--
	}
	return acc, n
}
