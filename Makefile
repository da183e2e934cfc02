# SPDX-License-Identifier: GPL-2.0
#
# The commands of the project; `make help` lists them. Each is a script in
# scripts/ that makes or fetches what it needs. (Kbuild is what the kernel's
# own build reads.)

# Settings are passed on as they are typed: a shell's $ needs no doubling, and
# does no harm when it is doubled.
dollar := $$
hash := \#
define newline


endef
settings := CMD FILES SMP MEM VFS DEVICE MODARGS MODULE MODULES TOOLS KERNEL ICOUNT IOMMU QMP RESULTS TIMEOUT ACCEL \
	APPEND QEMU_ARGS ALLOW LOG TIME V THREADS SUITE JOBS VECTORS ARGS
$(foreach s,$(settings),$(if $(filter-out undefined,$(origin $s)),\
  $(eval override export $s := $(subst $(newline),$$(newline),$(subst $(hash),$$(hash),$(subst \
    $(dollar),$(dollar)$(dollar),$(subst $(dollar)$(dollar),$(dollar),$(value $s))))))))

# One after the other: the steps use every processor themselves.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := all

##@ Building
.PHONY: all
all: module device tools ## the module for the stock kernel, the device, the tools

.PHONY: module device tools
module: ## build/stock/vfetch.ko
	@scripts/module.sh stock
device: ## the device model for the sandbox's QEMU
	@scripts/device.sh
tools: ## build/tools/*
	@scripts/tools.sh

##@ Running
.PHONY: vm run bench sim conformance
vm: ## boots the guest: CMD='…' [FILES='…'] [SMP=2] [MEM=1G] [VFS=0] …, see scripts/vm.sh
	@scripts/vm.sh
run: ## the demonstration: data and jobs on PF and VFs, verified, and what prefetching buys
	@scripts/run.sh
bench: ## benchmarks under deterministic virtual time, target/bench/results.json
	@scripts/bench.sh
sim: ## the closed-loop simulator, ARGS='…'
	@scripts/sim.sh
conformance: ## compat-mode answers against VECTORS=FILE
	@scripts/conformance.sh

##@ Checking
.PHONY: test test-debug lint fmt doc
test: ## all host and guest tests; SUITE=name for one of them
	@scripts/test.sh
test-debug: ## the guest tests on a kernel with KASAN, lockdep, kmemleak, DMA debug
	@KERNEL=debug scripts/test.sh
lint: ## everything that can be checked without running it
	@scripts/lint.sh
fmt: ## formats the Rust sources
	@scripts/fmt.sh
doc: ## build/doc/
	@scripts/doc.sh

##@ Housekeeping
.PHONY: clean clean-cache help
clean: ## removes what was built in the checkout
	@scripts/clean.sh
clean-cache: ## removes the cache ($VFETCH_CACHE): sandbox, kernels, crates
	@scripts/clean.sh cache
help: ## this
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
