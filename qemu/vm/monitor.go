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

// Save stops the machine and writes its memory and devices, not its disks, to a
// file for Config.Saved. A machine with NVMe disks cannot be saved.
func (q *Monitor) Save(ctx context.Context, path string) error {
	if _, err := q.Execute(ctx, "stop", nil); err != nil {
		return err
	}
	if _, err := q.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 34}); err != nil {
		return err
	}
	if _, err := q.Execute(ctx, "migrate", map[string]any{"uri": "exec:cat >'" + path + "'"}); err != nil {
		return err
	}
	for {
		reply, err := q.Execute(ctx, "query-migrate", nil)
		if err != nil {
			return err
		}
		var at struct {
			Status string
			Desc   string `json:"error-desc"`
		}
		if err := json.Unmarshal(reply, &at); err != nil {
			return err
		}
		switch at.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("save machine: %s %s", at.Status, at.Desc)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("save machine: still %s: %w", at.Status, ctx.Err())
		}
	}
}

// Resume lets a machine run that goes on from a saved state, once that is read.
func (q *Monitor) Resume(ctx context.Context) error {
	for {
		reply, err := q.Execute(ctx, "query-status", nil)
		if err != nil {
			return err
		}
		var at struct{ Status string }
		if err := json.Unmarshal(reply, &at); err != nil {
			return err
		}
		if at.Status == "paused" { // as it was when it was saved
			_, err := q.Execute(ctx, "cont", nil)
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("resume machine: still %s: %w", at.Status, ctx.Err())
		}
	}
}

// Event is something that QEMU tells of by itself.
type Event struct {
	Event string // "SHUTDOWN", "RESET"
	Data  struct {
		Guest  bool   // the guest wanted it
		Reason string // "guest-shutdown", "guest-reset", "guest-panic"
	}
}

// Event returns the next event, within ctx. Those that came during an Execute are lost.
func (q *Monitor) Event(ctx context.Context) (e Event, err error) {
	end, _ := ctx.Deadline()
	_ = q.conn.SetDeadline(end)
	for e.Event == "" { // the replies of commands have none
		if err := q.dec.Decode(&e); err != nil {
			return e, fmt.Errorf("monitor: wait for an event: %w", err)
		}
	}
	return e, nil
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
