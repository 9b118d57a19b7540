package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	page     = 4096
	hugePage = 2 << 20
	mib      = 1 << 20
)

// A filler fills part of the machine's memory with one class of pages and
// keeps what must stay alive in the hoard.
type filler struct {
	class string
	fill  func(h *hoard, bytes int) (string, error)
	share int // percent of what is available at the start
}

// hoard owns what the fillers leave in memory until the crash.
type hoard struct {
	data  string // mount point of a filesystem with a block device, or ""
	dev   string // its block device
	maps  [][]byte
	files []*os.File
	text  []byte // real bytes for the pages that shall look real
}

// fillers is the table of page classes, in the order they are made: what needs
// large free blocks comes first.
func fillers() []filler {
	return []filler{
		{"gigantic", fillGigantic, 0},
		{"hugetlb", fillHugetlb, 4},
		{"thp", fillTHP, 8},
		{"anon", fillAnon, 14},
		{"mlocked", fillLocked, 1},
		{"folios", fillFolios, 2},
		{"ksm", fillKSM, 0},
		{"zero", fillZero, 4},
		{"shmem", fillShmem, 5},
		{"cache", fillCache, 7},
		{"device-cache", fillDeviceCache, 7},
		{"swapcache", fillSwapCache, 2},
		{"slab", fillSlab, 2},
		{"zram", fillZram, 2},
		{"vmalloc", fillVmalloc, 3},
		{"tasks", fillTasks, 1},
		{"hwpoison", fillPoison, 0},
		{"freed", fillFreed, 10},
	}
}

// fillMemory runs every filler; one that fails is reported and does not matter.
func fillMemory(h *hoard, say func(string, ...any)) {
	h.text, _ = os.ReadFile("/proc/kallsyms")
	avail := meminfo("MemAvailable")
	for _, f := range fillers() {
		note, err := f.fill(h, avail/100*f.share)
		if err != nil {
			say("fill %s: %v", f.class, err)
			continue
		}
		say("fill %s: %s", f.class, note)
	}
}

// meminfo is in bytes.
func meminfo(key string) int {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return n << 10
		}
	}
	return 0
}

// paint writes page n of a class: a line that names it, then one of four kinds
// of contents that a real machine has as well.
func (h *hoard) paint(p []byte, class string, n int) {
	head := fmt.Appendf(make([]byte, 0, 64), "ukdump %s page %d\n", class, n)
	body := p[copy(p, head):]
	seed := uint64(n)*0x9e3779b97f4a7c15 + uint64(len(class))
	switch n % 4 {
	case 0: // text
		if at := n * page; len(h.text) > page {
			copy(body, h.text[at%(len(h.text)-page):])
		}
	case 1: // noise: compressed or encrypted data
		for i := 0; i+8 <= len(body); i += 8 {
			seed ^= seed << 13
			seed ^= seed >> 7
			seed ^= seed << 17
			binary.LittleEndian.PutUint64(body[i:], seed)
		}
	case 2: // an array of pointers and small numbers
		for i := 0; i+16 <= len(body); i += 16 {
			binary.LittleEndian.PutUint64(body[i:], 0xffff888000000000+seed>>40<<6+uint64(i))
			binary.LittleEndian.PutUint64(body[i+8:], uint64(i/16%7))
		}
	case 3: // mostly empty
		copy(body[len(body)/2:], head)
	}
}

func (h *hoard) paintAll(m []byte, class string) {
	for i := 0; i+page <= len(m); i += page {
		h.paint(m[i:i+page], class, i/page)
	}
}

func (h *hoard) mapAnon(bytes, flags, advice int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|flags)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", bytes, err)
	}
	if advice >= 0 {
		_ = unix.Madvise(m, advice)
	}
	return m, nil
}

func pages(n int) string { return fmt.Sprintf("%d pages", n/page) }

func fillAnon(h *hoard, bytes int) (string, error) {
	bytes &^= page - 1
	m, err := h.mapAnon(bytes, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return "", err
	}
	h.paintAll(m, "anon")
	h.maps = append(h.maps, m)
	return pages(bytes), nil
}

// fillTHP turns transparent huge pages on: kernels with less than 512 MiB start
// without.
func fillTHP(h *hoard, bytes int) (string, error) {
	if err := os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("always"), 0); err != nil {
		return "", err
	}
	bytes = max(bytes/hugePage, 2) * hugePage
	m, err := h.mapAnon(bytes+hugePage, 0, unix.MADV_HUGEPAGE)
	if err != nil {
		return "", err
	}
	skip := int(-uintptr(unsafe.Pointer(&m[0])) & (hugePage - 1))
	h.paintAll(m[skip:skip+bytes], "thp")
	h.maps = append(h.maps, m)
	return fmt.Sprintf("%s, AnonHugePages %d kB", pages(bytes), meminfo("AnonHugePages")>>10), nil
}

func fillLocked(h *hoard, bytes int) (string, error) {
	bytes = max(bytes&^(page-1), page)
	m, err := h.mapAnon(bytes, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return "", err
	}
	h.paintAll(m, "mlocked")
	h.maps = append(h.maps, m)
	return pages(bytes), unix.Mlock(m)
}

// fillZero touches anonymous pages without writing anything but zeros.
func fillZero(h *hoard, bytes int) (string, error) {
	bytes &^= page - 1
	m, err := h.mapAnon(bytes, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return "", err
	}
	for i := 0; i < len(m); i += page {
		m[i] = 1
		m[i] = 0
	}
	h.maps = append(h.maps, m)
	return pages(bytes), nil
}

// fillHugetlb takes half of a pool of huge pages and leaves the rest free in it.
func fillHugetlb(h *hoard, bytes int) (string, error) {
	want := max(bytes/hugePage, 2) &^ 1
	const pool = "/proc/sys/vm/nr_hugepages"
	if err := os.WriteFile(pool, []byte(strconv.Itoa(want)), 0); err != nil {
		return "", err
	}
	b, _ := os.ReadFile(pool)
	got, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if got < 2 {
		return "", fmt.Errorf("pool of %d huge pages: got %d", want, got)
	}
	m, err := h.mapAnon(got/2*hugePage, unix.MAP_HUGETLB, -1)
	if err != nil {
		return "", err
	}
	h.paintAll(m, "hugetlb")
	h.maps = append(h.maps, m)
	return fmt.Sprintf("%s in use, as many free in the pool", pages(len(m))), nil
}

func fillShmem(h *hoard, bytes int) (string, error) {
	if err := os.MkdirAll("/shm", 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", "/shm", "tmpfs", 0, ""); err != nil {
		return "", fmt.Errorf("mount /shm: %w", err)
	}
	return pages(bytes), h.paintFile("/shm/file", "shmem", bytes, nil)
}

// paintFile leaves the file open and, without sync, dirty.
func (h *hoard) paintFile(name, class string, bytes int, sync func(*os.File) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	h.files = append(h.files, f)
	buf := make([]byte, 64*page)
	for n := 0; n < bytes/page; n += 64 {
		clear(buf)
		for i := range 64 {
			h.paint(buf[i*page:(i+1)*page], class, n+i)
		}
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	if sync != nil {
		return sync(f)
	}
	return nil
}

// fillCache leaves clean and dirty pages of a file, with buffers and without.
func fillCache(h *hoard, bytes int) (string, error) {
	if h.data == "" {
		return "", fmt.Errorf("no disk with the serial number %q", "data")
	}
	_ = os.WriteFile("/proc/sys/vm/dirty_writeback_centisecs", []byte("0"), 0)
	if err := h.paintFile(h.data+"/clean", "clean-cache", bytes*2/3, (*os.File).Sync); err != nil {
		return "", err
	}
	return pages(bytes) + ", a third of them dirty", h.paintFile(h.data+"/dirty", "dirty-cache", bytes/3, nil)
}

// fillDeviceCache reads a block device.
func fillDeviceCache(h *hoard, bytes int) (string, error) {
	f, err := os.Open(h.dev)
	if err != nil {
		return "", err
	}
	h.files = append(h.files, f)
	buf := make([]byte, 64*page)
	for n := 0; n < bytes; n += len(buf) {
		if _, err := f.Read(buf); err != nil {
			return "", err
		}
	}
	return pages(bytes), nil
}

// fillSwapCache swaps pages out and reads them back: they stay in the swap
// cache and in swap.
func fillSwapCache(h *hoard, bytes int) (string, error) {
	if h.data == "" {
		return "", fmt.Errorf("no disk with the serial number %q", "data")
	}
	bytes &^= page - 1
	if err := swapOn(h.data+"/swap", bytes*2); err != nil {
		return "", err
	}
	m, err := h.mapAnon(bytes, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return "", err
	}
	h.paintAll(m, "swapcache")
	h.maps = append(h.maps, m)
	const madvPageout = 21 // Linux 5.4
	if err := unix.Madvise(m, madvPageout); err != nil {
		return "", fmt.Errorf("madvise pageout: %w", err)
	}
	sum := byte(0)
	for i := 0; i < len(m)/2; i += page {
		sum ^= m[i]
	}
	return fmt.Sprintf("%s, half of them read back (%#x), SwapCached %d kB", pages(bytes), sum, meminfo("SwapCached")>>10), nil
}

// swapOn writes the header of a version 1 swap area: page 0 holds version,
// last page and bad pages at 1024, and the magic in its last 10 bytes.
func swapOn(name string, bytes int) error {
	b := make([]byte, bytes)
	binary.LittleEndian.PutUint32(b[1024:], 1)
	binary.LittleEndian.PutUint32(b[1028:], uint32(bytes/page-1))
	copy(b[page-10:], "SWAPSPACE2")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	unix.Sync()
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, e := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); e != 0 {
		return fmt.Errorf("swapon %s: %w", name, e)
	}
	return nil
}

// fillSlab makes names: dentries and inodes.
func fillSlab(h *hoard, bytes int) (string, error) {
	n := bytes / 1024 // a tmpfs inode and its dentry are about this large
	if err := os.MkdirAll("/shm/slab", 0o755); err != nil {
		return "", err
	}
	for i := range n {
		f, err := os.Create(filepath.Join("/shm/slab", strconv.Itoa(i)))
		if err != nil {
			return "", err
		}
		f.Close()
	}
	return fmt.Sprintf("%d empty files, Slab %d kB", n, meminfo("Slab")>>10), nil
}

// fillVmalloc makes BPF arrays, whose values lie in vmalloc space.
func fillVmalloc(h *hoard, bytes int) (string, error) {
	value := max(bytes&^(page-1), page)
	attr := [5]uint32{2 /* BPF_MAP_TYPE_ARRAY */, 4, uint32(value), 1, 0}
	fd, _, e := unix.Syscall(unix.SYS_BPF, 0 /* BPF_MAP_CREATE */, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if e != 0 {
		return "", fmt.Errorf("bpf map of %d bytes: %w", value, e)
	}
	h.files = append(h.files, os.NewFile(fd, "bpf"))
	return pages(value), nil
}

// fillTasks leaves processes that sleep, with names that can be searched for.
func fillTasks(h *hoard, _ int) (string, error) {
	for i := range 6 {
		cmd := exec.Command("/proc/self/exe", "idle", fmt.Sprintf("ukdump-idle-%d", i))
		if err := cmd.Start(); err != nil {
			return "", err
		}
	}
	return "6 processes", nil
}

// fillGigantic faults in the pages of 1 GiB that the kernel reserved at its start
// for hugepagesz=1G.
func fillGigantic(h *hoard, _ int) (string, error) {
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages")
	if err != nil {
		return "", fmt.Errorf("no pages of 1 GiB: %w", err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if n == 0 {
		return "", fmt.Errorf("no page of 1 GiB was reserved")
	}
	const hugeShift = 26 // MAP_HUGE_SHIFT
	m, err := h.mapAnon(n<<30, unix.MAP_HUGETLB|30<<hugeShift, -1)
	if err != nil {
		return "", err
	}
	for i := 0; i < len(m); i += 4 << 20 {
		h.paint(m[i:i+page], "gigantic", i/page)
	}
	h.maps = append(h.maps, m)
	return pages(len(m)), nil
}

// fillFolios has anonymous pages in folios of 64 KiB (Linux 6.8).
func fillFolios(h *hoard, bytes int) (string, error) {
	const dir = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB"
	if err := os.WriteFile(dir+"/enabled", []byte("always"), 0); err != nil {
		return "", err
	}
	m, err := h.mapAnon(bytes&^(page-1), 0, -1)
	if err != nil {
		return "", err
	}
	h.paintAll(m, "folio")
	h.maps = append(h.maps, m)
	n, _ := os.ReadFile(dir + "/stats/anon_fault_alloc")
	return fmt.Sprintf("%s, %s folios of 64 KiB", pages(len(m)), strings.TrimSpace(string(n))), nil
}

// fillKSM has the kernel merge equal pages.
func fillKSM(h *hoard, _ int) (string, error) {
	const dir = "/sys/kernel/mm/ksm/"
	m, err := h.mapAnon(64*page, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return "", err
	}
	for i := 0; i < len(m); i += page {
		h.paint(m[i:i+page], "ksm", 1+i/page%8*4)
	}
	h.maps = append(h.maps, m)
	if err := unix.Madvise(m, unix.MADV_MERGEABLE); err != nil {
		return "", fmt.Errorf("madvise mergeable: %w", err)
	}
	if err := os.WriteFile(dir+"run", []byte("1"), 0); err != nil {
		return "", err
	}
	shared := ""
	for range 50 {
		b, _ := os.ReadFile(dir + "pages_shared")
		if shared = strings.TrimSpace(string(b)); shared != "0" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return shared + " pages shared", os.WriteFile(dir+"run", []byte("0"), 0)
}

// fillZram fills a compressed disk in memory: pages of zsmalloc.
func fillZram(h *hoard, bytes int) (string, error) {
	if err := os.WriteFile("/sys/block/zram0/disksize", []byte(strconv.Itoa(bytes&^(page-1))), 0); err != nil {
		return "", err
	}
	f, err := os.OpenFile("/dev/zram0", os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	h.files = append(h.files, f)
	p := make([]byte, page)
	for i := range bytes / page {
		clear(p)
		h.paint(p, "zram", i)
		if _, err := f.Write(p); err != nil {
			return "", err
		}
	}
	return pages(bytes), f.Sync()
}

// fillFreed leaves free pages that are not zero.
func fillFreed(h *hoard, bytes int) (string, error) {
	bytes &^= page - 1
	m, err := h.mapAnon(bytes, 0, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return "", err
	}
	h.paintAll(m, "freed")
	return pages(bytes), unix.Munmap(m)
}
