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
  # VFETCH_CACHE=$HOME is a mistake that is not to cost more than this message.
  [ -e "$VFETCH_CACHE/CACHEDIR.TAG" ] || [ "$(basename "$VFETCH_CACHE")" = vfetch ] ||
    die "$VFETCH_CACHE held other files before it became the cache: remove by hand what is not needed"
  flock -n "$VFETCH_IN_USE" || die "another make is using $VFETCH_CACHE"
  say "removing $VFETCH_CACHE"
  as_root rm -rf "$VFETCH_CACHE" ;;
*) die "usage: clean.sh [cache]" ;;
esac
