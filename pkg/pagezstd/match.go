package pagezstd

import "math/bits"

const (
	hashLog  = 12
	minMatch = 4
)

// seq is one zstd sequence: ll literals, then a match of ml bytes.
type seq struct {
	off uint32 // Offset_Value: 1..3 repeat, else offset+3
	ll  uint16
	ml  uint16 // match length - 3
}

func hash5(v uint64) uint64 { return (v << 24) * 0xcf1bbcdcbb000001 >> (64 - hashLog) }

// find cuts src into e.seqs and e.lits.
func (e *Encoder) find(src []byte) {
	clear(e.hash[:])
	e.nseq, e.nlit = 0, 0
	anchor, ip := 0, 1
	rep1, rep2 := 1, 4
	end := len(src) - 8
	seqs := e.seqs
	for ip < end {
		cv := load64(src, ip)
		h := hash5(cv)
		cand := int(e.hash[h])
		e.hash[h] = uint16(ip)
		var off uint32
		var m int
		if uint32(cv>>8) == load32(src, ip+1-rep1) {
			ip++
			m = ip - rep1
			off = 1
		} else if uint32(cv) == load32(src, cand) && ip-cand < 1<<16 {
			m = cand
		} else {
			ip += 1 + (ip-anchor)>>6
			continue
		}
		start := ip
		ip, m = matchEnd(src, ip+4, m+4)
		if off == 0 {
			m0 := m - (ip - start)
			for start > anchor && m0 > 0 && src[start-1] == src[m0-1] {
				start--
				m0--
			}
			rep2 = rep1
			rep1 = start - m0
			off = uint32(rep1) + 3
		} else if start == anchor {
			// rep1 after a match of the same: cannot be, since that match would have been longer
			off = 0
		}
		e.copyLits(src, anchor, start)
		seqs[e.nseq] = seq{off, uint16(start - anchor), uint16(ip - start - 3)}
		e.nseq++
		anchor = ip
		if ip >= end {
			break
		}
		e.hash[hash5(load64(src, start+2))] = uint16(start + 2)
		e.hash[hash5(load64(src, ip-2))] = uint16(ip - 2)
		for ip < end && load32(src, ip) == load32(src, ip-rep2) {
			start := ip
			h := hash5(load64(src, ip))
			e.hash[h] = uint16(ip)
			ip, _ = matchEnd(src, ip+4, ip+4-rep2)
			rep1, rep2 = rep2, rep1
			seqs[e.nseq] = seq{1, 0, uint16(ip - start - 3)}
			e.nseq++
			anchor = ip
		}
	}
	e.copyLits(src, anchor, len(src))
}

func (e *Encoder) copyLits(src []byte, a, b int) {
	copy(e.lits[e.nlit:], src[a:b])
	e.nlit += b - a
}

// matchEnd extends a match of src[i:] with src[m:].
func matchEnd(src []byte, i, m int) (int, int) {
	for i+8 <= len(src) {
		if x := load64(src, i) ^ load64(src, m); x != 0 {
			k := bits.TrailingZeros64(x) >> 3
			return i + k, m + k
		}
		i += 8
		m += 8
	}
	for i < len(src) && src[i] == src[m] {
		i++
		m++
	}
	return i, m
}
