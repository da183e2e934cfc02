#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The closed-loop simulator, with $ARGS, separated by blanks; without any, its
# help. Files are looked for from the top of the checkout.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"
"$VFETCH_TOP/scripts/tools.sh" >/dev/null
set -f
# shellcheck disable=SC2086 # one word per argument
exec build/tools/vfetch-sim ${ARGS:---help}
