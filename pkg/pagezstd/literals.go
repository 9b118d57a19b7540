package pagezstd

import (
	"encoding/binary"
	"math"
	"math/bits"
)

const (
	maxHuffBits = 11
	minHuffman  = 32   // fewer literals are not worth a table
	oneStream   = 1023 // more go into four streams: the format has no size field for one of that length

	litRaw        = 0
	litRLE        = 1
	litCompressed = 2
)

// huffman writes the literals section (RFC 8878, 3.1.1.3.1).
type huffman struct {
	lanes   [256 * 4]uint16 // counts, symbol*4 + place mod 4
	log     [256]uint16     // log2 in 1/256
	syms    [256]uint32     // count<<8 | symbol of the symbols in use, ascending by symbol
	bits    [256]uint16     // of each of syms: what it would cost by entropy in 1/256, later its length
	weight  [256]uint8
	perBits [16]uint16  // how many codes have that length
	rank    [256]uint16 // of each of syms: how many before it have that length
	code    [256]uint64 // code<<(64-length) | length
	weights fseTable
	dist    dist
}

func (h *huffman) init() {
	for i := 1; i < 256; i++ {
		h.log[i] = uint16(math.Round(math.Log2(float64(i)) * 256))
	}
}

// encode writes the literals at b[p:] and returns the position after them; it reports false once the frame cannot end
// below limit.
func (h *huffman) encode(b []byte, p int, lits []byte, limit int) (int, bool) {
	n := len(lits)
	if n < minHuffman {
		return putRaw(b, p, lits, limit)
	}
	used := h.histogram(lits)
	if used == 1 {
		p = putLitHeader(b, p, litRLE, n)
		b[p] = lits[0]
		return p + 1, p+1 < limit
	}
	// a description of many different weights costs more than the last fraction of a bit saves
	width, total := h.plan(used, n, uint32(min(max(7, bits.Len(uint(n))-2, bits.Len(uint(used))), maxHuffBits)))
	const description = 40 // bytes; a small one
	if total>>3+description >= n {
		return putRaw(b, p, lits, limit)
	}
	if p+total>>3 >= limit {
		return 0, false
	}
	head := litHeaderLen(n)
	q, ok := h.putTable(b, p+head, int(uint8(h.syms[used-1])), width)
	if !ok || q-p+total>>3 >= n {
		return putRaw(b, p, lits, limit)
	}
	if n <= oneStream {
		q = h.stream(b, q, lits)
	} else {
		q = h.streams(b, q, lits)
	}
	size := q - p - head
	if size >= n {
		return putRaw(b, p, lits, limit)
	}
	putCompHeader(b, p, n, size)
	return q, q < limit
}

// putRaw writes the literals as they are.
func putRaw(b []byte, p int, lits []byte, limit int) (int, bool) {
	if p+len(lits)+4 >= limit {
		return 0, false
	}
	p = putLitHeader(b, p, litRaw, len(lits))
	copy(b[p:], lits)
	return p + len(lits), true
}

// putLitHeader writes the header of a raw or RLE section of n literals.
func putLitHeader(b []byte, p, kind, n int) int {
	switch {
	case n < 32:
		b[p] = byte(kind | n<<3)
		return p + 1
	case n < 4096:
		binary.LittleEndian.PutUint16(b[p:], uint16(kind|1<<2|n<<4))
		return p + 2
	}
	binary.LittleEndian.PutUint32(b[p:], uint32(kind|3<<2|n<<4))
	return p + 3
}

// litHeaderLen is the length of the header of a compressed section.
func litHeaderLen(n int) int {
	switch {
	case n < 1<<10:
		return 3
	case n < 1<<14:
		return 4
	}
	return 5
}

// putCompHeader writes the header of a compressed section of n literals, which takes size bytes after it.
func putCompHeader(b []byte, p, n, size int) {
	const kind = litCompressed
	switch litHeaderLen(n) {
	case 3:
		v := uint32(kind | 0<<2 | n<<4 | size<<14)
		b[p], b[p+1], b[p+2] = byte(v), byte(v>>8), byte(v>>16)
	case 4:
		binary.LittleEndian.PutUint32(b[p:], uint32(kind|2<<2)|uint32(n)<<4|uint32(size)<<18)
	default:
		v := uint64(kind|3<<2) | uint64(n)<<4 | uint64(size)<<22
		binary.LittleEndian.PutUint32(b[p:], uint32(v))
		b[p+4] = byte(v >> 32)
	}
}

// histogram counts the literals into syms and returns how many differ.
func (h *huffman) histogram(lits []byte) (used int) {
	clear(h.lanes[:])
	i := 0
	for ; i+8 <= len(lits); i += 8 {
		v := load64(lits, i)
		h.lanes[v&255<<2]++
		h.lanes[v>>8&255<<2+1]++
		h.lanes[v>>16&255<<2+2]++
		h.lanes[v>>24&255<<2+3]++
		h.lanes[v>>32&255<<2]++
		h.lanes[v>>40&255<<2+1]++
		h.lanes[v>>48&255<<2+2]++
		h.lanes[v>>56<<2+3]++
	}
	for ; i < len(lits); i++ {
		h.lanes[int(lits[i])<<2]++
	}
	for s := range 256 {
		c := uint32(sumLanes(&h.lanes, s))
		h.syms[used&255] = c<<8 | uint32(s)
		used += int((uint64(c) + 0xffffffff) >> 32)
	}
	return used
}

// log2 is the logarithm of c in 1/256.
func (h *huffman) log2(c uint32) uint32 {
	if c < 256 {
		return uint32(h.log[c])
	}
	s := bits.Len32(c) - 8
	return uint32(h.log[c>>s&255]) + uint32(s)<<8
}

const huffBins = 16

// plan gives the used symbols their code lengths, at most limit. A symbol whose ideal length is f and a fraction gets f
// or f+1: the fraction from which it is f+1 is chosen so that the code is nearly full, and single symbols fill the
// rest. On memory pages that is 0.04 % worse than Huffman's tree and needs neither sorting nor the tree.
func (h *huffman) plan(used, n int, limit uint32) (width uint, total int) {
	const one = 1 << 12
	var bins [huffBins * 4]uint32 // four of each, so that one addition need not wait for the last
	whole := h.log2(uint32(n))
	sum := uint32(0)
	for i, k := range h.syms[:used] {
		x := min(max(whole-h.log2(k>>8), 255), limit<<8-1)
		h.bits[i] = uint16(x)
		u := uint32(one/2) >> (x >> 8 & 31)
		bins[(x>>4&15)<<2+uint32(i&3)] += u
		sum += u
	}
	edge := uint32(0)
	for edge < huffBins {
		b := bins[edge*4] + bins[edge*4+1] + bins[edge*4+2] + bins[edge*4+3]
		if sum+b > one {
			break
		}
		sum += b
		edge++
	}
	for i, x := range h.bits[:used] {
		h.bits[i] = (x + 256 - uint16(edge)<<4) >> 8
	}
	for sum != one {
		sum = h.fill(used, sum, one, limit)
	}
	return h.finish(used)
}

// fill lengthens and shortens codes towards a full code: sum, of 1/one each, becomes one.
func (h *huffman) fill(used int, sum, one, limit uint32) uint32 {
	b := h.bits[:used]
	for i := 0; i < len(b) && sum > one; i++ {
		if uint32(b[i]) < limit {
			b[i]++
			sum -= one >> b[i]
		}
	}
	for i := 0; i < len(b) && sum < one; i++ {
		if b[i] > 1 && sum+one>>b[i] <= one {
			sum += one >> b[i]
			b[i]--
		}
	}
	return sum
}

// finish turns the lengths into weights and the canonical code.
func (h *huffman) finish(used int) (width uint, total int) {
	clear(h.perBits[:])
	longest := uint16(0)
	for i, k := range h.syms[:used] {
		l := h.bits[i]
		longest = max(longest, l)
		h.rank[i] = h.perBits[l&15]
		h.perBits[l&15]++
		total += int(k>>8) * int(l)
	}
	var first [16]uint16
	v := uint16(0)
	for l := longest; l > 0; l-- {
		first[l&15] = v
		v = (v + h.perBits[l&15]) >> 1
	}
	clear(h.weight[:])
	for i, k := range h.syms[:used] {
		l := h.bits[i]
		h.weight[uint8(k)] = uint8(longest + 1 - l)
		h.code[uint8(k)] = uint64(first[l&15]+h.rank[i])<<(-l&63) | uint64(l)
	}
	return uint(longest), total
}

// putTable writes the description of the code at b[p:]: FSE or, if shorter and possible, half a byte per weight. The
// weight of the last symbol is implied. It reports false if neither form can say it.
func (h *huffman) putTable(b []byte, p, last int, width uint) (int, bool) {
	w := &h.weight
	d := &h.dist
	d.n, d.sym[0] = 1, 0
	d.count[0] = uint32(last + 1)
	for l := int(width); l > 0; l-- {
		c := uint32(h.perBits[l&15])
		d.count[0] -= c
		if l == int(width)+1-int(w[last]) {
			c--
		}
		if c > 0 {
			d.sym[d.n&63], d.count[d.n&63] = uint8(int(width)+1-l), c
			d.n++
		}
	}
	if d.count[0] == 0 {
		d.n--
		copy(d.sym[:], d.sym[1:])
		copy(d.count[:], d.count[1:])
	}
	if q, ok := h.putWeights(b, p+1, w[:last]); ok {
		b[p] = byte(q - p - 1)
		if last > 128 || q-p < 1+(last+1)/2 {
			return q, q-p <= 128
		}
	}
	if last > 128 {
		return p, false
	}
	b[p] = byte(127 + last)
	w[last] = 0
	for s := 0; s < last; s += 2 {
		b[p+1+s/2] = w[s]<<4 | w[s+1]
	}
	return p + 1 + (last+1)/2, true
}

// putWeights writes the weights w, whose distribution is in h.dist, as FSE with two states taking turns.
func (h *huffman) putWeights(b []byte, p int, w []uint8) (int, bool) {
	n := len(w)
	d := &h.dist
	if n < 3 || d.n < 2 || n <= d.n {
		return p, false
	}
	log := uint(max(min(bits.Len(uint(n-1))-3, 6), 5))
	if !d.normalize(n, log) {
		return p, false
	}
	h.weights.build(d, log)
	p = d.put(b, p, log)
	t := &h.weights
	var acc uint64
	var nb uint
	var s1, s2 uint32 // of even and odd places
	i := n - 1
	if n&1 != 0 {
		s1, s2 = t.first(w[n-1]), t.first(w[n-2])
		acc, nb, s1 = t.step(acc, nb, s1, w[n-3])
		i -= 3
	} else {
		s2, s1 = t.first(w[n-1]), t.first(w[n-2])
		i -= 2
	}
	for ; i > 0; i -= 2 {
		acc, nb, s2 = t.step(acc, nb, s2, w[i])
		acc, nb, s1 = t.step(acc, nb, s1, w[i-1])
		store64(b, p, acc)
		p += int(nb >> 3)
		acc >>= nb & 56
		nb &= 7
	}
	acc |= uint64(s2) & (1<<log - 1) << (nb & 63)
	nb += log
	acc |= uint64(s1) & (1<<log - 1) << (nb & 63)
	nb += log
	acc |= 1 << (nb & 63)
	nb++
	store64(b, p, acc)
	return p + int(nb+7)>>3, true
}

// streams writes four streams after their jump table.
func (h *huffman) streams(b []byte, p int, lits []byte) int {
	q := p + 6
	k := (len(lits) + 3) / 4
	for i := range 3 {
		r := h.stream(b, q, lits[i*k:(i+1)*k])
		binary.LittleEndian.PutUint16(b[p+2*i:], uint16(r-q))
		q = r
	}
	return h.stream(b, q, lits[3*k:])
}

// stream writes one Huffman stream, last literal first.
func (h *huffman) stream(b []byte, p int, lits []byte) int {
	var acc uint64 // the bits are the highest, below them is dirt
	var nb uint64
	i := len(lits)
	for ; i&3 != 0; i-- {
		c := h.code[lits[i-1]]
		acc = acc>>(c&63) | c
		nb += c & 15
	}
	for ; i >= 4; i -= 4 {
		store64(b, p, acc>>(-nb&63))
		p += int(nb >> 3)
		nb &= 7
		v := load32(lits, i-4)
		c := h.code[v>>24]
		acc = acc>>(c&63) | c
		n := c
		c = h.code[v>>16&255]
		acc = acc>>(c&63) | c
		n += c
		c = h.code[v>>8&255]
		acc = acc>>(c&63) | c
		n += c
		c = h.code[v&255]
		acc = acc>>(c&63) | c
		nb += (n + c) & 63
	}
	acc = acc>>1 | 1<<63
	nb++
	store64(b, p, acc>>(-nb&63))
	return p + int(nb+7)>>3
}
