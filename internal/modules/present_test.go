package modules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMatches(t *testing.T) {
	ids := []string{"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", "virtio:d00000001v00001AF4", "acpi:PNP0A03:"}
	for _, tt := range []struct {
		name, modinfo     string
		hardware, matches bool
	}{
		{"its device", "alias=pci:v00008086d0000100Fsv*\x00alias=pci:v00008086d0000100Esv*sd*bc*sc*i*\x00", true, true},
		{"a class", "alias=pci:v*d*sv*sd*bc02sc00i*\x00", true, true},
		{"digits", "alias=virtio:d0000000[0-1]v*\x00", true, true},
		{"other devices", "alias=pci:v000014E4d*sv*sd*bc*sc*i*\x00alias=virtio:d00000002v*\x00", true, false},
		{"an old name", "alias=i40evf\x00alias=pci:v000014E4d*sv*sd*bc*sc*i*\x00", true, false},
		{"a library", "license=GPL\x00depends=\x00", false, false},
		{"a protocol", "alias=net-pf-17\x00", false, false},
		{"USB comes late", "alias=usb:v0BDAp8153d*dc*dsc*dp*ic*isc*ip*in*\x00", true, true},
		{"cut off", "alias=pci:v000014E4d*sv*sd*bc*sc*i*", false, false},
		{"a bad pattern", "alias=pci:[\x00", true, true},
	} {
		m := parseInfo([]byte("\x7fELF\x00" + tt.modinfo))
		if m.hardware() != tt.hardware || m.matches(ids) != tt.matches {
			t.Errorf("%s: hardware %v, matches %v", tt.name, m.hardware(), m.matches(ids))
		}
	}
}

func TestParseInfo(t *testing.T) {
	m := parseInfo([]byte("\x00depends=libphy,mdio-devres\x00softdep=pre: realtek other-phy post: late\x00softdep=post: never\x00softdep=pre: more\x00"))
	if !slices.Equal(m.depends, []string{"libphy", "mdio_devres"}) || !slices.Equal(m.before, []string{"realtek", "other_phy", "more"}) {
		t.Errorf("%+v", m)
	}
}

// machineWith makes a folder with modules, by name the text of .modinfo, a list of
// them in order, and PCI devices.
func machineWith(t *testing.T, modules [][2]string, devices ...string) (root string) {
	t.Helper()
	root = t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := ""
	for _, m := range modules {
		write(m[0]+".ko", "\x00"+m[1])
		list += "/" + m[0] + ".ko\n"
	}
	write("list", list)
	for i, d := range devices {
		write(fmt.Sprintf("sys/bus/pci/devices/0000:00:%02d.0/modalias", i), d+"\n")
	}
	return root
}

// What was tried are the modules that the kernel was asked to take, which it does not.
func tried(t *testing.T, results []Result) (names []string) {
	t.Helper()
	for _, r := range results {
		switch {
		case r.Err == nil:
			t.Errorf("%s: the kernel took it", r.Name())
		case !errors.Is(r.Err, ErrNoDevice):
			names = append(names, r.Name())
		case !r.Absent:
			t.Errorf("%s: %v, but not absent", r.Name(), r.Err)
		}
	}
	return names
}

// Each of these has cost somebody a NIC, or a page of unknown symbols.
func TestLoadWhatDevicesNeed(t *testing.T) {
	list := [][2]string{
		{"lib", "depends=\x00"},
		{"libphy", "depends=\x00"},
		{"phy", "depends=libphy\x00alias=mdio:00000000000111001100100?????????\x00"},
		{"gbit", "depends=libphy\x00softdep=pre: phy\x00alias=pci:v00001234d*\x00"},
		{"core", "depends=lib\x00alias=pci:v00005678d*\x00"},
		{"eth", "depends=core\x00"},
		{"bond", "depends=\x00alias=rtnl-link-bond\x00"},
		{"plain", "depends=\x00"},
	}
	for _, tt := range []struct {
		name    string
		devices []string
		want    []string
	}{
		{"a PHY driver comes with its NIC, and what that needs", []string{"pci:v00001234d00000001"}, []string{"libphy", "phy", "gbit", "bond", "plain"}},
		{"the upper half of a driver in two", []string{"pci:v00005678d00000001"}, []string{"lib", "core", "eth", "bond", "plain"}},
		{"no device", nil, []string{"bond", "plain"}},
	} {
		root := machineWith(t, list, tt.devices...)
		results, err := LoadFile(t.Context(), "list", Options{Root: root, Devices: "/sys"})
		if err != nil || len(results) != len(list) {
			t.Fatalf("%s: %v, %v", tt.name, results, err)
		}
		if got := tried(t, results); !slices.Equal(got, tt.want) {
			t.Errorf("%s: tried %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The second attempt finds no files: the first has removed them. That is no fault,
// and a module that is in the kernel is there.
func TestLoadFileAgain(t *testing.T) {
	root := machineWith(t, [][2]string{{"absent", "alias=pci:v00005678d*\x00"}})
	if err := os.MkdirAll(filepath.Join(root, "sys/module/live_one"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "list"), []byte("/absent.ko\n/live-one.ko\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for try := range 2 {
		results, err := LoadFile(t.Context(), "list", Options{Root: root, Devices: "/sys"})
		if err != nil || len(results) != 2 || !results[0].Absent || results[1].Err != nil {
			t.Errorf("try %d: %+v, %v", try, results, err)
		}
	}
	results, err := LoadFile(t.Context(), "list", Options{Root: root})
	if err != nil || len(results) != 2 || !errors.Is(results[0].Err, os.ErrNotExist) || results[1].Err != nil {
		t.Errorf("without devices: %+v, %v", results, err)
	}
}

// A driver without a device here is not loaded, and its file makes room.
func TestLoadFilePresent(t *testing.T) {
	root := machineWith(t, [][2]string{{"here", "alias=pci:v00001234d*\x00"}, {"absent", "alias=pci:v00005678d*\x00"}}, "pci:v00001234d00005678")
	results, err := LoadFile(t.Context(), "list", Options{Root: root, Devices: "/sys"})
	if err != nil || len(results) != 2 {
		t.Fatalf("%v, %v", results, err)
	}
	if r := results[0]; r.Err == nil || errors.Is(r.Err, ErrNoDevice) { // no kernel takes it
		t.Errorf("the driver of a device that is there: %v", r.Err)
	}
	if r := results[1]; !errors.Is(r.Err, ErrNoDevice) || !r.Absent || !strings.Contains(r.Err.Error(), "absent") {
		t.Errorf("the driver of no device: %+v", r)
	}
	if _, err := os.Stat(filepath.Join(root, "absent.ko")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file is there still: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "here.ko")); err != nil {
		t.Errorf("the other's is not: %v", err)
	}
}
