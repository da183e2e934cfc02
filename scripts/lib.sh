# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What every build script shares: where the cache is, how a step is made once
# and only whole, and how to run a command in the sandbox. Sourced, not run.
#
# A *step* is a folder in the cache, named STEP-KEY after what it was made
# from. It is made in STEP-KEY.part and renamed when it is complete, so that
# an interrupted step leaves nothing that looks finished.

set -euo pipefail

VFETCH_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VFETCH_CACHE=${VFETCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vfetch}
mkdir -p "$VFETCH_CACHE"
VFETCH_CACHE=$(cd "$VFETCH_CACHE" && pwd -P)
export VFETCH_TOP VFETCH_CACHE

# What a fresh cache needs: sandbox 3 GiB, kernel tree 3 GiB, QEMU 1 GiB.
VFETCH_CACHE_NEED_MIB=9000

say()  { printf 'vfetch: %s\n' "$*" >&2; }
die()  { printf 'vfetch: error: %s\n' "$*" >&2; exit 1; }

# key TEXT... | key < text: a short name for what a step is made from.
key() {
  if [ $# -gt 0 ]; then printf '%s\n' "$@"; else cat; fi | sha256sum | cut -c1-12
}

# As root or as a user who maps its subordinate ids: "root" in the sandbox.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else unshare --map-root-user --map-auto -- "$@"; fi
}

# step NAME KEY FUNCTION ["what is being done (how long)"]
# Sets REPLY to the finished folder. FUNCTION gets the folder to fill. Its
# output goes to a log that is shown when it fails; a line of progress is
# printed every few seconds meanwhile.
step() {
  local name=$1 key=$2 make=$3 what=${4:-$1}
  local dir="$VFETCH_CACHE/$name-$key" log rc start
  REPLY=$dir
  [ -e "$dir" ] && return 0
  local free
  log="$VFETCH_CACHE/log/$name-$key.log"
  mkdir -p "$VFETCH_CACHE/log" "$VFETCH_CACHE/lock"
  exec {step_lock}>"$VFETCH_CACHE/lock/$name-$key"
  if ! flock -n "$step_lock"; then
    say "$what: another make is at it, waiting"
    flock "$step_lock"
  fi
  if [ ! -e "$dir" ]; then
    free=$(df -Pm "$VFETCH_CACHE" | awk 'NR==2 { print $4 }')
    if [ "$name" = sandbox ] && [ "$free" -lt "$VFETCH_CACHE_NEED_MIB" ]; then
      die "$VFETCH_CACHE has $free MiB free, $VFETCH_CACHE_NEED_MIB are needed; set VFETCH_CACHE to a larger disk"
    fi
    as_root rm -rf "$dir.part"
    start=$SECONDS
    say "$what"
    (set -euo pipefail; "$make" "$dir.part") >"$log" 2>&1 </dev/null &
    local job=$!
    # An interrupt ends the step too; its half-made folder is never renamed.
    trap 'kill $(pgrep -P '"$job"') '"$job"' 2>/dev/null; exit 130' INT TERM
    while kill -0 "$job" 2>/dev/null; do
      sleep 1
      if (( (SECONDS - start) % 15 == 14 )); then
        say "  … $((SECONDS - start)) s: $(tail -n1 "$log" | tr -cd '[:print:]' | cut -c1-90)"
      fi
    done
    rc=0; wait "$job" || rc=$?
    trap - INT TERM
    if [ "$rc" != 0 ]; then
      tail -n 40 "$log" >&2
      die "$what failed (exit $rc); the whole log: $log"
    fi
    as_root mv -T "$dir.part" "$dir"
    say "  done in $((SECONDS - start)) s"
  fi
  exec {step_lock}>&-
}

sandbox_root() { [ -n "${VFETCH_SANDBOX:-}" ] || { VFETCH_SANDBOX=$("$VFETCH_TOP/scripts/sandbox.sh"); export VFETCH_SANDBOX; }; }

# in_sandbox CMD...: runs CMD in the sandbox's root, in the same folder, with
# the checkout and the cache at the paths they have outside.
in_sandbox() {
  sandbox_root
  as_root unshare --mount --propagation=private -- "$VFETCH_TOP/scripts/enter.sh" "$VFETCH_SANDBOX" "$PWD" "$@"
}
