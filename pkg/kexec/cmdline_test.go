package kexec

import (
	"errors"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/internal/cmdline"
)

const added = "irqpoll mce=off numa=off acpi_no_memhotplug nokaslr nr_cpus=1 reset_devices cgroup_disable=memory panic=10 " +
	"transparent_hugepage=never novmcoredd cma=0 hugetlb_cma=0 iomem=relaxed cryptomgr.notests rootfstype=ramfs " +
	"initcall_blacklist=tracer_init_tracefs"

func TestCaptureCmdline(t *testing.T) {
	for _, tt := range []struct{ name, running, appended, want string }{
		{"nothing", "", "", added},
		{"Debian", "BOOT_IMAGE=/vmlinuz-6.1.0 root=UUID=1-2 ro quiet crashkernel=128M net.ifnames=0\n", "", "net.ifnames=0 " + added},
		{"all of the facts", "root=/dev/sda1 crashkernel=1G,high crashkernel=72M,low hugepages=3 hugepagesz=1G panic_on_warn log_buf_len=4M swiotlb=9 " +
			"rd.lvm.lv=a/b rd.luks.uuid=1 rd.md.uuid=2 rd.lvm=0 elfcorehdr=0x1000 rdinit=/bin/sh a", "", "a " + added},
		{"consoles stay in order", "console=tty0 console=ttyS0,115200", "", "console=tty0 console=ttyS0,115200 " + added},
		{"consoles add up", "console=tty0 console=ttyS0", "console=ttyS1", "console=tty0 console=ttyS0 " + added + " console=ttyS1"},
		{"the last console is the user's", "console=ttyS0 console=tty0", "console=ttyS0", "console=tty0 " + added + " console=ttyS0"},
		{"what the running kernel has of ours", "panic=0 nr_cpus=8 nokaslr a", "", "a " + added},
		{"initcalls that the machine does not stand", "initcall_blacklist=a initcall_blacklist=tracer_init_tracefs", "initcall-blacklist=b",
			"initcall_blacklist=a " + added + " initcall-blacklist=b"},
		{"tracing of the running system", "ftrace=function trace_buf_size=64M trace_event=sched:* tp_printk alloc_snapshot a", "", "a " + added},
		{"dash and underscore are one", "transparent-hugepage=always page-owner=on", "", added},
		{"quotes", `a="b c" "d=e f"`, `g="h i"`, `a="b c" d="e f" ` + added + ` g="h i"`},
		{"init's arguments", "a -- single", "b -- c", "a " + added + " b -- c"},
		{"the user's last word", "", "x=1 x=2", added + " x=2"},
		{"network of the running system", "ip=dhcp nameserver=1.1.1.1 rd.neednet=1 rd.net.timeout.dhcp=3", "ip=eth0:dhcp ip=eth1:dhcp",
			added + " ip=eth0:dhcp ip=eth1:dhcp"},
		{"targets of the boot line", "kdump.target=file:///a kdump.level=1", "", "kdump.target=file:///a kdump.level=1 " + added},
		{"targets are replaced together", "kdump.target=file:///a kdump.target=file:///b kdump.level=1",
			"kdump.target=file:///c kdump.target=file:///d", "kdump.level=1 " + added + " kdump.target=file:///c kdump.target=file:///d"},
		{"SUSE's network words are a list", "kdump.netconfig=eth9:dhcp", "kdump.netconfig=eth0:dhcp4 kdump.netconfig=eth1:dhcp6",
			added + " kdump.netconfig=eth0:dhcp4 kdump.netconfig=eth1:dhcp6"},
		{"production's memory", "a memmap=exactmap memmap=640K@0 memmap=4095M@1M memmap=2G memmap", "", "a " + added},
		{"what is no memory", "memmap=64K$0x18690000 memmap=1M#2M,4G@1M,4G!12G memmap=2M%4M-1+2", "",
			"memmap=64K$0x18690000 memmap=1M#2M,4G!12G memmap=2M%4M-1+2 " + added},
		{"the user's memory", "memmap=1G@1M", "memmap=exactmap memmap=64M@16M", added + " memmap=exactmap memmap=64M@16M"},
	} {
		got, err := archOf("amd64").captureCmdline(tt.running, tt.appended)
		if err != nil || got != tt.want {
			t.Errorf("%s:\ngot  %s %v\nwant %s", tt.name, got, err, tt.want)
		}
	}
}

func TestUsersWordsWin(t *testing.T) {
	got, err := archOf("amd64").captureCmdline("panic=0", "nr_cpus=4 panic=-1 numa=on")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"nr_cpus", "panic", "numa"} {
		if n := strings.Count(" "+got, " "+key+"="); n != 1 {
			t.Errorf("%s stands %d times in %s", key, n, got)
		}
	}
	if !strings.HasSuffix(got, " nr_cpus=4 panic=-1 numa=on") {
		t.Error(got)
	}
}

func TestPanicAlwaysReboots(t *testing.T) {
	for _, appended := range []string{"panic=0", "panic", "panic=", "panic=soon", "panic=0x0"} {
		if got, err := CaptureCmdline("", appended); !errors.Is(err, ErrPanicHangs) {
			t.Errorf("%s: %s %v", appended, got, err)
		}
	}
	for _, goarch := range []string{"amd64", "arm64", "riscv64", "s390x"} {
		got, err := archOf(goarch).captureCmdline("panic=0", "")
		if err != nil || !strings.Contains(got, " panic=10 ") {
			t.Error(goarch, got, err)
		}
	}
}

func TestCmdlineLength(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64", "riscv64"} {
		a := archOf(goarch)
		room := a.maxLen - len(a.add) - len(" x=")
		line, err := a.captureCmdline("", "x="+strings.Repeat("y", room))
		if err != nil || len(line) != a.maxLen {
			t.Error(goarch, len(line), err)
		}
		if _, err := a.captureCmdline("", "x="+strings.Repeat("y", room+1)); !errors.Is(err, ErrTooLong) {
			t.Error(goarch, err)
		}
	}
}

func FuzzCaptureCmdline(f *testing.F) {
	f.Add("BOOT_IMAGE=/a root=/dev/sda console=ttyS0 -- x", `kdump.target="file:///a b" nr_cpus=2`)
	f.Add(`a="`, `"`)
	f.Fuzz(func(t *testing.T, running, appended string) {
		a := archOf("amd64")
		line, err := a.captureCmdline(running, appended)
		if err != nil {
			return
		}
		if len(line) > a.maxLen {
			t.Fatal(len(line))
		}
		if strings.ContainsRune(running+appended, '"') {
			return // a word with both quotes and blanks has no second form
		}
		panics := 0
		for _, w := range cmdline.Words(line) {
			if w.Key == "--" && !w.HasValue {
				break
			}
			switch w.Key {
			case "root", "crashkernel":
				if !strings.Contains(appended, w.Key) {
					t.Fatalf("%s is in %s", w.Key, line)
				}
			case "panic":
				panics++
			}
		}
		if panics != 1 {
			t.Fatalf("%d times panic= in %s", panics, line)
		}
	})
}
