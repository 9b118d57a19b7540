package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wire carries datagrams to and from servers on one link.
type wire interface {
	send(p []byte) error
	receive(p []byte) (n int, err error) // bytes behind the UDP header
	SetReadDeadline(t time.Time) error
	Close() error
}

// maxDatagram bounds what is read of one: an Ethernet frame.
const maxDatagram = 1500

const errNoAnswer netError = "no answer"

type netError string

func (e netError) Error() string { return string(e) }

// ask sends what build makes, again after each of waits, until take wants an
// answer. An error that is not errNoAnswer or that of ctx is the socket's.
func ask(ctx context.Context, w wire, waits []time.Duration, build func() []byte, take func(p []byte) bool) error {
	const slice = 200 * time.Millisecond // how long the end of ctx may go unseen
	buf := make([]byte, maxDatagram)
	for _, wait := range waits {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.send(build()); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		for until := time.Now().Add(wait); ; {
			left := time.Until(until)
			if left <= 0 {
				break
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			w.SetReadDeadline(time.Now().Add(min(left, slice)))
			n, err := w.receive(buf)
			switch {
			case isTimeout(err), errors.Is(err, unix.ECONNREFUSED):
			case err != nil:
				return fmt.Errorf("receive: %w", err)
			case take(buf[:n]):
				return nil
			}
		}
	}
	return errNoAnswer
}

// doubling are waits that begin with a second and end when all of them are
// total.
func doubling(total time.Duration) []time.Duration {
	const most = 8 * time.Second
	var waits []time.Duration
	for wait := time.Second; total > 0; wait = min(2*wait, most) {
		wait = min(wait, total)
		waits = append(waits, wait)
		total -= wait
	}
	return waits
}

// onDevice makes sockets that see one interface only.
func onDevice(name string) net.ListenConfig {
	return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		e := c.Control(func(fd uintptr) {
			if err = unix.BindToDevice(int(fd), name); err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		})
		return errors.Join(e, err)
	}}
}

// udpWire is a socket of the kernel's.
type udpWire struct {
	*net.UDPConn
	to netip.AddrPort
}

func openUDP(ctx context.Context, dev string, from, to netip.AddrPort) (wire, error) {
	lc := onDevice(dev)
	c, err := lc.ListenPacket(ctx, "udp", from.String())
	if err != nil {
		return nil, err
	}
	return udpWire{c.(*net.UDPConn), to}, nil
}

func (w udpWire) send(p []byte) error {
	_, err := w.WriteToUDPAddrPort(p, w.to)
	return err
}

func (w udpWire) receive(p []byte) (int, error) {
	n, _, err := w.ReadFromUDPAddrPort(p)
	return n, err
}

// rawWire broadcasts DHCPv4 messages from no address at all, and hears those to
// port 68. It needs a packet socket: the kernel drops what comes to an address
// that it does not have yet.
type rawWire struct {
	*os.File
	index int
}

const (
	bootps = 67
	bootpc = 68
)

func openRaw(index int) (wire, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	// With protocol 0 nothing comes before the filter and the interface are set.
	prog := bootpcFilter()
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return rawWire{os.NewFile(uintptr(fd), "packet"), index}, nil
}

func bigEndian(v uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)}) }

// bootpcFilter passes UDP to port 68, in packets that are whole.
func bootpcFilter() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},                        // protocol
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_UDP, Jf: 6}, // not UDP
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6},                        // fragment
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x3fff, Jt: 4},          // part of one
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},                       // header length
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},                        // destination port
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: bootpc, Jf: 1},           //
		{Code: unix.BPF_RET | unix.BPF_K, K: maxDatagram},                            // take
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},                                      // drop
	}
}

func (w rawWire) send(p []byte) error {
	packet := udpPacket(p)
	to := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: w.index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	c, err := w.SyscallConn()
	if err != nil {
		return err
	}
	// A send that would block counts as lost.
	if e := c.Control(func(fd uintptr) { err = unix.Sendto(int(fd), packet, 0, to) }); e != nil {
		return e
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

func (w rawWire) receive(p []byte) (int, error) {
	n, err := w.Read(p)
	if err != nil {
		return 0, err
	}
	return copy(p, udpPayload(p[:n])), nil
}

// ipHeader and udpHeader are lengths, without options.
const (
	ipHeader  = 20
	udpHeader = 8
)

// udpPacket is an IPv4 packet from 0.0.0.0, port 68, to 255.255.255.255, port 67.
func udpPacket(payload []byte) []byte {
	p := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(payload))
	p = append(p, payload...)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[16:20], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(p[10:], ^onesSum(0, p[:ipHeader]))
	udp := p[ipHeader:]
	binary.BigEndian.PutUint16(udp[0:], bootpc)
	binary.BigEndian.PutUint16(udp[2:], bootps)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	pseudo := onesSum(unix.IPPROTO_UDP+uint32(len(udp)), p[12:20])
	if binary.BigEndian.PutUint16(udp[6:], ^onesSum(uint32(pseudo), udp)); udp[6] == 0 && udp[7] == 0 {
		udp[6], udp[7] = 255, 255 // 0 means no checksum
	}
	return p
}

// udpPayload is what is behind the headers; nil if they make no sense. Its
// checksum is not looked at: between virtual machines it is often not there yet.
func udpPayload(p []byte) []byte {
	if len(p) < ipHeader || p[0]>>4 != 4 {
		return nil
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if header < ipHeader || total < header+udpHeader || total > len(p) {
		return nil
	}
	udp := p[header:total]
	if n := int(binary.BigEndian.Uint16(udp[4:])); n >= udpHeader && n <= len(udp) {
		return udp[udpHeader:n]
	}
	return nil
}

// onesSum is the sum of RFC 1071, not yet inverted.
func onesSum(sum uint32, p []byte) uint16 {
	for i := 0; i+1 < len(p); i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	if len(p)%2 == 1 {
		sum += uint32(p[len(p)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
