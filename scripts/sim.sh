#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The closed-loop simulator, with $ARGS, separated by blanks; without any, its
# help. Files are looked for from the top of the checkout.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"
sandbox_root
# None of the other tools, which take minutes: cargo knows what has changed.
in_cargo build --release --locked --package vfetch-sim >&2 || die "the simulator does not build"
set -f
# shellcheck disable=SC2086 # one word per argument
exec "$CARGO_TARGET/x86_64-unknown-linux-gnu/release/vfetch-sim" ${ARGS:---help}
