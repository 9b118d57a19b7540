//go:build (!amd64 && !arm64 && !ppc64le && !riscv64) || safe

package pagezstd

import "encoding/binary"

func load32(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }

func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

func store64(b []byte, i int, v uint64) { binary.LittleEndian.PutUint64(b[i:], v) }

// sumLanes adds the four counts of symbol s.
func sumLanes(lanes *[1024]uint16, s int) uint16 {
	return lanes[s*4] + lanes[s*4+1] + lanes[s*4+2] + lanes[s*4+3]
}
