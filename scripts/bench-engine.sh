#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the engine's decisions cost, in instructions (callgrind), and on this
# machine in nanoseconds (criterion): with the popcount instruction, and as the
# kernel generates code, which has neither that nor vectors, and checks
# overflows. Prints a table and adds the figures to target/bench/results.json.
#
#   scripts/bench-engine.sh [--quick]     --quick: without times
. "$(dirname "$0")/lib.sh"

cd "$VFETCH_TOP"
case ${1:-} in
'' | --quick) ;;
*) die "usage: scripts/bench-engine.sh [--quick]" ;;
esac
cargo_fetch
mkdir -p target/bench
in_sandbox env CARGO_NET_OFFLINE=true python3 scripts/bench_engine.py "$CARGO_TARGET/bench" \
  --json target/bench/results.json "$@"
