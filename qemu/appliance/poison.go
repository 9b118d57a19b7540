package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poisons is the table of pages that the kernel is made to take out of use as if
// the hardware had reported them. The owner of a dirty page is killed for it, so
// each is done by a child; file is what parent and child share.
func poisons() map[string]func(h *hoard, file int) error {
	return map[string]func(h *hoard, file int) error{
		"anon":         poisonAnon,
		"thp":          poisonTHP,
		"hugetlb":      poisonHugetlb,
		"hugetlb-file": poisonHugetlbFile,
		"free":         poisonFree,
		"soft":         poisonSoft,
	}
}

// fillPoison poisons a page of each kind.
func fillPoison(h *hoard, _ int) (string, error) {
	var done []string
	var last error
	for kind := range poisons() {
		cmd := exec.Command("/proc/self/exe", "poison", kind)
		if kind == "hugetlb-file" {
			fd, err := unix.MemfdCreate(kind, unix.MFD_HUGETLB)
			if err != nil {
				return "", err
			}
			file := os.NewFile(uintptr(fd), kind)
			h.files = append(h.files, file) // keeps the poisoned page in the file
			cmd.ExtraFiles = []*os.File{file}
		}
		before := meminfo("HardwareCorrupted")
		out, err := cmd.CombinedOutput()
		if meminfo("HardwareCorrupted") == before {
			last = fmt.Errorf("%s: %v: %.80s", kind, err, out)
			continue
		}
		done = append(done, kind)
	}
	if len(done) == 0 {
		return "", last
	}
	return fmt.Sprintf("%s; HardwareCorrupted %d kB; last error: %v", strings.Join(done, " "), meminfo("HardwareCorrupted")>>10, last), nil
}

// poison is the child of fillPoison.
func poison(kind string, stderr io.Writer) int {
	do := poisons()[kind]
	if do == nil {
		fmt.Fprintf(stderr, "poison %s: no such kind\n", kind)
		return 2
	}
	fmt.Fprintln(stderr, do(&hoard{}, 3))
	return 1
}

func poisonAnon(h *hoard, _ int) error {
	m, err := h.mapAnon(page, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return err
	}
	h.paintAll(m, "hwpoison")
	return unix.Madvise(m, unix.MADV_HWPOISON)
}

// madvSoftOffline is MADV_SOFT_OFFLINE of include/uapi/asm-generic/mman-common.h.
const madvSoftOffline = 101

func poisonSoft(h *hoard, _ int) error {
	m, err := h.mapAnon(page, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return err
	}
	h.paintAll(m, "soft")
	return unix.Madvise(m, madvSoftOffline)
}

func poisonTHP(h *hoard, _ int) error {
	m, err := h.mapAnon(2*hugePage, 0, unix.MADV_HUGEPAGE)
	if err != nil {
		return err
	}
	skip := int(-uintptr(unsafe.Pointer(&m[0])) & (hugePage - 1))
	h.paintAll(m[skip:skip+hugePage], "hwpoison")
	return unix.Madvise(m[skip+5*page:skip+6*page], unix.MADV_HWPOISON)
}

func poisonHugetlb(h *hoard, _ int) error {
	m, err := h.mapAnon(hugePage, unix.MAP_HUGETLB, -1)
	if err != nil {
		return err
	}
	h.paintAll(m, "hwpoison")
	return unix.Madvise(m[3*page:4*page], unix.MADV_HWPOISON)
}

// poisonHugetlbFile: the file keeps the page, poisoned as a whole.
func poisonHugetlbFile(h *hoard, file int) error {
	if err := unix.Ftruncate(file, hugePage); err != nil {
		return err
	}
	m, err := unix.Mmap(file, 0, hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	h.paintAll(m, "hwpoison")
	return unix.Madvise(m[7*page:8*page], unix.MADV_HWPOISON)
}

// poisonFree has a page that was just freed taken out of the allocator.
func poisonFree(h *hoard, _ int) error {
	m, err := h.mapAnon(16*page, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return err
	}
	h.paintAll(m, "hwpoison")
	paddr, err := physical(m[8*page:])
	if err != nil {
		return err
	}
	if err := unix.Munmap(m); err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) // drains the lists of each CPU
	return os.WriteFile(filepath.Join(memoryBlocks, "hard_offline_page"), fmt.Appendf(nil, "%#x", paddr), 0)
}

// physical gives the physical address of a mapped page: bits 0-54 of its entry of
// /proc/self/pagemap are the pfn.
func physical(m []byte) (uint64, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [8]byte
	if _, err := f.ReadAt(b[:], int64(uintptr(unsafe.Pointer(&m[0]))/page*8)); err != nil {
		return 0, err
	}
	pfn := binary.LittleEndian.Uint64(b[:]) & (1<<55 - 1)
	if pfn == 0 {
		return 0, fmt.Errorf("pagemap shows no pfn")
	}
	return pfn * page, nil
}
