package kexec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Image is what the header of a kernel image tells.
type Image struct {
	Release string // "6.1.0-50-cloud-amd64"; "" where the format does not say
	RunSize int64  // bytes of memory the kernel takes from its start to its end
}

// ErrNotKernel is a file that is no kernel image of a known format.
const ErrNotKernel Error = "not a kernel image: want a bzImage on x86, an Image on arm64 and riscv64"

// setupHeader is the part of the real-mode kernel header from 0x1f1 on that is
// looked at, named as in Documentation/arch/x86/boot.rst.
//
//	0x202 "HdrS"   0x206 version u16   0x20e kernel_version u16   0x260 init_size u32
const (
	offMagic         = 0x202
	offKernelVersion = 0x20e
	offInitSize      = 0x260
	setupLen         = 0x264
)

// ReadImage looks at the start of a kernel image: a bzImage (x86), or an Image
// (Documentation/arch/arm64/booting.rst, riscv/boot-image-header.rst).
func ReadImage(r io.ReaderAt) (Image, error) {
	head := make([]byte, setupLen)
	if _, err := r.ReadAt(head, 0); err != nil {
		if err == io.EOF {
			err = ErrNotKernel
		}
		return Image{}, err
	}
	le := binary.LittleEndian
	switch {
	case string(head[offMagic:offMagic+4]) == "HdrS":
		info := Image{RunSize: int64(le.Uint32(head[offInitSize:]))}
		if off := le.Uint16(head[offKernelVersion:]); off != 0 {
			info.Release = firstWord(r, int64(off)+0x200)
		}
		return info, nil
	case string(head[0x38:0x3c]) == "ARM\x64", string(head[0x38:0x3c]) == "RSC\x05":
		size := int64(le.Uint64(head[16:])) // image_size, in both
		if size < 0 {
			return Image{}, fmt.Errorf("image_size %#x: %w", uint64(size), ErrNotKernel)
		}
		return Image{RunSize: size}, nil
	}
	return Image{}, ErrNotKernel
}

// firstWord reads the word that stands at off, up to a blank or NUL.
func firstWord(r io.ReaderAt, off int64) string {
	word := make([]byte, 128)
	n, _ := r.ReadAt(word, off) // what is there will do
	word = word[:n]
	if end := bytes.IndexAny(word, " \x00"); end >= 0 {
		return string(word[:end])
	}
	return ""
}
