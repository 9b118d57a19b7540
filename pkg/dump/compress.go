package dump

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
)

// ParseCompress takes CODEC or CODEC:LEVEL, as "zstd" or "zlib:6", for the two
// fields of Options. A level that the codec does not have is an error.
func ParseCompress(s string) (kdumpfile.Codec, int, error) {
	name, level, given := strings.Cut(s, ":")
	codec, err := kdumpfile.ParseCodec(name)
	if err != nil {
		return codec, 0, err
	}
	n := 0
	if given {
		if n, err = strconv.Atoi(level); err != nil {
			return codec, 0, fmt.Errorf("compress %s: the level after the colon is not a number", s)
		}
	}
	_, err = kdumpfile.NewCompressor(codec, n)
	return codec, n, err
}
