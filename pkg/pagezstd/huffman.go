package pagezstd

import (
	"encoding/binary"
	"math/bits"
)

const maxHuffBits = 11

// huffman writes the literals section (RFC 8878, 3.1.1.3.1).
type huffman struct {
	count   [256]uint32
	count2  [256]uint32
	length  [256]uint8
	code    [256]uint16 // code<<4 | length
	keys    [256]uint32 // count<<8 | symbol, ascending
	tmp     [256]uint32
	node    [512]uint32 // counts of the inner nodes
	parent  [512]uint16
	weights fseTable
	norm    [16]int16
}

// encode writes the n literals of lits at b[p:]; it reports false once the frame cannot end below limit.
func (h *huffman) encode(b []byte, p int, lits []byte, n, limit int) (int, bool) {
	if n < 32 {
		return putRaw(b, p, lits[:n], limit)
	}
	last, used, top := h.histogram(lits[:n])
	if used == 1 {
		p = putLitHeader(b, p, 1, n)
		b[p] = lits[0]
		return p + 1, p+1 < limit
	}
	if int(top) <= n>>7+4 { // flat: no code pays
		return putRaw(b, p, lits[:n], limit)
	}
	width := h.build(used)
	total := 0
	for s, c := range h.count[:last+1] {
		total += int(c) * int(h.length[s])
	}
	if total>>3+16 >= n {
		return putRaw(b, p, lits[:n], limit)
	}
	if p+total>>3 >= limit {
		return 0, false
	}
	head := litHeaderLen(n)
	q, ok := h.putTable(b, p+head, last, width)
	if !ok {
		return putRaw(b, p, lits[:n], limit)
	}
	h.assign(last, width)
	if n <= 1023 {
		q = h.stream(b, q, lits[:n])
	} else {
		q = h.streams(b, q, lits[:n])
	}
	size := q - p - head
	if size >= n-n>>6 {
		return putRaw(b, p, lits[:n], limit)
	}
	putCompHeader(b, p, n, size)
	return q, q < limit
}

func putRaw(b []byte, p int, lits []byte, limit int) (int, bool) {
	if p+len(lits)+4 >= limit {
		return 0, false
	}
	p = putLitHeader(b, p, 0, len(lits))
	copy(b[p:], lits)
	return p + len(lits), true
}

// putLitHeader writes the header of a raw (0) or RLE (1) literals section.
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

func litHeaderLen(n int) int {
	switch {
	case n < 1<<10:
		return 3
	case n < 1<<14:
		return 4
	}
	return 5
}

// putCompHeader writes the header of a compressed section; one stream up to 1023 literals, else four.
func putCompHeader(b []byte, p, n, size int) {
	const kind = 2
	switch litHeaderLen(n) {
	case 3:
		v := uint32(kind | 0<<2 | n<<4 | size<<14)
		b[p], b[p+1], b[p+2] = byte(v), byte(v>>8), byte(v>>16)
	case 4:
		binary.LittleEndian.PutUint32(b[p:], uint32(kind|2<<2|n<<4|size<<18))
	default:
		v := uint64(kind | 3<<2 | n<<4 | size<<22)
		binary.LittleEndian.PutUint32(b[p:], uint32(v))
		b[p+4] = byte(v >> 32)
	}
}

// histogram counts the literals; last is the highest of them, used how many differ, top the count of the commonest.
func (h *huffman) histogram(lits []byte) (last, used int, top uint32) {
	clear(h.count[:])
	clear(h.count2[:])
	i := 0
	for ; i+8 <= len(lits); i += 8 {
		v := load64(lits, i)
		h.count[uint8(v)]++
		h.count2[uint8(v>>8)]++
		h.count[uint8(v>>16)]++
		h.count2[uint8(v>>24)]++
		h.count[uint8(v>>32)]++
		h.count2[uint8(v>>40)]++
		h.count[uint8(v>>48)]++
		h.count2[uint8(v>>56)]++
	}
	for ; i < len(lits); i++ {
		h.count[lits[i]]++
	}
	for s := range h.count {
		c := h.count[s] + h.count2[s]
		h.count[s] = c
		if c != 0 {
			h.keys[used&255] = c<<8 | uint32(s)
			used++
			last = s
			top = max(top, c)
		}
	}
	return last, used, top
}

// sort orders keys[:n]: by counting for counts below 64, and the few larger ones by insertion.
func (h *huffman) sort(n int) {
	var start [65]uint16
	for _, k := range h.keys[:n] {
		start[min(k>>8, 64)]++
	}
	at := uint16(0)
	for i, c := range start {
		start[i] = at
		at += c
	}
	big := int(start[64])
	for _, k := range h.keys[:n] {
		c := min(k>>8, 64)
		h.tmp[start[c]&255] = k
		start[c]++
	}
	for i := big + 1; i < n; i++ {
		k := h.tmp[i]
		j := i
		for ; j > big && h.tmp[j-1] > k; j-- {
			h.tmp[j] = h.tmp[j-1]
		}
		h.tmp[j] = k
	}
	h.keys = h.tmp
}

// build gives every used symbol its length and returns the longest.
func (h *huffman) build(n int) uint {
	h.sort(n)
	// leaves are 0..n-1 ascending, inner nodes n..2n-2 ascending as they are made
	leaf, inner := 0, n
	for next := n; next < 2*n-1; next++ {
		var sum uint32
		for range 2 {
			if inner == next || leaf < n && h.keys[leaf]>>8 <= h.node[inner] {
				sum += h.keys[leaf] >> 8
				h.parent[leaf] = uint16(next)
				leaf++
			} else {
				sum += h.node[inner]
				h.parent[inner] = uint16(next)
				inner++
			}
		}
		h.node[next] = sum
	}
	h.node[2*n-2] = 0
	for i := 2*n - 3; i >= n; i-- {
		h.node[i] = h.node[h.parent[i]] + 1
	}
	clear(h.length[:])
	longest := uint32(0)
	for i := n - 1; i >= 0; i-- {
		d := h.node[h.parent[i]] + 1
		longest = max(longest, d)
		h.node[i] = d
	}
	if longest > maxHuffBits {
		h.shorten(n)
		longest = maxHuffBits
	}
	for i, k := range h.keys[:n] {
		h.length[uint8(k)] = uint8(h.node[i])
	}
	return uint(longest)
}

// shorten makes the code lengths node[:n], longest first, fit maxHuffBits.
func (h *huffman) shorten(n int) {
	const one = 1 << maxHuffBits
	sum := 0
	for i := range h.node[:n] {
		h.node[i] = min(h.node[i], maxHuffBits)
		sum += one >> h.node[i]
	}
	for sum > one { // lengthen the rarest that can still grow
		for i := range h.node[:n] {
			if h.node[i] < maxHuffBits {
				h.node[i]++
				sum -= one >> h.node[i]
				break
			}
		}
	}
	for i := n - 1; i >= 0 && sum < one; i-- {
		for sum+one>>h.node[i] <= one {
			sum += one >> h.node[i]
			h.node[i]--
		}
	}
}

// assign makes the canonical code.
func (h *huffman) assign(last int, width uint) {
	var per, val [16]uint16
	for _, l := range h.length[:last+1] {
		per[l&15]++
	}
	v := uint16(0)
	for l := width; l > 0; l-- {
		val[l] = v
		v = (v + per[l]) >> 1
	}
	for s, l := range h.length[:last+1] {
		h.code[s] = val[l&15]<<4 | uint16(l)
		val[l&15]++
	}
}

// putTable writes the description of the code.
func (h *huffman) putTable(b []byte, p, last int, width uint) (int, bool) {
	var w [256]uint8
	var count [16]uint32
	for s, l := range h.length[:last] {
		k := uint8(0)
		if l != 0 {
			k = uint8(width) + 1 - l
		}
		w[s] = k
		count[k&15]++
	}
	if q, ok := h.putWeights(b, p+1, w[:last], &count); ok {
		b[p] = byte(q - p - 1)
		if last > 128 || q-p < 1+(last+1)/2 {
			return q, q-p <= 128
		}
	}
	if last > 128 {
		return p, false
	}
	b[p] = byte(127 + last)
	for s := 0; s < last; s += 2 {
		b[p+1+s/2] = w[s]<<4 | w[s+1]
	}
	return p + 1 + (last+1)/2, true
}

// putWeights writes the weights as FSE, two states taking turns.
func (h *huffman) putWeights(b []byte, p int, w []uint8, count *[16]uint32) (int, bool) {
	n := len(w)
	top, used, last := uint32(0), 0, 0
	for s, c := range count {
		if c != 0 {
			used++
			last = s
			top = max(top, c)
		}
	}
	if used < 2 || n < 3 || top == 1 {
		return p, false
	}
	log := uint(max(min(bits.Len(uint(n-1))-3, 6), 5))
	if !normalize(h.norm[:last+1], count[:last+1], n, log) {
		return p, false
	}
	h.weights.build(h.norm[:last+1], log)
	p = putNorm(b, p, h.norm[:last+1], log)
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
		acc >>= nb &^ 7
		nb &= 7
	}
	acc |= uint64(s2) & (1<<log - 1) << nb
	nb += log
	acc |= uint64(s1) & (1<<log - 1) << nb
	nb += log
	acc |= 1 << nb
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
	var acc uint64
	var nb uint
	i := len(lits)
	for ; i&3 != 0; i-- {
		c := h.code[lits[i-1]]
		acc |= uint64(c>>4) << nb
		nb += uint(c & 15)
	}
	for ; i >= 4; i -= 4 {
		store64(b, p, acc)
		p += int(nb >> 3)
		acc >>= nb &^ 7
		nb &= 7
		v := load32(lits, i-4)
		c := h.code[uint8(v>>24)]
		acc |= uint64(c>>4) << nb
		nb += uint(c & 15)
		c = h.code[uint8(v>>16)]
		acc |= uint64(c>>4) << nb
		nb += uint(c & 15)
		c = h.code[uint8(v>>8)]
		acc |= uint64(c>>4) << nb
		nb += uint(c & 15)
		c = h.code[uint8(v)]
		acc |= uint64(c>>4) << nb
		nb += uint(c & 15)
	}
	acc |= 1 << nb
	nb++
	store64(b, p, acc)
	return p + int(nb+7)>>3
}
