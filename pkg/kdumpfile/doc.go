// Package kdumpfile writes and reads the files that dumps are kept in: the
// kdump-compressed format of diskdump and makedumpfile, its flattened form for
// targets that cannot seek, and ELF.
//
// To write, make an [Output]: [NewKdumpWriter] over anything that can write at an
// offset, and over a [Flattener] where it cannot. The writers do not read memory
// and do not compress; they take finished pages in pfn order, in a [Batch].
// [NewSplitWriter] divides a dump among several files. [NewELFWriter] makes an ELF
// core instead, also on a stream. What they write to at an offset has to read as
// zeros where nothing was written: a new file, not a partition that was used before.
//
// To read, [OpenKdump], for a flattened file on top of [OpenFlattened], with
// [OpenSplit] for the parts of a split dump, and then a [PageReader] for each
// goroutine. [Salvage] opens what is left of a torn file, and Verify looks for
// whatever is wrong with one. ELF cores are read by pkg/vmcore.
//
// The kdump-compressed format, little endian, B the page size of the crashed
// kernel:
//
//	block 0            disk_dump_header, 464 bytes
//	block 1            kdump_sub_header, 104 bytes, then the ELF notes
//	then, B aligned    1st bitmap: pfns that are RAM; 2nd bitmap: pfns in the dump
//	then               a page_desc of 24 bytes for each bit of the 2nd bitmap, in pfn order
//	then               the pages' data, anywhere
//
// In the files of this package, which say so in the last bytes of block 0, the
// page_flags of a page_desc, for which nobody has a use, hold the lower half of
// the pfn and a CRC-32C of the page's data. They tell a page that is right from
// one that only decompresses, and whose page a descriptor is when the bitmap is lost.
package kdumpfile
