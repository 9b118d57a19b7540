package targets_test

import (
	"testing"

	"github.com/ukdump/ukdump/internal/targetstest"
)

func TestFTP(t *testing.T) {
	t.Run("vsftpd", func(t *testing.T) { targetstest.RunServer(t, newFTPD(t, "vsftpd").server(t)) })
	t.Run("proftpd", func(t *testing.T) { targetstest.RunServer(t, newFTPD(t, "proftpd").server(t)) })
}
