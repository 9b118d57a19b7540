package targets_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// A password file that is no password is told of before the server is asked, and what
// is in it stays there.
func TestFTPPasswordFile(t *testing.T) {
	t.Parallel()
	s := newFTPD(t, "vsftpd")
	for name, text := range map[string]string{
		"two lines": sshPassword + "\nnext secret\n", "NUL": "secret\x00", "CR": "secret\rsecret", "empty": "\n", "long": strings.Repeat("secret", 100),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		file := s.write(t, "password of "+strings.ReplaceAll(name, " ", "_"), text)
		_, err := targets.Open(ctx, s.url("crash", "password-file="+strings.ReplaceAll(file, " ", "%20")), targets.Options{Log: t.Logf})
		var e *targets.Error
		if !errors.As(err, &e) || e.Temporary || !strings.Contains(err.Error(), "password-file="+file+": want one line") {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "horse") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
}
