package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is the shell itself where a test starts it.
func TestMain(m *testing.M) {
	if os.Getenv("KDUMP_SH_TEST") == "shell" {
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestScripts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte("#!/bin/sh -e\necho $1-$#\nfalse\necho no\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		stdin  string
		status int
		out    string
	}{
		{[]string{"-c", "echo $0 $1; exit 7", "name", "one"}, "", 7, "name one\n"},
		{nil, "echo $((6*7)) | cat; false", 1, "42\n"},
		{[]string{"-e", file, "a", "b"}, "", 1, "a-2\n"},
		{[]string{file, "a"}, "", 0, "a-1\nno\n"},
		{[]string{"-c", "set -u; echo $nothing"}, "", 1, ""},
		{[]string{"-u", "-c", "echo $nothing"}, "", 1, ""},
		{[]string{"-c", "if"}, "", 2, ""},
		{[]string{"/no/such/file"}, "", 127, ""},
		{[]string{"-eu", file, "a", "b"}, "", 1, "a-2\n"}, // #!/bin/sh -eu
		{[]string{"-eu", "-x", file, "-ex"}, "", 1, "-ex-1\n"},
		{[]string{"-uc", "echo $0; echo $nothing", "name", "-eu"}, "", 1, "name\n"},
		{[]string{"-c", "echo $1", "-", "-ec"}, "", 0, "-ec\n"},
		{[]string{"-e", "--", file, "-eu"}, "", 1, "-eu-1\n"},
		{[]string{"-z"}, "", 2, ""},
		{[]string{"-ez"}, "", 2, ""},
	} {
		var out, complaint bytes.Buffer
		status := run(tt.args, strings.NewReader(tt.stdin), &out, &complaint)
		if status != tt.status || out.String() != tt.out {
			t.Errorf("%q: status %d, %q, want %d, %q (%s)", tt.args, status, out.String(), tt.status, tt.out, complaint.String())
		}
	}
}

// console is a terminal and a shell that has it.
type console struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	said   []byte
	seen   int // of said
}

// newConsole starts a shell on a terminal of its own.
func newConsole(t *testing.T, controlling bool) *console {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	c := &console{t: t, master: master, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), "KDUMP_SH_TEST=shell")
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = tty, tty, tty
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: controlling}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			c.mu.Lock()
			c.said = append(c.said, buf[:n]...)
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c
}

// says waits until the shell says text.
func (c *console) says(text string, patience time.Duration) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		i := bytes.Index(c.said[c.seen:], []byte(text))
		if i >= 0 {
			c.seen += i + len(text)
		}
		c.mu.Unlock()
		if i >= 0 {
			return true
		}
	}
	return false
}

func (c *console) wait(text string) {
	c.t.Helper()
	if !c.says(text, 20*time.Second) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.t.Fatalf("the shell does not say %q, but %q; before that: %q", text, c.said[c.seen:], c.said[:c.seen])
	}
}

func (c *console) press(keys string) {
	c.t.Helper()
	if _, err := c.master.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

// do types keys and waits for what follows.
func (c *console) do(keys, answer string) {
	c.t.Helper()
	c.press(keys)
	c.wait(answer)
}

// until types keys again and again until the answer comes, of what takes its time.
func (c *console) until(keys, answer string) {
	c.t.Helper()
	for range 40 {
		c.press(keys)
		if c.says(answer, 500*time.Millisecond) {
			return
		}
	}
	c.wait(answer)
}

// interrupt types Ctrl-C until the prompt comes: between two programs of a loop there is
// a moment when the terminal is that one's which has just ended.
func (c *console) interrupt() {
	c.t.Helper()
	for range 5 {
		c.press(ctrlC)
		if c.says(prompt, 4*time.Second) {
			return
		}
	}
	c.t.Fatal("Ctrl-C does not end what runs")
}

// ends types keys that end the shell.
func (c *console) ends(keys string, status int) {
	c.t.Helper()
	c.press(keys)
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case <-done:
		if got := c.cmd.ProcessState.ExitCode(); got != status {
			c.t.Errorf("exit status %d, want %d", got, status)
		}
	case <-time.After(20 * time.Second):
		c.t.Fatal("the shell does not end")
	}
}

const (
	ctrlC = "\x03"
	ctrlD = "\x04"
	ctrlZ = "\x1a"

	// long says 42 when it runs, which typing it does not say
	long = `sh -c 'echo 4""2; exec sleep 1000'`
)

// Ctrl-C ends what runs, a program, a loop of programs or one without any, and what is
// being typed, but neither the shell nor what runs in the background.
func TestInterrupt(t *testing.T) {
	c := newConsole(t, true)
	c.wait(prompt)
	c.do(long+" &\n", "42")
	for _, line := range []string{"cat", "cat | cat", "while true; do sleep 0.05; done", "while true; do :; done", "echo $(cat)", "(cat; cat)"} {
		c.do(line+"\n", line+"\r\n")
		time.Sleep(300 * time.Millisecond) // no answer tells that it runs
		c.interrupt()
		c.do("echo back-$((6*7))\n", "back-42\r\n")
		c.wait(prompt)
	}
	c.do("if true\n", further)
	c.do(ctrlC, prompt)
	c.do("echo ty", "ty")
	c.do(ctrlC, prompt)
	c.do("echo whole-$((6*7))\n", "\r\nwhole-42\r\n")
	c.do("jobs\n", "[1] running: "+long+"\r\n")
	c.ends("false\nexit\n", 1)
}

// A program is stopped, goes on behind and before, and is killed.
func TestJobs(t *testing.T) {
	c := newConsole(t, true)
	c.wait(prompt)
	c.do(long+"\n", "42")
	c.do(ctrlZ, "[1] stopped: "+long+"\r\n")
	c.do("jobs\n", "[1] stopped: "+long+"\r\n")
	c.do("bg\n", "[1] "+long+"\r\n")
	c.do("jobs\n", "[1] running: "+long+"\r\n")
	c.do("cat | cat &\n", "[2]\r\n")
	c.until("jobs\n", "[2] stopped: cat | cat\r\n") // it may not read what is typed
	c.do("fg %2\n", "cat | cat\r\n")
	c.do("for two of them\n", "for two of them\r\nfor two of them\r\n")
	c.do(ctrlD, prompt)
	c.do("kill %1\n", "kill %1\r\n")
	c.until("\n", "[1] done: "+long+"\r\n")
	c.do(`(echo 4""2; sleep 1000; echo never) &`+"\n", "42")
	c.do("kill %1\n", "kill %1\r\n")
	c.until("\n", `[1] done: (echo 4""2; sleep 1000; echo never)`)
	c.do("sleep 0.1 &\nwait\n", "done: sleep 0.1\r\n")
	c.do("kill %9\n", "kill: %9: there is no such job\r\n")
	c.do("fg\n", "fg: there is no job\r\n")
	c.do(`sh -c 'echo 4""2 >&2; exec sleep 1000' | while read x; do :; done`+"\n", "42")
	c.do(ctrlZ, "") // the shell itself reads from the pipe: it cannot be stopped
	c.interrupt()
	c.do("sh -c 'kill -STOP $$; echo went-on'\n", "stopped: sh -c")
	c.do("fg\n", "\r\nwent-on\r\n")
	c.ends("exit 5\n", 5)
}

// The variables are the shell's own, and a program that leaves the terminal without an
// echo does not leave the shell so.
func TestState(t *testing.T) {
	c := newConsole(t, true)
	c.wait(prompt)
	c.do("x=6; cd /proc/self\n", prompt)
	c.do("echo $PWD $((x*7))\n", "/proc/self 42\r\n")
	c.do("nosuchprogram; echo $?\n", "127\r\n")
	c.wait(prompt)
	c.do("stty -echo\n", prompt)
	c.do("echo seen\n", "echo seen\r\nseen\r\n")
	c.do("echo 'an open\n", further)
	c.do("quote'\n", "an open\r\nquote\r\n")
	c.do("fi\n", "kdump-sh: ")
	c.wait(prompt)
	c.ends(ctrlD, 1)
}

// On a terminal that is not the controlling one the shell works without job control.
func TestNoControl(t *testing.T) {
	c := newConsole(t, false)
	c.wait("there is no job control\r\n")
	c.do("echo here-$((6*7)) | cat\n", "here-42\r\n")
	c.ends("exit\n", 0)
}
