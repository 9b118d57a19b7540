package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/ukdump/ukdump/qemu/server/wire"
)

// A daemon runs in the foreground, in a process group of its own.
type daemon struct {
	name  string
	args  []string
	port  string // TCP port it listens on, "" if none
	start string // in place of args: scripts, for what lives in the kernel
	stop  string
	cmd   *exec.Cmd // nil if it does not run
	ended chan struct{}
}

// daemons in the order they start. Their messages are in /var/log/NAME.log.
func daemons() []*daemon {
	return []*daemon{
		{name: "rpcbind", args: []string{"/sbin/rpcbind", "-f", "-w"}, port: "111"},
		{name: "sshd", args: []string{"/usr/sbin/sshd", "-D", "-e"}, port: "22"},
		{name: "vsftpd", args: []string{"/usr/sbin/vsftpd", "/etc/vsftpd.conf"}, port: "21"},
		{name: "smbd", args: []string{"/usr/sbin/smbd", "-F", "--no-process-group", "--debug-stdout"}, port: "445"},
		{name: "dnsmasq", args: []string{"/usr/sbin/dnsmasq", "-C", "/etc/dnsmasq.conf"}},
		{name: "mountd", args: []string{"/usr/sbin/rpc.mountd", "-F"}},
		{
			name: "nfsd", port: "2049",
			// Grace is for clients of a server that has rebooted; there are none.
			start: "echo 10 >/proc/fs/nfsd/nfsv4leasetime; echo 10 >/proc/fs/nfsd/nfsv4gracetime; exportfs -ra; rpc.nfsd 4; echo Y >/proc/fs/nfsd/v4_end_grace",
			stop:  "rpc.nfsd 0",
		},
	}
}

// startAll starts those with args at once: each takes a second or more of the
// emulated processor, mostly in its dynamic linker.
func (g *guest) startAll(ctx context.Context) error {
	errs := make([]error, len(g.daemons))
	var wg sync.WaitGroup
	for i, d := range g.daemons {
		if d.args == nil || d.name == "rpcbind" {
			errs[i] = d.up(ctx) // nfsd registers with rpcbind
			continue
		}
		wg.Go(func() { errs[i] = d.up(ctx) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			b, _ := os.ReadFile("/var/log/" + g.daemons[i].name + ".log")
			return fmt.Errorf("start %s: %w: %s", g.daemons[i].name, err, b)
		}
	}
	return nil
}

// control does what the host wants with a daemon.
func (g *guest) control(ctx context.Context, name string, verb wire.Verb) error {
	for _, d := range g.daemons {
		if d.name != name {
			continue
		}
		switch verb {
		case wire.Start:
			return d.up(ctx)
		case wire.Stop:
			return d.down(ctx)
		case wire.Freeze:
			return d.signal(syscall.SIGSTOP)
		case wire.Thaw:
			return d.signal(syscall.SIGCONT)
		}
		return fmt.Errorf("%s a daemon: want start, stop, freeze or thaw", verb)
	}
	return fmt.Errorf("daemon %s: there is none of that name", name)
}

func (d *daemon) up(ctx context.Context) error {
	if d.start != "" {
		if out, err := shell(ctx, d.start); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return d.listens(ctx)
	}
	if d.cmd != nil {
		return fmt.Errorf("it runs already")
	}
	log, err := os.OpenFile("/var/log/"+d.name+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.args[0], d.args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.cmd, d.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(d.ended)
	return d.listens(ctx)
}

// listens waits until the daemon accepts connections, or has survived a moment.
func (d *daemon) listens(ctx context.Context) error {
	for try := 0; ; try++ {
		if d.port == "" && try == 10 {
			return nil
		}
		if d.port != "" {
			conn, err := net.DialTimeout("tcp", "127.0.0.1:"+d.port, time.Second)
			if err == nil {
				return conn.Close()
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-d.ended: // never, for what lives in the kernel
			d.cmd = nil
			return fmt.Errorf("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("wait for port %s: %w", d.port, ctx.Err())
		}
	}
}

// down leaves none of the daemon's children: a connection ends with a reset.
func (d *daemon) down(ctx context.Context) error {
	if d.stop != "" {
		out, err := shell(ctx, d.stop)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := d.signal(syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-d.ended:
		d.cmd = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *daemon) signal(sig syscall.Signal) error {
	if d.cmd == nil {
		return fmt.Errorf("it is no process that runs")
	}
	for _, pid := range descendants(d.cmd.Process.Pid) {
		_ = syscall.Kill(pid, sig)
	}
	return nil
}
