package targets_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// Servers that take files and give none back: what was written can be committed.
func TestReadRefused(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(t *testing.T) (url, root string){
		"vsftpd, download_enable=NO": func(t *testing.T) (string, string) {
			s := newFTPD(t, "vsftpd", "download_enable=NO")
			return s.url("crash"), s.root
		},
		"vsftpd, anonymous": func(t *testing.T) (string, string) {
			s := newFTPD(t, "vsftpd", "anonymous_enable=YES", "anon_upload_enable=YES", "anon_mkdir_write_enable=YES", "anon_other_write_enable=YES",
				"anon_umask=077", "anon_world_readable_only=YES", "no_anon_password=NO")
			return "ftp://" + s.addr() + "/crash", s.root
		},
		"proftpd": func(t *testing.T) (string, string) {
			s := newFTPD(t, "proftpd", "<Limit RETR>", "DenyAll", "</Limit>")
			return s.url("crash"), s.root
		},
		"OpenSSH": func(t *testing.T) (string, string) {
			s := newSSHD(t, "ForceCommand internal-sftp -P read")
			return s.url("crash"), s.root
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, root := server(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			tg := openWith(t, ctx, url, targets.Options{Log: t.Logf})
			defer tg.Close()
			f, err := tg.Create(t.Context(), "vmcore")
			if err != nil {
				t.Fatal(err)
			}
			want := pattern(1<<20 + 1)
			if _, err := f.Write(want); err != nil {
				t.Fatal(err)
			}
			_, err = f.(io.ReaderAt).ReadAt(make([]byte, 600_000), 0)
			if !errors.Is(err, targets.ErrReadRefused) {
				t.Errorf("ReadAt: %v, want %v", err, targets.ErrReadRefused)
			}
			t.Log(err)
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(root, "crash/vmcore")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes arrived of %d, %v", len(got), len(want), err)
			}
		})
	}
}
