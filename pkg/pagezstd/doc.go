// Package pagezstd compresses one page of memory at a time into one standard zstd frame (RFC 8878), faster than
// libzstd's level 1 and into a little less.
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
// One core of an AMD EPYC (family 26) in one run, page by page, on the 29065 pages of 4 KiB that are not zero among those
// that dump level 31 keeps of a Linux 6.1 core; the last two columns are a Linux 7 core:
//
//	                     MB/s  ratio     MB/s  ratio
//	LevelFast             686  0.366      686  0.325
//	LevelDefault          476  0.326      490  0.292
//	LevelSmall            439  0.323      454  0.289
//	libzstd 1.5.4 -1      564  0.377      570  0.337
//	libzstd 1.5.4 1       376  0.328      384  0.295
//	libzstd 1.5.4 3       292  0.321      309  0.288
//	klauspost fastest     282  0.353      278  0.313
//	snappy of s2         1311  0.449     1328  0.414
//
// The wall is branches that nothing predicts: half of the time goes into finding 230 sequences in a page, most of them with
// less than three literals. The same page again and again, until the processor knows its branches, takes 0.47 of that
// time. Taking the kind of the match as data instead of branching on it was slower by 15 %: then each sequence waits for
// the loads of the one before.
//
// match.go finds the sequences, literals.go and sequences.go write the sections, fse.go is the entropy coder of both.
package pagezstd
