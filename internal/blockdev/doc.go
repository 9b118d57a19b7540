// Package blockdev finds a block device by its path, file system label or UUID,
// or partition name or UUID, and waits for it to appear.
//
// Use [Find]; [List] shows what is there; [Probe] and [ReadTable] look at one
// device or image. Names and IDs are spelled as blkid(8) and the kernel's root=
// spell them.
//
// Only the first and last bytes of a device are read, never written, and never
// much: see the bounds beside each reader. The package knows just enough formats
// to find a file system that takes a dump and to stay away from what only looks
// like one: a half of a RAID 1 carries the label of the file system inside.
package blockdev
