package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// Monitor is a connection to QEMU's machine protocol. A machine has one at a time.
type Monitor struct {
	conn net.Conn
	dec  *json.Decoder
}

// Monitor connects to the machine, within ctx.
func (m *Machine) Monitor(ctx context.Context) (*Monitor, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.dir, "qmp"))
		if err == nil {
			q := &Monitor{conn, json.NewDecoder(conn)}
			if _, err := q.Execute(ctx, "qmp_capabilities", nil); err != nil {
				conn.Close()
				return nil, err
			}
			return q, nil
		}
		select {
		case <-time.After(20 * time.Millisecond): // QEMU makes its socket a moment after it started
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to monitor: %w", err)
		}
	}
}

// SetLink plugs the cable of a NIC in or out.
func (q *Monitor) SetLink(ctx context.Context, nic string, up bool) error {
	_, err := q.Execute(ctx, "set_link", map[string]any{"name": nic, "up": up})
	return err
}

// Execute runs a command, for instance "system_reset", and returns its result.
func (q *Monitor) Execute(ctx context.Context, command string, args map[string]any) (json.RawMessage, error) {
	if end, ok := ctx.Deadline(); ok {
		_ = q.conn.SetDeadline(end)
	}
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return nil, fmt.Errorf("monitor %s: %w", command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct{ Class, Desc string }
		}
		if err := q.dec.Decode(&reply); err != nil {
			return nil, fmt.Errorf("monitor %s: %w", command, err)
		}
		if reply.Error != nil {
			return nil, fmt.Errorf("monitor %s: %s", command, reply.Error.Desc)
		}
		if reply.Return != nil {
			return reply.Return, nil
		}
		// The greeting and events have neither: passed over.
	}
}

// Close ends the connection; the machine runs on.
func (q *Monitor) Close() error { return q.conn.Close() }
