package vm

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Poke is memory of the machine to be changed.
type Poke struct {
	Addr    uint64
	Virtual bool // Addr is in the address space that the first processor has at the moment
	Data    []byte
}

// pokeSize is how much one packet changes; QEMU takes 4096 bytes of packet.
const pokeSize = 1024

// Write changes memory of the machine through QEMU's stub for debuggers, for which the
// machine was started with -gdb unix:SOCKET,server=on,wait=off. It stands still meanwhile.
// The protocol is in appendix E of GDB's manual; Qqemu.PhyMemMode is QEMU's own.
func Write(ctx context.Context, socket string, pokes ...Poke) (err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end)
	}
	g := &stub{conn, bufio.NewReader(conn)}
	for _, p := range pokes {
		mode := "Qqemu.PhyMemMode:1"
		if p.Virtual {
			mode = "Qqemu.PhyMemMode:0"
		}
		if err := g.command(mode); err != nil {
			return err
		}
		for at := 0; at < len(p.Data); at += pokeSize {
			data := p.Data[at:min(at+pokeSize, len(p.Data))]
			if err := g.command(fmt.Sprintf("M%x,%x:%s", p.Addr+uint64(at), len(data), hex.EncodeToString(data))); err != nil {
				return fmt.Errorf("write memory %#x: %w", p.Addr+uint64(at), err)
			}
		}
	}
	return g.command("D") // and the machine goes on
}

// stub is a connection to QEMU's stub for debuggers.
type stub struct {
	conn net.Conn
	in   *bufio.Reader
}

// command sends a packet whose reply is OK or an error.
func (g *stub) command(text string) error {
	var sum byte
	for _, b := range []byte(text) {
		sum += b
	}
	if _, err := fmt.Fprintf(g.conn, "$%s#%02x", text, sum); err != nil {
		return err
	}
	for {
		reply, err := g.in.ReadString('#')
		if err != nil {
			return err
		}
		if _, err := g.in.Discard(2); err != nil { // its checksum: this is a unix socket
			return err
		}
		if _, err := g.conn.Write([]byte("+")); err != nil {
			return err
		}
		_, reply, _ = strings.Cut(strings.TrimSuffix(reply, "#"), "$")
		switch {
		case reply == "OK":
			return nil
		case strings.HasPrefix(reply, "E") || reply == "":
			return errors.New("the debugger's stub says " + reply)
		}
		// T05 and the like tell that the machine stopped.
	}
}
