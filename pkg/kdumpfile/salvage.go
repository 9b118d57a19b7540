package kdumpfile

// skip says that descriptors below pfn are further on by n than the pages before it.
type skip struct{ pfn, n uint64 }

func (k *Kdump) skipped(pfn uint64) uint64 { return 0 }
