package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// after is the second boot: what has the crash left on the target?
func (a *appliance) after() error {
	serial := a.words["appliance.target"]
	if serial == "" {
		return nil
	}
	dev, err := disk(serial)
	if err != nil {
		return err
	}
	if n := a.words["appliance.part"]; n != "" {
		if strings.HasPrefix(dev, "/dev/nvme") {
			dev += "p"
		}
		dev += n
	}
	fstype := a.words["appliance.fstype"]
	if fstype == "" {
		fstype = "ext4"
	}
	if from := a.words["appliance.extract"]; from != "" {
		for range 2 { // the second time there is nothing left to take
			if err := a.show("/bbin/savecore", from, "disk:///crash?dev="+dev+"&fstype="+fstype); err != nil {
				return fmt.Errorf("savecore %s: %w", from, err)
			}
		}
	}
	if err := os.MkdirAll("/target", 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, "/target", fstype, unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	if err := a.list("/target"); err != nil {
		return err
	}
	out, err := disk("export")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(out, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := archive(f, "/target"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	a.say("exported")
	return nil
}

func (a *appliance) list(root string) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		a.say("target: %v %10d %s", st.Mode(), st.Size(), rel)
		return nil
	})
}

// archive writes the files below root as a tar archive.
func archive(w io.Writer, root string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(st, "")
		if err != nil {
			return err
		}
		h.Name, _ = filepath.Rel(root, name)
		if err := t.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}
