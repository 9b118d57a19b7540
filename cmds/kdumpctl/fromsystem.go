package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
)

// lookup bounds the questions to name servers.
const lookup = 30 * time.Second

// fromSystem prints the network words for the ways that this system has to the
// targets.
func (h *host) fromSystem(args []string, stdout, stderr io.Writer) (int, error) {
	fs := flag.NewFlagSet("config-from-system", flag.ContinueOnError)
	line := fs.Bool("cmdline", false, "print one line, for the command line of a capture kernel")
	conf := fs.String("conf", h.path("/etc/kdump.conf"), "`FILE` to take the targets from where none are given")
	if err := parseFlags(fs, args, stdout); err != nil {
		return exitUsage, err
	}
	urls := fs.Args()
	if len(urls) == 0 {
		var err error
		if urls, err = configured(*conf); err != nil {
			return exitError, err
		}
	}
	hosts, err := remoteHosts(urls)
	if err != nil {
		return exitUsage, err
	}
	if len(hosts) == 0 {
		fmt.Fprintln(stderr, "kdumpctl config-from-system: no target is behind a network, no words are needed")
		return exitOK, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookup)
	defer cancel()
	var words []netcfg.Word
	for _, name := range hosts {
		found, err := h.wayTo(ctx, name)
		if err != nil {
			return exitError, fmt.Errorf("way to %s: %w", name, err)
		}
		for _, w := range found {
			if !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	if _, errs := netcfg.Parse(words); len(errs) > 0 {
		return exitError, fmt.Errorf("the ways to %s do not go together: %w", strings.Join(hosts, " and "), errors.Join(errs...))
	}
	if *line {
		fmt.Fprintln(stdout, cmdline.Join(words))
		return exitOK, nil
	}
	fmt.Fprintf(stdout, "# the way to %s\n", strings.Join(hosts, ", "))
	for _, w := range words {
		fmt.Fprintf(stdout, "%s = %s\n", w.Key, w.Value)
	}
	return exitOK, nil
}

// configured are the targets of a kdump.conf. Whether the rest of it is right is
// not asked: it may be just being written.
func configured(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w; name a target, or a file with -conf FILE", err)
	}
	defer f.Close()
	c, _ := config.Parse(f, name)
	if len(c.Targets) == 0 {
		return nil, fmt.Errorf("%s has no target; want one as an argument", name)
	}
	return c.Targets, nil
}

// remoteHosts are the hosts of URLs, each once. A word that is no URL is a host.
func remoteHosts(urls []string) (hosts []string, err error) {
	for _, url := range urls {
		name := strings.Trim(url, "[]")
		if strings.Contains(url, "://") {
			spec, err := targets.Parse(url)
			if err != nil {
				return nil, err
			}
			name = spec.Host
		}
		if name != "" && !slices.Contains(hosts, name) {
			hosts = append(hosts, name)
		}
	}
	return hosts, nil
}
