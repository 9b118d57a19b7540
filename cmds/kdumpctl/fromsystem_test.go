package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ukdump/ukdump/pkg/config"
	"github.com/ukdump/ukdump/pkg/netcfg"
)

func TestConfigFromSystem(t *testing.T) {
	m := newMachine(t)
	m.wayTo = func(_ context.Context, host string) ([]netcfg.Word, error) {
		switch host {
		case "10.0.0.1", "log.test":
			return config.Words("ifname=eth0:02:00:00:00:00:01 ip=eth0:dhcp"), nil
		case "10.1.0.1":
			return config.Words("ifname=eth1:02:00:00:00:00:02 vlan=vlan5:eth1 ip=10.1.0.2:::24::vlan5:none"), nil
		case "10.2.0.1":
			return config.Words("ifname=eth0:02:00:00:00:00:09 ip=eth0:dhcp"), nil
		}
		return nil, errors.New("no route")
	}
	m.write(t, "/etc/kdump.conf", "target = nfs://10.0.0.1/export\ntarget = disk:///crash?dev=LABEL=X\nlevle = 3\n")
	const eth0 = "ifname = eth0:02:00:00:00:00:01\nip = eth0:dhcp\n"
	for _, tt := range []struct {
		args              string
		code              int
		stdout, stderrHas string
	}{
		{"", exitOK, "# the way to 10.0.0.1\n" + eth0, ""},
		{"10.0.0.1", exitOK, "# the way to 10.0.0.1\n" + eth0, ""},
		{"10.0.0.1 nfs://log.test/x 10.1.0.1", exitOK, "# the way to 10.0.0.1, log.test, 10.1.0.1\n" + eth0 +
			"ifname = eth1:02:00:00:00:00:02\nvlan = vlan5:eth1\nip = 10.1.0.2:::24::vlan5:none\n", ""},
		{"-cmdline 10.0.0.1", exitOK, "ifname=eth0:02:00:00:00:00:01 ip=eth0:dhcp\n", ""},
		{"disk:///crash?dev=LABEL=X", exitOK, "", "no target is behind a network"},
		{"10.9.9.9", exitError, "", "way to 10.9.9.9: no route"},
		{"10.0.0.1 10.2.0.1", exitError, "", "the ways to 10.0.0.1 and 10.2.0.1 do not go together: ifname=eth0:02:00:00:00:00:09: contradicts ifname=eth0:02:00:00:00:00:01"},
		{"gopher://x/y", exitUsage, "", "gopher"},
		{"-conf /nowhere", exitError, "", "no such file or directory; name a target, or a file with -conf FILE"},
		{"-x", exitUsage, "", "flag provided but not defined"},
	} {
		code, stdout, stderr := m.do(append([]string{"config-from-system"}, strings.Fields(tt.args)...)...)
		if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderrHas) {
			t.Errorf("%q: exit status %d\n%s%s", tt.args, code, stdout, stderr)
		}
	}
}

// Words that do not go together keep a capture kernel from being loaded.
func TestLoadChecksTheNetwork(t *testing.T) {
	m := newMachine(t)
	m.write(t, "/boot/capture.cpio.zst", image("target = disk:///crash?dev=LABEL=CRASH\nbond = bond0:eth0,eth1\nip = eth0:dhcp\n"))
	code, _, stderr := m.do("load")
	if code != exitError || !strings.Contains(stderr, "ip=eth0:dhcp: eth0 belongs to bond0; want an address for bond0") || m.loaded {
		t.Errorf("exit status %d, loaded %v\n%s", code, m.loaded, stderr)
	}
}
