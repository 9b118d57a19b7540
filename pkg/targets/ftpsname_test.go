package targets_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// A certificate that the authority of ca= gave to somebody else is refused, where the URL
// has an address too.
func TestFTPSOtherName(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"vsftpd", "proftpd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newFTPDWith(t, kind, func(s *ftpd) []string {
				s.certificate(t, "server", "192.0.2.1")
				if kind == "proftpd" {
					return s.proftpdTLS("TLSv1.3")
				}
				return s.vsftpdTLS()
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := targets.Open(ctx, s.url("crash"), targets.Options{Log: t.Logf})
			if err == nil || !strings.Contains(err.Error(), "certificate is valid for 192.0.2.1, not 127.0.0.1") {
				t.Errorf("ca=: %v", err)
			}
			tg, err := targets.Open(ctx, s.url("crash", "password-file="+s.file("password"), "fingerprint="+s.pin(t, "server")), targets.Options{Log: t.Logf})
			if err != nil {
				t.Fatalf("fingerprint=: %v", err)
			}
			tg.Close()
		})
	}
}
