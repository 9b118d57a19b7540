package blockdev

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const nonblock = unix.O_NONBLOCK

// uevents tells that the kernel's block devices changed.
type uevents struct {
	f    *os.File
	wake chan struct{} // one place: a burst is one wake
}

// listen hears what happens from now on; devtmpfs has the node of a device
// before its event is sent.
func listen() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	const kernelGroup = 1
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	u := &uevents{f: os.NewFile(uintptr(fd), "uevents"), wake: make(chan struct{}, 1)}
	go u.read()
	return u, nil
}

// read ends when the socket is closed. Other errors are lost events
// (ENOBUFS): a reason to look again.
func (u *uevents) read() {
	// The kernel's limit is UEVENT_BUFFER_SIZE, 2 KiB, and a header.
	var buf [8 << 10]byte
	for {
		n, err := u.f.Read(buf[:])
		if err != nil && !lostEvents(err) {
			return
		}
		if err != nil || bytes.Contains(buf[:n], []byte("\x00SUBSYSTEM=block\x00")) {
			select {
			case u.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (u *uevents) Close() { u.f.Close() }

func lostEvents(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN)
}
