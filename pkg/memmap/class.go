// Package memmap reads the crashed kernel's struct page array and says of
// every page frame what it was used for, so that a dump can leave out what
// does not help.
//
// [Classify] does it in one pass with several workers and gives a [Map]: the
// bitmap of RAM, the bitmap of pages that a dump level keeps, and a count for
// each [Class]. [SelfCheck] then makes sure that what a debugger cannot do
// without is among the kept pages. Zero pages are not found here: that needs
// the page's contents, which package dump reads anyway.
//
// All knowledge of the kernel comes from the VMCOREINFO note, key by key, never
// from a kernel version. A page that cannot be understood is kept.
package memmap

import "fmt"

// Class is what the kernel was using a page frame for.
type Class uint8

const (
	Kernel       Class = iota // the kernel's own: kept at every level
	Free                      // in the buddy allocator
	Cache                     // page cache or swap cache without private data
	CachePrivate              // page cache with private data (buffer heads, iomap, ...)
	User                      // anonymous memory or hugetlb
	HWPoison                  // broken memory: never read
	Offline                   // ballooned (PageOffline), or in a section that is not online: never read
	Unaccepted                // confidential guest memory not yet accepted: never read
	NoStruct                  // RAM without a struct page: kept
	Unknown                   // struct page unreadable, corrupt or of a type not known: kept
	NumClasses
)

// String gives the name used in reports.
func (c Class) String() string {
	switch c {
	case Kernel:
		return "kernel"
	case Free:
		return "free"
	case Cache:
		return "cache"
	case CachePrivate:
		return "cache-private"
	case User:
		return "user"
	case HWPoison:
		return "hwpoison"
	case Offline:
		return "offline"
	case Unaccepted:
		return "unaccepted"
	case NoStruct:
		return "no-struct-page"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Level is a dump level as makedumpfile's -d: a sum of bits, each leaving out
// one kind of page.
type Level uint8

const (
	LevelZero         Level = 1  // pages filled with zero bytes
	LevelCache        Level = 2  // page cache without private data
	LevelCachePrivate Level = 4  // page cache with and without private data
	LevelUser         Level = 8  // anonymous and hugetlb memory
	LevelFree         Level = 16 // free pages
	LevelMax          Level = 31
)

// Excludes says whether a dump of level l leaves out pages of class c.
// Poisoned, offline and unaccepted pages are left out at every level: reading
// them can stop the machine that takes the dump.
func (l Level) Excludes(c Class) bool {
	switch c {
	case HWPoison, Offline, Unaccepted:
		return true
	case Free:
		return l&LevelFree != 0
	case Cache:
		return l&(LevelCache|LevelCachePrivate) != 0
	case CachePrivate:
		return l&LevelCachePrivate != 0
	case User:
		return l&LevelUser != 0
	}
	return false
}

// Filters says whether the level leaves out more than pages of zeros and what
// must not be read.
func (l Level) Filters() bool { return l&^LevelZero != 0 }
