package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ukdump/ukdump/qemu/rig"
)

// upload is what one line of go test -bench says.
type upload struct {
	rate   float64 // MB/s
	cpu    float64 // of the client, s/GB
	server float64 // the same of the server: a line that it fills can be no faster
}

// scene is one server on one line, and those who send a file to it in turn.
type scene struct {
	name    string
	senders []string // the first one is measured against the others
	runs    map[string][]upload
}

// network measures uploads to real servers on this machine, beside other
// clients. The benchmarks of pkg/targets have the servers; each round runs all
// of them once, so that a busier minute meets all senders.
func (b *bench) network(ctx context.Context, out io.Writer, rounds int) error {
	if os.Geteuid() != 0 {
		fmt.Fprintln(out, "\nuploads are left out: servers with users of their own need root")
		return nil
	}
	test, err := filepath.Abs(filepath.Join(b.dir, "targets.test"))
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", test, "./pkg/targets")
	build.Dir = b.Root
	if _, err := rig.Output(build); err != nil {
		return err
	}
	var scenes []*scene
	for range rounds {
		cmd := exec.CommandContext(ctx, test, "-test.run", "^$", "-test.bench", ".", "-test.benchtime", "1x")
		cmd.Dir = filepath.Join(b.Root, "pkg/targets")
		text, err := rig.Output(cmd)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			scenes = addUpload(scenes, line)
		}
	}
	if len(scenes) == 0 {
		return fmt.Errorf("%s: no server could be measured", test)
	}
	for _, s := range scenes {
		s.print(out, rounds)
	}
	return nil
}

// addUpload reads lines like
//
//	BenchmarkSFTP/loopback/ukdump-2  1  358.58 MB/s  5.7 MiB-heap  1.148 cpu-s/GB  2.42 server-s/GB
//
// in which the last name is the sender's.
func addUpload(scenes []*scene, line string) []*scene {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return scenes
	}
	var u upload
	for i := 2; i+1 < len(fields); i += 2 {
		switch fields[i+1] {
		case "MB/s":
			fmt.Sscan(fields[i], &u.rate)
		case "cpu-s/GB":
			fmt.Sscan(fields[i], &u.cpu)
		case "server-s/GB":
			fmt.Sscan(fields[i], &u.server)
		}
	}
	path := strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndexByte(path, '-'); i > 0 && strings.Trim(path[i+1:], "0123456789") == "" { // the number of CPUs
		path = path[:i]
	}
	slash := strings.LastIndexByte(path, '/')
	if u.rate == 0 || slash < 0 {
		return scenes
	}
	name, sender := path[:slash], path[slash+1:]
	i := slices.IndexFunc(scenes, func(s *scene) bool { return s.name == name })
	if i < 0 {
		i = len(scenes)
		scenes = append(scenes, &scene{name: name, runs: make(map[string][]upload)})
	}
	s := scenes[i]
	if s.runs[sender] == nil {
		s.senders = append(s.senders, sender)
	}
	s.runs[sender] = append(s.runs[sender], u)
	return scenes
}

// print gives the median and the best of the rounds: in a virtual machine the
// memory of the server's disk comes and goes, which costs some rounds half of
// their rate and has nothing to do with the sender.
func (s *scene) print(out io.Writer, rounds int) {
	fmt.Fprintf(out, "\nupload, %s, %d rounds: median and best rate, CPU of the client and of the server; how many times as fast %s is, by both, with how much of the client's CPU\n",
		s.name, rounds, s.senders[0])
	first := s.runs[s.senders[0]]
	rate, best, cpu := medianUpload(first, upload.Rate), bestRate(first), medianUpload(first, upload.CPU)
	for _, name := range s.senders {
		runs := s.runs[name]
		r, most, c := medianUpload(runs, upload.Rate), bestRate(runs), medianUpload(runs, upload.CPU)
		fmt.Fprintf(out, "  %-34s %6.0f %6.0f MB/s %6.2f %6.2f s/GB", name, r, most, c, medianUpload(runs, upload.Server))
		if name != s.senders[0] {
			fmt.Fprintf(out, "  %6.2f %6.2f %6.2f", rate/r, best/most, cpu/max(c, 0.001))
		}
		fmt.Fprintln(out)
	}
}

func bestRate(runs []upload) float64 {
	return slices.MaxFunc(runs, func(a, b upload) int { return cmp.Compare(a.rate, b.rate) }).rate
}

func (u upload) Rate() float64   { return u.rate }
func (u upload) CPU() float64    { return u.cpu }
func (u upload) Server() float64 { return u.server }

func medianUpload(runs []upload, of func(upload) float64) float64 {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b upload) int { return cmp.Compare(of(a), of(b)) })
	return of(sorted[len(sorted)/2])
}
