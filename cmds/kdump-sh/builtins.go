package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// mark precedes the names of builtins that the interpreter would take for its own.
const mark = "job "

// rename hands those over to exec.
func (js *jobs) rename(_ context.Context, args []string) ([]string, error) {
	switch args[0] {
	case "fg", "bg", "wait":
		return append([]string{mark + args[0]}, args[1:]...), nil
	}
	return args, nil
}

type handler func(ctx context.Context, args []string) error

// builtin is what the shell does itself under that name, or nil.
func (js *jobs) builtin(name string) handler {
	var b func(ctx context.Context, out io.Writer, args []string) error
	switch name {
	case "jobs":
		b = js.show
	case mark + "fg":
		b = js.bring
	case mark + "bg":
		b = js.send
	case mark + "wait":
		b = js.wait
	case "kill":
		b = js.kill
	default:
		return nil
	}
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		if err := b(ctx, hc.Stdout, args[1:]); err != nil {
			fmt.Fprintf(hc.Stderr, "%s: %v\n", strings.TrimPrefix(name, mark), err)
			return interp.NewExitStatus(1)
		}
		return nil
	}
}

// environ is what a program gets: the exported variables.
func environ(hc interp.HandlerContext) (list []string) {
	hc.Env.Each(func(name string, v expand.Variable) bool {
		if v.Exported && v.Kind == expand.String {
			list = append(list, name+"="+v.Str)
		}
		return true
	})
	return list
}

func (js *jobs) show(_ context.Context, out io.Writer, _ []string) error {
	js.mu.Lock()
	defer js.mu.Unlock()
	for _, j := range js.list {
		fmt.Fprintf(out, "[%d] %s: %s\n", j.number, j.state(), j.text)
		j.told = true
	}
	return nil
}

// find gives the job of a name such as %1, or the last one. The lock is held.
func (js *jobs) find(args []string) (*job, error) {
	if len(args) == 0 {
		if len(js.list) == 0 {
			return nil, errors.New("there is no job")
		}
		return js.list[len(js.list)-1], nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(args[0], "%"))
	for _, j := range js.list {
		if err == nil && j.number == n {
			return j, nil
		}
	}
	return nil, fmt.Errorf("%s: there is no such job", args[0])
}

// bring gives a job the terminal and waits for it.
func (js *jobs) bring(_ context.Context, out io.Writer, args []string) error {
	js.mu.Lock()
	j, err := js.find(args)
	if err != nil {
		js.mu.Unlock()
		return err
	}
	fmt.Fprintln(out, j.text)
	j.front = true
	if js.control && len(j.members) > 0 {
		_ = unix.IoctlSetPointerInt(js.tty, unix.TIOCSPGRP, j.group)
	}
	err = j.resume()
	for err == nil && !j.over() && !j.stopped() {
		js.changed.Wait()
	}
	js.mu.Unlock()
	js.leave(j)
	js.forget(j)
	return err
}

// forget takes a job that is over out of the list: whoever brought it to the front has
// seen that.
func (js *jobs) forget(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	for i := range js.list {
		if js.list[i] == j && j.over() {
			js.list = append(js.list[:i], js.list[i+1:]...)
			return
		}
	}
}

// send has a stopped job go on in the background.
func (js *jobs) send(_ context.Context, out io.Writer, args []string) error {
	js.mu.Lock()
	defer js.mu.Unlock()
	j, err := js.find(args)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "[%d] %s\n", j.number, j.text)
	return j.resume()
}

// wait waits until no job runs in the background, or for Ctrl-C.
func (js *jobs) wait(ctx context.Context, _ io.Writer, _ []string) error {
	wake := context.AfterFunc(ctx, func() {
		js.mu.Lock()
		defer js.mu.Unlock()
		js.changed.Broadcast()
	})
	defer wake()
	js.mu.Lock()
	defer js.mu.Unlock()
	for ctx.Err() == nil && js.runs() {
		js.changed.Wait()
	}
	return ctx.Err()
}

func (js *jobs) runs() bool {
	for _, j := range js.list {
		if j.state() == "running" {
			return true
		}
	}
	return false
}

// kill sends a signal to jobs and processes: kill [-SIGNAL] %JOB|PID...
func (js *jobs) kill(_ context.Context, _ io.Writer, args []string) error {
	sig := unix.SIGTERM
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name := strings.ToUpper(args[0][1:])
		n, err := strconv.Atoi(name)
		if err != nil {
			n = int(unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")))
		}
		if n <= 0 {
			return fmt.Errorf("%s: want a signal such as -KILL or -9", args[0])
		}
		sig, args = unix.Signal(n), args[1:]
	}
	if len(args) == 0 {
		return errors.New("want a job such as %1, or the number of a process")
	}
	js.mu.Lock()
	defer js.mu.Unlock()
	for _, name := range args {
		if err := js.strike(name, sig); err != nil {
			return err
		}
	}
	return nil
}

func (js *jobs) strike(name string, sig unix.Signal) error {
	if !strings.HasPrefix(name, "%") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			return fmt.Errorf("%s: want a job such as %%1, or the number of a process", name)
		}
		return os.NewSyscallError("kill", unix.Kill(pid, sig))
	}
	j, err := js.find([]string{name})
	switch {
	case err != nil:
		return err
	case sig == unix.SIGCONT:
		return j.resume()
	}
	switch sig {
	case unix.SIGINT, unix.SIGTERM, unix.SIGKILL, unix.SIGHUP:
		if j.cancel != nil {
			j.cancel() // nor does what would come after it run
		}
	}
	err = j.signal(sig)
	if err == nil && j.stopped() && sig != unix.SIGSTOP && sig != unix.SIGTSTP {
		err = j.resume() // else it would not notice
	}
	return err
}
