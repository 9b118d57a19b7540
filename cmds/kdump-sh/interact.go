package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

const (
	prompt  = "$ "
	further = "> " // of a command that goes on in the next line
)

// errInterrupted is what reading a command ends with at Ctrl-C.
const errInterrupted Error = "interrupted"

// Error is an error of this package.
type Error string

func (e Error) Error() string { return string(e) }

// shell is what somebody types to.
type shell struct {
	tty    *os.File
	out    io.Writer
	stderr io.Writer
	runner *interp.Runner
	jobs   *jobs
	wake   [2]*os.File // a pipe: Ctrl-C while nothing runs
	exited bool
	last   int // exit status

	mu     sync.Mutex // guards what follows
	cancel context.CancelFunc
}

// interact runs what is typed until exit or the end of input.
func interact(tty *os.File, stdout, stderr io.Writer) int {
	s := &shell{tty: tty, out: stdout, stderr: stderr, jobs: newJobs(tty, stdout)}
	var err error
	s.runner, err = interp.New(interp.StdIO(tty, stdout, stderr), interp.Interactive(true),
		interp.CallHandler(s.jobs.rename), interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.jobs.exec }))
	if err == nil {
		s.wake[0], s.wake[1], err = os.Pipe()
	}
	if err != nil {
		fmt.Fprintf(stderr, "kdump-sh: %v\n", err)
		return 1
	}
	s.signals()
	if !s.jobs.control {
		fmt.Fprintln(stdout, "this is no controlling terminal: there is no job control")
	}
	fmt.Fprint(stdout, prompt)
	for {
		parser := syntax.NewParser()
		err := parser.Interactive(s, func(list []*syntax.Stmt) bool { return s.line(list, parser.Incomplete()) })
		switch {
		case s.exited || err == nil:
			return s.last
		case errors.Is(err, errInterrupted):
			fmt.Fprintln(stdout)
		default:
			s.last = status(err, stdout)
		}
		fmt.Fprint(stdout, prompt)
	}
}

// line runs the commands of a line, and says whether more lines may come.
func (s *shell) line(list []*syntax.Stmt, incomplete bool) bool {
	if incomplete {
		fmt.Fprint(s.out, further)
		return true
	}
	for _, st := range list {
		if s.statement(st); s.exited {
			return false
		}
	}
	s.jobs.report()
	fmt.Fprint(s.out, prompt)
	return true
}

// signals sees to it that what is typed ends or stops a command, not the shell. They
// are caught rather than ignored: a command would inherit that.
func (s *shell) signals() {
	signal.Ignore(unix.SIGTTOU) // else it could not take the terminal back
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN)
	go func() {
		for sig := range caught {
			if sig == unix.SIGINT {
				s.interrupt()
			}
		}
	}()
}

// interrupt ends the command that runs in the shell itself, a loop for instance, or what
// is being typed.
func (s *shell) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
		return
	}
	_, _ = s.wake[1].Write([]byte{0})
}

// Read waits for a line of the terminal.
func (s *shell) Read(p []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(s.tty.Fd()), Events: unix.POLLIN}, {Fd: int32(s.wake[0].Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1) // PID 1 ends the shell when its time is over
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case fds[1].Revents != 0:
			_, _ = s.wake[0].Read(make([]byte, 64))
			return 0, errInterrupted
		}
		return s.tty.Read(p)
	}
}

// statement runs one command line to its end, or until it is stopped.
func (s *shell) statement(st *syntax.Stmt) {
	j := &job{text: text(st), front: !st.Background}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, j))
	j.cancel = cancel
	if st.Background {
		s.background(ctx, j, st)
		return
	}
	defer cancel()
	s.running(cancel)
	err := s.runner.Run(ctx, st)
	s.running(nil)
	s.jobs.leave(j)
	s.exited = s.runner.Exited()
	if ctx.Err() != nil { // Ctrl-C
		s.last = 128 + int(unix.SIGINT)
		return
	}
	s.last = status(err, s.stderr)
}

func (s *shell) running(cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = cancel
}

// background runs a command line beside the shell, with a copy of its variables.
func (s *shell) background(ctx context.Context, j *job, st *syntax.Stmt) {
	alone := *st
	alone.Background = false
	sub := s.runner.Subshell()
	s.jobs.behind(j)
	go func() {
		defer j.cancel()
		_ = sub.Run(ctx, &alone) // its status is nobody's
		s.jobs.done(j)
	}()
}

// text is a command line as jobs shows it.
func text(st *syntax.Stmt) string {
	alone := *st
	alone.Background = false
	var b strings.Builder
	if err := syntax.NewPrinter(syntax.SingleLine(true)).Print(&b, &alone); err != nil {
		return "?"
	}
	return b.String()
}
