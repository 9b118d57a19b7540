package main

import "os"

// pipes are what a child and PID 1 have in common.
type pipes struct {
	null      *os.File // standard input
	said      pipe
	complaint pipe
	beats     pipe
}

type pipe struct{ r, w *os.File }

func newPipes() (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.closeReaders()
			p.closeWriters()
		}
	}()
	if p.null, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	for _, one := range []*pipe{&p.said, &p.complaint, &p.beats} {
		if one.r, one.w, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *pipes) closeReaders() { closeFiles(p.said.r, p.complaint.r, p.beats.r) }

// closeWriters closes what the child has by now.
func (p *pipes) closeWriters() { closeFiles(p.null, p.said.w, p.complaint.w, p.beats.w) }

// closeFiles closes those that were opened; the others are nil.
func closeFiles(files ...*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
