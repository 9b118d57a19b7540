package main

import (
	"context"

	"github.com/ukdump/ukdump/internal/cmdline"
	"github.com/ukdump/ukdump/internal/modules"
	"github.com/ukdump/ukdump/pkg/netcfg"
	"github.com/ukdump/ukdump/pkg/targets"
)

// autoNetwork is the value of -network for a network that nobody described.
const autoNetwork = "auto"

// plan is what -network asks for.
func (o *options) plan() (netcfg.Plan, []error) {
	if o.network == autoNetwork {
		return netcfg.Parse(nil)
	}
	return netcfg.Parse(cmdline.Words(o.network))
}

// needsNetwork tells whether the network is to be brought up for the target.
func (a *attempt) needsNetwork() bool {
	spec, err := targets.Parse(a.o.target)
	return err == nil && spec.Network() && a.o.network != ""
}

// bringNetwork brings the network up to where the target's server is. What is
// up already, from an attempt before, is used as it is.
func (a *attempt) bringNetwork(ctx context.Context, o *targets.Options) error {
	spec, err := targets.Parse(a.o.target)
	if err != nil {
		return err
	}
	if err := loadDriver(ctx, modules.NetList); err != nil {
		a.log.printf("network drivers: %v", err) // whether it mattered is seen now
	}
	plan, wrong := a.o.plan()
	for _, err := range wrong {
		a.log.printf("network: %v; what else is asked for counts", err)
	}
	if a.network, err = plan.Up(ctx, spec.Host, netcfg.Options{Log: a.log.printf}); err != nil {
		return err
	}
	if err := a.network.Reach(ctx, spec.Host, spec.ServerPort()); err != nil {
		return err
	}
	o.Dial = a.network.Dial
	return nil
}

// leaveNetwork ends what goes on for it; the next attempt finds it up.
func (a *attempt) leaveNetwork() {
	if a.network != nil {
		a.network.Close()
	}
}
