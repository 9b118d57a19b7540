package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
)

// key is of the job in the context of what runs for it.
type key struct{}

// jobs are the command lines that have not ended, each with a process group.
type jobs struct {
	tty     int // the terminal's descriptor
	control bool
	group   int // the shell's own
	modes   *unix.Termios
	out     io.Writer

	mu      sync.Mutex // guards what follows, and every job
	changed *sync.Cond
	list    []*job // stopped ones and those in the background, oldest first
}

// job is a command line.
type job struct {
	number  int // 0: not in the list
	text    string
	front   bool // has the terminal
	busy    bool // the interpreter is not through with it
	told    bool // somebody has been told that it is stopped
	group   int
	members []*process // that have not ended
	cancel  context.CancelFunc
}

// process is one that was started for a job.
type process struct {
	pid     int
	ended   bool // and all that it wrote has been passed on
	stopped bool
	status  unix.WaitStatus
}

func newJobs(tty *os.File, out io.Writer) *jobs {
	js := &jobs{tty: int(tty.Fd()), group: unix.Getpgrp(), out: out}
	js.changed = sync.NewCond(&js.mu)
	_, err := unix.IoctlGetInt(js.tty, unix.TIOCGPGRP) // ENOTTY if it is not the controlling one
	js.control = err == nil
	js.modes, _ = unix.IoctlGetTermios(js.tty, unix.TCGETS)
	return js
}

// stopped says whether a process of the job is.
func (j *job) stopped() bool {
	return slices.ContainsFunc(j.members, func(p *process) bool { return p.stopped })
}

// over says whether nothing of the job is left.
func (j *job) over() bool { return len(j.members) == 0 && !j.busy }

func (j *job) state() string {
	switch {
	case j.stopped():
		return "stopped"
	case j.over():
		return "done"
	}
	return "running"
}

// signal sends a signal to the job's processes.
func (j *job) signal(sig unix.Signal) error {
	if len(j.members) == 0 {
		return nil
	}
	return unix.Kill(-j.group, sig)
}

// resume has stopped processes go on.
func (j *job) resume() error {
	for _, p := range j.members {
		p.stopped = false
	}
	j.told = false
	return j.signal(unix.SIGCONT)
}

// enlist gives a job its number.
func (js *jobs) enlist(j *job) {
	if j.number > 0 {
		return
	}
	j.number = 1
	if n := len(js.list); n > 0 {
		j.number = js.list[n-1].number + 1
	}
	js.list = append(js.list, j)
}

// behind begins a job in the background.
func (js *jobs) behind(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	j.busy = true
	js.enlist(j)
	fmt.Fprintf(js.out, "[%d]\n", j.number)
}

// done is called when the interpreter is through with a job in the background.
func (js *jobs) done(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	j.busy = false
	js.changed.Broadcast()
}

// leave ends a job's time in front: it has ended, or is stopped.
func (js *jobs) leave(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	j.front = false
	js.reclaim()
	if js.modes != nil {
		_ = unix.IoctlSetTermios(js.tty, unix.TCSETSW, js.modes) // what ended may have left others
	}
	if len(j.members) > 0 {
		js.enlist(j)
	}
}

// report tells what has become of jobs since the last time, and forgets those that are
// over.
func (js *jobs) report() {
	js.mu.Lock()
	defer js.mu.Unlock()
	for _, j := range js.list {
		if s := j.state(); s == "done" || s == "stopped" && !j.told {
			fmt.Fprintf(js.out, "[%d] %s: %s\n", j.number, s, j.text)
			j.told = true
		}
	}
	js.list = slices.DeleteFunc(js.list, (*job).over)
}

// reclaim gives the terminal back to the shell.
func (js *jobs) reclaim() {
	if js.control {
		_ = unix.IoctlSetPointerInt(js.tty, unix.TIOCSPGRP, js.group)
	}
}

// exec runs a program for the job that ctx has. It comes back when the program has ended,
// or when it is stopped while its job has the terminal.
func (js *jobs) exec(ctx context.Context, args []string) error {
	if b := js.builtin(args[0]); b != nil {
		return b(ctx, args)
	}
	hc := interp.HandlerCtx(ctx)
	path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
	if err != nil {
		fmt.Fprintln(hc.Stderr, err)
		return interp.NewExitStatus(127)
	}
	cmd := &exec.Cmd{Path: path, Args: args, Env: environ(hc), Dir: hc.Dir, Stdout: hc.Stdout, Stderr: hc.Stderr}
	if hc.Stdin != nil {
		cmd.Stdin = hc.Stdin
	}
	j := ctx.Value(key{}).(*job)
	p, err := js.start(ctx, j, cmd)
	switch {
	case ctx.Err() != nil && p == nil:
		return ctx.Err()
	case err != nil:
		fmt.Fprintln(hc.Stderr, err)
		return interp.NewExitStatus(126)
	}
	js.mu.Lock()
	defer js.mu.Unlock()
	for !p.ended && (!p.stopped || !j.front || j.busy) { // in the background, what follows waits too
		js.changed.Wait()
	}
	switch {
	case !p.ended:
		return interp.NewExitStatus(128 + uint8(unix.SIGTSTP))
	case p.status.Signaled():
		return interp.NewExitStatus(128 + uint8(p.status.Signal()))
	}
	return interp.NewExitStatus(uint8(p.status.ExitStatus()))
}

// start starts a program in its job's process group: a new one, if no other of the job
// is there. A job that was killed a moment ago starts nothing any more.
func (js *jobs) start(ctx context.Context, j *job, cmd *exec.Cmd) (*process, error) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if js.control {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if len(j.members) > 0 {
			cmd.SysProcAttr.Pgid = j.group
		}
		if j.front {
			cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, js.tty
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid}
	if len(j.members) == 0 {
		j.group = p.pid
	}
	j.members = append(j.members, p)
	go js.follow(j, p, cmd)
	return p, nil
}

// follow waits for what becomes of a process. It is reaped under the lock, so that its
// process group is there for others as long as it is a member.
func (js *jobs) follow(j *job, p *process, cmd *exec.Cmd) {
	for !js.news(j, p) {
	}
	_ = cmd.Wait() // it is reaped: this passes on what it has written
	js.mu.Lock()
	defer js.mu.Unlock()
	p.ended = true
	js.changed.Broadcast()
}

// news waits until a process is stopped or has ended, and says whether it has ended.
func (js *jobs) news(j *job, p *process) (ended bool) {
	if err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil); err == unix.EINTR {
		return false
	}
	js.mu.Lock()
	defer js.mu.Unlock()
	pid, err := unix.Wait4(p.pid, &p.status, unix.WNOHANG|unix.WUNTRACED, nil)
	switch {
	case err == unix.EINTR || err == nil && pid == 0: // it went on meanwhile
		return false
	case err == nil && p.status.Stopped():
		p.stopped = true
		if j.front {
			time.AfterFunc(stopPatience, func() { js.unstop(j, p) })
		}
		js.changed.Broadcast()
		return false
	}
	j.members = slices.DeleteFunc(j.members, func(m *process) bool { return m == p })
	if j.front && len(j.members) == 0 {
		js.reclaim() // the shell's own commands may follow
	}
	if j.front && err == nil && p.status.Signaled() && p.status.Signal() == unix.SIGINT && j.cancel != nil {
		j.cancel() // Ctrl-C is for the whole of the line
	}
	return true
}

// stopPatience is how long the rest of a command line may take to come back once a
// process of it is stopped.
const stopPatience = 2 * time.Second

// unstop lets a process go on whose command line cannot be left: the shell itself waits
// for what it writes.
func (js *jobs) unstop(j *job, p *process) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if j.front && p.stopped {
		_ = j.resume()
	}
}
