package config

import (
	"errors"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/networds"
)

// netconfig is SUSE's word for a network. On a kernel command line it is
// kdump.netconfig=, for no one else knows it there.
const netconfig = "netconfig"

func isNetwork(key string) bool { return cmdline.IsNetwork(key) || key == netconfig }

// maxNetwork bounds how many network words there are.
const maxNetwork = 256

// network keeps a network word, if it is right by itself. Whether all of them
// make sense together is pkg/netcfg's matter.
func (p *parser) network(where string, w Word) {
	pr := Problem{Where: where, Key: printable(w.Key), Value: w.Value}
	_, err := networds.Parse(w.Key, w.Value)
	var wrong *networds.Error
	switch {
	case errors.As(err, &wrong):
		pr.Msg, pr.Want = wrong.Msg, wrong.Want
		if text := checkText(w.Value); text != "" {
			pr.Msg = text
		}
		p.problem(pr)
		return
	case checkText(w.Value) != "": // text that the configuration could not be written with
		pr.Msg, pr.Want = checkText(w.Value), w.Key+"=VALUE in one word"
		p.problem(pr)
		return
	}
	if p.seen[w.Key] == "" {
		p.forget(w.Key)
	}
	if len(p.c.Network) >= maxNetwork {
		pr.Msg = "one network word too many"
		p.problem(pr)
		return
	}
	p.seen[w.Key] = where
	p.c.set[w.Key] = where
	p.c.Network = append(p.c.Network, w)
}

// forget drops the words of one key. It makes a new slice: copies of a Config
// may share the old one.
func (p *parser) forget(key string) {
	var rest []Word
	for _, w := range p.c.Network {
		if w.Key != key {
			rest = append(rest, w)
		}
	}
	p.c.Network = rest
}
