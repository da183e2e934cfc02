#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The benchmarks, in one boot under deterministic virtual time. What runs in the
# guest, tests/guest/bench.sh, prints a table and hands its figures over as
# target/bench/results.json.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"
[ -x tests/guest/bench.sh ] || die "there are no benchmarks yet: tests/guest/bench.sh is missing"
export ICOUNT=${ICOUNT:-0} VFS=${VFS:-8} TIMEOUT=${TIMEOUT:-1800}
export FILES=tests/guest/bench.sh CMD="./bench.sh ${ARGS:-}" RESULTS=$VFETCH_TOP/target/bench/results.json
scripts/vm.sh
say "figures: target/bench/results.json"
