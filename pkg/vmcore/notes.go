package vmcore

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
)

// notes is the notes of a core: one NT_PRSTATUS for each CPU, and VMCOREINFO.
type notes struct {
	raw               []byte
	infoOff, infoSize int // of the VMCOREINFO descriptor in raw
	stacks            []uint64
}

const (
	nhdrSize   = 12
	ntPRStatus = 1
)

// readNotes collects the notes of all note segments. Garbage ends a segment's
// notes, as does a header of zeros, with which the kernel fills unused room.
func readNotes(r io.ReaderAt, h *headers) notes {
	var n notes
	for i, s := range h.notes {
		buf := make([]byte, s.Filesz)
		got, err := r.ReadAt(buf, int64(s.Offset))
		if err != nil && got < len(buf) {
			h.skip("note segment %d: %v", i, err)
		}
		n.walk(buf[:got], h, i)
	}
	return n
}

// walk takes the notes of one segment up to the first that cannot be.
func (n *notes) walk(buf []byte, h *headers, segment int) {
	for at := 0; at+nhdrSize <= len(buf); {
		namesz, descsz := uint64(h.order.Uint32(buf[at:])), uint64(h.order.Uint32(buf[at+4:]))
		kind := h.order.Uint32(buf[at+8:])
		if namesz == 0 {
			return
		}
		desc := uint64(at) + nhdrSize + align4(namesz)
		end := desc + align4(descsz)
		if end > uint64(len(buf)) {
			if desc+descsz != uint64(len(buf)) { // the last may lack its padding
				h.skip("note segment %d: a note of %d bytes at %d of %d cannot be", segment, descsz, at, len(buf))
				return
			}
			end = uint64(len(buf))
		}
		name := bytes.TrimRight(buf[at+nhdrSize:uint64(at)+nhdrSize+namesz], "\x00")
		n.add(string(name), kind, buf[desc:desc+descsz], uint64(len(n.raw))+desc-uint64(at), h)
		n.raw = append(n.raw, buf[at:end]...)
		n.raw = append(n.raw, make([]byte, -len(n.raw)&3)...)
		at = int(end)
	}
}

// add notes what one note means; its descriptor will stand at off in raw.
func (n *notes) add(name string, kind uint32, desc []byte, off uint64, h *headers) {
	switch {
	case name == "VMCOREINFO" && n.infoSize == 0:
		n.infoOff, n.infoSize = int(off), len(desc)
	case name == "CORE" && kind == ntPRStatus:
		n.stacks = append(n.stacks, stackPointer(desc, h.machine, h.order))
	}
}

func (n *notes) vmcoreinfo() []byte { return n.raw[n.infoOff : n.infoOff+n.infoSize] }

func align4(n uint64) uint64 { return (n + 3) &^ 3 }

// stackPointer takes the stack pointer out of struct elf_prstatus, whose
// registers begin at byte 112; 0 if it is not there.
func stackPointer(prstatus []byte, m elf.Machine, order binary.ByteOrder) uint64 {
	var at int
	switch m {
	case elf.EM_X86_64:
		at = 112 + 19*8
	case elf.EM_AARCH64:
		at = 112 + 31*8
	case elf.EM_RISCV:
		at = 112 + 2*8
	default:
		return 0
	}
	if at+8 > len(prstatus) {
		return 0
	}
	return order.Uint64(prstatus[at:])
}
