// Package server is a virtual machine with the servers that a dump can go to: OpenSSH, vsftpd,
// the kernel's NFS (3 and 4), samba, and dnsmasq for DHCP, router
// advertisements and names. Debian's packages, as they are.
//
// Start it, give NICs to the machine that crashes and Files to its capture image. Run,
// Daemon, Drop, Netem and Fill change what the servers do. PowerOff, then Extract
// what the dumps are.
//
// Untagged it is 192.168.77.1 and fd77::1, in VLAN 5 192.168.5.1 and fd05::1. DHCPv4, SLAAC
// and DHCPv6 answer in both. The users:
//
//	sftp  crash, by key, sees /dumps (its own) and /readonly  -> /srv/sftp
//	ftp   ftpdump, by password, or TLS and password           -> /srv/ftp
//	nfs   /export, root is root                               -> /srv/nfs
//	cifs  smbdump, by password, share crash                   -> /srv/smb
package server

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ukdump/ukdump/initramfs/cpio"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/vm"
)

//go:embed root
var root embed.FS

// Names that the server's own DNS knows.
const (
	Name     = "server.kdump.test"
	VLANName = "vlan.kdump.test"
)

func addresses() []string {
	return []string{"192.168.77.1", "192.168.5.1", "fd77::1", "fd05::1"}
}

// Net is how the server's ports are used.
type Net string

// Shapes of the network. The server has one port for Single and None, else two.
const (
	Single       Net = "single"
	Bridge       Net = "bridge" // both ports on one switch
	LACP         Net = "802.3ad"
	BalanceXOR   Net = "balance-xor"
	ActiveBackup Net = "active-backup"
	None         Net = "none" // no servers and no addresses: a client to try others with
)

// Config describes a server.
type Config struct {
	Dir    string // for its disks, sockets and logs; a short path
	Kernel string // vmlinuz
	Image  string // what server/build made
	Guest  string // the guest program
	Net    Net
	Data   int64             // bytes of the disk that dumps go to; 2 GiB if zero
	Peer   []vm.NIC          // ports of another machine to join, in place of own ones that listen
	Files  map[string]string // further ones, by their names below /
	Pcap   bool              // keep all frames in Dir
	Limit  time.Duration     // until the servers answer; 6 minutes if zero
}

// Server is a running machine. Its methods may be used concurrently.
type Server struct {
	*vm.Machine
	config  Config
	secrets *secrets

	mu      sync.Mutex
	conn    net.Conn
	replies *bufio.Reader
	last    int // ID of the last request
}

// Start returns when all servers answer. The machine ends with ctx.
func Start(ctx context.Context, c Config) (*Server, error) {
	made, err := newSecrets()
	if err != nil {
		return nil, err
	}
	if c.Data == 0 {
		c.Data = 2 << 30
	}
	if c.Limit == 0 {
		c.Limit = 6 * time.Minute
	}
	ready, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	s := &Server{config: c, secrets: made}
	if err := s.seed(filepath.Join(c.Dir, "seed.cpio")); err != nil {
		return nil, err
	}
	data := s.dataDisk()
	if err := disk.Format(ready, data, c.Data, disk.FS{Type: "ext4"}); err != nil {
		return nil, err
	}
	s.Machine, err = vm.Start(ctx, vm.Config{
		Dir: c.Dir, Kernel: c.Kernel, Initrd: filepath.Join(c.Dir, "seed.cpio"), Memory: "384M",
		Append: fmt.Sprintf("console=ttyS0 panic=10 no_timer_check quiet loglevel=4 server.net=%s server.name=%s", c.Net, strings.TrimSuffix(Name, ".kdump.test")),
		Disks: []vm.Disk{
			{Serial: "server", Path: c.Image, Snapshot: true},
			{Serial: "data", Path: data},
		},
		NICs:  s.ports(),
		Ports: []vm.Port{{Name: "control", Socket: s.socket("control")}},
		Extra: []string{"-no-reboot"},
	})
	if err != nil {
		return nil, err
	}
	line, which, err := s.Wait(ready, "server: ready", "server: failed: ")
	if err == nil && which == 1 {
		err = errors.New(line.Text)
	}
	if err != nil {
		s.Kill()
		return nil, fmt.Errorf("start server: %w; the console is in %s/serial.log\n%s", err, c.Dir, s.Tail(20))
	}
	return s, nil
}

func (s *Server) socket(name string) string { return filepath.Join(s.config.Dir, name) }

func (s *Server) dataDisk() string { return filepath.Join(s.config.Dir, "data.img") }

func (c Config) cables() int {
	if len(c.Peer) > 0 {
		return len(c.Peer)
	}
	if c.Net == Single || c.Net == None {
		return 1
	}
	return 2
}

// ports are the server's own.
func (s *Server) ports() []vm.NIC {
	var nics []vm.NIC
	for i := range s.config.cables() {
		n := vm.NIC{Name: fmt.Sprintf("net%d", i), MAC: fmt.Sprintf("52:54:00:5e:00:%02x", i+1), Socket: s.socket(fmt.Sprintf("net%d", i)), Listen: true}
		if len(s.config.Peer) > 0 {
			n = s.config.Peer[i]
		}
		if s.config.Pcap {
			n.Pcap = s.socket(fmt.Sprintf("net%d.pcap", i))
		}
		nics = append(nics, n)
	}
	return nics
}

// NICs are what the machine at the other end of the cables gets: net0 has the MAC
// 52:54:00:c1:00:01, net1 the next. One machine has them at a time.
func (s *Server) NICs() []vm.NIC {
	nics := s.ports()
	for i := range nics {
		nics[i].MAC = fmt.Sprintf("52:54:00:c1:00:%02x", i+1)
		nics[i].Listen, nics[i].Pcap = false, ""
	}
	return nics
}

// Files are for the capture image: the key of the user crash, the server's host
// keys, wrong ones, passwords and the certificate of ftps.
func (s *Server) Files() map[string]string {
	return map[string]string{
		"etc/kdump/key":         s.secrets.client,
		"etc/kdump/known_hosts": s.secrets.knownHosts(s.secrets.hosts...),
		"etc/kdump/wrong_hosts": s.secrets.knownHosts(s.secrets.wrong),
		"etc/kdump/ftp-pw":      s.secrets.ftp + "\n",
		"etc/kdump/smb-pw":      s.secrets.smb + "\n",
		"etc/kdump/ftp-ca.pem":  s.secrets.tlsCert,
	}
}

// seed writes the initramfs: the guest program and the files that go over the
// image's.
func (s *Server) seed(out string) (err error) {
	var a cpio.Archive
	add := func(name, text string, perm uint32) {
		err = errors.Join(err, a.Add(cpio.Entry{Name: name, Mode: cpio.Regular | perm, Data: []byte(text)}))
	}
	guest, err := os.ReadFile(s.config.Guest)
	if err != nil {
		return err
	}
	add("init", string(guest), 0o755)
	err = errors.Join(err,
		a.Add(cpio.Entry{Name: "dev/console", Mode: cpio.CharDev | 0o600, Major: 5, Minor: 1}),
		fs.WalkDir(root, "root", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := root.ReadFile(name)
			add("seed"+strings.TrimPrefix(name, "root"), string(b), 0o644)
			return err
		}))
	passwords, e := s.secrets.smbpasswd()
	err = errors.Join(err, e)
	add("seed/etc/samba/smbpasswd", passwords, 0o600)
	for name, key := range s.secrets.hostKeys {
		add("seed/etc/ssh/"+name, key, 0o600)
	}
	add("seed/etc/ssh/authorized_keys/crash", s.secrets.public+"\n", 0o644)
	add("seed/etc/ssl/ftp.pem", s.secrets.tlsPair, 0o600)
	add("seed/etc/secret/ftp", s.secrets.ftp, 0o600)
	for name, text := range s.config.Files {
		add("seed/"+name, text, 0o600)
	}
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(a.Write(f), f.Close())
}

// Extract copies a folder of the data disk, "sftp/dumps" for instance, to the
// folder to. PowerOff comes first: Extract waits until the machine has ended.
func (s *Server) Extract(ctx context.Context, folder, to string) error {
	if err := s.Done(ctx); err != nil {
		return err
	}
	return disk.Extract(ctx, s.dataDisk(), folder, to)
}
