#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The closed-loop simulator, with $ARGS.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"
"$VFETCH_TOP/scripts/tools.sh" >/dev/null
[ -x build/tools/vfetch-sim ] || die "there is no simulator yet: the workspace has no program vfetch-sim"
# shellcheck disable=SC2086 # one word per argument
exec build/tools/vfetch-sim ${ARGS:-}
