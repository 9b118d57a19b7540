package main

import (
	"slices"
	"strings"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
)

// group is the modules that an image carries for one reason. Names may be
// aliases; what they depend on, softly too, is found by itself.
type group struct {
	reason string
	names  []string
	needed int      // how many of the first names a kernel must have: the configuration asks for them
	asked  []string // of the other names, those that the configuration asks for: want them, where it can be told what is built in
	fstype string   // if not empty: loaded only when a file system of this type is mounted, nfs and cifs among them, or NetList, or WatchdogList
}

// buses are the ways to a disk. The machine that builds does not know the one
// that crashes, so each image has all of them that its kernel has as modules.
// A driver without hardware costs its file until the image is unpacked, and
// some tens of KiB once it is loaded.
func buses() []group {
	return []group{
		{reason: "disks", names: []string{"sd_mod"}},
		{reason: "virtio", names: []string{"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi"}},
		{reason: "NVMe", names: []string{"nvme"}},
		{reason: "SATA", names: []string{"ahci", "ata_piix", "ahci_platform"}},
		{reason: "USB disks", names: []string{"xhci_pci", "ehci_pci", "usb_storage", "uas"}},
		{reason: "SD, eMMC", names: []string{"mmc_block", "sdhci_pci", "sdhci_acpi"}},
		// Not hv_storvsc: without its hypervisor it fails with ten lines of
		// unknown symbols, in every capture.
		{reason: "hypervisors", names: []string{"vmw_pvscsi", "xen_blkfront"}},
	}
}

// cards are the drivers of the network, of which a capture loads those whose
// devices it finds.
func cards(plan netcfg.Plan) group {
	asked := slices.DeleteFunc(plan.Modules(), func(name string) bool { return !slices.Contains([]string{"bonding", "bridge", "8021q"}, name) })
	return group{reason: "network", fstype: modules.NetList, asked: asked, names: append(plan.Modules(),
		"af_packet", "ipv6", "virtio_net", "e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
		"tg3", "bnx2", "bnxt_en", "r8169", "8139cp", "8139too", "atlantic", "mlx4_en", "mlx5_core", "ena", "gve", "vmxnet3",
		"xen_netfront", "dwmac_generic", "macb", "fec", "mvneta", "mvpp2", "r8152", "ax88179_178a", "cdc_ether", "smsc95xx", "lan78xx")}
}

// watchdogs are the drivers of hardware that resets a machine which hangs. What
// loads them looks for the hardware first. Not softdog: it counts in software, so
// that a kernel which hangs hangs it too; -add-modules takes it.
func watchdogs() group {
	return group{reason: "watchdogs", fstype: modules.WatchdogList, names: []string{
		"i6300esb", "wdat_wdt", "lpc_ich", "i2c_i801", "iTCO_wdt", "sp5100_tco", "hpwdt", "sbsa_gwdt", "dw_wdt", "imx2_wdt", "bcm2835_wdt",
	}}
}

// filesystem is what mounting a file system takes.
func filesystem(fstype string) group {
	g := group{reason: fstype, names: []string{fstype}, fstype: fstype}
	switch fstype {
	case "ext2", "ext3":
		g.names = []string{"ext4"} // it mounts all three
	case "vfat":
		// The code pages that a kernel may have as defaults of codepage= and
		// iocharset= (CONFIG_FAT_DEFAULT_*): without them mount fails.
		g.names = []string{"vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"}
	}
	return g
}

// drivers is the table: what targets need, in load order.
func drivers(specs []targets.Spec, network netcfg.Plan) []group {
	all := buses()
	types, guessed := fstypes(specs)
	for _, fstype := range types {
		g := filesystem(fstype)
		if !slices.Contains(guessed, fstype) {
			g.needed = 1 // the driver itself
		}
		all = append(all, g)
	}
	if slices.ContainsFunc(specs, targets.Spec.Network) {
		all = append(all, cards(network))
	}
	return append(all, mounts(specs)...)
}

// mounts are the servers that the kernel mounts: of each kind what all targets
// of that kind want.
func mounts(specs []targets.Spec) []group {
	var all []group
	for _, s := range specs {
		names := s.Modules()
		if len(names) == 0 {
			continue
		}
		i := slices.IndexFunc(all, func(g group) bool { return g.fstype == s.Scheme })
		if i < 0 {
			i = len(all)
			all = append(all, group{reason: s.Scheme, needed: 1, fstype: s.Scheme})
		}
		for _, name := range names {
			if !slices.Contains(all[i].names, name) {
				all[i].names = append(all[i].names, name)
			}
		}
	}
	return all
}

// fstypes are the file systems of the targets, in the order of their first
// use. Where one does not say its fstype, all that may be meant are guessed.
func fstypes(specs []targets.Spec) (types, guessed []string) {
	guess := len(specs) == 0 // targets are to come on the command line
	for _, s := range specs {
		switch {
		case s.Scheme != "disk":
		case s.FSType == "":
			guess = true
		case !slices.Contains(types, s.FSType):
			types = append(types, s.FSType)
		}
	}
	if !guess {
		return types, nil
	}
	for _, fstype := range []string{"ext4", "xfs", "vfat", "btrfs"} {
		if !slices.Contains(types, fstype) {
			types = append(types, fstype)
			guessed = append(guessed, fstype)
		}
	}
	return types, guessed
}

// chosen are the groups once the flags -modules-only and -add-modules have had
// their say. Whoever names a module wants it.
func chosen(specs []targets.Spec, network netcfg.Plan, watchdog bool, only, add string) []group {
	groups := drivers(specs, network)
	if watchdog {
		groups = append(groups, watchdogs())
	}
	if only != "" {
		groups = nil
		if names := words(only); !slices.Equal(names, []string{"none"}) {
			groups = []group{{reason: "-modules-only", names: names, needed: len(names)}}
		}
	}
	names := words(add)
	if i := slices.Index(names, "softdog"); i >= 0 {
		names = slices.Delete(names, i, i+1)
		groups = slices.DeleteFunc(groups, func(g group) bool { return g.fstype == modules.WatchdogList })
		dogs := group{reason: "watchdogs", needed: 1, fstype: modules.WatchdogList, names: []string{"softdog"}}
		if watchdog {
			dogs.names = append(dogs.names, watchdogs().names...)
		}
		groups = append(groups, dogs)
	}
	if len(names) > 0 {
		groups = append(groups, group{reason: "-add-modules", names: names, needed: len(names)})
	}
	return groups
}

// words splits a list at commas and spaces.
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
