#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Compares the answers of the prefetch tree's compatible mode with those of the
# vector file $VECTORS (plain or .gz).
. "$(dirname "$0")/lib.sh"
[ -n "${VECTORS:-}" ] || die "which vectors? make conformance VECTORS=FILE"
[ -f "$VECTORS" ] || die "there is no file '$VECTORS'"
"$VFETCH_TOP/scripts/tools.sh" >/dev/null
exec "$VFETCH_TOP/build/tools/vfetch-conformance" "$VECTORS"
