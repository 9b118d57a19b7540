package triage

import (
	"encoding/binary"
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// The buffer of records of Linux 3.11 to 5.9, kernel/printk/printk.c there: records one
// behind the other from log_first_idx to log_next_idx in log_buf. Each is a
//
//	struct printk_log {
//		u64 ts_nsec;
//		u16 len;        // of all of the record
//		u16 text_len;
//		u16 dict_len;
//		u8  facility;
//		u8  flags:5, level:3;
//		u32 caller_id;  // with CONFIG_PRINTK_CALLER, since 5.1
//	};
//
// then the text, the dictionary and padding. A len of 0 sends the reader to the
// buffer's start.

// Flags of a record, enum log_flags.
const (
	logNewline = 2
	logPrefix  = 4
	logCont    = 8
)

// maxBuffer bounds log_buf_len=: LOG_BUF_LEN_MAX is 2 GiB.
const maxBuffer = 1 << 31

const (
	// recordAlign is the least alignment of struct printk_log.
	recordAlign = 4
	// maxTorn bounds how many bytes that are no record are looked through, so that
	// a buffer of garbage costs no minutes.
	maxTorn = 4 << 20
)

type buffer struct {
	reader *vmcore.Reader
	order  binary.ByteOrder

	size, tsNsec, len, textLen, dictLen, caller uint64 // of struct printk_log
	hasCaller                                   bool

	at          uint64 // vaddr
	length      uint64 // bytes
	first, next uint64 // offsets of the oldest record and behind the newest

	head, text []byte // one record's
	open       bool   // the record before did not end its line
}

func openBuffer(core *vmcore.Core) (*buffer, error) {
	info := core.Info()
	if err := info.Require("SYMBOL(log_buf)", "SYMBOL(log_buf_len)", "SYMBOL(log_next_idx)", "SIZE(printk_log)",
		"OFFSET(printk_log.ts_nsec)", "OFFSET(printk_log.len)", "OFFSET(printk_log.text_len)", "OFFSET(printk_log.dict_len)"); err != nil {
		return nil, err
	}
	b := &buffer{reader: core.NewReader(), order: core.ByteOrder()}
	b.size, _ = info.Size("printk_log")
	b.tsNsec, _ = info.Offset("printk_log.ts_nsec")
	b.len, _ = info.Offset("printk_log.len")
	b.textLen, _ = info.Offset("printk_log.text_len")
	b.dictLen, _ = info.Offset("printk_log.dict_len")
	b.caller, b.hasCaller = info.Offset("printk_log.caller_id")
	if err := b.load(core); err != nil {
		b.reader.Close()
		return nil, err
	}
	return b, nil
}

// load reads the variables.
func (b *buffer) load(core *vmcore.Core) error {
	if b.size < 16 || b.size > 4096 || max(b.tsNsec+8, b.len+2, b.textLen+2, b.dictLen+4, b.caller+4) > b.size {
		return fmt.Errorf("vmcoreinfo SIZE(printk_log)=%d and its offsets: that cannot be", b.size)
	}
	variable := func(name string, size int) (v uint64, err error) {
		symbol, _ := core.Info().Symbol(name)
		p := make([]byte, 8)
		if err := b.reader.ReadVirt(p[:size], symbol); err != nil {
			return 0, fmt.Errorf("read %s: %w", name, err)
		}
		return b.order.Uint64(p), nil // the rest of p is 0, and all machines are little endian
	}
	for _, v := range []struct {
		dst  *uint64
		name string
		size int
	}{{&b.at, "log_buf", 8}, {&b.length, "log_buf_len", 4}, {&b.first, "log_first_idx", 4}, {&b.next, "log_next_idx", 4}} {
		var err error
		if *v.dst, err = variable(v.name, v.size); err != nil {
			return err
		}
	}
	if b.length < b.size || b.length > maxBuffer || b.first >= b.length || b.next > b.length {
		return fmt.Errorf("log_buf of %d bytes with records from %d to %d: that cannot be", b.length, b.first, b.next)
	}
	b.head, b.text = make([]byte, b.size), make([]byte, 1<<16)
	return nil
}

func (b *buffer) where() string { return fmt.Sprintf("in a buffer of %d bytes", b.length) }

func (b *buffer) close() { b.reader.Close() }

// records walks from the oldest to the newest. Behind a record that cannot be
// one it looks for the next that can, byte by byte of the alignment.
func (b *buffer) records(yield func(record) bool) {
	if b.first == b.next {
		return
	}
	at, wrapped := b.first, b.first < b.next
	for torn := 0; torn < maxTorn; {
		if wrapped && at >= b.next {
			return
		}
		if at+b.size > b.length {
			if wrapped {
				return
			}
			at, wrapped = 0, true
			continue
		}
		size, wrap := b.readHead(at, wrapped)
		switch {
		case wrap && !wrapped:
			at, wrapped = 0, true
		case size == 0:
			at += recordAlign
			torn += recordAlign
		default:
			if rec, ok := b.record(at); ok && !yield(rec) {
				return
			}
			at += size
		}
	}
}

// readHead gives the size of the record at offset at, 0 if there can be none, and
// whether it sends to the start.
func (b *buffer) readHead(at uint64, wrapped bool) (size uint64, wrap bool) {
	if b.reader.ReadVirt(b.head, b.at+at) != nil {
		return 0, false
	}
	size = uint64(b.order.Uint16(b.head[b.len:]))
	text, dict := uint64(b.order.Uint16(b.head[b.textLen:])), uint64(b.order.Uint16(b.head[b.dictLen:]))
	if size == 0 {
		return 0, text == 0 && dict == 0
	}
	end := b.length
	if wrapped {
		end = b.next
	}
	if need := b.size + text + dict; size < need || size >= need+16 || size%recordAlign != 0 || at+size > end {
		return 0, false
	}
	return size, false
}

// record reads the text of the record whose head was read. ok is false for one
// that is empty or cannot be read.
func (b *buffer) record(at uint64) (rec record, ok bool) {
	rec.text = b.text[:b.order.Uint16(b.head[b.textLen:])]
	rec.nanos = b.order.Uint64(b.head[b.tsNsec:])
	rec.priority = priority(b.head[b.dictLen+2:])
	if b.hasCaller {
		rec.caller = callerName(b.order.Uint32(b.head[b.caller:]))
	}
	// As msg_print_text() of kernel/printk/printk.c decides it.
	flags := b.head[b.dictLen+3] & 0x1f
	rec.continues = b.open && flags&logPrefix == 0
	rec.open = flags&logCont != 0 && flags&logNewline == 0
	b.open = rec.open
	return rec, b.reader.ReadVirt(rec.text, b.at+at+b.size) == nil && (len(rec.text) > 0 || rec.continues)
}

// priority is 8*facility+level, from the two bytes facility and flags:5, level:3.
func priority(p []byte) uint { return uint(p[0])<<3 | uint(p[1])>>5 }
