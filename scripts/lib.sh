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

say()  { printf 'vfetch: %s\n' "$*" >&2; }
die()  { printf 'vfetch: error: %s\n' "$*" >&2; exit 1; }

VFETCH_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VFETCH_CACHE=${VFETCH_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, nor is VFETCH_CACHE}/.cache}/vfetch}
mkdir -p "$VFETCH_CACHE" || die "the cache cannot be made; VFETCH_CACHE names another place for it"
VFETCH_CACHE=$(cd "$VFETCH_CACHE" && pwd -P)
export VFETCH_TOP VFETCH_CACHE

# Kbuild refuses some of these, make and lists of programs split at others.
for VFETCH_PATH in "$VFETCH_TOP" "$VFETCH_CACHE"; do
  if [[ $VFETCH_PATH == *[[:space:]:\;\&\|\"\'\\\$\#%\*\?\[\<\>]* ]]; then
    die "'$VFETCH_PATH': kernel modules are built only where the path has no blank and none of : ; & | \" ' \\ \$ # % * ? [ < >"
  fi
done

# What `make clean-cache` may remove: a folder that was empty when it became the
# cache. (Backup programs know this name, too.)
if [ -z "$(ls -A "$VFETCH_CACHE")" ]; then
  printf 'Signature: 8a477f597d28d172789f06886806bc55\n# The cache of vfetch.\n' >"$VFETCH_CACHE/CACHEDIR.TAG"
fi
# Held for as long as a script or what it started runs: nobody removes the cache meanwhile.
mkdir -p "$VFETCH_CACHE/lock"
exec {VFETCH_IN_USE}<>"$VFETCH_CACHE/lock/in-use"
flock -s -n "$VFETCH_IN_USE" || die "$VFETCH_CACHE is being removed just now"

# What a fresh cache needs: sandbox 3 GiB, kernel tree 3 GiB, QEMU 1 GiB.
VFETCH_CACHE_NEED_MIB=9000

# key TEXT... | key < text: a short name for what a step is made from.
key() {
  if [ $# -gt 0 ]; then printf '%s\n' "$@"; else cat; fi | sha256sum | cut -c1-12
}

# As root or as a user who maps its subordinate ids: "root" in the sandbox.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif ! command -v newuidmap >/dev/null; then
    die "an ordinary user needs 'newuidmap' ('apt-get install uidmap' as root) and ranges in /etc/subuid and /etc/subgid"
  elif ! grep -qs '^subid:' /etc/nsswitch.conf && ! grep -qsE "^($(id -un)|$(id -u)):" /etc/subuid; then
    die "$(id -un) has no ranges in /etc/subuid and /etc/subgid: 'usermod --add-subuids 100000-165535" \
      "--add-subgids 100000-165535 $(id -un)' as root gives it some (others than other users have)"
  else
    unshare --map-root-user --map-auto -- "$@"
  fi
}

# Removes what NAME's earlier steps left: half-made folders that nobody is at,
# and finished ones that were not used for two weeks.
step_prune() {
  local dir lock
  for dir in "$VFETCH_CACHE/$1"-????????????.part*; do
    [ -e "$dir" ] || continue
    lock=$(basename "$dir")
    exec {lock}>"$VFETCH_CACHE/lock/${lock%.part*}"
    if flock -n "$lock"; then as_root rm -rf "$dir"; fi
    exec {lock}>&-
  done
  find "$VFETCH_CACHE" -mindepth 1 -maxdepth 1 -name "$1-????????????" -mtime +14 -print0 |
    while IFS= read -r -d '' dir; do as_root rm -rf "$dir"; done
}

# wait_for FD WHAT: takes the lock, and says so when that takes time.
wait_for() {
  flock -n "$1" || { say "$2: another make is at it, waiting"; flock "$1"; }
}

# step NAME KEY FUNCTION ["what is being done (how long)"]
# Sets REPLY to the finished folder. FUNCTION gets the folder to fill. Its
# output goes to a log that is shown when it fails; a line of progress is
# printed every few seconds meanwhile.
step() {
  local name=$1 key=$2 make=$3 what=${4:-$1}
  local dir="$VFETCH_CACHE/$name-$key" log rc start job free step_lock
  REPLY=$dir
  # The time of the last use, for step_prune.
  if [ -e "$dir" ]; then touch -c "$dir"; return 0; fi
  log="$VFETCH_CACHE/log/$name-$key.log"
  mkdir -p "$VFETCH_CACHE/log" "$VFETCH_CACHE/lock"
  exec {step_lock}>"$VFETCH_CACHE/lock/$name-$key"
  wait_for "$step_lock" "$what"
  if [ ! -e "$dir" ]; then
    free=$(df -Pm "$VFETCH_CACHE" | awk 'NR==2 { print $4 }')
    if [ "$name" = sandbox ] && [ "$free" -lt "$VFETCH_CACHE_NEED_MIB" ]; then
      die "$VFETCH_CACHE has $free MiB free, $VFETCH_CACHE_NEED_MIB are needed; set VFETCH_CACHE to a larger disk"
    fi
    # And what a step put beside it.
    as_root rm -rf "$dir.part"*
    start=$SECONDS
    say "$what"
    # A process group of its own: an interrupt ends all of the step, and waits
    # for that. Its half-made folder is never renamed.
    # The trap is there before the job is, or an interrupt in between would leave it.
    job=
    trap 'job=${job:-${!:-}}; kill -TERM -- "-$job" 2>/dev/null || true; wait "$job" 2>/dev/null || true; exit 130' INT TERM HUP
    set -m
    (set +m -euo pipefail; "$make" "$dir.part") >"$log" 2>&1 </dev/null &
    job=$!
    set +m
    while kill -0 "$job" 2>/dev/null; do
      sleep 0.2
      if (( SECONDS >= start + 10 )) && (( (SECONDS - start) % 15 == 14 )); then
        say "  … $((SECONDS - start)) s: $(tail -n1 "$log" | tr -cd '[:print:]' | cut -c1-90)"
        sleep 1
      fi
    done
    rc=0; wait "$job" || rc=$?
    trap - INT TERM HUP
    if [ "$rc" != 0 ]; then
      tail -n 40 "$log" >&2
      die "$what failed (exit $rc); the whole log: $log"
    fi
    as_root mv -T "$dir.part" "$dir"
    say "  done in $((SECONDS - start)) s"
    step_prune "$name"
  fi
  exec {step_lock}>&-
}

sandbox_root() { [ -n "${VFETCH_SANDBOX:-}" ] || { VFETCH_SANDBOX=$("$VFETCH_TOP/scripts/sandbox.sh"); export VFETCH_SANDBOX; }; }

# in_sandbox CMD...: runs CMD in the sandbox's root, with the checkout and the
# cache at the paths they have outside; in the same folder, or the checkout
# where that is none of theirs.
in_sandbox() {
  local folder=$PWD
  case $folder/ in
  "$VFETCH_TOP"/*|"$VFETCH_CACHE"/*) ;;
  *) folder=$VFETCH_TOP ;;
  esac
  sandbox_root
  as_root unshare --mount --propagation=private -- "$VFETCH_TOP/scripts/enter.sh" "$VFETCH_SANDBOX" "$folder" "$@"
}

# In the sandbox: brings apt's lists up to date; two steps may want to at once.
apt_update() { flock /var/lib/apt/vfetch.lock apt-get update -qq; }

# cargo_fetch: makes sure that the crates of Cargo.lock are in the cache, so
# that every build after it is offline. Leaves CARGO_HOME's own locking to cargo.
cargo_fetch() {
  cargo_target
  step crates "$(key "$(cat "$VFETCH_TOP/Cargo.lock")")" cargo_fetch_inside "fetching the crates of Cargo.lock"
}
cargo_fetch_inside() { mkdir -p "$1"; cd "$VFETCH_TOP"; in_sandbox cargo fetch --locked || in_sandbox cargo fetch --locked; }

# A target folder of this checkout. Not one for all: cargo names the crates of a
# workspace by their paths within it, and would take what it has built of
# another checkout for this one's if that was later than these files.
CARGO_TARGET=$VFETCH_CACHE/target-$(key "$VFETCH_TOP")

# cargo_target: makes the folder, and removes those of checkouts that are gone.
cargo_target() {
  [ ! -e "$CARGO_TARGET/checkout" ] || return 0
  local other
  for other in "$VFETCH_CACHE"/target-*/checkout; do
    if [ -e "$other" ] && [ ! -d "$(cat "$other")" ]; then rm -rf "$(dirname "$other")"; fi
  done
  mkdir -p "$CARGO_TARGET"
  printf '%s\n' "$VFETCH_TOP" >"$CARGO_TARGET/checkout"
}

# How cargo builds: offline, static programs that run in the guest too.
# shellcheck disable=SC2034 # for those who source this
CARGO_ENVIRONMENT=(
  CARGO_TARGET_DIR="$CARGO_TARGET" CARGO_NET_OFFLINE=true CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static ${RUSTFLAGS:-}"
)

# in_cargo ARGUMENTS...: cargo in the sandbox, with the crates at hand.
in_cargo() {
  cargo_fetch
  in_sandbox env "${CARGO_ENVIRONMENT[@]}" cargo "$@"
}
