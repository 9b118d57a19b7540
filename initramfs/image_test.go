package main

import (
	"github.com/ukdump/ukdump/pkg/netcfg"

	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ukdump/ukdump/initramfs/cpio"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kdump.conf")
	writeFile(t, name, []byte(text))
	return name
}

// parts are what an image can be assembled of without compiling anything.
func parts(t *testing.T, conf string, commands ...string) *contentsOf {
	t.Helper()
	s, err := readSettings(configFile(t, conf))
	if err != nil {
		t.Fatal(err)
	}
	return &contentsOf{busybox: []byte("bb"), commands: append([]string{"kdump-init"}, commands...), init: "kdump-init", settings: s}
}

// unpack has a foreign reader list a compressed image: cpio -tv behind zstd -dc.
func unpack(t *testing.T, image []byte) string {
	t.Helper()
	for _, tool := range []string{"cpio", "zstd"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("UKDUMP_CACHE") != "" { // make has put it there
				t.Fatalf("%s is missing", tool)
			}
			t.Skipf("%s is not installed: apt-get install %s", tool, tool)
		}
	}
	raw := exec.Command("zstd", "-dc")
	raw.Stdin = bytes.NewReader(image)
	data, err := raw.Output()
	if err != nil {
		t.Fatalf("zstd -dc: %v", err)
	}
	list := exec.Command("cpio", "-itv", "--quiet", "--numeric-uid-gid")
	list.Stdin = bytes.NewReader(data)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("cpio -itv: %v", err)
	}
	return string(out)
}

// checkImage checks what every image must have.
func checkImage(t *testing.T, image []byte) {
	t.Helper()
	list := unpack(t, image)
	for _, want := range []string{
		"lrwxrwxrwx   1 0        0              15 Jan  1  1970 init -> bbin/kdump-init\n",
		"Jan  1  1970 bbin/kdump-init -> bb\n",
		"Jan  1  1970 bbin/savecore -> bb\n",
		"Jan  1  1970 bbin/kdumpctl -> bb\n",
		"crw-------   1 0        0          5,   1 Jan  1  1970 dev/console\n",
		"crw-rw-rw-   1 0        0          1,   3 Jan  1  1970 dev/null\n",
		"drwxrwxrwt   2 0        0               0 Jan  1  1970 tmp\n",
		"etc/kdump/modules\n", " proc\n", " sys\n", " run\n", " mnt\n",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	for line := range strings.Lines(list) {
		if strings.Contains(line, "etc/kdump.conf") && !strings.HasPrefix(line, "-rw-------") {
			t.Errorf("others may read the configuration: %s", line)
		}
		if strings.Contains(line, "bbin/bb\n") && !strings.HasPrefix(line, "-rwxr-xr-x") {
			t.Errorf("the busybox: %s", line)
		}
	}
}

func TestImage(t *testing.T) {
	c := parts(t, "target = file:///c\n", "savecore", "kdumpctl", shellName)
	a, err := c.assemble()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "new/folder/image")
	size, err := save(name, a)
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(name)
	if err != nil || int64(len(image)) != size {
		t.Fatalf("%d bytes, said %d, %v", len(image), size, err)
	}
	checkImage(t, image)
	if list := unpack(t, image); !strings.Contains(list, "bin/sh -> ../bbin/kdump-sh\n") {
		t.Errorf("no /bin/sh in\n%s", list)
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// What the kernel's decompressor takes: one frame that is not a single segment,
// whose window is small.
func TestFrame(t *testing.T) {
	for _, size := range []int{1, windowSize - 1, windowSize, windowSize + 1, 9 << 20} {
		var b bytes.Buffer
		z, err := compress(&b)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < size; i += 1 << 16 { // not all in one Write: the size must stay unknown
			if _, err := z.Write(make([]byte, min(1<<16, size-i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		var h zstd.Header
		if err := h.Decode(b.Bytes()); err != nil {
			t.Fatal(err)
		}
		if h.WindowSize > windowSize || h.SingleSegment && size > windowSize || h.DictionaryID != 0 || !h.HasCheckSum {
			t.Errorf("%d bytes: %+v", size, h)
		}
	}
}

func TestSaveKeepsTheOldImage(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "image")
	if err := os.MkdirAll(filepath.Join(name, "in-the-way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := save(name, &cpio.Archive{}); err == nil {
		t.Error("a folder was replaced")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSettings(t *testing.T) {
	_, err := readSettings(configFile(t, "level = 99\nnonsense = 1\ntarget = disk:///c\ntarget = disk:///c?dev=LABEL=C&fstype=ntfs\n"))
	var wrong problems
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	for _, want := range []string{"level = 99", "nonsense", "dev is missing", "ntfs"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "kdump.conf"); n != 4 {
		t.Errorf("%d of 4 problems name the file:\n%v", n, err)
	}
	if _, err := readSettings("/nonexistent/kdump.conf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if s, err := readSettings(""); err != nil || len(s.text) != 0 || s.config.Level != 31 {
		t.Errorf("no configuration: %+v, %v", s, err)
	}
}

func TestConfigurationMustFitTheImage(t *testing.T) {
	if _, err := parts(t, "failure = shell\n").assemble(); err == nil || !strings.Contains(err.Error(), "kdump.conf:1: failure = shell") {
		t.Errorf("no shell: %v", err)
	}
	if _, err := parts(t, "failure = shell\n", shellName).assemble(); err != nil {
		t.Error(err)
	}
}

func TestInit(t *testing.T) {
	c := parts(t, "")
	c.init = "nosuch"
	if _, err := c.assemble(); err == nil || !strings.Contains(err.Error(), "-init nosuch: want one of kdump-init") {
		t.Errorf("error %v", err)
	}
	c.init = filepath.Join(t.TempDir(), "appliance")
	writeFile(t, c.init, []byte("static"))
	a, err := c.assemble()
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := a.Get("init"); string(e.Data) != "static" || e.Mode != cpio.Regular|0o755 {
		t.Errorf("/init: %+v", e)
	}
}

func TestFiles(t *testing.T) {
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "key"), []byte("secret"))
	writeFile(t, filepath.Join(src, "sub/hook"), []byte("#!/bin/sh\n"))
	if err := os.Chmod(filepath.Join(src, "sub/hook"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("key", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	c := parts(t, "", shellName)
	c.files = []string{src + ":/etc/more", filepath.Join(src, "key") + ":root/key"}
	a, err := c.assemble()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		"etc/more/key": cpio.Regular | 0o600, "etc/more/sub": cpio.Dir | 0o755, "etc/more/sub/hook": cpio.Regular | 0o755,
		"etc/more/link": cpio.Symlink | 0o777, "root/key": cpio.Regular | 0o600,
	} {
		if e, ok := a.Get(name); !ok || e.Mode != want {
			t.Errorf("%s: mode %#o, want %#o", name, e.Mode, want)
		}
	}
	for _, f := range []string{"", "x", ":", "x:", ":x", "x:/", src + "/nosuch:/x", src + ":/etc/kdump.conf", src + "/key:/bbin/bb"} {
		c.files = []string{f}
		if _, err := c.assemble(); err == nil {
			t.Errorf("-files %q was accepted", f)
		}
	}
}

// A key that is missing or empty is found out here, and not after a crash.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	key, hosts, blank := filepath.Join(dir, "key"), filepath.Join(dir, "hosts"), filepath.Join(dir, "blank")
	writeFile(t, key, []byte("secret"))
	writeFile(t, hosts, []byte("server ssh-ed25519 AAAA"))
	writeFile(t, blank, []byte(" \n"))
	conf := "target = sftp://u@server/d?key=" + key + "&known_hosts="
	a, err := parts(t, conf+hosts+"\n").assemble()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{key, hosts} {
		if e, ok := a.Get(inArchive(name)); !ok || e.Mode != cpio.Regular|0o600 || len(e.Data) == 0 {
			t.Errorf("%s: %v, %#o", name, ok, e.Mode)
		}
	}
	for _, tt := range []struct{ hosts, files, want string }{
		{dir + "/none", "", "no such file"},
		{blank, "", blank + " is empty"},
		{"/elsewhere", blank + ":/elsewhere", "/elsewhere is empty"},
		{"/elsewhere", hosts + ":/elsewhere", ""},
		{blank, hosts + ":" + blank, ""},
	} {
		c := parts(t, conf+tt.hosts+"\n")
		if tt.files != "" {
			c.files = []string{tt.files}
		}
		_, err := c.assemble()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// A program whose loader is missing fails in the capture kernel with "no such
// file", and then it is too late.
func TestInterpreters(t *testing.T) {
	dynamic, err := os.ReadFile("/bin/ls")
	if err != nil || interpreter(dynamic) == "" {
		t.Skipf("/bin/ls is not a dynamically linked program here: %v", err)
	}
	for _, data := range [][]byte{dynamic, []byte("#! /bin/sh -e\n"), []byte("#!/bin/sh")} {
		c := parts(t, "") // no shell
		hook := filepath.Join(t.TempDir(), "hook")
		writeFile(t, hook, data)
		if err := os.Chmod(hook, 0o755); err != nil {
			t.Fatal(err)
		}
		c.files = []string{hook + ":/hook"}
		if _, err := c.assemble(); err == nil || !strings.Contains(err.Error(), "/hook: it needs "+interpreter(data)) {
			t.Errorf("error %v", err)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"-h", 0, "Usage: mkinitramfs"},
		{"-nosuch", 2, "not defined"},
		{"stray", 2, `unexpected "stray"`},
		{"-config /nonexistent", 1, "mkinitramfs: open /nonexistent: no such file or directory\n"},
		{"-add-modules x", 1, "need -modules DIR"},
		{"-modules /nonexistent", 1, "/nonexistent"},
	} {
		var stdout, stderr strings.Builder
		if code := run(strings.Fields(c.args), &stdout, &stderr); code != c.code || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: status %d, %q; want %d, %q", c.args, code, &stderr, c.code, c.want)
		}
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int]string{0: "0 B", 10<<10 - 1: "10239 B", 10 << 10: "10 K", 1<<20 - 1: "1024 K", 1 << 20: "1.0 M"} {
		if got := human(n); got != want {
			t.Errorf("human(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	dir := fakeTree(t)
	c := parts(t, "target = disk:///c?dev=LABEL=C\n", "savecore", "kdumpctl", shellName)
	var err error
	if c.modules, err = collect(dir, "amd64", chosen(c.settings.targets, netcfg.Plan{}, false, "", "")); err != nil {
		t.Fatal(err)
	}
	a, err := c.assemble()
	if err != nil {
		t.Fatal(err)
	}
	o := options{out: "IMAGE", arch: "amd64", modules: dir}
	var b strings.Builder
	(&report{options: o, contents: c, bare: 1, archive: a, size: 1000}).print(&b)
	for _, want := range []string{
		"IMAGE for linux/amd64, kernel " + fakeRelease,
		"busybox                   kdump-init savecore kdumpctl\n",
		"of it the shell         what -no-shell saves: kdump-sh\n",
		"configuration             disk:///c?dev=LABEL=C\n",
		"virtio_blk              virtio\n",
		"xfs                     xfs, loaded to mount one\n",
		"built in                ext4 nls_cp437 nls_ascii\n",
		"not in this kernel      virtio_mmio ",
		"1000 B  compressed",
		"note: a target without fstype=:",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}
