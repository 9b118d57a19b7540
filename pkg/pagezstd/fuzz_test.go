package pagezstd

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// FuzzEncode: whatever the page, each level's frame decodes to it. Also run it with -tags safe, where an access out of
// bounds panics.
func FuzzEncode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, kind := range pageKinds() {
		p := make([]byte, 300)
		fillPage(r, kind, p)
		f.Add(p, uint16(1))
		f.Add(p[:257], uint16(4096/257+1))
	}
	f.Add([]byte{7}, uint16(65535))
	f.Add(bytes.Repeat([]byte("abcdefgh"), 512), uint16(1))
	f.Add(make([]byte, 4095), uint16(1))
	f.Add(make([]byte, 4097), uint16(1))
	d := newDecoder(f)
	var es []*Encoder
	for _, level := range levels() {
		es = append(es, New(level))
	}
	f.Fuzz(func(t *testing.T, p []byte, times uint16) {
		// long pages from short inputs: the input again and again, each time a little different
		q := bytes.Clone(p)
		for i := 1; i < int(times) && len(q)+len(p) <= MaxPage; i++ {
			q = append(q, p...)
			if len(q) > 0 {
				q[uint(i*i)%uint(len(q))] ^= byte(i)
			}
		}
		q = q[:len(q):len(q)]
		for _, e := range es {
			out, ok := e.Encode(nil, q)
			if !ok {
				continue
			}
			if len(out) >= len(q) {
				t.Fatalf("%d bytes became %d", len(q), len(out))
			}
			back, err := d.DecodeAll(out, nil)
			if err != nil || !bytes.Equal(back, q) {
				t.Fatalf("level %d: %d bytes do not come back: %v", e.level, len(q), err)
			}
		}
	})
}
