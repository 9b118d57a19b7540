// Package moduletest makes kernel modules for tests: files that say what they
// depend on, and hold no code.
package moduletest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// File is the smallest ELF file that is a module by its .modinfo.
func File(machine elf.Machine, fields ...string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	modinfo := strings.Join(fields, "\x00") + "\x00"
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(machine), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(modinfo) + len(names)),
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	sections := [3]elf.Section64{
		1: {Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Off: 64, Size: uint64(len(modinfo)), Addralign: 1},
		2: {Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names)), Addralign: 1},
	}
	var b bytes.Buffer
	for _, part := range []any{h, []byte(modinfo + names), sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // a bytes.Buffer takes it all
		}
	}
	return b.Bytes()
}
