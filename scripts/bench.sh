#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# `make bench`: all figures in one boot under virtual time, but for those of a slow
# link, which take another, so that two runs of the same build print the same. Prints tables and writes
# target/bench/results.json. Exits with 0 when everything could be measured,
# also when a wanted figure is missed.
#
#   scripts/bench.sh [--twice] [--quick]
#
#   --twice   boots twice and fails when the figures differ
#   --quick   a tenth of the requests, to try this script itself
#
#   TIMEOUT   seconds of real time of a boot (500)
. "$(dirname "$0")/lib.sh"

cd "$VFETCH_TOP"
runs=(build/bench) divide=1
for a in "$@"; do
  case $a in
  --twice) runs=(build/bench build/bench-2) ;;
  --quick) divide=10 ;;
  *) die "usage: scripts/bench.sh [--twice] [--quick]" ;;
  esac
done

programs=$(scripts/profile.sh --build)
scripts/module.sh >/dev/null
scripts/device.sh >/dev/null
scripts/tools.sh >/dev/null

measure() {
  local out=$VFETCH_TOP/$1 rc=0
  rm -rf "$out"
  mkdir -p "$out"
  # With its debug information, for the tables by function and line.
  cp "$programs/probe.nm" build/stock/vfetch.ko "$out/"
  say "booting the guest; all figures come from this boot (about a minute)"
  VFS=7 ICOUNT=0 V=1 TIMEOUT=${TIMEOUT:-500} LOG=$out/kernel.log TOOLS=none \
    FILES="$programs/probe scripts/bench-guest.sh build/tools/vfetch" \
    QEMU_ARGS="-plugin $programs/halt.so -plugin $programs/trace.so,out=$out/trace" CMD="./bench-guest.sh $divide" \
    scripts/vm.sh >"$out/said" 2> >(tee "$out/err" | grep -v '^vm: qemu-system' >&2) || rc=$?
  [ "$rc" = 0 ] || die "the benchmarks could not be run (status $rc of the guest); the kernel's log: $out/kernel.log"
  sed -n 's/^vm: qemu-system/qemu-system/p' "$out/err" >"$out/qemu"
  say "booting it again, with a slow link"
  ICOUNT=0 TIMEOUT=${TIMEOUT:-500} LOG=$out/kernel-slow.log TOOLS=none FILES="$programs/probe" DEVICE=link_bytes_per_us=1000 \
    QEMU_ARGS="-plugin $programs/halt.so" CMD="./probe 0 mload:3000" scripts/vm.sh >"$out/slow" ||
    die "the benchmarks with a slow link could not be run; the kernel's log: $out/kernel-slow.log"
  in_sandbox python3 scripts/bench.py "$out" --json "$out/results.json" >"$out/table.txt"
}

for r in "${runs[@]}"; do measure "$r"; done
mkdir -p target/bench
cp build/bench/results.json target/bench/
cat build/bench/table.txt
echo
scripts/bench-engine.sh
echo
echo "  target/bench/results.json has these figures and more."
if [ "${#runs[@]}" = 2 ]; then
  if cmp "${runs[0]}/results.json" "${runs[1]}/results.json" && cmp "${runs[0]}/table.txt" "${runs[1]}/table.txt"; then
    echo "  A second boot measured the same, to the last digit."
  else
    diff -u "${runs[0]}/table.txt" "${runs[1]}/table.txt" >&2 || true
    die "a second boot measured differently"
  fi
fi
