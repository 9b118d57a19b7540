// Package pagezstd compresses one page of memory at a time into one standard zstd frame (RFC 8878), several times faster
// than a general encoder of small inputs and a little smaller than libzstd's level 1.
//
// Use [New] once for each worker and [Encoder.Encode] for each page. The package only compresses: any zstd decoder reads
// the frames. It knows no dictionaries, no checksums, no windows: a frame is
//
//	4      magic 28 b5 2f fd
//	1      descriptor: single segment, no checksum, content size of one or two bytes
//	1, 2   content size: n below 256, else n-256
//	3      block header: last block, RLE or compressed
//	...    RLE: the byte; compressed: literals section, sequences section
//
// match.go finds the sequences, literals.go and sequences.go write the sections, fse.go is the entropy coder of both.
package pagezstd
