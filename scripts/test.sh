#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds everything and runs the tests (scripts/run_tests.py); `make test`.
#
#   SUITE   only these, separated by spaces
#   KERNEL  debug: the guest suites on the debug kernel
#   JOBS    suites at a time (2)
. "$(dirname "$0")/lib.sh"

cd "$VFETCH_TOP"
kernel=${KERNEL:-stock}
case $kernel in
stock) folder=$("$VFETCH_TOP/scripts/kernel.sh") args=() ;;
debug) folder=$("$VFETCH_TOP/scripts/kernel-debug.sh") args=(--debug) ;;
*) die "KERNEL=$kernel: it is 'stock' or 'debug'" ;;
esac
module=$("$VFETCH_TOP/scripts/module.sh" "$kernel")
device=$("$VFETCH_TOP/scripts/device.sh")
tools=$("$VFETCH_TOP/scripts/tools.sh")
args+=(--kernel "$folder" --module "$module" --device "$device" --jobs "${JOBS:-2}" "--suite=${SUITE:-}")
for t in $tools; do args+=(--tool "$t"); done
cargo_fetch
in_sandbox env "${CARGO_ENVIRONMENT[@]}" python3 scripts/run_tests.py "${args[@]}"
