#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# clean.sh [cache]: removes what was built in the checkout, or the cache.
. "$(dirname "$0")/lib.sh"
case ${1:-} in
'')
  cd "$VFETCH_TOP"
  rm -rf build target ;;
cache)
  # Whoever holds a step's lock is making it.
  for lock in "$VFETCH_CACHE"/lock/*; do
    [ -e "$lock" ] || continue
    flock -n "$lock" true || die "$(basename "$lock") is being made just now"
  done
  say "removing $VFETCH_CACHE"
  as_root rm -rf "$VFETCH_CACHE" ;;
*) die "usage: clean.sh [cache]" ;;
esac
