#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# fmt.sh: formats the Rust sources, as `make lint` demands.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"
in_cargo fmt --all
find rust -name '*.rs' -print0 | xargs -0 bash -c '. scripts/lib.sh; in_sandbox rustfmt --edition 2021 "$@"' fmt
