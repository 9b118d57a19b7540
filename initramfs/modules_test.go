package main

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/modules/resolve"
	"github.com/ukdump/ukdump/internal/moduletest"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
)

const fakeRelease = "9.9.9-fake"

// fakeTree is a folder of modules as a kernel package leaves it, without
// modules.dep: virtio_blk compressed, xfs with a soft dependency, ext4 and
// vfat's code pages built in.
func fakeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	add := func(name string, fields ...string) {
		t.Helper()
		data := moduletest.File(elf.EM_X86_64, append(fields, "vermagic="+fakeRelease+" SMP")...)
		if strings.HasSuffix(name, ".zst") {
			z, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			data = z.EncodeAll(data, nil)
		}
		writeFile(t, filepath.Join(dir, "kernel", name), data)
	}
	add("drivers/virtio/virtio.ko")
	add("drivers/virtio/virtio_pci.ko", "depends=virtio")
	add("drivers/block/virtio_blk.ko.zst", "depends=virtio")
	add("drivers/scsi/sd_mod.ko", "depends=scsi_mod")
	add("drivers/scsi/scsi_mod.ko")
	add("fs/xfs/xfs.ko", "softdep=pre: crc32c", "firmware=xfs.bin")
	add("fs/fat/fat.ko")
	add("fs/fat/vfat.ko", "depends=fat")
	add("crypto/crc32c-generic.ko", "alias=crc32c")
	writeFile(t, filepath.Join(dir, "modules.builtin"),
		[]byte("kernel/fs/ext4/ext4.ko\nkernel/fs/nls/nls_cp437.ko\nkernel/fs/nls/nls_ascii.ko\n"))
	return dir
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func specs(t *testing.T, urls ...string) []targets.Spec {
	t.Helper()
	var all []targets.Spec
	for _, u := range urls {
		s, err := targets.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func listOf(set *moduleSet) string {
	var all []string
	for _, m := range set.modules {
		all = append(all, modules.Name(m.path))
	}
	return strings.Join(all, " ")
}

func TestModulesOfATarget(t *testing.T) {
	dir := fakeTree(t)
	const buses = "scsi_mod sd_mod virtio virtio_pci virtio_blk"
	for _, c := range []struct{ name, url, only, add, want string }{
		{"file system built in", "disk:///c?dev=LABEL=C&fstype=ext4", "", "", buses},
		{"soft dependency by alias", "disk:///c?dev=LABEL=C&fstype=xfs", "", "", buses + " crc32c_generic xfs"},
		{"fat with code pages", "disk:///c?dev=LABEL=C&fstype=vfat", "", "", buses + " fat vfat"},
		{"any file system", "disk:///c?dev=LABEL=C", "", "", buses + " crc32c_generic xfs fat vfat"},
		{"mounted already", "file:///var/crash", "", "", buses},
		{"only", "disk:///c?dev=LABEL=C", "virtio_blk,virtio-pci", "", "virtio virtio_blk virtio_pci"},
		{"none", "disk:///c?dev=LABEL=C&fstype=xfs", "none", "", ""},
		{"more", "file:///c", "none", "xfs", "crc32c_generic xfs"},
	} {
		set, err := collect(dir, "amd64", chosen(specs(t, c.url), netcfg.Plan{}, false, c.only, c.add))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := listOf(set); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		if set.release != fakeRelease {
			t.Errorf("%s: release %q", c.name, set.release)
		}
	}
}

// The watchdogs' list is loaded before the one of the start, so it has what that one
// has too. Softdog, which the base list may never get to, goes there.
func TestWatchdogModules(t *testing.T) {
	dir := fakeTree(t)
	for name, depends := range map[string]string{"watchdog": "", "i6300esb": "watchdog,virtio", "softdog": "watchdog"} {
		data := moduletest.File(elf.EM_X86_64, "depends="+depends, "vermagic="+fakeRelease+" SMP")
		writeFile(t, filepath.Join(dir, "kernel/drivers/watchdog", name+".ko"), data)
	}
	for _, c := range []struct {
		on              bool
		add, want, base string
	}{
		{true, "", "watchdog virtio i6300esb", "scsi_mod sd_mod virtio virtio_pci virtio_blk"},
		{true, "xfs,softdog", "watchdog softdog virtio i6300esb", "scsi_mod sd_mod virtio virtio_pci virtio_blk crc32c_generic xfs"},
		{false, "", "", "scsi_mod sd_mod virtio virtio_pci virtio_blk"},
	} {
		set, err := collect(dir, "amd64", chosen(specs(t, "file:///c"), netcfg.Plan{}, c.on, "", c.add))
		if err != nil {
			t.Fatal(err)
		}
		for list, want := range map[string]string{modules.WatchdogList: c.want, "": c.base} {
			var names []string
			for _, p := range set.lists[list] {
				names = append(names, modules.Name(p))
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%v %q: list %q is %q, want %q", c.on, c.add, list, got, want)
			}
		}
	}
}

// A bond that the configuration asks for, and that the kernel cannot make, is found when
// the image is built. Where a folder does not tell what is built in, it may be there.
func TestNetworkModules(t *testing.T) {
	const sftp = "target = sftp://u@10.0.0.1/d?key=/k&known_hosts=/h\n"
	const bond = "bond = bond0:eth0,eth1\nvlan = vlan5:bond0\nip = vlan5:dhcp\n"
	builtin := func(dir string, more string) {
		writeFile(t, filepath.Join(dir, "modules.builtin"), []byte("kernel/drivers/net/bonding/bonding.ko\n"+more))
	}
	for _, c := range []struct {
		name, conf string
		change     func(dir string)
		only       string
		want       string
	}{
		{"no words", sftp, func(string) {}, "", ""},
		{"neither module nor built in", sftp + bond, func(string) {}, "", "network: the configuration asks for bonding, which this kernel has neither as a module nor built in"},
		{"one of two", sftp + bond, func(dir string) { builtin(dir, "") }, "", "network: the configuration asks for 8021q, which"},
		{"both built in", sftp + bond, func(dir string) { builtin(dir, "kernel/net/8021q/8021q.ko\n") }, "", ""},
		{"a bridge", sftp + "bridge = br0:eth0\nip = br0:dhcp\n", func(string) {}, "", "asks for bridge, which"},
		{"built in perhaps", sftp + bond, func(dir string) { os.Remove(filepath.Join(dir, "modules.builtin")) }, "", ""},
		{"the user names all", sftp + bond, func(string) {}, "virtio_blk", ""},
		{"no server", "target = raw:///dev/sda1\n" + bond, func(string) {}, "", ""},
	} {
		dir := fakeTree(t)
		c.change(dir)
		s, err := readSettings(configFile(t, c.conf))
		if err != nil {
			t.Fatal(err)
		}
		_, err = collect(dir, "amd64", chosen(s.targets, s.network, false, c.only, ""))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// Who wonders whether a NIC is served reads the manual page.
func TestManualNamesDrivers(t *testing.T) {
	page, err := os.ReadFile("../doc/mkinitramfs.8")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(page))
	for _, name := range cards(netcfg.Plan{}).names {
		if name != "af_packet" && name != "ipv6" && !slices.Contains(words, name) {
			t.Errorf("doc/mkinitramfs.8 does not name %s", name)
		}
	}
}

func TestModuleList(t *testing.T) {
	set, err := collect(fakeTree(t), "amd64", chosen(specs(t, "disk:///c?dev=LABEL=C&fstype=ext4"), netcfg.Plan{}, false, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	text, err := listText(set.lists[""])
	if err != nil {
		t.Fatal(err)
	}
	const dir = "/lib/modules/" + fakeRelease + "/kernel/drivers/"
	want := dir + "scsi/scsi_mod.ko\n" + dir + "scsi/sd_mod.ko\n" + dir + "virtio/virtio.ko\n" + dir + "virtio/virtio_pci.ko\n" + dir + "block/virtio_blk.ko\n"
	if string(text) != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	if i := slices.IndexFunc(set.modules, func(m module) bool { return strings.HasSuffix(m.path, "virtio_blk.ko") }); !bytes.HasPrefix(set.modules[i].data, []byte("\x7fELF")) {
		t.Error("virtio_blk is not decompressed")
	}
	if got := strings.Join(set.builtIn, " "); got != "ext4" {
		t.Errorf("built in: %q", got)
	}
	if !slices.Contains(set.absent, "nvme") {
		t.Errorf("absent: %q", set.absent)
	}
	if got := set.modules[2].reason; got != "virtio" {
		t.Errorf("the reason for virtio is %q", got)
	}
}

// Two file systems share a module: each list must have it, as only one of the
// two is loaded.
func TestFilesystemListsAreWhole(t *testing.T) {
	dir := fakeTree(t)
	writeFile(t, filepath.Join(dir, "kernel/fs/btrfs/btrfs.ko"), moduletest.File(elf.EM_X86_64, "vermagic="+fakeRelease, "depends=fat"))
	set, err := collect(dir, "amd64", chosen(specs(t, "disk:///c?dev=LABEL=C"), netcfg.Plan{}, false, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	base := func(paths []string) string {
		var names []string
		for _, p := range paths {
			names = append(names, strings.TrimSuffix(filepath.Base(p), ".ko"))
		}
		return strings.Join(names, " ")
	}
	for fstype, want := range map[string]string{
		"": "scsi_mod sd_mod virtio virtio_pci virtio_blk", "ext4": "",
		"xfs": "crc32c-generic xfs", "vfat": "fat vfat", "btrfs": "fat btrfs",
	} {
		if got := base(set.lists[fstype]); got != want {
			t.Errorf("list for %q: %q, want %q", fstype, got, want)
		}
	}
}

// Each kind of server has one list, with what all targets of that kind need; a
// cipher that the kernel has under no such name is no error.
func TestModulesOfServers(t *testing.T) {
	dir := fakeTree(t)
	for name, info := range map[string][]string{
		"fs/nfs/nfs.ko": {"depends=sunrpc"}, "fs/nfs/nfsv3.ko": {"depends=nfs"}, "fs/nfs/nfsv4.ko": {"depends=nfs"}, "net/sunrpc/sunrpc.ko": nil,
		"fs/smb/client/cifs.ko": {"softdep=pre: ccm", "softdep=pre: aead2"}, "crypto/gcm.ko": {"alias=crypto-gcm"}, "crypto/ccm.ko": {"alias=crypto-ccm"},
	} {
		writeFile(t, filepath.Join(dir, "kernel", name), moduletest.File(elf.EM_X86_64, append(info, "vermagic="+fakeRelease)...))
	}
	set, err := collect(dir, "amd64", chosen(specs(t, "nfs://h/x?vers=3", "nfs://h/x?vers=4.1", "cifs://u@h/s?password-file=/p", "raw:///dev/sda1"), netcfg.Plan{}, false, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	for fstype, want := range map[string][]string{
		"nfs":  {"sunrpc", "nfs", "nfsv3", "nfsv4"},
		"cifs": {"ccm", "cifs", "gcm"},
	} {
		var got []string
		for _, p := range set.lists[fstype] {
			got = append(got, modules.Name(p))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", fstype, got, want)
		}
	}
	if _, err := collect(fakeTree(t), "amd64", chosen(specs(t, "nfs://h/x"), netcfg.Plan{}, false, "", "")); err == nil || !strings.Contains(err.Error(), "nfs: module nfs") {
		t.Errorf("a kernel without nfs: %v", err)
	}
}

func TestModuleErrors(t *testing.T) {
	dir := fakeTree(t)
	foreign := fakeTree(t)
	writeFile(t, filepath.Join(foreign, "kernel/fs/fat/fat.ko"), moduletest.File(elf.EM_AARCH64, "vermagic="+fakeRelease))
	other := fakeTree(t)
	writeFile(t, filepath.Join(other, "kernel/fs/fat/fat.ko"), moduletest.File(elf.EM_X86_64, "vermagic=8.8.8"))
	for _, c := range []struct{ name, dir, url, only, add, want string }{
		{"file system", dir, "disk:///c?dev=LABEL=C&fstype=btrfs", "", "", "btrfs"},
		{"-add-modules", dir, "file:///c", "", "virtio_blk,nosuch", "-add-modules: module nosuch"},
		{"-modules-only", dir, "file:///c", "nosuch", "", "-modules-only: module nosuch"},
		{"architecture", foreign, "disk:///c?dev=LABEL=C&fstype=vfat", "", "", "kernel/fs/fat/fat.ko: made for EM_AARCH64: want EM_X86_64"},
		{"release", other, "disk:///c?dev=LABEL=C&fstype=vfat", "", "", `kernel/fs/fat/fat.ko: made for kernel "8.8.8"`},
		{"folder", filepath.Join(dir, "nosuch"), "file:///c", "", "", "nosuch"},
	} {
		_, err := collect(c.dir, "amd64", chosen(specs(t, c.url), netcfg.Plan{}, false, c.only, c.add))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// Debian keeps modules.builtin in another package than the modules since 7.x.
func TestFolderWithoutBuiltin(t *testing.T) {
	dir := fakeTree(t)
	if err := os.Remove(filepath.Join(dir, "modules.builtin")); err != nil {
		t.Fatal(err)
	}
	ext4 := specs(t, "disk:///c?dev=LABEL=C&fstype=ext4")
	_, err := collect(dir, "amd64", chosen(ext4, netcfg.Plan{}, false, "", ""))
	if err == nil || !strings.Contains(err.Error(), "it lacks modules.builtin") {
		t.Errorf("error %v", err)
	}
	set, err := collect(dir, "amd64", chosen(ext4, netcfg.Plan{}, false, "virtio_blk", ""))
	if err != nil || len(set.notes) != 1 {
		t.Errorf("%v, %v", err, set)
	}
}

func TestFirmwareIsMentioned(t *testing.T) {
	set, err := collect(fakeTree(t), "amd64", chosen(nil, netcfg.Plan{}, false, "xfs", ""))
	if err != nil || len(set.notes) != 1 || !strings.Contains(set.notes[0], "xfs.bin") {
		t.Errorf("%v, notes %q", err, set.notes)
	}
}

func TestFilesystemsOfTargets(t *testing.T) {
	for _, c := range []struct {
		urls           []string
		types, guessed string
	}{
		{nil, "ext4 xfs vfat btrfs", "ext4 xfs vfat btrfs"},
		{[]string{"file:///a"}, "", ""},
		{[]string{"disk:///a?dev=LABEL=A&fstype=xfs", "disk:///a?dev=LABEL=B&fstype=xfs"}, "xfs", ""},
		{[]string{"disk:///a?dev=LABEL=A&fstype=xfs", "disk:///a?dev=LABEL=B"}, "xfs ext4 vfat btrfs", "ext4 vfat btrfs"},
	} {
		types, guessed := fstypes(specs(t, c.urls...))
		if strings.Join(types, " ") != c.types || strings.Join(guessed, " ") != c.guessed {
			t.Errorf("%q: %q, %q; want %q, %q", c.urls, types, guessed, c.types, c.guessed)
		}
	}
}

// A kernel must be able to load the list of the largest image one by one.
func TestRealKernels(t *testing.T) {
	dirs := filepath.SplitList(os.Getenv("UKDUMP_MODULES"))
	if len(dirs) == 0 {
		t.Skip("UKDUMP_MODULES names no /lib/modules/RELEASE folders of real kernels (x86)")
	}
	for _, dir := range dirs {
		set, err := collect(dir, "amd64", drivers(nil, netcfg.Plan{}))
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		total, loaded := 0, make(map[string]bool)
		for _, m := range set.modules {
			info, err := resolve.ReadInfo(bytes.NewReader(m.data))
			if err != nil {
				t.Errorf("%s: %v", m.path, err)
			}
			for _, dep := range info.Depends {
				// What is neither in the list nor in front is built in, or missing.
				late := slices.ContainsFunc(set.modules, func(m module) bool { return modules.Name(m.path) == modules.Name(dep) })
				if late && !loaded[modules.Name(dep)] {
					t.Errorf("%s: %s comes before %s, which it needs", set.release, m.path, dep)
				}
			}
			loaded[modules.Name(m.path)] = true
			total += len(m.data)
		}
		t.Logf("%s: %d modules, %s: %s; built in: %v; absent: %v", set.release, len(set.modules), human(total), listOf(set), set.builtIn, set.absent)
	}
}
