package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/server"
)

// TestMounts runs the suite of pkg/targets for nfs:// and cifs:// where there
// are a kernel's clients and servers for it: within the server itself.
func TestMounts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	r, err := rig.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	suite := filepath.Join(t.TempDir(), "targets.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", suite, "./pkg/targets")
	build.Dir = r.Root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := rig.Output(build); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(suite)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := r.Server(ctx, t.Name(), server.Config{Net: server.Single, Files: map[string]string{"root/targets.test": string(program)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Kill)
	password := strings.TrimSpace(srv.Files()["etc/kdump/smb-pw"])
	if _, err := srv.Run(ctx, "chmod 755 /root/targets.test; mkdir -p /etc/kdump; echo "+password+" >/etc/kdump/smb-pw; chmod 600 /etc/kdump/smb-pw"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"NFSServer", "NFSNegotiation", "NFSShapes", "CIFSServer", "CIFSShapes", "MountCloseOfDeadServer"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
			defer cancel()
			out, err := srv.Run(ctx, "cd /root; UKDUMP_TEST_SERVERS=192.168.77.1 ./targets.test -test.timeout 14m -test.v -test.run '^Test"+name+"$' 2>&1 | tail -c 60000; "+
				"! dmesg | grep -E -B 12 -A 40 'BUG|Oops|Call Trace'")
			t.Log(out)
			if err != nil || !strings.Contains(out, "\nPASS") || strings.Contains(out, "SKIP: Test"+name) {
				t.Errorf("%v", err)
			}
		})
	}
}
