package pagezstd

import "math/bits"

const (
	hashLog  = 12 // 8 KiB, in every L1; 13 makes frames 0.1 % shorter
	minMatch = 4
	tail     = 16 // bytes at the end in which no match starts, so that words can be loaded from wherever one does
)

// seq is one zstd sequence: Offset_Value (1..3 repeat, else offset+3), literals length<<32, (match length-3)<<48.
type seq uint64

// hash4 is the place of the low four bytes of v in the table.
func hash4(v uint64) uint32 { return uint32(v) * 2654435761 >> (32 - hashLog) }

// scan is what search needs to know of a page.
type scan struct {
	src    []byte
	hash   *[1 << hashLog]uint16
	anchor int // where the literals began
	rep1   int // offset used last
	end    int
}

// find cuts src into e.seqs and e.lits.
func (e *Encoder) find(src []byte) {
	clear(e.hash[:])
	s := scan{src: src, hash: &e.hash, rep1: 1, end: len(src) - tail}
	seqs, lits := e.seqs, e.lits
	lazy := e.level >= LevelSmall
	ns, nl := 0, 0
	ip := 1
	rep2 := 4
	for {
		start, m := s.search(ip)
		if start >= s.end {
			break
		}
		if x := load64(src, start+4) ^ load64(src, m+4); x != 0 {
			ip = start + 4 + bits.TrailingZeros64(x)>>3
		} else {
			ip = common(src, start+12, m+12)
		}
		off := seq(1)
		if start-m != s.rep1 {
			if lazy {
				start, m, ip = later(src, &e.hash, start, m, ip)
			}
			rep2 = s.rep1
			s.rep1 = start - m
			off = seq(start-m) + 3
			if m >= 8 {
				x := load64(src, start-8) ^ load64(src, m-8)
				start -= min(bits.LeadingZeros64(x)>>3, start-s.anchor)
			}
		}
		anchor := s.anchor
		store64(lits, nl, load64(src, anchor))
		store64(lits, nl+8, load64(src, anchor+8))
		for i := 16; i < start-anchor; i += 16 {
			store64(lits, nl+i, load64(src, anchor+i))
			store64(lits, nl+i+8, load64(src, anchor+i+8))
		}
		nl += start - anchor
		seqs[ns] = off | seq(start-anchor)<<32 | seq(ip-start-3)<<48
		ns++
		s.anchor = ip
		if ip >= s.end {
			break
		}
		e.hash[hash4(load64(src, ip-2))] = uint16(ip - 2)
		for ip < s.end && load32(src, ip) == load32(src, ip-rep2) {
			e.hash[hash4(load64(src, ip))] = uint16(ip)
			ip = common(src, ip+4, ip+4-rep2)
			s.rep1, rep2 = rep2, s.rep1
			seqs[ns] = 1 | seq(ip-s.anchor-3)<<48 // without literals 1 stands for the offset before the last
			ns++
			s.anchor = ip
		}
	}
	e.nlit = nl + copy(lits[nl:], src[s.anchor:])
	e.nseq = ns
}

// later returns the match at start+1, if that one saves more than the match of src[start:ip] with m.
func later(src []byte, hash *[1 << hashLog]uint16, start, m, ip int) (int, int, int) {
	v := load64(src, start+1)
	h := hash4(v)
	m2 := int(hash[h])
	hash[h] = uint16(start + 1)
	if uint32(v) != load32(src, m2) || ip+2 > len(src) {
		return start, m, ip
	}
	if load32(src, ip-2) != load32(src, m2+ip-start-3) { // it does not reach two bytes further
		return start, m, ip
	}
	ip2 := common(src, start+5, m2+4)
	if (ip2-ip-1)*4+bits.Len(uint(start-m))-bits.Len(uint(start+1-m2)) > 2 {
		return start + 1, m2, ip2
	}
	return start, m, ip
}

// search returns the next position from ip that matches an earlier one, and that one, or end. A repeat of offset rep1 one
// byte later goes before a match of any other offset. It is a function so that its few variables stay in registers.
//
//go:noinline
func (s *scan) search(ip int) (int, int) {
	src, hash, anchor, rep1, end := s.src, s.hash, s.anchor, s.rep1, s.end
	for near := min(anchor+64, end-4); ip < near; ip += 4 {
		v := load64(src, ip)
		x := v ^ load64(src, ip-rep1)
		h := hash4(v)
		m := int(hash[h])
		hash[h] = uint16(ip)
		if uint32(x>>8) == 0 {
			return ip + 1, ip + 1 - rep1
		}
		if uint32(v) == load32(src, m) {
			return ip, m
		}
		h = hash4(v >> 8)
		m = int(hash[h])
		hash[h] = uint16(ip + 1)
		if uint32(x>>16) == 0 {
			return ip + 2, ip + 2 - rep1
		}
		if uint32(v>>8) == load32(src, m) {
			return ip + 1, m
		}
		h = hash4(v >> 16)
		m = int(hash[h])
		hash[h] = uint16(ip + 2)
		if uint32(x>>24) == 0 {
			return ip + 3, ip + 3 - rep1
		}
		if uint32(v>>16) == load32(src, m) {
			return ip + 2, m
		}
		h = hash4(v >> 24)
		m = int(hash[h])
		hash[h] = uint16(ip + 3)
		if uint32(x>>32) == 0 {
			return ip + 4, ip + 4 - rep1
		}
		if uint32(v>>24) == load32(src, m) {
			return ip + 3, m
		}
	}
	for ip < end {
		v := load64(src, ip)
		h := hash4(v)
		m := int(hash[h])
		hash[h] = uint16(ip)
		if uint32(v>>8) == load32(src, ip+1-rep1) {
			return ip + 1, ip + 1 - rep1
		}
		if uint32(v) == load32(src, m) {
			return ip, m
		}
		ip += 1 + (ip-anchor)>>6 // the longer nothing was found, the larger the steps
	}
	return ip, 0
}

// common returns where src[i:] and src[m:] part.
//
//go:noinline
func common(src []byte, i, m int) int {
	for i+8 <= len(src) {
		if x := load64(src, i) ^ load64(src, m); x != 0 {
			return i + bits.TrailingZeros64(x)>>3
		}
		i += 8
		m += 8
	}
	for i < len(src) && src[i] == src[m] {
		i++
		m++
	}
	return i
}
