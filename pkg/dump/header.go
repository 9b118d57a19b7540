package dump

import (
	"time"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/memmap"
	"github.com/ukdump/ukdump/pkg/triage"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Header is that of a kdump-compressed dump of what m keeps, with a codec.
func Header(core *vmcore.Core, m *memmap.Map, u triage.Uname, codec kdumpfile.Codec) kdumpfile.Header {
	off, size := core.VMCoreInfoNote()
	return kdumpfile.Header{
		Sysname: u.Sysname, Nodename: u.Nodename, Release: u.Release, Version: u.Version, Machine: u.Machine, Domainname: u.Domainname,
		Time: CrashTime(core), BlockSize: 1 << core.PageShift(), MaxPFN: uint64(m.MaxPFN), NumCPUs: core.NumCPUs(),
		DumpLevel: int(m.Level), PhysBase: core.PhysBase(), Codec: codec, Notes: core.Notes(), VMCoreInfoOff: off, VMCoreInfoSize: size,
	}
}

// ELFHeader is that of an ELF dump of what m keeps.
func ELFHeader(core *vmcore.Core, m *memmap.Map) kdumpfile.ELFHeader {
	return kdumpfile.ELFHeader{Machine: core.Machine(), BlockSize: 1 << core.PageShift(), MaxPFN: uint64(m.MaxPFN),
		Notes: core.Notes(), Segments: core.Segments()}
}

// CrashTime is when the kernel crashed by its own clock, or now.
func CrashTime(core *vmcore.Core) time.Time {
	if t, ok := core.Info().CrashTime(); ok {
		return t
	}
	return time.Now()
}
