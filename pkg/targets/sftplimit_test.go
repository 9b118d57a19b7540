package targets_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/ukdump/ukdump/pkg/targets"
)

// newLimitedSSHD is OpenSSH whose users can make no file of more than so many bytes:
// of that it says "Failure", and its file system has room for all.
func newLimitedSSHD(t testing.TB, most int) *sshd {
	t.Helper()
	return newSSHDWith(t, func(s *sshd) []string {
		return []string{"ChrootDirectory none", fmt.Sprintf("ForceCommand trap '' XFSZ; ulimit -f %d; exec /usr/lib/openssh/sftp-server", most/512)}
	})
}

// A limit that statvfs does not show counts as no space: a smaller file may fit. What
// the limit left room for can be used once the part is removed, and nothing of the
// search for it stays.
func TestSFTPLimit(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"less than is tried": 2 << 20, "of one file": 8 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newLimitedSSHD(t, most)
			dir := s.root + "/crash"
			tg := s.open(t, s.url(dir[1:]), targets.Options{Log: t.Logf})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "d/vmcore")
			if err != nil {
				t.Fatal(err)
			}
			for n := 0; n < 3*most && err == nil; n += 1 << 20 {
				_, err = f.Write(pattern(1 << 20))
			}
			if err == nil {
				err = f.Commit()
			}
			if !errors.Is(err, targets.ErrNoSpace) {
				t.Errorf("%v: want %v", err, targets.ErrNoSpace)
			}
			t.Log(err)
			if err := f.Commit(); !errors.Is(err, targets.ErrNoSpace) {
				t.Errorf("Commit: %v", err)
			}
			f.Close()
			entries, err := os.ReadDir(dir + "/d")
			if err != nil || len(entries) != 1 || entries[0].Name() != "vmcore-incomplete" {
				t.Errorf("there are %v, %v", entries, err)
			}
			if err := tg.Remove(t.Context(), "d/vmcore-incomplete"); err != nil {
				t.Fatal(err)
			}
			if f, err = tg.Create(t.Context(), "d/vmcore"); err == nil {
				_, err = f.Write(pattern(most))
			}
			if err := errors.Join(err, f.Commit()); err != nil {
				t.Errorf("one that fits: %v", err)
			}
		})
	}
}
