package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"time"

	"github.com/ukdump/ukdump/qemu/server/wire"
)

// ask sends a request and waits for its reply, within ctx, or for a minute where
// that has no deadline.
func (s *Server) ask(ctx context.Context, req wire.Request) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(time.Minute)
	}
	s.last++
	req.ID, req.Seconds = s.last, int(math.Ceil(time.Until(end).Seconds()))
	if s.conn == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.socket("control"))
		if err != nil {
			return "", err
		}
		s.conn, s.replies = conn, bufio.NewReader(conn)
	}
	if err := s.conn.SetDeadline(end); err != nil {
		return "", err
	}
	if err := json.NewEncoder(s.conn).Encode(req); err != nil {
		return "", err
	}
	for {
		line, err := s.replies.ReadBytes('\n')
		if err != nil {
			return "", err
		}
		var reply wire.Reply
		if err := json.Unmarshal(line, &reply); err != nil {
			return "", err
		}
		switch {
		case reply.ID != req.ID: // of a request that nobody waits for any more
		case reply.Error != "":
			return reply.Out, errors.New(reply.Error)
		default:
			return reply.Out, nil
		}
	}
}

// Run runs a script with sh -e in the server and returns what it printed.
func (s *Server) Run(ctx context.Context, script string) (string, error) {
	out, err := s.ask(ctx, wire.Request{Script: script})
	if err != nil {
		return out, fmt.Errorf("server: %s: %w: %s", script, err, strings.TrimSpace(out))
	}
	return out, nil
}

// Daemon starts, stops, freezes or thaws one of rpcbind, sshd, vsftpd, smbd,
// dnsmasq, mountd and nfsd. nfsd lives in the kernel and cannot be frozen: see Drop.
func (s *Server) Daemon(ctx context.Context, name string, verb wire.Verb) error {
	if _, err := s.ask(ctx, wire.Request{Daemon: name, Do: verb}); err != nil {
		return fmt.Errorf("server: %s %s: %w", verb, name, err)
	}
	return nil
}

// Log is what a daemon has said.
func (s *Server) Log(ctx context.Context, name string) (string, error) {
	return s.Run(ctx, "tail -c 100000 /var/log/"+name+".log")
}

// Netem treats what the server sends, as tc's netem has it: "loss 30%", "delay
// 20ms", "loss 100%". Empty: as it comes.
func (s *Server) Netem(ctx context.Context, how string) error {
	script := "for dev in eth0 eth1; do tc qdisc del dev $dev root 2>/dev/null || :; "
	if how != "" {
		script += "[ ! -e /sys/class/net/$dev ] || tc qdisc add dev $dev root netem " + how + "; "
	}
	_, err := s.Run(ctx, script+"done")
	return err
}

// Drop throws away what arrives at a port of the server: a peer that has gone
// without a word. percent 0 ends it.
func (s *Server) Drop(ctx context.Context, port, percent int) error {
	script := "nft delete table inet kdump 2>/dev/null || :"
	if percent > 0 {
		some := ""
		if percent < 100 {
			some = fmt.Sprintf("numgen random mod 100 lt %d ", percent)
		}
		script += fmt.Sprintf("; nft add table inet kdump; nft 'add chain inet kdump in { type filter hook input priority 0; }'; "+
			"nft add rule inet kdump in tcp dport %d %sdrop", port, some)
	}
	_, err := s.Run(ctx, script)
	return err
}

// Fill takes all but so many MiB of the data disk; the file is /srv/filled.
func (s *Server) Fill(ctx context.Context, leave int) error {
	_, err := s.Run(ctx, fmt.Sprintf("rm -f /srv/filled; free=$(df -m --output=avail /srv | tail -n 1); fallocate -l $((free - %d))M /srv/filled", leave))
	return err
}

// PowerOff stops the servers and the machine; the data disk is clean then.
func (s *Server) PowerOff(ctx context.Context) error {
	if _, err := s.ask(ctx, wire.Request{PowerOff: true}); err != nil {
		return fmt.Errorf("server: power off: %w", err)
	}
	return s.Done(ctx)
}
