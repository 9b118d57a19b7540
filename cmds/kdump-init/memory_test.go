package main

import "testing"

// A capture of 6.12 had half of the modules it needs, and said only that one of them is
// a "text file busy".
func TestNotUnpacked(t *testing.T) {
	for log, want := range map[string]string{
		"[    1.5] Trying to unpack rootfs image as initramfs...\n[    1.553612] Initramfs unpacking failed: write error\n[    1.6] Freeing initrd memory: 8168K\n": "write error",
		"[    1.5] Trying to unpack rootfs image as initramfs...\n[    1.6] Freeing initrd memory: 8168K\n":                                                         "",
		"": "",
	} {
		if got := notUnpacked(log); got != want {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}
