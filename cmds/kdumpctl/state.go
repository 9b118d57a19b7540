package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// statePath is where load writes down what it has loaded, for the kernel
// does not tell.
const statePath = "/run/kdumpctl.json"

// A state is what load has loaded. It holds no passwords.
type state struct {
	Kernel   string    `json:"kernel"`
	Initrd   string    `json:"initrd"`
	Cmdline  string    `json:"cmdline"`
	Targets  []string  `json:"targets"`
	LoadedAt time.Time `json:"loaded_at"`
	BootID   string    `json:"boot_id"` // the boot that it is of: /run may be a disk

	Warnings     []string `json:"warnings,omitempty"`
	SavesNothing bool     `json:"saves_nothing,omitempty"` // for what one of the warnings says

	SystemRAM uint64 `json:"system_ram_bytes,omitempty"` // 0: not known
}

func (h *host) bootID() string {
	id, err := h.read("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // as good as any other: it only has to be the same
	}
	return id
}

// writeState replaces the state file in one step.
func (h *host) writeState(s state) (err error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	file := h.path(statePath)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".kdumpctl-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(append(data, '\n')); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// readState returns nil where there is none, or one of another boot.
func (h *host) readState() (*state, error) {
	data, err := os.ReadFile(h.path(statePath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, &fs.PathError{Op: "read", Path: statePath, Err: err}
	}
	if s.BootID != h.bootID() {
		return nil, nil
	}
	return &s, nil
}

func (h *host) removeState() error {
	err := os.Remove(h.path(statePath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
