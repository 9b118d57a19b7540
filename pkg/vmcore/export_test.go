package vmcore

import "os"

// OpenMapped opens a file as if it were /proc/vmcore: through mappings.
func OpenMapped(path string) (*Core, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	src := newSource(f)
	src.mapped = true
	return openSource(src)
}

// GiveUpMapping makes a Reader do as if the kernel had refused every mapping.
func (r *Reader) GiveUpMapping() { r.inARow = maxRefused }
