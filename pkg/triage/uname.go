package triage

import (
	"bytes"
	"fmt"

	"github.com/ukdump/ukdump/pkg/vmcore"
)

// Uname is struct new_utsname of the crashed kernel, include/uapi/linux/utsname.h.
type Uname struct {
	Sysname, Nodename, Release, Version, Machine, Domainname string
}

// utsLen is __NEW_UTS_LEN and the terminating zero.
const utsLen = 65

// ReadUname reads init_uts_ns. What cannot be read is filled in from VMCOREINFO
// and the core's machine, as readers insist on a release and a machine; the
// error then says what was wrong.
func ReadUname(core *vmcore.Core) (Uname, error) {
	u, err := readUname(core)
	if u.Sysname == "" {
		u.Sysname = "Linux"
	}
	if u.Release == "" {
		u.Release = core.Info().Release()
	}
	if u.Version == "" {
		u.Version = "unknown"
	}
	if u.Machine == "" {
		u.Machine = vmcore.MachineName(core.Machine())
	}
	return u, err
}

// readUname looks for the names where VMCOREINFO says; Linux 5.10 does not say,
// and there they are at one of the two places where they have ever been.
func readUname(core *vmcore.Core) (u Uname, err error) {
	info := core.Info()
	symbol, ok := info.Symbol("init_uts_ns")
	if !ok {
		return u, fmt.Errorf("uname: %w", info.Require("SYMBOL(init_uts_ns)"))
	}
	offsets := []uint64{0, 4} // 4: behind a struct kref
	if offset, ok := info.Offset("uts_namespace.name"); ok {
		offsets = []uint64{offset}
	}
	buf := make([]byte, 6*utsLen)
	for _, offset := range offsets {
		if err := core.ReadVirt(buf, symbol+offset); err != nil {
			return u, fmt.Errorf("uname: %w", err)
		}
		if u := splitUname(buf); u.Sysname == "Linux" {
			return u, nil
		}
	}
	return u, fmt.Errorf("uname: init_uts_ns holds no Linux, but %q", buf[:8])
}

func splitUname(buf []byte) (u Uname) {
	for i, dst := range []*string{&u.Sysname, &u.Nodename, &u.Release, &u.Version, &u.Machine, &u.Domainname} {
		field, _, _ := bytes.Cut(buf[i*utsLen:(i+1)*utsLen], []byte{0})
		*dst = string(field)
	}
	return u
}
