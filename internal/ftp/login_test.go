package ftp

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
)

// A password that cannot be sent is not shown in the error, which goes to consoles and
// files.
func TestPasswordIsNotShown(t *testing.T) {
	for _, end := range []string{"\n", "\r", "\x00"} {
		client, server := net.Pipe()
		defer server.Close()
		go func() {
			io.WriteString(server, "220 ready\r\n")
			bufio.NewReader(server).ReadString('\n')
			io.WriteString(server, "331 password\r\n")
		}()
		const secret = "open sesame"
		_, err := Dial(t.Context(), Config{
			Addr: "server:21", User: "u", Password: secret + end + secret,
			Connect: func(context.Context, string) (net.Conn, error) { return client, nil },
		})
		if err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), "PASS") {
			t.Errorf("a password with %q in it: %v", end, err)
		}
	}
}
