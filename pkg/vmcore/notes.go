package vmcore

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// A note is n_namesz, n_descsz, n_type (4 bytes each), name, desc; name and
// desc padded to 4 bytes. Names are C strings. include/uapi/linux/elf.h
const (
	nhdrSize   = 12
	ntPRStatus = 1
	maxName    = 32
	// maxNote bounds one note. Only a driver's device dump is larger, and it is
	// not looked at.
	maxNote = 1 << 20
	// maxNotes bounds all of them: a CPU has less than 1 KiB.
	maxNotes = 16 << 20
	// maxGarbage is how far to search for the next note.
	maxGarbage = 1 << 20
)

// notes is what the PT_NOTE segments hold.
type notes struct {
	raw                  []byte // whole notes, back to back
	infoOffset, infoSize int    // of the VMCOREINFO text in raw
	stacks               []uint64
}

func (n *notes) vmcoreinfo() []byte { return n.raw[n.infoOffset : n.infoOffset+n.infoSize] }

// readNotes collects the notes of all segments. What is no note is left out,
// and the search goes on behind it.
func readNotes(r bytesAt, h *header, skip *skipList) notes {
	var n notes
	for _, s := range h.segments {
		if s.note {
			n.scan(r, s, h.machine, skip)
		}
	}
	return n
}

// scan looks for notes at every fourth byte of a segment.
func (n *notes) scan(r bytesAt, s segment, machine elf.Machine, skip *skipList) {
	size := int64(s.filesz)
	garbage := int64(-1) // where the last garbage began
	for at := int64(0); at+nhdrSize < size; {
		step, isNote := n.take(r, s.offset+at, size-at, machine, skip)
		if isNote && garbage >= 0 {
			skip.add("PT_NOTE %d: bytes %#x to %#x are no notes", s.index, garbage, at)
			garbage = -1
		}
		if !isNote && garbage < 0 {
			garbage = at
		}
		at += step
		if garbage >= 0 && at-garbage > maxGarbage {
			skip.add("PT_NOTE %d: no notes from %#x of %#x bytes on", s.index, garbage, s.filesz)
			return
		}
	}
}

// take reads the note at off, of which the segment has left bytes, and says how
// far to go on. A header of zeros is the unused rest of a kernel's buffer.
func (n *notes) take(r bytesAt, off, left int64, machine elf.Machine, skip *skipList) (step int64, isNote bool) {
	var head [nhdrSize + maxName]byte
	if err := r.readFull(head[:min(left, int64(len(head)))], off); err != nil {
		skip.add("note at %#x: %v", off, err)
		return 4096 - off%4096, false
	}
	le := binary.LittleEndian
	namesz, descsz := int64(le.Uint32(head[0:])), int64(le.Uint32(head[4:]))
	kind := le.Uint32(head[8:])
	if namesz < 2 || namesz > maxName || nhdrSize+namesz > left || !isName(head[nhdrSize:nhdrSize+namesz]) {
		return 4, false
	}
	name := string(head[nhdrSize : nhdrSize+namesz-1])
	desc := nhdrSize + (namesz+3)&^3
	switch {
	case desc+descsz > left && name != "VMCOREINFO":
		return 4, false
	case desc+descsz > left: // the text ends itself
		descsz = max(0, left-desc)
	}
	size := min((desc+descsz+3)&^3, left)
	if size > maxNote || int64(len(n.raw))+size > maxNotes {
		skip.add("note %q of %d bytes is left out", name, descsz)
		return size, true
	}
	begin := len(n.raw)
	n.raw = append(n.raw, make([]byte, (size+3)&^3)...)
	note := n.raw[begin:]
	if err := r.readFull(note[:size], off); err != nil {
		skip.add("note %q at %#x: %v", name, off, err)
		n.raw = n.raw[:begin]
		return 4, false
	}
	le.PutUint32(note[4:], uint32(descsz))
	if name != "VMCOREINFO" && bytes.Contains(note, []byte("VMCOREINFO\x00\x00OSRELEASE=")) {
		n.raw = n.raw[:begin] // a torn n_descsz must not swallow it
		return 4, false
	}
	n.know(name, kind, begin+int(desc), int(descsz), machine)
	return size, true
}

func isName(b []byte) bool {
	for _, c := range b[:len(b)-1] {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return b[len(b)-1] == 0
}

// know keeps what one note means. Its descriptor is in raw at off.
func (n *notes) know(name string, kind uint32, off, size int, machine elf.Machine) {
	switch {
	case name == "VMCOREINFO" && n.infoSize == 0:
		n.infoOffset, n.infoSize = off, size
	case name == "CORE" && kind == ntPRStatus:
		n.stacks = append(n.stacks, stackPointer(n.raw[off:off+size], machine))
	}
}

// stackPointer takes the stack pointer out of struct elf_prstatus, whose
// pr_reg begins at byte 112 on 64-bit machines; 0 if it is not there.
func stackPointer(prstatus []byte, machine elf.Machine) uint64 {
	var register int // include/asm/ptrace.h of each
	switch machine {
	case elf.EM_X86_64:
		register = 19
	case elf.EM_AARCH64:
		register = 31
	case elf.EM_RISCV:
		register = 2
	default:
		return 0
	}
	at := 112 + 8*register
	if at+8 > len(prstatus) {
		return 0
	}
	return binary.LittleEndian.Uint64(prstatus[at:])
}
