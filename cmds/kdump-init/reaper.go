package main

import (
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reaper starts processes and, in one loop, reaps all that die: those, and the
// orphans that fall to PID 1. A second loop would take the first one's children
// away, as os/exec would, which is why that is not used.
type reaper struct {
	mu      sync.Mutex // held from fork to the entry in waiting
	waiting map[int]chan<- death
	running bool
}

// death is how a child ended. err: nobody knows.
type death struct {
	status unix.WaitStatus
	err    error
}

// start starts a process. What it died of comes once on died.
func (r *reaper) start(argv []string, attr *syscall.ProcAttr) (pid int, died <-chan death, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	ch := make(chan death, 1)
	if r.waiting == nil {
		r.waiting = make(map[int]chan<- death)
	}
	r.waiting[pid] = ch
	if !r.running {
		r.running = true
		go r.loop()
	}
	return pid, ch, nil
}

// alive is how many of the started processes have not ended.
func (r *reaper) alive() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}

func (r *reaper) loop() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			r.mu.Lock()
			r.tell(pid, death{status: ws})
			r.mu.Unlock()
		} else if r.idle() {
			return
		}
	}
}

// idle ends the loop if there are no children. One may have been started after
// wait4 found none, so it looks again while nothing can be started.
func (r *reaper) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	if err == nil || err == unix.EINTR {
		r.tell(pid, death{status: ws})
		return false
	}
	for pid := range r.waiting {
		r.tell(pid, death{err: fmt.Errorf("wait for child: %w", err)})
	}
	r.running = false
	return true
}

func (r *reaper) tell(pid int, d death) {
	if ch, ok := r.waiting[pid]; ok {
		ch <- d // has room: it is told once
		delete(r.waiting, pid)
	}
}
