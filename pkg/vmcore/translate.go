package vmcore

import (
	"debug/elf"
	"fmt"
)

// translator finds where a virtual address of the crashed kernel is. It gives
// the run of virtual memory, from start on, that lies contiguous from pstart.
type translator interface {
	translate(entry func(paddr uint64) (uint64, error), vaddr uint64) (start, size, pstart uint64, err error)
}

// TranslateError is a virtual address that has no physical one.
type TranslateError struct {
	Vaddr uint64
	Err   error
}

func (e *TranslateError) Error() string { return fmt.Sprintf("translate %#x: %v", e.Vaddr, e.Err) }
func (e *TranslateError) Unwrap() error { return e.Err }

const (
	errNoTranslator Error = "this core does not say where its page tables are"
	errNotMapped    Error = "not mapped"
)

// newTranslator is the table of architectures.
func newTranslator(c *Core) (translator, error) {
	switch c.Machine() {
	case elf.EM_X86_64:
		return newX86(c)
	}
	return nil, fmt.Errorf("machine %v is not supported", c.Machine())
}
