package targets_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ukdump/ukdump/pkg/targets"
)

// Folders whose names are words of errors: proftpd quotes them in each of its own.
func TestFTPFolderNames(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"vsftpd", "proftpd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newFTPD(t, kind)
			for _, folder := range []string{"quota", "insufficient", "no space", "read-only file", "file exists", "denied", "permission", "forbidden"} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				tg := openWith(t, ctx, s.url("crash/"+folder), targets.Options{Log: t.Logf})
				defer tg.Close()
				name := strings.ReplaceAll(folder, " ", "-") + "-20261121T061300Z-1a2b/vmcore"
				if _, err := tg.List(ctx, filepath.Dir(name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: List: %v", folder, err)
				}
				f, err := tg.Create(ctx, name)
				if err != nil {
					t.Errorf("%s: %v", folder, err)
					continue
				}
				want := pattern(1000)
				_, err = f.Write(want)
				if err := errors.Join(err, f.Commit()); err != nil {
					t.Errorf("%s: %v", folder, err)
				}
				if got, err := os.ReadFile(filepath.Join(s.root, "crash", folder, name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes, %v", folder, len(got), err)
				}
			}
		})
	}
}
