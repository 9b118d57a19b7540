// Package kdumpfile writes and reads the files that dumps are kept in: the
// kdump-compressed format of diskdump and makedumpfile, its flattened form for
// targets that cannot seek, and ELF.
//
// To write, make an [Output]: [NewKdumpWriter] over anything that can write at an
// offset, and over a [Flattener] where it cannot. The writers do not read memory
// and do not compress; they take finished pages in pfn order, in a [Batch].
// [NewELFWriter] makes an ELF core instead, also on a stream. What they write to
// at an offset has to read as zeros where nothing was written: a new file, not
// a partition that was used before.
//
// To read, [OpenKdump], for a flattened file on top of [OpenFlattened], and then
// a [PageReader] for each goroutine. ELF cores are read by pkg/vmcore.
//
// The kdump-compressed format, little endian, B the page size of the crashed
// kernel:
//
//	block 0            disk_dump_header, 464 bytes
//	block 1            kdump_sub_header, 104 bytes, then the ELF notes
//	then, B aligned    1st bitmap: pfns that are RAM; 2nd bitmap: pfns in the dump
//	then               a page_desc of 24 bytes for each bit of the 2nd bitmap, in pfn order
//	then               the pages' data, anywhere
package kdumpfile
