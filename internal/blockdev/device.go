package blockdev

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Device is a block device and what it holds.
type Device struct {
	Name string // the kernel's: "sda1"
	Path string // "/dev/sda1"
	Size int64  // bytes
	FS

	PartUUID  string
	PartLabel string
	Table     string // of a whole disk: "gpt" or "dos"

	// Holder is the device that is built on this one (dm-0, md0), or empty. A
	// held device is never found by a tag: its holder is what is mounted.
	Holder string

	// Err is why the device could not be read.
	Err error

	// Members are the paths of the devices that belong to one btrfs, this
	// device included; set by Find where there are more than one.
	Members []string
}

// String is the device as a message shows it: `sda1 (ext4, LABEL=ROOT)`.
func (d Device) String() string { return d.show(Label) }

// show adds the names that matter to one who looks for tag.
func (d Device) show(tag Tag) string {
	var words []string
	switch {
	case d.Err != nil:
		words = append(words, d.Err.Error())
	case d.Type != "":
		words = append(words, d.Type)
	case d.Table != "":
		words = append(words, d.Table+" partition table")
	default:
		words = append(words, "no file system")
	}
	for _, n := range []struct {
		tag   Tag
		value string
	}{{Label, d.Label}, {UUID, d.UUID}, {PartLabel, d.PartLabel}, {PartUUID, d.PartUUID}} {
		if n.value != "" && (n.tag == tag || n.tag == Label) {
			words = append(words, string(n.tag)+"="+printable(n.value))
		}
	}
	if d.Holder != "" {
		words = append(words, "part of "+d.Holder)
	}
	return d.Name + " (" + strings.Join(words, ", ") + ")"
}

// printable quotes what would break a line of a log.
func printable(s string) string {
	if q := strconv.Quote(s); len(q) != len(s)+2 || strings.ContainsAny(s, " ,()") {
		return q
	}
	return s
}

// matches tells whether d is what s looks for.
func (s Spec) matches(d Device) bool {
	if d.Err != nil {
		return false
	}
	if s.Tag == Path {
		return s.Value == d.Path
	}
	if d.Holder != "" {
		return false
	}
	switch s.Tag {
	case Label:
		return s.Value == d.Label
	case UUID:
		return strings.EqualFold(s.Value, d.UUID)
	case PartLabel:
		return s.Value == d.PartLabel
	case PartUUID:
		return strings.EqualFold(s.Value, d.PartUUID)
	}
	return false
}

// system is where a kernel shows its devices.
type system struct {
	sys string // "/sys"
	dev string // "/dev"
}

func thisSystem() system { return system{sys: "/sys", dev: "/dev"} }

// names are the block devices that can hold a dump, sorted. Those that cannot,
// or that make noise when touched, are only found by path.
func (s system) names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.sys, "class/block"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !unlikely(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// unlikely: CDs, floppies (seconds of waiting and an error on the console for
// each look), flash without a translation layer, RAM.
func unlikely(name string) bool {
	for _, p := range []string{"sr", "fd", "mtdblock", "ram", "zram"} {
		if rest, ok := strings.CutPrefix(name, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	return false
}

const errNoMedium sizeError = "no medium"

type sizeError string

func (e sizeError) Error() string { return string(e) }

// probe reads one device, by its kernel name or, if path is not empty, by that.
func (s system) probe(name, path string) Device {
	if path == "" {
		path = filepath.Join(s.dev, s.node(name))
	} else if real, err := filepath.EvalSymlinks(path); err == nil {
		name = filepath.Base(real)
	}
	d := Device{Name: name, Path: path}
	f, size, err := openDevice(d.Path)
	if err != nil {
		d.Err = cause(err)
		return d
	}
	defer f.Close()
	d.Size = size
	d.Holder = s.holder(name)
	d.FS, err = Probe(f, size)
	d.Err = cause(err)
	s.partition(&d, f)
	return d
}

// openDevice does not wait for a drive's tray or a modem's carrier.
func openDevice(path string) (*os.File, int64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if fi.IsDir() || fi.Mode()&(os.ModeCharDevice|os.ModeNamedPipe|os.ModeSocket) != 0 {
		return nil, 0, errors.New("not a block device")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size == 0 {
		err = errNoMedium
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// node is the name below /dev: the kernel writes "cciss/c0d0" as "cciss!c0d0".
func (s system) node(name string) string {
	if n := s.uevent(name)["DEVNAME"]; n != "" {
		return n
	}
	return strings.ReplaceAll(name, "!", "/")
}

// uevent is the device's uevent file; at most the 4 KiB of a sysfs file.
func (s system) uevent(name string) map[string]string {
	b, _ := os.ReadFile(filepath.Join(s.sys, "class/block", name, "uevent"))
	m := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			m[k] = v
		}
	}
	return m
}

func (s system) holder(name string) string {
	entries, err := os.ReadDir(filepath.Join(s.sys, "class/block", name, "holders"))
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

// partition fills in what the partition table says: of a whole disk whether
// there is one, of a partition its ID and name. All kernels tell the name and
// newer ones the ID too (block/partitions/core.c, part_uevent). Names are cut
// to 7 bits there, so the disk is asked also where that may have happened.
func (s system) partition(d *Device, f io.ReaderAt) {
	ev := s.uevent(d.Name)
	number, err := strconv.Atoi(ev["PARTN"])
	if err != nil {
		number, err = s.number(d.Name, "partition")
	}
	if err != nil {
		if d.Type == "" {
			t, _ := ReadTable(f, d.Size, s.sector(d.Name))
			d.Table = t.Kind
		}
		return
	}
	d.PartUUID, d.PartLabel = ev["PARTUUID"], ev["PARTNAME"]
	lossy := strings.ContainsFunc(d.PartLabel, func(r rune) bool { return r == '!' || r > 0x7e })
	if d.PartUUID != "" && !lossy {
		return
	}
	id, label := s.fromTable(d.Name, number)
	if id != "" {
		d.PartUUID = id
	}
	if label != "" {
		d.PartLabel = label
	}
}

// fromTable reads the disk that the partition name is on.
func (s system) fromTable(name string, number int) (id, label string) {
	real, err := filepath.EvalSymlinks(filepath.Join(s.sys, "class/block", name))
	if err != nil {
		return "", ""
	}
	disk := filepath.Base(filepath.Dir(real))
	f, size, err := openDevice(filepath.Join(s.dev, s.node(disk)))
	if err != nil {
		return "", ""
	}
	defer f.Close()
	t, err := ReadTable(f, size, s.sector(disk))
	if err != nil {
		return "", ""
	}
	return t.Find(number)
}

// sector is the disk's logical sector size; 0 where it is not known.
func (s system) sector(disk string) int64 {
	n, err := s.number(disk, "queue/logical_block_size")
	if err != nil || !pow2(uint32(n), 512, 65536) {
		return 0
	}
	return int64(n)
}

func (s system) number(name, file string) (int, error) {
	b, err := os.ReadFile(filepath.Join(s.sys, "class/block", name, file))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// cause leaves out the path, which stands beside the error anyway.
func cause(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
