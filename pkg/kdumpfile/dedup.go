package kdumpfile

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// dedup finds pages whose data are in the file already. It is a table of fixed
// size, in buckets of which a new page takes the place of the one not seen for longest.
//
// Data are told apart by a hash of 128 bits, without looking at them again: they
// may be on a disk that is slow, or on a stream that cannot be read. A false
// match would give a page another page's contents, so the hash is one whose worst
// case is known: GMAC, a polynomial over GF(2^128) at a point that is a secret of
// this dump. Two different strings of n blocks of 16 bytes, chosen by whomever
// without knowing the key, have equal tags with a probability of at most
// (n+1)/2^128. A TiB of pages of 4 KiB against a table of 2^20 entries are 2^48
// pairs of at most 2^8 blocks: less than 1 in 2^71.
type dedup struct {
	gcm     cipher.AEAD
	nonce   [12]byte // zeros: equality of tags is all that matters, and none leaves this process
	tag     []byte   // room for one
	buckets []dedupBucket
	shared  uint64 // pages found
	saved   uint64 // bytes of data not written a second time
}

// dedupBucket is sorted by when an entry was last seen, the newest first.
type dedupBucket [4]dedupEntry

// dedupEntry says where the data are; offset 0: empty. The garbage collector has
// no pointers to look for.
type dedupEntry struct {
	tag    [16]byte
	offset int64
	key    uint32 // size of the data, and the flags above it: a page of 64 KiB has 17 bits, a codec 6
	sum    uint32
}

const dedupEntrySize = 32 // bytes of memory

// newDedup makes a table of about memory bytes.
func newDedup(memory int) *dedup {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the length of the key: a mistake in this file
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // the block size
	}
	n := max(1, memory/(len(dedupBucket{})*dedupEntrySize))
	return &dedup{gcm: gcm, tag: make([]byte, 0, 16), buckets: make([]dedupBucket, n)}
}

// Deduplicate makes pages of equal data share them from now on; call it before
// the first Batch. memory is how many bytes the table takes: 32 for each page
// that is remembered. The descriptors of such pages have the same offset, which
// readers do not mind.
func (k *KdumpWriter) Deduplicate(memory int) { k.dedup = newDedup(memory) }

// Deduplicate is KdumpWriter's. Pages share data within a file only.
func (s *SplitWriter) Deduplicate(memory int) { s.parts[0].Deduplicate(memory) }

// Shared is how many pages share data that were in the file already, and how
// many bytes that saved; pages of zeros do not count.
func (k *KdumpWriter) Shared() (pages, bytes uint64) {
	if k.dedup == nil {
		return 0, 0
	}
	return k.dedup.shared, k.dedup.saved
}

// Shared is KdumpWriter's, of all files.
func (s *SplitWriter) Shared() (pages, bytes uint64) {
	return s.parts[min(s.at, len(s.parts)-1)].Shared() // the table goes from part to part
}

// index gives the bucket of a tag.
func (d *dedup) index(tag [16]byte) uint64 {
	i, _ := bits.Mul64(binary.LittleEndian.Uint64(tag[:]), uint64(len(d.buckets)))
	return i
}

// place gives the place of the page's data in k's file; they are put there if
// they are not known.
func (d *dedup) place(k *KdumpWriter, page []byte, flags uint32) place {
	tag := [16]byte(d.gcm.Seal(d.tag, d.nonce[:], nil, page))
	b := &d.buckets[d.index(tag)]
	key := flags<<17 | uint32(len(page))
	for i := range b {
		if e := b[i]; e.tag == tag && e.key == key && e.offset != 0 {
			copy(b[1:i+1], b[:i])
			b[0] = e
			d.shared++
			d.saved += uint64(len(page))
			return place{e.offset, e.sum}
		}
	}
	at := k.append(page)
	copy(b[1:], b[:])
	b[0] = dedupEntry{tag, at.offset, key, at.sum}
	return at
}
