package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/result"
	"github.com/ukdump/ukdump/pkg/kexec"
)

// A machine is a host in a folder, and what its kernel was asked.
type machine struct {
	*host
	reserved uint64
	loaded   bool
	loadErr  error
	cmdline  string // of the last load
	initrd   string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{reserved: 128 << 20}
	m.host = &host{
		root: t.TempDir(), release: "6.1.0", node: "router",
		crashSize: func() (uint64, error) { return m.reserved, nil },
		loaded:    func() (bool, error) { return m.loaded, nil },
		unloadAll: func() error { m.loaded = false; return nil },
		kexecLoad: func(kernel, initrd *os.File, cmdline string) error {
			m.loaded = m.loadErr == nil // a failed load loses what was loaded
			m.cmdline, m.initrd = cmdline, initrd.Name()
			return m.loadErr
		},
	}
	m.write(t, "/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 console=ttyS0 crashkernel=128M\n")
	m.write(t, "/proc/cpuinfo", "processor : 0\ninitial apicid : 3\n")
	m.write(t, "/proc/iomem", "77000000-7effffff : Crash kernel\n")
	m.write(t, "/proc/sys/kernel/random/boot_id", "one\n")
	m.write(t, "/boot/vmlinuz-6.1.0", string(bzImage("6.1.0 (a@b)\x00")))
	m.write(t, "/boot/capture.cpio.zst", image("target = disk:///crash?dev=LABEL=CRASH\n"))
	return m
}

func (m *machine) write(t *testing.T, name, text string) {
	t.Helper()
	file := m.path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) do(args ...string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	code = m.run(args, &out, &errs)
	clean := func(b *strings.Builder) string { return strings.ReplaceAll(b.String(), m.root, "") }
	return code, clean(&out), clean(&errs)
}

func bzImage(version string) []byte {
	b := make([]byte, 0x400)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	binary.LittleEndian.PutUint32(b[0x260:], 51<<20)
	copy(b[0x300:], version)
	return b
}

// image is an initramfs as ours are, with a kdump.conf.
func image(conf string) string {
	return string(packZstd(archive(
		file{"bbin/bb", 0o100755, "bb"}, file{"bbin/kdump-init", 0o120777, "bb"}, file{"init", 0o120777, "bbin/kdump-init"},
		file{"etc", 0o040755, ""}, file{"etc/kdump.conf", 0o100600, conf},
		file{"lib/modules/6.1.0/kernel/fs/ext4/ext4.ko", 0o100644, "ko"})))
}

func TestLoad(t *testing.T) {
	m := newMachine(t)
	code, stdout, stderr := m.do("load", "-append", "x=1")
	if code != 0 || stderr != "" {
		t.Fatal(code, stderr)
	}
	want := "loaded /boot/vmlinuz-6.1.0 with /boot/capture.cpio.zst into 128 MiB; a crash is saved to disk:///crash?dev=LABEL=CRASH\n"
	if stdout != want {
		t.Errorf("got %s", stdout)
	}
	wantLine, err := kexec.CaptureCmdline("console=ttyS0", "x=1")
	if err != nil || m.cmdline != wantLine {
		t.Errorf("got %s %v", m.cmdline, err)
	}
	st, err := os.Stat(m.path(statePath))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	if left, err := filepath.Glob(m.path("/run/.kdumpctl*")); len(left) != 0 || err != nil {
		t.Error(left, err)
	}
}

func TestLoadNamedFilesAndTargetOfTheLine(t *testing.T) {
	m := newMachine(t)
	other := m.path("/other")
	m.write(t, "/other", string(archive(file{"init", 0o100755, "x"})))
	code, stdout, stderr := m.do("load", "-initrd", other, "-append", "kdump.target=file:///var/crash")
	if code != 0 || m.initrd != other || !strings.Contains(stdout, "a crash is saved to file:///var/crash\n") {
		t.Error(code, stdout, stderr)
	}
	if !strings.Contains(stderr, "warning: /other has no /etc/kdump.conf") {
		t.Error(stderr)
	}
}

func TestStateHasNoPasswords(t *testing.T) {
	m := newMachine(t)
	p := plan{kernel: os.Stdin, initrd: os.Stdin, cmdline: `a "kdump.target=cifs://u:secret@h/a share" kdump.level=1`}
	want := `a kdump.target="cifs://u:xxxxx@h/a share" kdump.level=1`
	if got := p.state(m.host).Cmdline; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *machine)
		args   []string
		want   string
	}{
		{"not root", func(m *machine) { m.euid = 1000 }, nil, "kdumpctl load: want root"},
		{"nothing reserved", func(m *machine) { m.reserved = 0 }, nil, "no memory is reserved for a capture kernel: add crashkernel=112M to the boot line"},
		{"nothing reserved and nothing there", func(m *machine) { m.reserved = 0; os.RemoveAll(m.path("/boot")) }, nil, "add crashkernel=112M"},
		{"no kernel", func(m *machine) { os.Remove(m.path("/boot/vmlinuz-6.1.0")) }, nil,
			"no kernel: looked for /boot/vmlinuz-6.1.0, /boot/vmlinuz, /boot/bzImage; name one with -kernel FILE"},
		{"no initrd", func(m *machine) { os.Remove(m.path("/boot/capture.cpio.zst")) }, nil,
			"no initrd: looked for /boot/capture-6.1.0.cpio.zst, /boot/capture.cpio.zst; name one with -initrd FILE"},
		{"named file is not there", func(m *machine) {}, []string{"-kernel", "/nowhere/vmlinuz"}, "open /nowhere/vmlinuz: no such file"},
		{"a folder", func(m *machine) {}, []string{"-kernel", "/"}, "kernel /: not a regular file"},
		{"no kernel image", func(m *machine) { m.write(t, "/boot/vmlinuz-6.1.0", "MZ") }, nil, "kernel /boot/vmlinuz-6.1.0: not a kernel image"},
		{"no initramfs", func(m *machine) { m.write(t, "/boot/capture.cpio.zst", "hello world") }, nil, "initrd /boot/capture.cpio.zst: not an initramfs"},
		{"torn initramfs", func(m *machine) { m.write(t, "/boot/capture.cpio.zst", image("")[:100]) }, nil, "initrd /boot/capture.cpio.zst: "},
		{"bad configuration", func(m *machine) { m.write(t, "/boot/capture.cpio.zst", image("level = 99\n")) }, nil,
			"/boot/capture.cpio.zst:/etc/kdump.conf:1: level = 99: out of range; want a number from 0 to 31"},
		{"bad target", func(m *machine) {}, []string{"-append", "kdump.target=disk:///crash"}, `command line: target "disk:///crash": `},
		{"bad word", func(m *machine) {}, []string{"-append", "kdump.levle=3"}, "command line: kdump.levle=3: unknown key"},
		{"panic=0", func(m *machine) {}, []string{"-append", "panic=0"}, "panic=0: the machine would hang"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			tt.change(m)
			code, stdout, stderr := m.do(append([]string{"load"}, tt.args...)...)
			if code != exitError || stdout != "" || !strings.Contains(stderr, tt.want) {
				t.Errorf("%d %q %q, want %q", code, stdout, stderr, tt.want)
			}
			if m.loaded || m.cmdline != "" {
				t.Error("the kernel was asked")
			}
		})
	}
}

func TestLoadWarns(t *testing.T) {
	m := newMachine(t)
	m.write(t, "/boot/vmlinuz-6.1.0", string(bzImage("6.1.0-2 (a@b)\x00")))
	m.write(t, "/boot/capture.cpio.zst", image(""))
	code, _, stderr := m.do("load")
	for _, want := range []string{
		"warning: no target is configured",
		"warning: /boot/capture.cpio.zst has modules for 6.1.0, and /boot/vmlinuz-6.1.0 is 6.1.0-2: none of them will load",
	} {
		if code != 0 || !strings.Contains(stderr, want) {
			t.Errorf("%d %q, want %q", code, stderr, want)
		}
	}
}

// What load has warned of, status tells at any time, and a boot script learns by its
// exit status that no crash would be saved.
func TestStatusTellsWarnings(t *testing.T) {
	const target = "target = raw:///dev/sda1\n" // no disk is looked for
	conf := file{"etc/kdump.conf", 0o100600, target}
	for _, tt := range []struct {
		name   string
		change func(m *machine)
		append string
		code   int
		want   []string
	}{
		{"all right", func(*machine) {}, "", exitOK, nil},
		{"another kernel", func(m *machine) { m.write(t, "/boot/vmlinuz-6.1.0", string(bzImage("6.1.0-2 (a@b)\x00"))) }, "", exitSavesNothing,
			[]string{"/boot/capture.cpio.zst has modules for 6.1.0, and /boot/vmlinuz-6.1.0 is 6.1.0-2: none of them will load"}},
		{"no init", func(m *machine) { m.write(t, "/boot/capture.cpio.zst", string(archive(conf))) }, "", exitSavesNothing,
			[]string{"/boot/capture.cpio.zst has no /init"}},
		{"a dangling init", func(m *machine) {
			m.write(t, "/boot/capture.cpio.zst", string(archive(conf, file{"init", 0o120777, "bbin/init"})))
		}, "", exitSavesNothing, []string{"/boot/capture.cpio.zst has no /init"}},
		{"no target", func(m *machine) { m.write(t, "/boot/capture.cpio.zst", image("")) }, "", exitSavesNothing,
			[]string{"no target is configured: the capture will report to the console and save nothing"}},
		{"no configuration, and a target on the line", func(m *machine) {
			m.write(t, "/boot/capture.cpio.zst", string(archive(file{"init", 0o100755, "x"})))
		}, "kdump.target=raw:///dev/sda1", exitOK, []string{"/boot/capture.cpio.zst has no /etc/kdump.conf: is it a capture image?"}},
		{"an init of its own", func(m *machine) {
			m.write(t, "/boot/capture.cpio.zst", string(archive(file{"rawcopy", 0o100755, "x"})))
		}, "rdinit=/rawcopy", exitOK, nil},
		{"an init that is not there", func(m *machine) {}, "rdinit=/rawcopy", exitSavesNothing, []string{"/boot/capture.cpio.zst has no /rawcopy, which rdinit= names"}},
		{"words for init", func(m *machine) {}, "-- rdinit=/x", exitOK, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(t, "/boot/capture.cpio.zst", image(target))
			tt.change(m)
			m.tells(t, tt.append, tt.code, tt.want...)
		})
	}
}

// tells checks that load warns of want and nothing else, and that status says the same,
// in words and as JSON, with this exit status.
func (m *machine) tells(t *testing.T, appended string, wantCode int, want ...string) {
	t.Helper()
	told, shown := "", ""
	for _, w := range want {
		told += "kdumpctl load: warning: " + w + "\n"
		shown += "warning:  " + w + "\n"
	}
	if wantCode == exitSavesNothing {
		shown += "crash:    would not be saved\n"
	}
	if code, _, stderr := m.do("load", "-append", appended); code != exitOK || stderr != told {
		t.Errorf("load: %d %q, want %q", code, stderr, told)
	}
	code, stdout, stderr := m.do("status")
	last := max(strings.Index(stdout, "warning:"), 0)
	if code != wantCode || stderr != "" || shown != "" && stdout[last:] != shown || shown == "" && last != 0 {
		t.Errorf("status: %d, want %d; %q, want %q", code, wantCode, stdout, shown)
	}
	code, stdout, _ = m.do("status", "-json")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != wantCode || r.SavesNothing != (wantCode == exitSavesNothing) || !slices.Equal(r.Warnings, want) {
		t.Errorf("%d %v %+v", code, err, r)
	}
}

// What -append asks for was not there when the image was built.
func TestLoadComparesWithTheImage(t *testing.T) {
	made := func(more ...file) func(m *machine) {
		return func(m *machine) {
			files := append([]file{{"init", 0o100755, "x"}, {"etc/kdump.conf", 0o100600, "target = raw:///dev/sda1\n"},
				{"etc/kdump/modules", 0o100644, ""}, {"etc/kdump/modules.ext4", 0o100644, ""}}, more...)
			m.write(t, "/boot/capture.cpio.zst", string(packZstd(archive(files...))))
		}
	}
	const sftp = "kdump.target=sftp://crash@10.0.0.9/d?key=/etc/kdump/key&known_hosts=/etc/kdump/hosts"
	const ftps = "kdump.target=ftps://crash@10.0.0.9/d?password-file=/etc/kdump/pw&ca=/ca"
	key, hosts := file{"etc/kdump/key", 0o100600, "k"}, file{"etc/kdump/hosts", 0o100600, "h"}
	const noXFS = "target disk:///d?dev=LABEL=X&fstype=xfs: /boot/capture.cpio.zst has no module for xfs, which 6.1.0 has not built in"
	for _, tt := range []struct {
		name   string
		change func(m *machine)
		append string
		code   int
		want   []string
	}{
		{"all there", made(key, hosts, file{"hooks/x", 0o100755, ""}, file{"bin/sh", 0o120777, "../init"}), sftp + " kdump.pre=/hooks/x kdump.failure=shell", exitOK, nil},
		{"a key missing", made(hosts), sftp, exitSavesNothing,
			[]string{"target sftp://crash@10.0.0.9/d?key=/etc/kdump/key&known_hosts=/etc/kdump/hosts: /boot/capture.cpio.zst has no /etc/kdump/key"}},
		{"a key missing, and another target", made(hosts), sftp + " kdump.target=raw:///dev/sda1", exitOK,
			[]string{"target sftp://crash@10.0.0.9/d?key=/etc/kdump/key&known_hosts=/etc/kdump/hosts: /boot/capture.cpio.zst has no /etc/kdump/key"}},
		{"two files missing", made(), ftps, exitSavesNothing, []string{
			"target ftps://crash@10.0.0.9/d?password-file=/etc/kdump/pw&ca=/ca: /boot/capture.cpio.zst has no /etc/kdump/pw",
			"target ftps://crash@10.0.0.9/d?password-file=/etc/kdump/pw&ca=/ca: /boot/capture.cpio.zst has no /ca"}},
		{"hook and shell missing", made(), "kdump.post=/hooks/y kdump.final=shell", exitOK, []string{
			"hook /hooks/y: /boot/capture.cpio.zst has no such program", "/boot/capture.cpio.zst has no /bin/sh for final or failure = shell"}},
		{"a file system missing", made(), "kdump.target=disk:///d?dev=LABEL=X&fstype=xfs", exitSavesNothing, []string{noXFS}},
		{"loaded as a module here", func(m *machine) {
			made()(m)
			m.write(t, "/proc/filesystems", "nodev\tproc\n\txfs\n")
			m.write(t, "/sys/module/xfs/initstate", "live\n")
		}, "kdump.target=disk:///d?dev=LABEL=X&fstype=xfs", exitSavesNothing, []string{noXFS}},
		{"built in", func(m *machine) { made()(m); m.write(t, "/proc/filesystems", "nodev\tproc\n\txfs\n") },
			"kdump.target=disk:///d?dev=LABEL=X&fstype=xfs", exitOK, nil},
		{"in a list", made(), "kdump.target=disk:///d?dev=LABEL=X&fstype=ext4", exitOK, nil},
		{"among all modules", made(file{"lib/modules/6.1.0/xfs.ko", 0o100644, ""}), "kdump.target=disk:///d?dev=LABEL=X&fstype=xfs", exitOK, nil},
		{"ext4 mounts ext3", made(file{"lib/modules/6.1.0/ext4.ko", 0o100644, ""}), "kdump.target=disk:///d?dev=LABEL=X&fstype=ext3", exitOK, nil},
		{"ext4 is built in, and mounts ext2", func(m *machine) {
			m.write(t, "/boot/capture.cpio.zst", string(archive(file{"init", 0o100755, "x"}, file{"etc/kdump.conf", 0o100600, ""}, file{"etc/kdump/modules", 0o100644, ""})))
		}, "kdump.target=disk:///d?dev=LABEL=X&fstype=ext2", exitOK, nil},
		{"NFS missing", made(), "kdump.target=nfs://10.0.0.9/d", exitSavesNothing,
			[]string{"target nfs://10.0.0.9/d: /boot/capture.cpio.zst has no module for nfs, which 6.1.0 has not built in"}},
		{"another kernel", func(m *machine) { made()(m); m.write(t, "/boot/vmlinuz-6.1.0", string(bzImage("6.6.0 (a@b)\x00"))) },
			"kdump.target=nfs://10.0.0.9/d", exitOK, nil},
		{"not of mkinitramfs", func(m *machine) { m.write(t, "/boot/capture.cpio.zst", image("")) }, "kdump.target=nfs://10.0.0.9/d", exitOK, nil},
		{"an init of its own", made(file{"x", 0o100755, ""}), sftp + " rdinit=/x", exitOK, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.write(t, "/proc/filesystems", "nodev\tproc\n\text4\n")
			tt.change(m)
			m.tells(t, tt.append, tt.code, tt.want...)
		})
	}
}

// The machine's own NICs tell what a server takes. One that the image can drive is
// enough: which of them leads to the server is not known.
func TestLoadComparesNICs(t *testing.T) {
	const sftp = "target = sftp://u@10.0.0.9/d?password-file=/pw&fingerprint=SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"
	const want = "target sftp://u@10.0.0.9/d?password-file=/pw&fingerprint=SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA: " +
		"/boot/capture.cpio.zst has no driver of any NIC of this machine: want -add-modules bnx2x,hv_netvsc"
	for _, tt := range []struct {
		name    string
		nics    map[string]string // and their modules, "" for what is built in
		module  string            // in the image
		conf    string
		release string
		code    int
		want    []string
	}{
		{"none in the image", map[string]string{"eth0": "bnx2x", "eth1": "hv_netvsc", "eth2": "bnx2x"}, "e1000", sftp, "6.1.0", exitSavesNothing, []string{want}},
		{"no server", map[string]string{"eth0": "bnx2x"}, "e1000", "target = raw:///dev/sda1\n", "6.1.0", exitOK, nil},
		{"one in the image", map[string]string{"eth0": "bnx2x", "eth1": "hv_netvsc"}, "hv-netvsc", sftp, "6.1.0", exitOK, nil},
		{"one built in", map[string]string{"eth0": "bnx2x", "eth1": ""}, "e1000", sftp, "6.1.0", exitOK, nil},
		{"no NIC is known", nil, "e1000", sftp, "6.1.0", exitOK, nil},
		{"another kernel runs", map[string]string{"eth0": "bnx2x"}, "e1000", sftp, "6.2.0", exitOK, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.write(t, "/proc/filesystems", "nodev\tproc\n")
			m.write(t, "/boot/capture.cpio.zst", string(packZstd(archive(file{"init", 0o100755, "x"}, file{"etc/kdump.conf", 0o100600, tt.conf}, file{"pw", 0o100600, "x"},
				file{"etc/kdump/modules", 0o100644, ""}, file{"lib/modules/6.1.0/" + tt.module + ".ko", 0o100644, ""}))))
			m.write(t, "/boot/vmlinuz-6.1.0", string(bzImage("6.1.0 (a@b)\x00")))
			m.write(t, "/boot/vmlinuz-6.2.0", string(bzImage("6.1.0 (a@b)\x00")))
			m.release = tt.release
			for nic, module := range tt.nics {
				m.write(t, "/sys/class/net/"+nic+"/device/driver/bind", "")
				if module != "" {
					m.write(t, "/sys/module/"+module+"/initstate", "live\n")
					if err := os.Symlink("../../../../../module/"+module, m.path("/sys/class/net/"+nic+"/device/driver/module")); err != nil {
						t.Fatal(err)
					}
				}
			}
			m.write(t, "/sys/class/net/lo/mtu", "65536\n")
			m.tells(t, "", tt.code, tt.want...)
		})
	}
}

// The core's headers are those of the memory at load, before Linux 6.6.
func TestStatusTellsOfNewMemory(t *testing.T) {
	const before, after = "00100000-0fffffff : System RAM\n  04000000-0bffffff : Crash kernel\n", "100000000-10fffffff : System RAM (virtio_mem)\n"
	const want = "warning:  the machine had 255 MiB of memory when the capture kernel was loaded, and has 511 MiB: " +
		"a dump would have that of then; want kdumpctl load again\n"
	m := newMachine(t)
	m.write(t, "/boot/capture.cpio.zst", image("target = raw:///dev/sda1\n"))
	m.write(t, "/proc/iomem", before)
	m.tells(t, "", exitOK)
	m.write(t, "/proc/iomem", before+after)
	if code, stdout, stderr := m.do("status"); code != exitOK || !strings.HasSuffix(stdout, want) || stderr != "" {
		t.Error(code, stdout, stderr)
	}
	m.write(t, "/sys/devices/system/memory/crash_hotplug", "1\n")
	if _, stdout, _ := m.do("status"); strings.Contains(stdout, "warning") {
		t.Error("the kernel does it itself:", stdout)
	}
	m.write(t, "/sys/devices/system/memory/crash_hotplug", "0\n")
	if _, stdout, _ := m.do("status"); !strings.HasSuffix(stdout, want) {
		t.Error(stdout)
	}
	m.write(t, "/proc/iomem", "00000000-00000000 : System RAM\n") // as others than root see it
	if _, stdout, _ := m.do("status"); strings.Contains(stdout, "warning") {
		t.Error(stdout)
	}
	m.write(t, "/proc/iomem", before+after)
	m.tells(t, "", exitOK)
}

// The images are those of doc/reliability.md, "How much to reserve", for Debian's
// 6.1.0-50-cloud-amd64: each was crashed with these reservations.
func TestLeastToUnpack(t *testing.T) {
	const (
		mib      = 1 << 20
		init6_1  = 53_968_896 // init_size
		init6_12 = 58_576_896
	)
	for _, tt := range []struct {
		target               string
		compressed, unpacked int64
		panicked, enough     int64 // MiB, with 6.1
		documented           int64
	}{
		{"disk with fstype", 5_028_495, 13_841_203, 72, 80, 96},
		{"disk", 7_039_182, 22_963_814, 88, 96, 112},
		{"raw", 5_028_476, 13_841_203, 72, 80, 96},
		{"sftp", 6_219_574, 18_664_652, 80, 88, 96},
		{"nfs", 7_249_950, 24_117_248, 88, 96, 112},
		{"cifs", 7_004_676, 22_858_957, 88, 96, 112},
	} {
		if need := leastToUnpack(init6_1, tt.compressed, tt.unpacked); need <= tt.panicked*mib || need > tt.enough*mib {
			t.Errorf("%s: %d KiB; %d MiB panicked and %d did not", tt.target, need>>10, tt.panicked, tt.enough)
		}
		if need := leastToUnpack(init6_12, tt.compressed, tt.unpacked); need > tt.documented*mib {
			t.Errorf("%s with 6.12: %d KiB, and %d MiB are enough", tt.target, need>>10, tt.documented)
		}
	}
}

// A reservation with which the capture kernel would panic before its init runs. The
// kernel of the test takes 51 MiB.
func TestLoadIntoTooLittle(t *testing.T) {
	const want = "56 MiB are reserved, and /boot/capture.cpio.zst takes 59 MiB to be unpacked: the capture kernel would panic; want crashkernel=80M or more"
	m := newMachine(t)
	m.write(t, "/boot/capture.cpio.zst", image("target = raw:///dev/sda1\n"))
	m.reserved = 56 << 20
	m.write(t, "/proc/iomem", "77000000-7a7fffff : Crash kernel\n")
	m.tells(t, "", exitSavesNothing, want)
	m.write(t, "/proc/iomem", "70000000-70ffffff : Crash kernel\n177000000-17a7fffff : Crash kernel\n") // size,high and its part below
	m.tells(t, "", exitOK)
	m.reserved = 60 << 20
	m.write(t, "/proc/iomem", "00000000-00000000 : Crash kernel\n")
	m.tells(t, "", exitOK)
}

// Where there is much memory, savecore's bitmaps are too much for a size that is enough
// elsewhere.
func TestLoadWithMuchMemory(t *testing.T) {
	m := newMachine(t)
	m.write(t, "/boot/capture.cpio.zst", image("target = raw:///dev/sda1\n"))
	m.reserved = 96 << 20
	const crash = "77000000-7cffffff : Crash kernel\n"
	m.write(t, "/proc/iomem", crash+"100000000-40ffffffff : System RAM\n") // 256 GiB
	m.tells(t, "", exitOK)
	m.write(t, "/proc/iomem", crash+"100000000-100ffffffff : System RAM\n") // 1 TiB
	m.tells(t, "", exitOK, "96 MiB are reserved, and a machine with 1048576 MiB of memory takes 64 MiB more than a small one: "+
		"only the kernel log may be saved; want crashkernel=144M or more")
}

func TestFailedLoadLeavesNothing(t *testing.T) {
	m := newMachine(t)
	if code, _, stderr := m.do("load"); code != 0 {
		t.Fatal(stderr)
	}
	m.loadErr = unix.EADDRNOTAVAIL
	code, _, stderr := m.do("load")
	if code != exitError || !strings.Contains(stderr, "no capture kernel is loaded now") {
		t.Error(code, stderr)
	}
	if _, err := os.Stat(m.path(statePath)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the state of the old one stays:", err)
	}
}

// With more CPUs than one, the one of the firmware must not be started.
func TestLoadWithMoreCPUs(t *testing.T) {
	m := newMachine(t)
	for appended, want := range map[string]string{
		"nr_cpus=2":           " disable_cpu_apicid=3 nr_cpus=2",
		"nr_cpus=2 -- single": " disable_cpu_apicid=3 nr_cpus=2 -- single",
		"nr_cpus=2 -- nr_cpus=1 disable_cpu_apicid=9": " disable_cpu_apicid=3 nr_cpus=2 -- nr_cpus=1 disable_cpu_apicid=9",
		"nr_cpus=2 disable_cpu_apicid=7":              " nr_cpus=2 disable_cpu_apicid=7",
	} {
		if code, _, stderr := m.do("load", "-append", appended); code != 0 {
			t.Fatal(stderr)
		}
		if kexec.NeedsBootCPUWord("nr_cpus=2") && !strings.HasSuffix(m.cmdline, want) {
			t.Errorf("%s: %s", appended, m.cmdline)
		}
	}
}

func TestUnload(t *testing.T) {
	m := newMachine(t)
	if code, stdout, _ := m.do("unload"); code != 0 || stdout != "no capture kernel was loaded\n" {
		t.Error(code, stdout)
	}
	m.do("load")
	if code, stdout, stderr := m.do("unload"); code != 0 || stdout != "unloaded\n" || m.loaded {
		t.Error(code, stdout, stderr)
	}
	if _, err := os.Stat(m.path(statePath)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	m.euid = 1
	if code, _, stderr := m.do("unload"); code != exitError || !strings.Contains(stderr, "want root") {
		t.Error(code, stderr)
	}
}

func TestStatus(t *testing.T) {
	m := newMachine(t)
	status := func(wantCode int, want ...string) {
		t.Helper()
		code, stdout, stderr := m.do("status")
		if code != wantCode || stderr != "" {
			t.Errorf("exit status %d, %q; want %d", code, stderr, wantCode)
		}
		for _, w := range want {
			if !strings.Contains(stdout, w+"\n") {
				t.Errorf("%q is not in\n%s", w, stdout)
			}
		}
	}
	status(exitNotLoaded, "reserved: 128 MiB, 0x77000000-0x7effffff", "loaded:   no")
	m.do("load")
	status(0, "kernel:   /boot/vmlinuz-6.1.0", "initrd:   /boot/capture.cpio.zst", "cmdline:  "+m.cmdline, "target:   disk:///crash?dev=LABEL=CRASH")
	m.write(t, "/proc/sys/kernel/random/boot_id", "two\n")
	status(0, "loaded:   yes, by another program or kdumpctl could not note what")
	m.loaded, m.reserved = false, 0
	status(exitNotReserved, "reserved: nothing: add crashkernel= to the boot line (kdumpctl load says how much)")
	m.crashSize = func() (uint64, error) { return 0, kexec.ErrNoKexec }
	if code, _, stderr := m.do("status"); code != exitNotReserved || !strings.Contains(stderr, "no crash kexec") {
		t.Error(code, stderr)
	}
	m.euid = 1
	if code, stdout, stderr := m.do("status"); code != exitError || stdout != "" || !strings.Contains(stderr, "want root") {
		t.Error(code, stdout, stderr)
	}
}

func TestStatusJSON(t *testing.T) {
	m := newMachine(t)
	m.do("load")
	code, stdout, stderr := m.do("status", "-json")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 0 || stderr != "" {
		t.Fatal(code, err, stdout, stderr)
	}
	if r.ReservedBytes != 128<<20 || !r.Loaded || len(r.Targets) != 1 || r.LoadedAt == nil || time.Since(*r.LoadedAt) > time.Hour ||
		len(r.Ranges) != 1 || r.Cmdline != m.cmdline {
		t.Errorf("%+v", r)
	}
	m.do("unload")
	code, stdout, _ = m.do("status", "-json")
	want := "{\n  \"reserved_bytes\": 134217728,\n  \"ranges\": [\n    \"0x77000000-0x7effffff\"\n  ],\n  \"loaded\": false\n}\n"
	if code != exitNotLoaded || stdout != want {
		t.Error(code, stdout)
	}
}

func TestLastCrash(t *testing.T) {
	m := newMachine(t)
	m.write(t, "/boot/capture.cpio.zst", image("target = nfs://server/x\ntarget = file:///var/crash\n"))
	m.do("load")
	if _, stdout, stderr := m.do("status"); strings.Contains(stdout, "last crash") || stderr != "" {
		t.Error(stdout, stderr)
	}
	last := result.Result{CrashTime: time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC), Host: "router", Saved: result.SavedAll, Target: "nfs://server/x", Seconds: 41.2,
		Lost: []string{"2 pages that could not be read, the first: EIO"}, Memory: &result.Memory{CrashkernelMiB: 144}}
	if err := last.Store(m.path("/var/crash/h-20261121T070000Z-abcd/result.json")); err != nil {
		t.Fatal(err)
	}
	want := "last crash: 2026-11-21T07:00:00Z, saved to nfs://server/x in 41 s\n  lost: 2 pages that could not be read, the first: EIO\n" +
		"  memory was short: crashkernel=144M would do\n"
	if code, stdout, stderr := m.do("status"); code != 0 || !strings.HasSuffix(stdout, want) || stderr != "" {
		t.Errorf("%d %s%s", code, stdout, stderr)
	}
	m.do("unload")
	if _, stdout, stderr := m.do("status", "-crashes", m.path("/var/crash")); !strings.HasSuffix(stdout, want) || stderr != "" {
		t.Error(stdout, stderr)
	}
	if _, _, stderr := m.do("status", "-crashes", m.path("/none")); !strings.Contains(stderr, "the last crash is not known") {
		t.Error(stderr)
	}
	var r report
	_, stdout, _ := m.do("status", "-json", "-crashes", m.path("/var/crash"))
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || r.LastCrash == nil || r.LastCrash.Seconds != 41.2 {
		t.Error(err, stdout)
	}
}

// A target that this system cannot see has no folder: above all not the working
// directory, where anybody may have put a result.
func TestLastCrashIsNotLookedForInTheWorkingDirectory(t *testing.T) {
	m := newMachine(t)
	m.write(t, "/boot/capture.cpio.zst", image("target = nfs://server/x\ntarget = disk:///crash?dev=LABEL=NOWHERE\n"))
	m.do("load")
	r := result.Result{CrashTime: time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC), Host: "router", Saved: result.SavedAll, Target: "nfs://server/evil"}
	dir := t.TempDir()
	if err := r.Store(filepath.Join(dir, "whatever", result.Name)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if _, stdout, stderr := m.do("status"); strings.Contains(stdout, "last crash") || stderr != "" {
		t.Error(stdout, stderr)
	}
}

// A server's folder has the crashes of many.
func TestLastCrashOfWhom(t *testing.T) {
	m := newMachine(t)
	dir := m.path("/dumps")
	store := func(host string, hour int) {
		t.Helper()
		r := result.Result{CrashTime: time.Date(2026, 11, 21, hour, 0, 0, 0, time.UTC), Host: host, Saved: result.SavedNothing,
			Lost: []string{"a\x1b]0;b\x07\u009bc"}, Memory: &result.Memory{CrashkernelMiB: 512}}
		if err := r.Store(filepath.Join(dir, host+"-x", result.Name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := m.do("status", "-crashes", dir); code != exitNotLoaded || strings.Contains(stdout, "last crash") || stderr != "" {
		t.Error("an empty folder:", code, stdout, stderr)
	}
	store("switch", 9)
	want := "last crash: 2026-11-21T09:00:00Z, of switch, nothing saved in 0 s\n  lost: a?]0;b??c\n"
	if _, stdout, _ := m.do("status", "-crashes", dir); !strings.HasSuffix(stdout, want) {
		t.Errorf("%q, want %q", stdout, want)
	}
	store("router", 7)
	want = "last crash: 2026-11-21T07:00:00Z, nothing saved in 0 s\n  lost: a?]0;b??c\n  memory was short: crashkernel=512M would do\n"
	if _, stdout, _ := m.do("status", "-crashes", dir); !strings.HasSuffix(stdout, want) {
		t.Errorf("%q, want %q", stdout, want)
	}
}

func TestMountPoint(t *testing.T) {
	const mounts = "22 1 0:21 / /proc rw - proc proc rw\n" +
		"30 1 259:1 /sub /bind rw shared:1 - ext4 /dev/nvme0n1 rw\n" +
		"31 1 259:1 / /srv/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/nvme0n1 rw\n" +
		"32 1 259:1 / /again rw - ext4 /dev/nvme0n1 rw\n33 - torn\n"
	for source, want := range map[string]string{"/dev/nvme0n1": "/srv/a b", "/dev/sda": "", "proc": "/proc"} {
		if got := mountPoint(mounts, "", func(s string) bool { return s == source }); got != want {
			t.Errorf("%s is at %q, want %q", source, got, want)
		}
	}
}

// What the kernel has mounted as its root without an initramfs has a source that is
// nowhere; a btrfs has a number that is no device's.
func TestMountPointByNumber(t *testing.T) {
	const mounts = "20 1 259:20 / /other rw - ext4 /dev/nvme0n1p20 rw\n" +
		"21 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n" +
		"22 1 0:40 / /pool rw - btrfs /dev/sdb rw\n"
	for _, tt := range []struct{ number, source, want string }{
		{"259:2", "/dev/nvme0n1p2", "/"}, {"259:20", "/dev/nvme0n1p20", "/other"}, {"8:16", "/dev/sdb", "/pool"},
		{"8:32", "/dev/sdc", ""}, {"", "/dev/sdc", ""},
	} {
		if got := mountPoint(mounts, tt.number, func(s string) bool { return s == tt.source }); got != tt.want {
			t.Errorf("%s (%s) is at %q, want %q", tt.source, tt.number, got, tt.want)
		}
	}
	if got := deviceNumber("/dev/null"); got != "" {
		t.Errorf("/dev/null is no block device: %q", got)
	}
}

// The numbers are those that the kernel tells of itself.
func TestDeviceNumber(t *testing.T) {
	devices, err := filepath.Glob("/sys/class/block/*/dev")
	if err != nil || len(devices) == 0 {
		t.Skip("no block device on this machine:", err)
	}
	known := 0
	for _, name := range devices {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path := "/dev/" + filepath.Base(filepath.Dir(name))
		got := deviceNumber(path)
		if got == "" {
			continue // the kernel has it, and this folder /dev does not
		}
		known++
		if got != strings.TrimSpace(string(want)) {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	t.Logf("%d of %d devices are in /dev", known, len(devices))
}

func TestCorruptState(t *testing.T) {
	m := newMachine(t)
	m.do("load")
	m.write(t, statePath, `{"kernel":`)
	code, stdout, stderr := m.do("status")
	if code != 0 || !strings.Contains(stdout, "loaded:   yes") || !strings.Contains(stderr, "read /run/kdumpctl.json: ") {
		t.Error(code, stdout, stderr)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"", exitUsage, "", "usage: kdumpctl load"},
		{"-h", 0, "usage: kdumpctl load", ""},
		{"help", 0, "usage: kdumpctl load", ""},
		{"start", exitUsage, "", `kdumpctl: unknown command "start"; want load, unload, status or config-from-system`},
		{"load -h", 0, "-append WORDS", ""},
		{"unload -h", 0, "usage of kdumpctl unload", ""},
		{"status --help", 0, "-json", ""},
		{"load -x", exitUsage, "", "kdumpctl load: flag provided but not defined: -x"},
		{"status now", exitUsage, "", `kdumpctl status: unexpected argument "now"; want flags only`},
	} {
		var stdout, stderr bytes.Buffer
		code := run(strings.Fields(tt.args), nil, &stdout, &stderr)
		has := func(b *bytes.Buffer, want string) bool {
			return want == "" && b.Len() == 0 || want != "" && strings.Contains(b.String(), want)
		}
		if code != tt.code || !has(&stdout, tt.stdout) || !has(&stderr, tt.stderr) {
			t.Errorf("%q: %d %q %q", tt.args, code, &stdout, &stderr)
		}
	}
}
