package targets_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/pkg/sftp"

	"github.com/ukdump/ukdump/pkg/targets"
)

// A server that offers statvfs@openssh.com and refuses it, as those do that are built
// with handlers of the Go library: its space is not known, and a dump goes there.
func TestSFTPSpaceRefused(t *testing.T) {
	t.Parallel()
	s := newSSHDWith(t, func(s *sshd) []string {
		return []string{"ChrootDirectory none", "ForceCommand UKDUMP_TEST_SFTP_HANDLERS=1 " + s.top + "/server -test.run=^TestSFTPHandlersProcess$"}
	})
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.top+"/server", self, 0o755); err != nil {
		t.Fatal(err)
	}
	tg := s.open(t, s.url("crash"), targets.Options{Log: t.Logf})
	defer tg.Close()
	free, err := tg.Space(t.Context())
	if !errors.Is(err, targets.ErrSpaceUnknown) {
		t.Errorf("%d, %v: want %v", free, err, targets.ErrSpaceUnknown)
	}
	t.Log(err)
}

// TestSFTPHandlersProcess is the server of TestSFTPSpaceRefused; its files are in memory.
func TestSFTPHandlersProcess(t *testing.T) {
	if os.Getenv("UKDUMP_TEST_SFTP_HANDLERS") == "" {
		t.Skip("this is a part of TestSFTPSpaceRefused")
	}
	handlers := sftp.InMemHandler()
	handlers.FileCmd = struct{ sftp.FileCmder }{handlers.FileCmd} // without its StatVFS
	server := sftp.NewRequestServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout}, handlers)
	if err := server.Serve(); err != nil && err != io.EOF {
		os.Exit(1)
	}
	os.Exit(0)
}
