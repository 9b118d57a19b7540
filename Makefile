# ukdump: make demo, make test. The rest is for those who work on it.

GO      ?= go
OUT     ?= _out/capture.cpio.zst
CONFIG  ?=
KERNEL_MODULES ?=
# Further flags of mkinitramfs, for instance -no-shell.
FLAGS   ?=
FUZZTIME ?= 1m

# What has goroutines of its own, for the race detector.
CONCURRENT = ./cmds/... ./internal/blockdev ./internal/console ./internal/modules ./internal/watchdog \
	./pkg/dump ./pkg/memmap ./pkg/netcfg ./pkg/targets ./pkg/triage ./pkg/vmcore

export CGO_ENABLED = 0
export UKDUMP_CACHE ?= $(CURDIR)/_cache
# Where the machine has no Go that will do, setup puts one there.
# Behind the machine's own: servers for tests, from setup.
export PATH := $(UKDUMP_CACHE)/go/bin:$(PATH):$(UKDUMP_CACHE)/daemons/bin

.PHONY: help initramfs demo test check crashes e2e faults bench matrix fuzz setup clean

help:
	@echo 'make demo       build everything, crash a virtual machine, show the saved dump'
	@echo 'make test       all tests, real crashes included'
	@echo 'make initramfs KERNEL_MODULES=/lib/modules/RELEASE CONFIG=kdump.conf [OUT=FILE]'
	@echo 'make e2e        every crash: all targets over all networks'
	@echo 'make faults     crashes with everything that can go wrong'
	@echo 'make bench      ukdump beside makedumpfile'
	@echo 'make matrix     every kernel on every machine against makedumpfile, drgn, gdb and crash (MATRIX=-h)'
	@echo 'make check      unit tests and linters only'

initramfs:
	$(GO) run ./initramfs $(if $(CONFIG),-config '$(CONFIG)') $(if $(KERNEL_MODULES),-modules '$(KERNEL_MODULES)') -o '$(OUT)' $(FLAGS)

demo: setup
	cd qemu && $(GO) run ./demo

test: check crashes

check: setup
	@test -z "$$(gofmt -l cmds initramfs internal pkg qemu)" || { gofmt -l cmds initramfs internal pkg qemu; echo 'gofmt -w these files'; exit 1; }
	$(GO) vet ./...
	cd qemu && $(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -timeout 40m ./...
	cd qemu && $(GO) test -timeout 40m $$($(GO) list ./... | grep -v /e2e) && $(GO) test -timeout 40m -run TestReliability ./e2e
	CGO_ENABLED=1 $(GO) test -timeout 40m -p 1 -race $(CONCURRENT)
	CGO_ENABLED=1 $(GO) test -timeout 40m -race -run 'Verify|SalvageLost' ./pkg/kdumpfile # the rest of it is one goroutine, and slow

# A selection that fits into a quarter of an hour.
crashes: setup
	cd qemu && $(GO) test -count=1 -timeout 90m -v -run '^TestCrash$$|^TestNetwork$$/^plain$$/^(sftp-dhcp|nfs3-static-vlan)(-files)?$$' ./e2e

e2e: setup
	cd qemu && $(GO) test -count=1 -timeout 150m -v -skip 'Faults|PowerCut' ./e2e

# UKDUMP_POWER_CUTS=N is how often the power is cut.
faults: setup
	cd qemu && UKDUMP_POWER_CUTS=$${UKDUMP_POWER_CUTS:-200} $(GO) test -count=1 -timeout 240m -v -run 'Faults|PowerCut' ./e2e

bench: setup
	cd qemu && $(GO) run ./bench

# About 3 GB are fetched, 12 GB of raw cores stay in _out. Flags: MATRIX='-kernels 7 -shapes numa'.
matrix: setup
	@qemu/fetch gdb debug:5.10-generic debug:6.1-generic debug:6.12 debug:7
	cd qemu && $(GO) run ./matrix $(MATRIX)

fuzz:
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

setup:
	@qemu/fetch --install

clean:
	rm -rf _out
