package triage

import (
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcore"
	"github.com/ukdump/ukdump/pkg/vmcoreinfo"
)

// The lockless printk ring of Linux 5.10 and later, as kernel/printk/printk_ringbuffer.h
// has it: a ring of descriptors (prb_desc), one of infos (printk_info) beside it, and a ring
// of text in which a block is an unsigned long (the descriptor's id) and the text.

// States of a descriptor, the top two bits of its state_var.
const (
	descCommitted = 1
	descFinalized = 2

	descStateShift = 62
	descIDMask     = 1<<descStateShift - 1
)

// Bounds of the rings: CONFIG_LOG_BUF_SHIFT is at most 25 and log_buf_len= at
// most 2 GiB, of which a descriptor for each 32 bytes is made (PRB_AVGBITS).
const (
	maxSizeBits  = 31
	maxCountBits = maxSizeBits - 5
)

type ring struct {
	reader *vmcore.Reader
	layout ringLayout

	count        uint64 // descriptors, a power of two
	headID       uint64
	textLeft     uint64 // bytes of text that there can still be
	descs, infos uint64 // vaddr of the arrays
	data         uint64 // vaddr of the text ring
	dataSize     uint64 // bytes, a power of two

	desc, info, text []byte // one record's; text at most 64 KiB, as text_len is 16 bits
}

// ringLayout holds the offsets of the ring's structures.
type ringLayout struct {
	core                                           *vmcore.Core
	descSize, infoSize                             uint64
	stateVar, begin, next, tsNsec, textLen, caller uint64
	descRing, textRing                             uint64
	countBits, descs, infos, headID                uint64
	sizeBits, data, counter                        uint64
	ringSize                                       uint64
	hasCaller                                      bool
}

func newRingLayout(core *vmcore.Core) (l ringLayout, err error) {
	l.core = core
	var missing []string
	get := func(dst *uint64, lookup func(*vmcoreinfo.Info, string) (uint64, bool), kind, name string) uint64 {
		v, ok := lookup(core.Info(), name)
		if !ok || v > 4096 {
			missing = append(missing, kind+"("+name+")")
		}
		if dst != nil {
			*dst = v
		}
		return v
	}
	size, off := (*vmcoreinfo.Info).Size, (*vmcoreinfo.Info).Offset
	get(&l.ringSize, size, "SIZE", "printk_ringbuffer")
	get(&l.descSize, size, "SIZE", "prb_desc")
	get(&l.infoSize, size, "SIZE", "printk_info")
	get(&l.descRing, off, "OFFSET", "printk_ringbuffer.desc_ring")
	get(&l.textRing, off, "OFFSET", "printk_ringbuffer.text_data_ring")
	get(&l.countBits, off, "OFFSET", "prb_desc_ring.count_bits")
	get(&l.descs, off, "OFFSET", "prb_desc_ring.descs")
	get(&l.infos, off, "OFFSET", "prb_desc_ring.infos")
	get(&l.headID, off, "OFFSET", "prb_desc_ring.head_id")
	get(&l.sizeBits, off, "OFFSET", "prb_data_ring.size_bits")
	get(&l.data, off, "OFFSET", "prb_data_ring.data")
	get(&l.counter, off, "OFFSET", "atomic_long_t.counter")
	get(&l.stateVar, off, "OFFSET", "prb_desc.state_var")
	lpos := get(nil, off, "OFFSET", "prb_desc.text_blk_lpos")
	get(&l.begin, off, "OFFSET", "prb_data_blk_lpos.begin")
	get(&l.next, off, "OFFSET", "prb_data_blk_lpos.next")
	get(&l.tsNsec, off, "OFFSET", "printk_info.ts_nsec")
	get(&l.textLen, off, "OFFSET", "printk_info.text_len")
	l.begin, l.next = l.begin+lpos, l.next+lpos
	l.caller, l.hasCaller = core.Info().Offset("printk_info.caller_id")
	if len(missing) > 0 {
		return l, &vmcoreinfo.MissingError{Keys: missing}
	}
	if l.descSize < 8 || l.infoSize < 8 {
		return l, fmt.Errorf("vmcoreinfo SIZE(prb_desc)=%d SIZE(printk_info)=%d: that cannot be", l.descSize, l.infoSize)
	}
	return l, nil
}

func openRing(core *vmcore.Core) (*ring, error) {
	l, err := newRingLayout(core)
	if err != nil {
		return nil, err
	}
	r := &ring{reader: core.NewReader(), layout: l}
	if err := r.load(); err != nil {
		r.reader.Close()
		return nil, err
	}
	return r, nil
}

// load reads struct printk_ringbuffer, which SYMBOL(prb) points to.
func (r *ring) load() error {
	l := r.layout
	order := l.core.ByteOrder()
	symbol, _ := l.core.Info().Symbol("prb")
	var ptr [8]byte
	if err := r.reader.ReadVirt(ptr[:], symbol); err != nil {
		return fmt.Errorf("read prb: %w", err)
	}
	prb := make([]byte, l.ringSize+64) // room for fields whose offsets lie
	if err := r.reader.ReadVirt(prb[:l.ringSize], order.Uint64(ptr[:])); err != nil {
		return fmt.Errorf("read struct printk_ringbuffer: %w", err)
	}
	at := func(offsets ...uint64) []byte {
		var sum uint64
		for _, o := range offsets {
			sum += o
		}
		return prb[min(sum, uint64(len(prb)-8)):]
	}
	countBits := order.Uint32(at(l.descRing, l.countBits))
	sizeBits := order.Uint32(at(l.textRing, l.sizeBits))
	if countBits > maxCountBits || sizeBits > maxSizeBits || !fits(l, countBits, sizeBits) {
		return fmt.Errorf("struct printk_ringbuffer: 2^%d records and 2^%d bytes of text cannot be", countBits, sizeBits)
	}
	r.count, r.dataSize = 1<<countBits, 1<<sizeBits
	r.textLeft = r.dataSize
	r.descs, r.infos = order.Uint64(at(l.descRing, l.descs)), order.Uint64(at(l.descRing, l.infos))
	r.data = order.Uint64(at(l.textRing, l.data))
	r.headID = order.Uint64(at(l.descRing, l.headID, l.counter)) & descIDMask
	r.desc, r.info = make([]byte, l.descSize+64), make([]byte, l.infoSize+64)
	r.text = make([]byte, 1<<16)
	return nil
}

// fits says whether the core has memory enough for rings of this size: random
// bytes must not become minutes of searching.
func fits(l ringLayout, countBits, sizeBits uint32) bool {
	var ram uint64
	for _, r := range l.core.Ranges() {
		ram += uint64(r.End-r.Start) << l.core.PageShift()
	}
	return (l.descSize+l.infoSize)<<countBits+1<<sizeBits <= ram
}

// ids gives the ids that records can have, oldest first. It does not begin at
// the ring's tail_id: the descriptors before it are marked reusable, and a torn
// tail must not cost the log.
func (r *ring) ids(yield func(id uint64) bool) {
	for n := r.count; n > 0; n-- {
		if !yield((r.headID - n + 1) & descIDMask) {
			return
		}
	}
}

func (r *ring) records(yield func(record) bool) {
	for id := range r.ids {
		if rec, ok := r.record(id); ok && !yield(rec) {
			return
		}
	}
}

func (r *ring) where() string { return fmt.Sprintf("in a ring of %d", r.count) }

func (r *ring) close() { r.reader.Close() }

// record reads the record with this id. ok is false for one that was not
// committed, has no text, or cannot be read.
func (r *ring) record(id uint64) (rec record, ok bool) {
	l, order := r.layout, r.layout.core.ByteOrder()
	slot := id & (r.count - 1)
	desc, info := r.desc[:l.descSize], r.info[:l.infoSize]
	if r.reader.ReadVirt(desc, r.descs+slot*l.descSize) != nil || r.reader.ReadVirt(info, r.infos+slot*l.infoSize) != nil {
		return rec, false
	}
	field := func(b []byte, off uint64) []byte { return b[:cap(b)][min(off, uint64(cap(b)-8)):] }
	state := order.Uint64(field(desc, l.stateVar+l.counter))
	if s := state >> descStateShift; state&descIDMask != id || (s != descCommitted && s != descFinalized) {
		return rec, false
	}
	begin, size, ok := r.block(order.Uint64(field(desc, l.begin)), order.Uint64(field(desc, l.next)))
	if !ok {
		return rec, false
	}
	n := min(uint64(order.Uint16(field(info, l.textLen))), size)
	if n > r.textLeft { // texts that overlap: whatever this is, it is no log
		return rec, false
	}
	r.textLeft -= n
	rec.text = r.text[:n]
	rec.nanos = order.Uint64(field(info, l.tsNsec))
	// struct printk_info has u8 facility, u8 flags:5, u8 level:3 behind text_len; VMCOREINFO does not say so.
	rec.priority = priority(field(info, l.textLen+2))
	if l.hasCaller {
		rec.caller = callerName(order.Uint32(field(info, l.caller)))
	}
	return rec, r.reader.ReadVirt(rec.text, r.data+begin) == nil
}

// block gives where in the text ring the text between two logical positions
// lies. A block that would wrap is stored whole at the ring's start; since
// Linux 6.19 one may end exactly at the ring's end, so whether it wraps is a
// question about its last byte.
func (r *ring) block(begin, next uint64) (offset, size uint64, ok bool) {
	const idSize = 8
	if begin&1 != 0 || begin == next { // a block without data: FAILED_LPOS, EMPTY_LINE_LPOS
		return 0, 0, false
	}
	mask := r.dataSize - 1
	offset, size = begin&mask, next-begin
	switch (next - 1) &^ mask {
	case begin &^ mask:
	case (begin + r.dataSize) &^ mask: // wrapped
		offset, size = 0, (next-1)&mask+1
	default:
		return 0, 0, false
	}
	if size < idSize || size > r.dataSize || offset+size > r.dataSize {
		return 0, 0, false
	}
	return offset + idSize, size - idSize, true
}
