// Saboteur breaks a capture from inside.
//
// Tests put it in front of the capture image's init with rdinit=/saboteur. It
// reads words of the kernel command line, prepares the fault and executes /init:
//
//	saboteur.kill=NAME:BYTES   kill the process NAME when a file *-incomplete below /mnt has grown to BYTES
//	saboteur.stop=NAME:BYTES   stop it then, for ever
//	saboteur.slow=NAME:BYTES   stop it then for 4 s at a time, 14 times, and let it write 2 MiB between
//	saboteur.abort=NAME:BYTES  have the Go runtime end it then, as a panic does
//	saboteur.crash=NAME:BYTES  have one of its threads call address 0 then
//	saboteur.eat=NAME:BYTES    take memory then until it is killed
//	saboteur.fill=DIR:BYTES    fill the filesystem of DIR then
//	saboteur.remove=SERIAL:BYTES  take the NVMe disk away then
//	saboteur.vmcore=empty      /proc/vmcore is an empty file
//	saboteur.vmcore=none       /proc/vmcore cannot be opened
package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ukdump/ukdump/internal/cmdline"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, _ io.Reader, _, stderr io.Writer) int {
	if len(args) == 3 {
		return waylay(args[0], args[1], args[2], stderr)
	}
	if err := sabotage(); err != nil {
		fmt.Fprintf(stderr, "saboteur: %v\n", err)
	}
	err := unix.Exec("/init", []string{"/init"}, os.Environ())
	fmt.Fprintf(stderr, "saboteur: exec /init: %v\n", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	return 1
}

func sabotage() error {
	_ = os.MkdirAll("/proc", 0o755)
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil && err != unix.EBUSY {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for _, w := range cmdline.Words(string(line)) {
		switch w.Key {
		case "saboteur.vmcore":
			err = cover("/proc/vmcore", w.Value) // /init leaves a mounted /proc alone
		default:
			if how, ok := strings.CutPrefix(w.Key, "saboteur."); ok {
				name, size, _ := strings.Cut(w.Value, ":")
				err = child(how, name, size)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// child starts a process that goes on beside /init.
func child(args ...string) error {
	_, err := os.StartProcess("/saboteur", append([]string{"saboteur"}, args...), &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	return err
}

// cover puts something else in the place of a file of /proc.
func cover(name, how string) error {
	const path = "/saboteur.cover"
	mode := uint32(unix.S_IFREG)
	if how == "none" {
		mode = unix.S_IFSOCK // cannot be opened
	}
	if err := unix.Mknod(path, mode|0o600, 0); err != nil {
		return err
	}
	return unix.Mount(path, name, "", unix.MS_BIND, "")
}

// waylay is the child that waits for its moment.
func waylay(how, name, size string, stderr io.Writer) int {
	enough, err := strconv.ParseInt(size, 0, 64)
	if err != nil {
		fmt.Fprintf(stderr, "saboteur: %v\n", err)
		return 1
	}
	for range 60_000 {
		if written("/mnt") >= enough {
			fmt.Fprintf(stderr, "saboteur: %ss %s: %v\n", how, name, strike(how, name))
			return 0
		}
		time.Sleep(2 * time.Millisecond)
	}
	return 1
}

func strike(how, name string) error {
	switch how {
	case "kill":
		return send(name, unix.SIGKILL)
	case "stop":
		return send(name, unix.SIGSTOP)
	case "abort":
		return send(name, unix.SIGABRT)
	case "crash":
		return crash(name)
	case "eat":
		return eat(name)
	case "fill":
		return fill(name)
	case "remove":
		return remove(name)
	case "slow":
		return slow(name)
	}
	return fmt.Errorf("saboteur.%s: unknown", how)
}

func slow(name string) error {
	for range 14 {
		if err := send(name, unix.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(4 * time.Second)
		enough := written("/mnt") + 2<<20
		if err := send(name, unix.SIGCONT); err != nil {
			return err
		}
		// A time would be too short for a beat on one machine, and for a whole dump on another.
		for end := time.Now().Add(time.Minute); written("/mnt") < enough && time.Now().Before(end); {
			time.Sleep(2 * time.Millisecond)
		}
	}
	return nil
}

// written is how much of a file that is incomplete has come.
func written(root string) (most int64) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), "-incomplete") {
			return nil
		}
		// Blocks, not the size: room is made for descriptors before data comes.
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			most = max(most, st.Blocks*512)
		}
		return nil
	})
	return most
}

func send(name string, sig unix.Signal) error {
	pid, err := find(name)
	if err != nil {
		return err
	}
	return unix.Kill(pid, sig)
}

// find gives the process of a name.
func find(name string) (pid int, err error) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.TrimSpace(string(b)) == name {
			return strconv.Atoi(strings.Split(f, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process %s", name)
}
