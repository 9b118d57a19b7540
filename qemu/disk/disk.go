// Package disk makes the raw disk images of virtual machines, without root:
// filesystems are made by mkfs in files and put into partitions by copying.
package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// FS is a filesystem to make. Label and UUID may be empty; vfat's UUID is a
// volume id like "1234-ABCD".
type FS struct {
	Type  string // ext4, xfs, vfat, btrfs; empty: none
	Label string
	UUID  string
	Files string // folder with what is in it at first; ext4 only
}

// Part is one partition of a GPT.
type Part struct {
	Name string // PARTLABEL
	UUID string // PARTUUID
	Size int64  // multiple of 1 MiB
	FS   FS
}

const mib = 1 << 20

// Blank makes a sparse file, in place of what was there.
func Blank(path string, size int64) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// Format makes an image that is one filesystem.
func Format(ctx context.Context, path string, size int64, fs FS) error {
	if err := Blank(path, size); err != nil {
		return err
	}
	return mkfs(ctx, path, fs)
}

func mkfs(ctx context.Context, path string, fs FS) error {
	var args []string
	option := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	switch fs.Type {
	case "":
		return nil
	case "ext4":
		args = []string{"-q", "-E", "nodiscard"}
		option("-L", fs.Label)
		option("-U", fs.UUID)
		option("-d", fs.Files)
	case "xfs":
		args = []string{"-q", "-K"}
		option("-L", fs.Label)
		if fs.UUID != "" {
			args = append(args, "-m", "uuid="+fs.UUID)
		}
	case "vfat":
		option("-n", fs.Label)
		option("-i", strings.ReplaceAll(fs.UUID, "-", ""))
	case "btrfs":
		args = []string{"-q", "-K"}
		option("-L", fs.Label)
		option("-U", fs.UUID)
	default:
		return fmt.Errorf("make filesystem %s: want ext4, xfs, vfat or btrfs", fs.Type)
	}
	return command(ctx, "", "mkfs."+fs.Type, append(args, path)...)
}

// Partitioned makes an image with a GPT, its partitions from the first MiB on.
func Partitioned(ctx context.Context, path string, parts []Part) error {
	size := int64(2 * mib)
	table := "label: gpt\n"
	for _, p := range parts {
		table += fmt.Sprintf("size=%dMiB", p.Size/mib)
		if p.Name != "" {
			table += fmt.Sprintf(", name=%q", p.Name)
		}
		if p.UUID != "" {
			table += ", uuid=" + p.UUID
		}
		table += "\n"
		size += p.Size
	}
	if err := Blank(path, size); err != nil {
		return err
	}
	if err := command(ctx, table, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", path); err != nil {
		return err
	}
	off := int64(mib)
	for i, p := range parts {
		if p.FS.Type != "" {
			if err := place(ctx, path, off, p, fmt.Sprintf("%s.part%d", path, i+1)); err != nil {
				return err
			}
		}
		off += p.Size
	}
	return nil
}

// place makes the filesystem in the file tmp and copies its data to off.
func place(ctx context.Context, path string, off int64, p Part, tmp string) error {
	if err := Format(ctx, tmp, p.Size, p.FS); err != nil {
		return err
	}
	defer os.Remove(tmp)
	in, err := os.Open(tmp)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(copyData(out, in, off), out.Close())
}

// copyData copies what is not a hole of in to out, off further on.
func copyData(out, in *os.File, off int64) error {
	const seekData, seekHole = 3, 4
	for at := int64(0); ; {
		start, err := in.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if at, err = in.Seek(start, seekHole); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, off+start), io.NewSectionReader(in, start, at-start)); err != nil {
			return err
		}
	}
}

// Copy copies an image; what is a hole in it is one in the copy.
func Copy(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if err := Blank(to, st.Size()); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(copyData(out, in, 0), out.Close())
}

// Repair brings the ext4 filesystem of an image that nobody has mounted in order as
// a machine does that starts: the journal is played back, and what is left over of
// an interrupted operation is cleared. More damage than that is an error.
func Repair(ctx context.Context, image string) error {
	var out bytes.Buffer
	cmd := program(ctx, "e2fsck", "-fp", image)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
		return fmt.Errorf("e2fsck %s: %w: %s", image, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// Extract copies a folder of an ext4 image that nobody has mounted, with all that
// is below, to the folder to, which is made. Owners are not kept.
func Extract(ctx context.Context, image, folder, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	// debugfs ends with 0 whatever happened, and complains of owners that only root can set.
	var out bytes.Buffer
	cmd := program(ctx, "debugfs", "-R", fmt.Sprintf("rdump %q %q", folder, to), image)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "debugfs ") && !strings.Contains(line, "while changing ownership") && strings.TrimSpace(line) != "" {
			err = errors.Join(err, errors.New(strings.TrimSpace(line)))
		}
	}
	if err != nil {
		return fmt.Errorf("extract %s from %s: %w", folder, image, err)
	}
	return nil
}

func command(ctx context.Context, stdin, name string, args ...string) error {
	cmd := program(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// program finds what is not in the PATH of users other than root, too.
func program(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if _, err := exec.LookPath(name); err != nil {
		cmd.Path, cmd.Err = "/usr/sbin/"+name, nil
	}
	return cmd
}

// BreakJournal puts garbage in the place of an ext4 image's journal.
func BreakJournal(ctx context.Context, image string) error {
	out, err := program(ctx, "debugfs", "-R", "bmap <8> 0", image).Output()
	if err != nil {
		return err
	}
	var block int64
	if _, err := fmt.Sscan(string(out), &block); err != nil || block == 0 {
		return fmt.Errorf("find journal of %s: %q", image, out)
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// mkfs makes blocks of 1 KiB on the smallest filesystems, and of 4 KiB on others.
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), block*blockSize(image))
	return errors.Join(err, f.Close())
}

// blockSize is 1024 << s_log_block_size, which is at 1024+24; 0 if it cannot be read.
func blockSize(image string) int64 {
	f, err := os.Open(image)
	if err != nil {
		return 0
	}
	defer f.Close()
	var b [4]byte
	if _, err := f.ReadAt(b[:], 1024+24); err != nil {
		return 0
	}
	return 1024 << b[0]
}
