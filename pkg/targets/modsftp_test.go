package targets_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/targetstest"
	"github.com/ukdump/ukdump/pkg/targets"
)

// newModSFTP is proftpd as a server of SFTP, by its mod_sftp.
func newModSFTP(t testing.TB, lines ...string) *ftpd {
	t.Helper()
	return newFTPDWith(t, "proftpd", func(s *ftpd) []string {
		key := s.file("host_rsa")
		s.keygen(t, "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", key)
		return append([]string{"LoadModule mod_sftp.c", "SFTPEngine on", "SFTPHostKey " + key, "SFTPAuthMethods password", "SFTPLog " + s.file("log")}, lines...)
	})
}

func (s *ftpd) sftpURL(t testing.TB, dir string) string {
	t.Helper()
	return fmt.Sprintf("sftp://%s@%s/%s?password-file=%s&fingerprint=%s", sshUser, s.addr(), dir, s.file("password"), s.fingerprint(t, "host_rsa"))
}

// A server that is told to leave times alone says that it has set them. Its files can
// be committed all the same, and those of another attempt are no less told apart where
// they differ.
func TestSFTPTimesIgnored(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"ignored": {"SFTPOptions IgnoreSFTPSetTimes"},
		"set":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newModSFTP(t, lines...)
			dir := filepath.Join(s.root, "crash")
			targetstest.Run(t, targetstest.Store{
				Open: func(t *testing.T) targets.Target {
					return s.open(t, s.sftpURL(t, "crash"), targets.Options{Log: t.Logf})
				},
				Read: func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) },
			})
		})
	}
}

// Two attempts whose files have the same size and another time: the first one, which
// was stuck, must not commit the file of the second.
func TestSFTPSameSizeOfAnother(t *testing.T) {
	t.Parallel()
	s := newSSHD(t)
	stuck, next := s.open(t, s.url("crash"), targets.Options{Log: t.Logf}), s.open(t, s.url("crash"), targets.Options{Log: t.Logf})
	defer stuck.Close()
	defer next.Close()
	begin := func(tg targets.Target, with string) targets.File {
		f, err := tg.Create(t.Context(), "vmcore")
		if err == nil {
			_, err = f.Write(bytes.Repeat([]byte(with), 1000))
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := begin(stuck, "1")
	second := begin(next, "2")
	if err := second.Close(); err != nil { // all of it is there
		t.Fatal(err)
	}
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.root+"/crash/vmcore-incomplete", then, then); err != nil {
		t.Fatal(err)
	}
	err := first.Commit()
	var e *targets.Error
	if !errors.As(err, &e) || e.Temporary || !strings.Contains(err.Error(), "now is the file of another attempt") {
		t.Errorf("Commit: %v", err)
	}
	if _, err := os.Stat(s.root + "/crash/vmcore"); err == nil {
		t.Error("the file of the second attempt was committed by the first")
	}
}
