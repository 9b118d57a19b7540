package blockdev

import "math"

// Mountable are the file systems that Probe knows and that take a dump.
func Mountable() []string { return []string{"ext2", "ext3", "ext4", "xfs", "vfat", "btrfs"} }

// MaxLabel is the longest label in bytes that a file system of this type holds.
func MaxLabel(fstype string) int {
	switch fstype {
	case "ext2", "ext3", "ext4":
		return 16
	case "xfs":
		return 12
	case "vfat":
		return 11
	case "btrfs":
		return 255
	}
	return math.MaxInt
}
