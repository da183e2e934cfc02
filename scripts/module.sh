#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# module.sh [stock|debug]: builds the module for that kernel, when anything
# that it is made from has changed, and prints the path of vfetch.ko.
# build/KERNEL/ holds kbuild's own files, so that it builds incrementally, and
# in guest/ the module without its debug information.
. "$(dirname "$0")/lib.sh"

kernel=${1:-stock}
case $kernel in
stock) folder=$("$VFETCH_TOP/scripts/kernel.sh") llvm=() ;;
# KASAN and Rust go together only where clang compiles the C.
debug) folder=$("$VFETCH_TOP/scripts/kernel-debug.sh") llvm=(LLVM=1) ;;
*) die "usage: module.sh [stock|debug]" ;;
esac

cd "$VFETCH_TOP"
out=$VFETCH_TOP/build/$kernel
mkdir -p "$out"

inputs() {
  echo "$folder"
  # A file of these may disappear meanwhile: that only means another build.
  { find Kbuild include rust bpf scripts/module.sh -type f ! -name '*.md' 2>/dev/null || true; } |
    LC_ALL=C sort | xargs -d '\n' sha256sum
}

build() {
  local release suffix
  release=$(cat "$folder/release")
  # The tree does not know what the packagers appended to its version.
  suffix=${release#"$(in_sandbox make -s -C "$folder/tree" kernelversion)"}
  in_sandbox make -j"$(nproc)" -C "$folder/tree" M="$VFETCH_TOP" MO="$out" LOCALVERSION="$suffix" \
    "${llvm[@]}" KBUILD_MODPOST_WARN= modules
  mkdir -p "$out/guest"
  in_sandbox objcopy --strip-debug "$out/vfetch.ko" "$out/guest/new.ko"
  local magic
  magic=$(in_sandbox modinfo -F vermagic "$out/guest/new.ko")
  [ "${magic%% *}" = "$release" ] || { echo "the module is of '$magic', the kernel is $release"; return 1; }
  # A guest that starts just now gets the old one or the new one.
  mv "$out/guest/new.ko" "$out/guest/vfetch.ko"
}

exec {lock}>"$out/lock"
wait_for "$lock" "building the module"
key=$(inputs | key)
if [ "$(cat "$out/made-from" 2>/dev/null)" != "$key" ]; then
  say "building the module for the $kernel kernel"
  rm -f "$out/made-from"
  # Not `build || …`, which would switch -e off inside it.
  set +e
  (set -e; build) >"$out/log" 2>&1 </dev/null
  rc=$?
  set -e
  if [ "$rc" != 0 ]; then
    cat "$out/log" >&2
    die "the module does not build"
  fi
  # Warnings are to be seen, also when they do not stop the build.
  grep -E '(^|: )(warning|WARNING)' "$out/log" >&2 || true
  echo "$key" >"$out/made-from"
fi
echo "$out/guest/vfetch.ko"
