package main

import (
	"flag"

	"github.com/ukdump/ukdump/pkg/kdumpfile"
	"github.com/ukdump/ukdump/pkg/vmcore"
)

func reassembleCommand() command {
	return command{
		name: "reassemble", args: "[flags] IN... OUT", brief: "make one file of a split dump, or a plain one of a flattened one",
		text: `Like convert at level 0, but the pages stay compressed as they were in IN. All parts of
a split dump have to be there: vmcore salvage does with fewer.`,
		setup: setupWhole(false),
	}
}

func salvageCommand() command {
	return command{
		name: "salvage", args: "[flags] IN... OUT", brief: "save what a dump holds that is incomplete or damaged",
		text: `Makes a whole dump of what IN holds, which may be cut off at any byte, be marked
incomplete, have bad pages or lack parts of a split dump. What cannot be read is left out,
counted, and the first of it told. Exit status: 0 all pages that IN promises are in OUT,
1 nothing was written, 2 usage, 3 some are not.`,
		setup: setupWhole(true),
	}
}

// setupWhole is for commands that keep every page, as it was compressed.
func setupWhole(incomplete bool) func(fs *flag.FlagSet) runner {
	return func(fs *flag.FlagSet) runner {
		var o convertOptions
		o.flags(fs)
		return func(e *env, files []string) (int, error) {
			o.given(fs)
			o.whole, o.incomplete, o.sameCodec = true, incomplete, !o.compressGiven
			return o.run(e, files)
		}
	}
}

// openTorn opens what is left of torn files, and tells what is not.
func openTorn(e *env, o convertOptions, ins []string) (core *vmcore.Core, lost uint64, err error) {
	p := newProgress(e.stderr, "salvage", 24) // descriptors
	core, found, err := vmcore.SalvageFiles(e.ctx, kdumpfile.SalvageOptions{Workers: o.workers, Progress: p.at}, ins...)
	p.end()
	for i, s := range found {
		for _, problem := range s.Problems {
			e.warn("%s: %v", ins[i], problem)
		}
		if s.Pages == s.Promised {
			continue
		}
		lost += max(s.Promised, s.Pages) - s.Pages
		e.warn("%s: %d of %d pages are there: %d have no descriptor, of %d the data are behind the end, %d are bad, %d doubtful, %d misplaced",
			ins[i], s.Pages, s.Promised, s.Undescribed, s.Beyond, s.Bad, s.Doubtful, s.Misplaced)
	}
	return core, lost, err
}

// codecOf is the codec of a core's files if it is one to write with.
func codecOf(core *vmcore.Core, otherwise kdumpfile.Codec) kdumpfile.Codec {
	for _, k := range core.Files().Parts {
		if c, err := kdumpfile.ParseCodec(k.Header().Codec.String()); err == nil {
			return c
		}
	}
	return otherwise
}
