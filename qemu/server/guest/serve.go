package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/qemu/server/wire"
)

// serve answers requests until one of them is to power off.
func (g *guest) serve() error {
	port, err := serialPort()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(port, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF { // nobody is at the other end
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		var req wire.Request
		if err := json.Unmarshal(line, &req); err != nil {
			return fmt.Errorf("request %q: %w", line, err)
		}
		reply := g.answer(req)
		b, err := json.Marshal(reply)
		if err != nil {
			return err
		}
		if _, err := f.Write(append(b, '\n')); err != nil {
			return err
		}
		if req.PowerOff {
			return nil
		}
	}
}

// serialPort is the port "control", which has a number of the kernel's choice.
func serialPort() (string, error) {
	for range 1200 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			if b, _ := os.ReadFile(name); strings.TrimSpace(string(b)) == "control" {
				return "/dev/" + filepath.Base(filepath.Dir(name)), nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", errors.New("find the serial port of the host: not there after a minute")
}

func (g *guest) answer(req wire.Request) wire.Reply {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(req.Seconds)*time.Second)
	defer cancel()
	out, err := "", error(nil)
	switch {
	case req.PowerOff:
		err = g.unmount(ctx)
	case req.Do != "":
		err = g.control(ctx, req.Daemon, req.Do)
	default:
		out, err = shell(ctx, req.Script)
	}
	reply := wire.Reply{ID: req.ID, Out: out[:min(len(out), wire.MaxOut)]}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

// unmount stops the servers and leaves the data disk clean.
func (g *guest) unmount(ctx context.Context) error {
	for _, d := range g.daemons {
		if d.cmd != nil || d.stop != "" {
			_ = d.down(ctx)
		}
	}
	var err error
	for range 600 {
		_ = unix.Unmount("/export", 0)
		if err = unix.Unmount("/srv", 0); err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: not mounted
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("unmount /srv: %w", err)
}

// descendants are a process and all that it has started, as far as their parents
// live.
func descendants(root int) []int {
	parents := map[int]int{}
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		b, _ := os.ReadFile(name)
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil || len(fields) < 2 {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
	}
	found := []int{root}
	for i := 0; i < len(found); i++ {
		for pid, parent := range parents {
			if parent == found[i] {
				found = append(found, pid)
			}
		}
	}
	return found
}
