package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ukdump/ukdump/internal/vmcoretest"
	"github.com/ukdump/ukdump/qemu/disk"
	"github.com/ukdump/ukdump/qemu/rig"
	"github.com/ukdump/ukdump/qemu/vm"
)

// TestPowerCut cuts the power while a dump is written to a disk on which two older
// ones are, one of which is to go when the new one is safe. Whenever that happens,
// what has the name of something complete is complete, and older dumps are whole.
//
// One machine is saved when savecore is about to start. From there it is started
// again and again, and QEMU is killed at a random moment: UKDUMP_POWER_CUTS times with
// ext4, and a quarter of that with xfs.
// The disk's writes are recorded; each moment is checked twice, with the disk as
// the last write left it, and with one that has lost what nobody had flushed.
func TestPowerCut(t *testing.T) {
	cuts := 20
	if text := os.Getenv("UKDUMP_POWER_CUTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("UKDUMP_POWER_CUTS=%s: want a number from 1", text)
		}
		cuts = n
	}
	const conf = "target = disk:///crash?dev=LABEL=CRASH\nkeep = 2\n"
	l := newLabWith(t, conf, "6.1")
	b := newCutBench(t, l)
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			cuts := cuts
			if fs != "ext4" {
				cuts = (cuts + 3) / 4
			}
			p := b.save(t, fs, conf)
			whole := p.undisturbed(t)
			t.Run("killed", func(t *testing.T) { p.killed(t, whole, cuts) })
			t.Run("any-write", func(t *testing.T) { p.anyWrite(t, whole, cuts) })
		})
	}
}

// cutBench is what all cuts share.
type cutBench struct {
	*lab
	older []string // names of the dumps that are there before, oldest first
	files string   // folder with them
}

// newCutBench makes the older dumps: small ones, of a core that is none of this kernel's.
func newCutBench(t *testing.T, l *lab) *cutBench {
	t.Helper()
	dir := t.TempDir()
	b := &cutBench{lab: l, files: filepath.Join(dir, "files")}
	l.vmcore(t)
	savecore := filepath.Join(dir, "savecore")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", savecore, "./cmds/savecore")
	build.Dir = l.Root
	if _, err := rig.Output(build); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		core := vmcoretest.File(t, fmt.Sprintf("info CRASHTIME=%d\ninfo OSRELEASE=6.1\nkernel 0x1000000 4M\nload 0 32M\npattern 0x1000 8M\n", 1700000000+i))
		// There is no kernel log in it: exit status 1, and a core all the same.
		cmd := exec.CommandContext(t.Context(), savecore, "-core", core, "-progress", "0", "file://"+b.files+"/crash")
		out, err := cmd.CombinedOutput()
		names, _ := filepath.Glob(b.files + "/crash/*/vmcore")
		if len(names) != i+1 {
			t.Fatalf("savecore: %v, dumps %q:\n%s", err, names, out)
		}
	}
	entries, err := os.ReadDir(b.files + "/crash")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b.older = append(b.older, e.Name())
	}
	return b
}

// powerCut is a machine that is about to save its crash.
type powerCut struct {
	*cutBench
	fs     string
	dir    string
	config vm.Config
	target int    // index of its disk
	disk   string // its contents then

	verified sync.Map // SHA-256 of cores that vmcore verify finds good
}

// save crashes a machine and saves it just before savecore runs.
func (b *cutBench) save(t *testing.T, fs, conf string) *powerCut {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p := &powerCut{cutBench: b, fs: fs, dir: t.TempDir()}
	size, f := int64(256*mib), disk.FS{Type: fs, Label: "CRASH"}
	if fs == "ext4" {
		f.Files = b.files
	} else {
		size = 512 * mib
	}
	c := b.prepare(ctx, t, "6.1", setup{conf: conf, size: size, fs: f, crash: rig.Crash{Fill: true}})
	if fs != "ext4" {
		p.loopMount(t, c.Target.Path, func(dir string) error { return os.CopyFS(filepath.Join(dir, "crash"), os.DirFS(b.files+"/crash")) })
	}
	p.disk = c.Target.Path
	var err error
	if p.config, err = b.Machine(ctx, c, p.dir); err != nil {
		t.Fatal(err)
	}
	for i := range p.config.Disks {
		d := &p.config.Disks[i]
		d.Bus = "virtio" // NVMe cannot be saved
		if d.Serial == "target" {
			p.target = i
		} else {
			d.Snapshot = true
		}
	}
	before := hashFile(t, p.disk)
	config, err := p.machine(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := vm.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if _, _, err := m.Wait(ctx, "kdump-init: run /bbin/savecore"); err != nil {
		t.Fatalf("%v\n%s", err, m.Tail(40))
	}
	q, err := m.Monitor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	saved := filepath.Join(p.dir, "machine")
	if err := q.Save(ctx, saved); err != nil {
		t.Fatal(err)
	}
	if hashFile(t, config.Disks[p.target].Path) != before {
		t.Fatal("the target was written to before savecore ran")
	}
	p.config.Saved = saved
	return p
}

// machine is the saved one, with its files in dir and the target as it was.
func (p *powerCut) machine(dir string) (vm.Config, error) {
	c := p.config
	c.Dir = dir
	c.Disks = slices.Clone(c.Disks)
	d := &c.Disks[p.target]
	d.Path, d.Log = filepath.Join(dir, "disk.img"), filepath.Join(dir, "writes")
	return c, errors.Join(disk.Copy(d.Path, p.disk), disk.Blank(d.Log, 0))
}

// cutRun is what a saved machine did.
type cutRun struct {
	cpu  time.Duration // QEMU took of the host's processors since it went on
	disk string        // the target
	log  *disk.Log
}

// undisturbed lets the machine save its crash.
func (p *powerCut) undisturbed(t *testing.T) cutRun {
	t.Helper()
	r, err := p.start(t, t.TempDir(), func(ctx context.Context, m *vm.Machine) error {
		_, _, err := m.Wait(ctx, "reboot: Restarting system")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.log.Close() })
	state, err := p.check(t, r.disk)
	if err != nil || state != stateAll {
		t.Fatalf("undisturbed: %v, %v", state, err)
	}
	t.Logf("undisturbed: %.1f s of CPU time, %d writes and flushes", r.cpu.Seconds(), len(r.log.Writes))
	return r
}

// start starts the machine, in dir, and kills it when until returns.
func (p *powerCut) start(t *testing.T, dir string, until func(context.Context, *vm.Machine) error) (r cutRun, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	config, err := p.machine(dir)
	if err != nil {
		return r, err
	}
	m, err := vm.Start(ctx, config)
	if err != nil {
		return r, err
	}
	defer m.Kill()
	q, err := m.Monitor(ctx)
	if err != nil {
		return r, err
	}
	defer q.Close()
	if err := q.Resume(ctx); err != nil {
		return r, err
	}
	r.disk = config.Disks[p.target].Path
	began := m.CPU()
	if err := until(ctx, m); err != nil {
		return r, fmt.Errorf("%w\n%s", err, m.Tail(40))
	}
	r.cpu = m.CPU() - began
	m.Kill()
	r.log, err = disk.ReadLog(config.Disks[p.target].Log)
	return r, err
}

// killed kills QEMU at random moments of the whole capture, two at a time.
func (p *powerCut) killed(t *testing.T, whole cutRun, cuts int) {
	var wg sync.WaitGroup
	next := make(chan int)
	seen := newTally()
	for range 2 {
		wg.Go(func() {
			for i := range next {
				random := rand.New(rand.NewPCG(1, uint64(i)))
				after := time.Duration(random.Int64N(int64(whole.cpu * 21 / 20)))
				p.cut(t, i, after, random, seen)
			}
		})
	}
	for i := range cuts {
		next <- i
		if i%20 == 19 {
			t.Logf("%d of %d cuts begun", i+1, cuts)
		}
	}
	close(next)
	wg.Wait()
	seen.report(t, cuts) // a part of the core is there when the journal's 5 s end while it is saved: not always
}

func (p *powerCut) cut(t *testing.T, i int, after time.Duration, random *rand.Rand, seen *tally) {
	dir, err := os.MkdirTemp(p.dir, "cut")
	if err != nil {
		t.Error(err)
		return
	}
	defer os.RemoveAll(dir)
	r, err := p.start(t, dir, func(ctx context.Context, m *vm.Machine) error {
		for began := m.CPU(); m.CPU()-began < after && ctx.Err() == nil; {
			time.Sleep(5 * time.Millisecond)
		}
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("cut %d after %s: %v", i, after, err)
		return
	}
	defer r.log.Close()
	seen.add(t, fmt.Sprintf("cut %d after %s, all writes kept", i, after), p, r.disk)
	p.lose(t, r.log, len(r.log.Writes), random, fmt.Sprintf("cut %d after %s", i, after), seen)
}

// lose checks a disk that has done n writes, and lost some that were not flushed.
func (p *powerCut) lose(t *testing.T, log *disk.Log, n int, random *rand.Rand, when string, seen *tally) {
	img, err := os.CreateTemp(p.dir, "lost")
	if err != nil {
		t.Error(err)
		return
	}
	img.Close()
	defer os.Remove(img.Name())
	if err := disk.Copy(img.Name(), p.disk); err != nil {
		t.Error(err)
		return
	}
	f, err := os.OpenFile(img.Name(), os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	keep := []float64{0, 0.2, 0.5, 0.8, 1}[random.IntN(5)]
	if err := errors.Join(log.Cut(f, n, keep, random), f.Close()); err != nil {
		t.Error(err)
		return
	}
	seen.add(t, fmt.Sprintf("%s, %d writes, a chance of %.1f for those not flushed", when, n, keep), p, img.Name())
}

// anyWrite cuts the recorded writes of a whole capture short: around each flush, where
// what counts becomes safe, and elsewhere at random.
func (p *powerCut) anyWrite(t *testing.T, whole cutRun, cuts int) {
	random := rand.New(rand.NewPCG(2, 2))
	var at []int
	for i, w := range whole.log.Writes {
		if w.Flush {
			at = append(at, i, i+1)
		}
	}
	flushes := len(at) / 2
	random.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	at = at[:min(len(at), cuts)]
	for range min(cuts, 100) {
		at = append(at, random.IntN(len(whole.log.Writes)+1))
	}
	t.Logf("%d flushes; %d cuts", flushes, len(at))
	seen := newTally()
	for _, n := range at {
		p.lose(t, whole.log, n, random, "recorded", seen)
	}
	if p.fs == "ext4" {
		seen.report(t, len(at), statePart)
		return
	}
	seen.report(t, len(at))
}

// state is what of the new dump has its final name.
type state string

const (
	stateNothing state = "nothing"
	stateLog     state = "kernel log"
	statePart    state = "kernel log, and the core in part"
	stateCore    state = "core"
	stateAll     state = "all"
)

// tally counts what the cuts left behind. Every goroutine may use it.
type tally struct {
	mu    sync.Mutex
	count map[state]int
}

func newTally() *tally { return &tally{count: map[state]int{}} }

func (c *tally) add(t *testing.T, what string, p *powerCut, img string) {
	s, err := p.check(t, img)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		keep := filepath.Join(p.Out, strings.ReplaceAll(t.Name(), "/", "-")+".img")
		t.Logf("the disk is in %s: %v", keep, disk.Copy(keep, img))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[s]++
}

// report fails a test that did not see all there is to see.
func (c *tally) report(t *testing.T, cuts int, must ...state) {
	t.Helper()
	for _, s := range []state{stateNothing, stateLog, statePart, stateCore, stateAll} {
		t.Logf("%4d disks have of the new dump: %s", c.count[s], s)
	}
	if cuts < 100 {
		return
	}
	for _, s := range append(must, stateLog, stateAll) {
		if c.count[s] == 0 {
			t.Errorf("the cuts were not spread over the whole capture: no disk has of it: %s", s)
		}
	}
}

// check looks at a disk as the next system finds it, whose filesystem it repairs.
func (p *powerCut) check(t *testing.T, img string) (state, error) {
	dir, err := os.MkdirTemp(p.dir, "tree")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if p.fs != "ext4" {
		var s state
		p.loopMount(t, img, func(root string) error {
			s, err = p.checkTree(ctx, filepath.Join(root, "crash"))
			return nil
		})
		return s, err
	}
	if err := disk.Repair(ctx, img); err != nil {
		return "", err
	}
	if err := disk.Extract(ctx, img, "/crash", dir); err != nil {
		return "", err
	}
	return p.checkTree(ctx, filepath.Join(dir, "crash"))
}

func (p *powerCut) checkTree(ctx context.Context, root string) (state, error) {
	dirs, err := os.ReadDir(root)
	if err != nil {
		return "", err
	}
	s, there := stateNothing, map[string]bool{}
	var errs []error
	for _, d := range dirs {
		dir := filepath.Join(root, d.Name())
		there[d.Name()] = sumsHold(dir, "vmcore", "capture.log", "result.json") == nil
		if slices.Contains(p.older, d.Name()) {
			continue
		}
		if s != stateNothing {
			errs = append(errs, fmt.Errorf("a second new directory: %s", d.Name()))
		}
		if s, err = p.checkNew(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.Name(), err))
		}
	}
	for i, name := range p.older {
		if mayGo := i == 0 && (s == stateCore || s == stateAll); !there[name] && !mayGo {
			errs = append(errs, fmt.Errorf("the older dump %s is not whole: %w", name, sumsHold(filepath.Join(root, name), "vmcore")))
		}
	}
	return s, errors.Join(errs...)
}

// checkNew checks each file of the new dump that has its final name.
func (p *powerCut) checkNew(ctx context.Context, dir string) (state, error) {
	has := map[string]bool{}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		has[e.Name()] = true
	}
	if has["vmcore-dmesg.txt"] {
		b, readErr := os.ReadFile(filepath.Join(dir, "vmcore-dmesg.txt"))
		if !regexp.MustCompile(`(?s)Linux version .*sysrq triggered crash.*\n$`).Match(b) {
			err = errors.Join(err, fmt.Errorf("vmcore-dmesg.txt is not whole: %d bytes, %v", len(b), readErr))
		}
	}
	if has["vmcore"] {
		err = errors.Join(err, p.verifyOnce(ctx, filepath.Join(dir, "vmcore")))
	}
	if has["SHA256SUMS"] {
		err = errors.Join(err, sumsHold(dir, "vmcore-dmesg.txt", "vmcore"))
	}
	switch {
	case has["vmcore"] && has["SHA256SUMS"]:
		return stateAll, err
	case has["vmcore"]:
		return stateCore, err
	case has["vmcore-incomplete"]:
		return statePart, err
	case has["vmcore-dmesg.txt"]:
		return stateLog, err
	}
	return stateNothing, err
}

// verifyOnce has vmcore verify look at a dump, unless it has found nothing to complain of
// in one with the same bytes.
func (p *powerCut) verifyOnce(ctx context.Context, name string) error {
	sum, err := sha256File(name)
	if err != nil {
		return err
	}
	if _, ok := p.verified.Load(sum); ok {
		return nil
	}
	if out, err := exec.CommandContext(ctx, p.vmcorePath, "verify", name).CombinedOutput(); err != nil {
		return fmt.Errorf("vmcore verify: %w: %s", err, out)
	}
	p.verified.Store(sum, true)
	return nil
}

// sumsHold checks SHA256SUMS, which must name these files.
func sumsHold(dir string, names ...string) error {
	f, err := os.Open(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		got, err := sha256File(filepath.Join(dir, name))
		if err != nil || got != sum {
			return fmt.Errorf("SHA256SUMS: %s has %s, the file %s (%v)", name, sum, got, err)
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == name })
	}
	if len(names) > 0 {
		return fmt.Errorf("SHA256SUMS does not name %q", names)
	}
	return nil
}

// loopMount mounts an image for a moment, which takes root and the kernel's driver.
func (p *powerCut) loopMount(t *testing.T, img string, do func(dir string) error) {
	t.Helper()
	known, _ := os.ReadFile("/proc/filesystems")
	if os.Getuid() != 0 || !strings.Contains(string(known), "\t"+p.fs+"\n") {
		t.Skipf("only root, and with a kernel that has it, can look into %s", p.fs)
	}
	dir, err := os.MkdirTemp(p.dir, "mount")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if _, err := rig.Output(exec.Command("mount", "-o", "loop,nouuid", "-t", p.fs, img, dir)); err != nil {
		t.Errorf("%v", err)
		return
	}
	err = do(dir)
	if _, umountErr := rig.Output(exec.Command("umount", dir)); err != nil || umountErr != nil {
		t.Errorf("%v, %v", err, umountErr)
	}
}
