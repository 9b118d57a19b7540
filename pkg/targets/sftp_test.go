package targets_test

import (
	"testing"

	"github.com/ukdump/ukdump/internal/targetstest"
)

// The account has SFTP alone, in a chroot, as it should on a real server.
func TestSFTP(t *testing.T) {
	s := newSSHD(t)
	targetstest.RunServer(t, s.server(t))
}
