package modules

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWanted(t *testing.T) {
	ids := []string{"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", "virtio:d00000001v00001AF4", "acpi:PNP0A03:"}
	for _, tt := range []struct {
		name, modinfo string
		want          bool
	}{
		{"its device", "alias=pci:v00008086d0000100Fsv*\x00alias=pci:v00008086d0000100Esv*sd*bc*sc*i*\x00", true},
		{"a class", "alias=pci:v*d*sv*sd*bc02sc00i*\x00", true},
		{"digits", "alias=virtio:d0000000[0-1]v*\x00", true},
		{"other devices", "alias=pci:v000014E4d*sv*sd*bc*sc*i*\x00alias=virtio:d00000002v*\x00", false},
		{"a library", "license=GPL\x00depends=\x00", true},
		{"a protocol", "alias=net-pf-17\x00", true},
		{"USB comes late", "alias=usb:v0BDAp8153d*dc*dsc*dp*ic*isc*ip*in*\x00", true},
		{"cut off", "alias=pci:v000014E4d*sv*sd*bc*sc*i*", true},
		{"a bad pattern", "alias=pci:[\x00", true},
	} {
		if got := wanted([]byte("\x7fELF\x00"+tt.modinfo), ids); got != tt.want {
			t.Errorf("%s: wanted %v", tt.name, got)
		}
	}
}

// A driver without a device here is not loaded, and its file makes room.
func TestLoadFilePresent(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"list":                 "/here.ko\n/absent.ko\n",
		"here.ko":              "\x00alias=pci:v00001234d*\x00",
		"absent.ko":            "\x00alias=pci:v00005678d*\x00",
		"sys/modalias-of-here": "",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	device := filepath.Join(root, "sys/bus/pci/devices/0000:00:02.0")
	if err := os.MkdirAll(device, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(device, "modalias"), []byte("pci:v00001234d00005678\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	results, err := LoadFile(context.Background(), "list", Options{Root: root, Devices: "/sys"})
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
