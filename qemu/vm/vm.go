// Package vm runs one virtual machine under QEMU's emulation and follows its
// serial console line by line.
//
// Start it, Wait for lines, read the Lines with their times afterwards. Kill
// is always allowed and ends only the QEMU that was started here. Nothing here
// needs privileges.
package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Disk is one raw image. Bus is "nvme" or "virtio"; the guest finds it by Serial.
type Disk struct {
	Serial   string // at most 20 characters
	Path     string
	Bus      string
	Snapshot bool   // what the guest writes is forgotten with the machine
	ReadOnly bool   // write-protected
	Log      string // file that gets every write and flush, for disk.ReadLog; none if empty
	Errors   string // file of QEMU's blkdebug that says which requests fail; none if empty
}

// Config describes a machine.
type Config struct {
	Dir    string // for the console's log, QEMU's messages and the monitor's socket
	Kernel string
	Initrd string
	Append string // kernel command line
	Memory string // as QEMU writes it; "512M" if empty
	CPUs   int    // 2 if zero
	CPU    string // CPU model; DefaultCPU if empty
	Disks  []Disk
	NICs   []NIC
	Ports  []Port
	Saved  string   // file of Monitor.Save: go on from there; all else must be as it was then
	Extra  []string // further arguments of QEMU
}

// NIC is a network port with a cable to another machine's: a unix socket. The
// machine that listens is started first; when the other one has ended, the next
// may connect. QEMU tells the guest nothing of that: the carrier stays, as
// behind a switch. Monitor.SetLink is what takes it away.
type NIC struct {
	Name   string // for SetLink, "net0"
	MAC    string
	Socket string // path, at most 107 bytes
	Listen bool
	Model  string // "virtio-net-pci" if empty
	Pcap   string // file that gets every frame; none if empty
}

// Port is a port of a virtio serial device: a unix socket here, in the guest a
// /dev/vport*, whose name is in /sys/class/virtio-ports/*/name.
type Port struct {
	Name   string
	Socket string // QEMU listens
}

// DefaultCPU has all that the emulation knows but cmpxchg16b: QEMU 7.2 now and
// then returns from it with wrong flags, and the kernel dies of a double fault in
// its allocator (seen in __kmalloc of 6.12, EFLAGS holding a pointer).
const DefaultCPU = "max,-cx16"

// Line is a line of the console and when it came, counted from Start. CPU is
// what QEMU had used until then of the host's processors, in steps of 10 ms: on
// a busy host it says more than At.
type Line struct {
	At   time.Duration
	CPU  time.Duration
	Text string
}

// Machine is a running or ended machine.
type Machine struct {
	cmd    *exec.Cmd
	keys   io.WriteCloser // the serial line's other end; closed when QEMU has ended
	dir    string
	start  time.Time
	wake   chan struct{} // closed and replaced whenever lines or ended change
	mu     sync.Mutex
	lines  []Line // bounded by what a console says in a test: a few thousand lines
	next   int    // first line that Wait has not seen
	ended  bool
	result error
}

// Start starts QEMU. The machine is killed when ctx ends.
func Start(ctx context.Context, c Config) (*Machine, error) {
	serial, err := os.Create(filepath.Join(c.Dir, "serial.log"))
	if err != nil {
		return nil, err
	}
	messages, err := os.Create(filepath.Join(c.Dir, "qemu.log"))
	if err != nil {
		serial.Close()
		return nil, err
	}
	defer messages.Close()
	m := &Machine{dir: c.Dir, wake: make(chan struct{})}
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", c.args()...)
	m.cmd.Stderr = messages
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		serial.Close()
		return nil, err
	}
	if m.keys, err = m.cmd.StdinPipe(); err != nil {
		serial.Close()
		return nil, err
	}
	m.start = time.Now()
	if err := m.cmd.Start(); err != nil {
		serial.Close()
		return nil, fmt.Errorf("start virtual machine: %w", err)
	}
	go func() {
		defer serial.Close()
		m.follow(bufio.NewReader(out), serial)
	}()
	return m, nil
}

func (c Config) args() []string {
	cpus, memory, model := c.CPUs, c.Memory, c.CPU
	if cpus == 0 {
		cpus = 2
	}
	if memory == "" {
		memory = "512M"
	}
	if model == "" {
		model = DefaultCPU
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", model, "-m", memory, "-smp", fmt.Sprint(cpus),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-qmp", "unix:" + filepath.Join(c.Dir, "qmp") + ",server=on,wait=off",
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.Append,
	}
	for i, d := range c.Disks {
		id := fmt.Sprintf("disk%d", i)
		device := "nvme"
		if d.Bus == "virtio" {
			device = "virtio-blk-pci"
		}
		args = append(args, "-drive", "if=none,id="+id+","+d.drive(), "-device", fmt.Sprintf("%s,drive=%s,serial=%s", device, id, d.Serial))
	}
	for _, n := range c.NICs {
		args = append(args, n.args()...)
	}
	if len(c.Ports) > 0 {
		args = append(args, "-device", "virtio-serial-pci")
	}
	for i, p := range c.Ports {
		id := fmt.Sprintf("port%d", i)
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=%s,server=on,wait=off,path=%s", id, comma(p.Socket)),
			"-device", fmt.Sprintf("virtserialport,nr=%d,chardev=%s,name=%s", i+1, id, p.Name))
	}
	if c.Saved != "" {
		args = append(args, "-incoming", "exec:cat '"+comma(c.Saved)+"'")
	}
	return append(args, c.Extra...)
}

// drive describes what is behind the device.
func (d Disk) drive() string {
	const file = "discard=unmap,cache=unsafe,format=raw"
	switch {
	case d.Log != "": // flushes are logged, and go no further than that
		return fmt.Sprintf("driver=blklogwrites,cache=writeback,file.driver=raw,file.cache.no-flush=on,file.file.driver=file,file.file.filename=%s,"+
			"log.driver=raw,log.cache.no-flush=on,log.file.driver=file,log.file.filename=%s,log-super-update-interval=1", comma(d.Path), comma(d.Log))
	case d.Errors != "":
		return file + ",file=blkdebug:" + comma(d.Errors) + ":" + comma(d.Path)
	case d.Snapshot:
		return file + ",snapshot=on,file=" + comma(d.Path)
	case d.ReadOnly:
		return file + ",readonly=on,file=" + comma(d.Path)
	}
	return file + ",file=" + comma(d.Path)
}

// comma writes a path as QEMU's options want it.
func comma(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func (n NIC) args() []string {
	model, server := n.Model, "off"
	if model == "" {
		model = "virtio-net-pci"
	}
	if n.Listen {
		server = "on"
	}
	if strings.HasPrefix(model, "virtio-net") {
		model += ",speed=1000,duplex=full" // a bond of 802.3ad takes no port without
	}
	args := []string{
		"-netdev", fmt.Sprintf("stream,id=%s,server=%s,addr.type=unix,addr.path=%s", n.Name, server, comma(n.Socket)),
		"-device", fmt.Sprintf("%s,netdev=%s,mac=%s,romfile=", model, n.Name, n.MAC),
	}
	if n.Pcap != "" {
		args = append(args, "-object", fmt.Sprintf("filter-dump,id=dump-%s,netdev=%s,file=%s", n.Name, n.Name, comma(n.Pcap)))
	}
	return args
}

// follow reads the console until QEMU ends.
func (m *Machine) follow(r *bufio.Reader, log *os.File) {
	for {
		text, err := r.ReadString('\n')
		if text != "" {
			_, _ = log.WriteString(text)
			m.change(func() {
				m.lines = append(m.lines, Line{time.Since(m.start), cpuTime(m.cmd.Process.Pid), strings.TrimRight(text, "\r\n")})
			})
		}
		if err != nil {
			break
		}
	}
	err := m.cmd.Wait()
	m.change(func() { m.ended, m.result = true, err })
}

// cpuTime is utime and stime of /proc/PID/stat: fields 14 and 15, counted after the
// name in parentheses, in hundredths of a second. It is 0 if it cannot be had.
func cpuTime(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (m *Machine) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.wake)
	m.wake = make(chan struct{})
}

// ErrEnded is returned by Wait when the machine ended before the line came.
const ErrEnded Error = "the machine has ended"

// Error is an error of this package that callers tell apart.
type Error string

func (e Error) Error() string { return string(e) }

// Wait returns the next line that contains one of the texts, and which one it
// was. Lines before it are passed over for later calls as well.
func (m *Machine) Wait(ctx context.Context, texts ...string) (Line, int, error) {
	for {
		m.mu.Lock()
		wake, ended := m.wake, m.ended
		for ; m.next < len(m.lines); m.next++ {
			line := m.lines[m.next]
			for i, text := range texts {
				if strings.Contains(line.Text, text) {
					m.next++
					m.mu.Unlock()
					return line, i, nil
				}
			}
		}
		m.mu.Unlock()
		if ended {
			return Line{}, -1, fmt.Errorf("wait for %q: %w", texts, ErrEnded)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return Line{}, -1, fmt.Errorf("wait for %q: %w", texts, ctx.Err())
		}
	}
}

// Type types on the serial console: "ls\r", or "\x03" for Ctrl-C.
func (m *Machine) Type(keys string) error {
	if _, err := io.WriteString(m.keys, keys); err != nil {
		return fmt.Errorf("type %q: %w", keys, err)
	}
	return nil
}

// Lines returns what the console has said so far.
func (m *Machine) Lines() []Line {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Line(nil), m.lines...)
}

// CPU is what the machine has used by now of the host's processors.
func (m *Machine) CPU() time.Duration { return cpuTime(m.cmd.Process.Pid) }

// Done waits until QEMU has ended by itself: the guest powered off.
func (m *Machine) Done(ctx context.Context) error {
	for {
		m.mu.Lock()
		wake, ended, result := m.wake, m.ended, m.result
		m.mu.Unlock()
		if ended {
			return result
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return fmt.Errorf("wait for the machine to power off: %w", ctx.Err())
		}
	}
}

// Kill ends the machine as a power cut does and waits for it.
func (m *Machine) Kill() {
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = m.Done(ctx)
}

// Tail returns the last n lines of the console, one string.
func (m *Machine) Tail(n int) string {
	lines := m.Lines()
	var b strings.Builder
	for _, l := range lines[max(0, len(lines)-n):] {
		fmt.Fprintf(&b, "%7.2f %s\n", l.At.Seconds(), l.Text)
	}
	return b.String()
}
