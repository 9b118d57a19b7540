package pagezstd

import "math/bits"

// fseTT is how one symbol changes the state: bits out = (state+deltaBits)>>16, next = next[state>>bits+deltaState].
type fseTT struct {
	deltaBits  uint32
	deltaState int32
}

// fseTable is an FSE encoding table of up to 1<<maxFSELog states and 53 symbols.
type fseTable struct {
	log  uint
	next [1 << maxFSELog]uint16
	tt   [64]fseTT
}

const maxFSELog = 9

// build makes the table of a normalized distribution: norm sums to 1<<log, -1 counts as one.
func (t *fseTable) build(norm []int16, log uint) {
	size := 1 << log
	var sym [1 << maxFSELog]uint8
	var cum [64]int
	t.log = log
	high := size - 1
	total := 0
	for s, c := range norm {
		cum[s] = total
		if c == -1 {
			sym[high] = uint8(s)
			high--
			c = 1
		}
		t.tt[s] = symbolTT(int(c), total, log)
		total += int(c)
	}
	step := size>>1 + size>>3 + 3
	pos := 0
	for s, c := range norm {
		for ; c > 0; c-- {
			sym[pos] = uint8(s)
			for pos = (pos + step) & (size - 1); pos > high; {
				pos = (pos + step) & (size - 1)
			}
		}
	}
	for u, s := range sym[:size] {
		t.next[cum[s]] = uint16(size + u)
		cum[s]++
	}
}

func symbolTT(c, total int, log uint) fseTT {
	if c == 0 {
		return fseTT{}
	}
	if c == 1 {
		return fseTT{uint32(log)<<16 - 1<<log, int32(total - 1)}
	}
	out := log - uint(bits.Len(uint(c-1))-1)
	return fseTT{uint32(out)<<16 - uint32(c)<<out, int32(total - c)}
}

// first is the state that stands for symbol s before any other is encoded.
func (t *fseTable) first(s uint8) uint32 {
	tt := t.tt[s&63]
	n := (tt.deltaBits + 1<<15) >> 16
	v := n<<16 - tt.deltaBits
	return uint32(t.next[(int32(v>>n)+tt.deltaState)&(1<<maxFSELog-1)])
}

// normalize scales count (sum total, at least two symbols used) to sum 1<<log, keeping every used symbol at 1 or more.
// It reports false if there are more symbols than states.
func normalize(norm []int16, count []uint32, total int, log uint) bool {
	size := 1 << log
	scale := uint64(1<<32) << log / uint64(total)
	left := size
	best, bestN := 0, int16(0)
	for s, c := range count {
		if c == 0 {
			norm[s] = 0
			continue
		}
		v := uint64(c) * scale
		n := int16(v >> 32)
		if n == 0 {
			n = 1
		} else if uint32(v) > restToBeat(n) {
			n++
		}
		if n > bestN {
			best, bestN = s, n
		}
		norm[s] = n
		left -= int(n)
	}
	if left >= 0 || int(bestN) > -left*2 {
		norm[best] += int16(left)
		return true
	}
	return shave(norm, -left)
}

// restToBeat is the fraction, in 1/2^32, from which n+1 costs less than n.
func restToBeat(n int16) uint32 {
	switch n {
	case 1:
		return 0x71000000
	case 2:
		return 0x78000000
	case 3:
		return 0x7b000000
	}
	return 0x7e000000
}

// shave takes over states away from the largest norms, one at a time.
func shave(norm []int16, over int) bool {
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

// putNorm writes the table description of norm and returns the position after it.
func putNorm(b []byte, p int, norm []int16, log uint) int {
	acc, n := uint64(log-5), uint(4)
	remaining := 1<<log + 1
	threshold, width := 1<<log, log+1
	for s, prevZero := 0, false; s < len(norm) && remaining > 1; {
		if prevZero {
			start := s
			for norm[s] == 0 {
				s++
			}
			for ; s >= start+3; start += 3 {
				acc |= 3 << n
				n += 2
				if n > 40 {
					store64(b, p, acc)
					p += int(n >> 3)
					acc >>= n &^ 7
					n &= 7
				}
			}
			acc |= uint64(s-start) << n
			n += 2
		}
		c := int(norm[s])
		s++
		top := 2*threshold - 1 - remaining
		if c < 0 {
			remaining += c
		} else {
			remaining -= c
		}
		c++
		prevZero = c == 1
		if c >= threshold {
			c += top
		}
		acc |= uint64(c) << n
		n += width
		if c < top {
			n--
		}
		for remaining < threshold {
			width--
			threshold >>= 1
		}
		store64(b, p, acc)
		p += int(n >> 3)
		acc >>= n &^ 7
		n &= 7
	}
	store64(b, p, acc)
	return p + int(n+7)>>3
}
