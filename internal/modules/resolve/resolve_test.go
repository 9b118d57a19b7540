package resolve

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/internal/moduletest"
)

// module is one for x86-64.
func module(fields ...string) []byte { return moduletest.File(elf.EM_X86_64, fields...) }

// tree lays out a folder: name -> .modinfo fields.
func tree(t *testing.T, mods map[string][]string, builtin ...string) *Tree {
	t.Helper()
	dir := t.TempDir()
	for name, fields := range mods {
		write(t, dir, name, pack(t, name, module(fields...)))
	}
	write(t, dir, "modules.builtin", []byte(strings.Join(builtin, "\n")))
	return open(t, dir)
}

func open(t *testing.T, dir string) *Tree {
	t.Helper()
	tr, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// pack compresses as the name asks for.
func pack(t *testing.T, name string, data []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	switch filepath.Ext(name) {
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".zst":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	case ".xz":
		cmd := exec.Command("xz", "-c", "--check=crc32", "--lzma2=dict=1MiB")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("xz: %v", err)
		}
		return out
	default:
		return data
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(r Result) string {
	var list []string
	for _, m := range r.Modules {
		list = append(list, m.Name)
	}
	return strings.Join(list, " ")
}

func requests(list string) []Request {
	var rs []Request
	for name := range strings.FieldsSeq(list) {
		name, optional := strings.CutSuffix(name, "?")
		rs = append(rs, Request{Name: name, Optional: optional})
	}
	return rs
}

func TestResolve(t *testing.T) {
	tr := tree(t, map[string][]string{
		"kernel/fs/ext4/ext4.ko":       {"name=ext4", "depends=jbd2,mbcache,crc16", "softdep=pre: crc32c", "alias=fs-ext4", "alias=fs-ext3"},
		"kernel/fs/jbd2/jbd2.ko":       {"depends="},
		"kernel/fs/mbcache.ko":         {"depends="},
		"kernel/crypto/crc32c-fast.ko": {"depends=", "alias=crc32c", "alias=crypto-crc32c"},
		"kernel/crypto/crc32c-slow.ko": {"depends=", "alias=crc32c"},
		"kernel/net/virtio-net.ko":     {"depends=net-failover", "firmware=a.bin", "firmware=b.bin", "alias=virtio:d00000001v*"},
		"kernel/net/net_failover.ko":   {"depends="},
		"kernel/cifs.ko":               {"depends=", "softdep=gcm", "softdep=post: tail", "softdep=pre: aead2"},
		"kernel/gcm.ko":                {"depends="},
		"kernel/tail.ko":               {"depends="},
		"kernel/broken.ko":             {"depends=jbd2,nowhere"},
		"kernel/softly.ko":             {"depends=", "softdep=pre: broken"},
		"kernel/circle_a.ko":           {"depends=", "softdep=pre: circle_b"},
		"kernel/circle_b.ko":           {"depends=circle_a"},
		"kernel/knot_a.ko":             {"depends=knot_b"},
		"kernel/knot_b.ko":             {"depends=knot_a"},
		"updates/dup.ko":               {"depends=tail"},
		"kernel/dup.ko":                {"depends=gcm"},
	}, "kernel/lib/crc16.ko", "kernel/drivers/nvme/host/nvme-core.ko")
	for _, tt := range []struct{ requests, modules, builtin, missing, err string }{
		{"", "", "", "", ""},
		{"jbd2", "jbd2", "", "", ""},
		{"jbd2 jbd2", "jbd2", "", "", ""},
		{"ext4", "crc32c_fast crc32c_slow jbd2 mbcache ext4", "", "", ""},
		{"fs-ext3", "crc32c_fast crc32c_slow jbd2 mbcache ext4", "", "", ""},
		{"mbcache ext4", "mbcache crc32c_fast crc32c_slow jbd2 ext4", "", "", ""},
		{"nvme_core nvme-core", "", "nvme_core nvme-core", "", ""},
		{"virtio_net", "net_failover virtio_net", "", "", ""},
		{"virtio:d00000001v00001af4", "net_failover virtio_net", "", "", ""},
		{"cifs", "gcm cifs tail", "", "aead2 (for cifs): no such module or alias, and not built in", ""},
		{"xfs", "", "", "", "module xfs: no such module or alias, and not built in"},
		{"xfs? jbd2", "jbd2", "", "xfs: no such module or alias, and not built in", ""},
		{"broken", "", "", "", "module broken: it needs nowhere: no such module or alias, and not built in"},
		{"broken? tail", "tail", "", "broken: it needs nowhere: no such module or alias, and not built in", ""},
		{"softly", "softly", "", "broken (for softly): it needs nowhere: no such module or alias, and not built in", ""},
		{"circle_a", "circle_a circle_b", "", "", ""},
		{"circle_b", "circle_a circle_b", "", "", ""},
		{"knot_a", "", "", "", "module knot_a: it needs knot_b: it needs knot_a: it needs itself"},
		{"dup", "tail dup", "", "", ""},
	} {
		got, err := tr.Resolve(requests(tt.requests))
		text := ""
		if err != nil {
			text = err.Error()
		}
		var missing []string
		for _, m := range got.Missing {
			missing = append(missing, m.String())
		}
		if names(got) != tt.modules || strings.Join(got.BuiltIn, " ") != tt.builtin || strings.Join(missing, "; ") != tt.missing || text != tt.err {
			t.Errorf("%s:\ngot  %q %q %q %v\nwant %q %q %q %v", tt.requests, names(got), got.BuiltIn, missing, err,
				tt.modules, tt.builtin, tt.missing, tt.err)
		}
	}
	got, err := tr.Resolve(requests("virtio_net"))
	if err != nil {
		t.Fatal(err)
	}
	if m := got.Modules[1]; m.Path != "kernel/net/virtio-net.ko" || !slices.Equal(m.Firmware, []string{"a.bin", "b.bin"}) {
		t.Error(m)
	}
}

func TestCompressedModules(t *testing.T) {
	plain := module("depends=", "vermagic=6.1.0 SMP mod_unload", "alias=fs-a")
	for _, suffix := range []string{"", ".gz", ".zst", ".xz"} {
		tr := tree(t, map[string][]string{"kernel/a.ko" + suffix: {"depends=", "vermagic=6.1.0 SMP mod_unload", "alias=fs-a"}})
		got, err := tr.Resolve(requests("fs-a"))
		if err != nil || names(got) != "a" {
			t.Fatal(suffix, got, err)
		}
		r, err := tr.Open(got.Modules[0])
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, plain) {
			t.Errorf("%s: contents differ, %v", suffix, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if release, err := tr.Release(); release != "6.1.0" || err != nil {
			t.Error(release, err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "6.1.0")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoModules) {
		t.Error(err)
	}
	dir := t.TempDir()
	write(t, dir, "modules.builtin", []byte("kernel/fs/ext4/ext4.ko\n"))
	got, err := open(t, dir).Resolve(requests("ext4"))
	if err != nil || !slices.Equal(got.BuiltIn, []string{"ext4"}) {
		t.Error(got, err)
	}
	write(t, dir, "kernel/torn.ko", module("depends=")[:100])
	write(t, dir, "kernel/torn2.ko.zst", []byte("\x28\xb5\x2f\xfd"))
	for _, name := range []string{"torn", "torn2"} {
		if _, err := open(t, dir).Resolve(requests(name)); err == nil || !strings.Contains(err.Error(), "kernel/"+name) {
			t.Error(err)
		}
	}
}

// A dependency that only depmod knows of is followed too.
func TestModulesDep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		write(t, dir, "kernel/"+name+".ko", module("depends="))
	}
	write(t, dir, "modules.dep", []byte("kernel/a.ko: kernel/b.ko kernel/c.ko\nkernel/b.ko: kernel/c.ko\nkernel/c.ko:\n"))
	write(t, dir, "modules.alias", []byte("# Aliases\nalias x-* a\nalias gone d\n"))
	got, err := open(t, dir).Resolve(requests("x-1 gone?"))
	if err != nil || names(got) != "c b a" || len(got.Missing) != 1 {
		t.Error(got, err)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"a", "", false}, {"*", "", true}, {"**", "a/b", true},
		{"a-b", "a_b", true}, {"a_b", "a-b", true}, {"a?c", "a/c", true}, {"a?c", "ac", false},
		{"pci:v00001AF4d*sv*", "pci:v00001AF4d00001000sv00001AF4", true},
		{"pci:v00001AF4d*sv*", "pci:v00008086d00001000sv00001AF4", false},
		{"*ab", "aab", true}, {"*ab*ab", "abab", true}, {"*ab*ab", "abb", false},
		{"[0-9a]x", "7x", true}, {"[0-9a]x", "ax", true}, {"[0-9a]x", "bx", false}, {"[!0-9]", "b", true}, {"[^0-9]", "1", false},
		{"[a", "[a", true}, {"[]", "[]", true}, {"[!]", "!", true}, {"[a-]", "-", true},
	} {
		if got := match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("match(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

// realTrees are folders of real kernels: of this machine, of the kernels that
// the tests with virtual machines have fetched, and those UKDUMP_MODULES names.
func realTrees(t *testing.T) []string {
	patterns := []string{"/lib/modules/*", "/usr/lib/modules/*"}
	if cache := os.Getenv("UKDUMP_CACHE"); cache != "" {
		for _, deep := range []string{"lib", "*/lib", "*/*/lib", "usr/lib", "*/usr/lib", "*/*/usr/lib"} {
			patterns = append(patterns, filepath.Join(cache, deep, "modules/*"))
		}
	}
	patterns = append(patterns, filepath.SplitList(os.Getenv("UKDUMP_MODULES"))...)
	var dirs []string
	seen := make(map[string]bool)
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range found {
			real, err := filepath.EvalSymlinks(dir)
			if err == nil && !seen[real] {
				seen[real] = true
				dirs = append(dirs, real)
			}
		}
	}
	return dirs
}

// Every module of a real kernel resolves, and each stands behind those that
// it needs.
func TestRealTrees(t *testing.T) {
	dirs := realTrees(t)
	if len(dirs) == 0 {
		t.Skip("no /lib/modules on this machine, none below $UKDUMP_CACHE, and $UKDUMP_MODULES names none")
	}
	for _, dir := range dirs {
		tr := open(t, dir)
		var all []Request
		for name := range tr.files {
			all = append(all, Request{Name: name})
		}
		slices.SortFunc(all, func(a, b Request) int { return strings.Compare(a.Name, b.Name) })
		got, err := tr.Resolve(all)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		if len(got.Modules) != len(tr.files) {
			t.Errorf("%s: %d modules of %d", dir, len(got.Modules), len(tr.files))
		}
		there := make(map[string]bool)
		for _, m := range got.Modules {
			info, err := tr.Info(m.Name)
			if err != nil {
				t.Fatal(err)
			}
			for _, dep := range info.Depends {
				if dep = underscored(dep); !there[dep] && !tr.builtin[dep] {
					t.Errorf("%s: %s stands before %s", dir, m.Name, dep)
				}
			}
			there[m.Name] = true
		}
		t.Logf("%s: %d modules", dir, len(got.Modules))
	}
}

// modprobe --show-depends, on a copy that depmod has been over, and Resolve,
// on the folder as it is, agree about what is to be loaded.
func TestAgainstModprobe(t *testing.T) {
	for _, tool := range []string{"depmod", "modprobe"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no kmod on this machine to hold against:", err)
		}
	}
	dirs := realTrees(t)
	if len(dirs) == 0 {
		t.Skip("no /lib/modules on this machine, none below $UKDUMP_CACHE, and $UKDUMP_MODULES names none")
	}
	for _, dir := range dirs {
		release := filepath.Base(dir)
		base := t.TempDir()
		for _, args := range [][]string{
			{"mkdir", "-p", filepath.Join(base, "lib/modules")},
			{"cp", "-a", dir, filepath.Join(base, "lib/modules")},
			{"depmod", "-b", base, release},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
		plain, dep := open(t, dir), open(t, filepath.Join(base, "lib/modules", release))
		for _, name := range []string{"ext4", "xfs", "btrfs", "vfat", "nfsv4", "cifs", "virtio_net", "virtio_blk", "nvme", "8021q", "bonding", "fs-xfs", "crypto-crc32c"} {
			got, err := plain.Resolve([]Request{{Name: name, Optional: true}})
			if err != nil {
				t.Fatal(err)
			}
			again, err := dep.Resolve([]Request{{Name: name, Optional: true}})
			if err != nil || names(got) != names(again) {
				t.Errorf("%s %s: without depmod %q, with it %q %v", release, name, names(got), names(again), err)
			}
			compare(t, base, release, name, got)
		}
	}
}

func compare(t *testing.T, base, release, name string, got Result) {
	out, err := exec.Command("modprobe", "-d", base, "-S", release, "-C", "/dev/null", "--show-depends", name).Output()
	if err != nil {
		if len(got.Modules) != 0 || len(got.BuiltIn) != 0 {
			t.Errorf("%s %s: modprobe knows none, got %q %q", release, name, names(got), got.BuiltIn)
		}
		return
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "insmod" {
			continue
		}
		want := modules.Name(f[1])
		if !slices.ContainsFunc(got.Modules, func(m Module) bool { return m.Name == want }) {
			t.Errorf("%s %s: modprobe would load %s, got %q", release, name, want, names(got))
		}
	}
}

func FuzzReadInfo(f *testing.F) {
	f.Add(module("name=a", "depends=b,c", "softdep=pre: d e post: f", "alias=g"))
	f.Add(module())
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := ReadInfo(bytes.NewReader(data))
		if err == nil && len(info.Aliases) > len(data) {
			t.Fatal("more aliases than bytes")
		}
	})
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte("name=a\x00depends=b,c\x00softdep=pre: d e post: f\x00alias=g-[0-9]*\x00"), "g-1")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		for _, pattern := range parseInfo(data).Aliases {
			match(pattern, name)
		}
	})
}
