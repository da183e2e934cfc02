#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Where the instructions of an operation go: boots the guest under virtual
# time, runs operations one after the other (qemu/profile/probe.c) while a
# plugin of QEMU writes down every block that is executed (qemu/profile/trace.c),
# and prints tables (scripts/profile_trace.py), which also go to build/profile/.
#
#   scripts/profile.sh [SECTION...]      read:4096:200 read:1048576:20, see probe.c
#   scripts/profile.sh --build           only builds; prints the folder with
#                                        trace.so, halt.so and probe
#   scripts/profile.sh --read FOLDER     the tables of a trace that is there
#
#   TOP      rows of the tables of functions (30)
#   TREE     1: also who calls whom
. "$(dirname "$0")/lib.sh"

cd "$VFETCH_TOP"
build() { in_sandbox bash "$VFETCH_TOP/scripts/profile.sh" --compile "$1" "$source"; }

compile_inside() {
  local out=$1 source=$2 flags plugin
  mkdir -p "$out"
  read -ra flags <<< "$(pkg-config --cflags glib-2.0)"
  for plugin in trace halt; do
    gcc -std=gnu11 -O2 -g -fPIC -shared -Wall -Wextra -Werror -Wno-unused-parameter "${flags[@]}" \
      -I"$source/include/qemu" -o "$out/$plugin.so" "qemu/profile/$plugin.c"
  done
  gcc -std=gnu11 -O2 -g0 -static -Wall -Wextra -Werror -Iinclude/uapi -o "$out/probe" qemu/profile/probe*.c
  nm -C "$out/probe" >"$out/probe.nm"
}

read_trace() {
  in_sandbox python3 scripts/profile_trace.py "$1" --top "${TOP:-30}" ${TREE:+--tree}
}

case "${1:-}" in
--compile) shift; compile_inside "$@"; exit ;;
--read) read_trace "$2"; exit ;;
esac

source=$("$VFETCH_TOP/scripts/device.sh" --source)
step profile "$(key "$source" "$(sha256sum qemu/profile/*.[ch] include/uapi/linux/*.h)" \
    "$(sed -n '/^compile_inside()/,/^}/p' "$0")")" build "building the profiler"
programs=$REPLY
if [ "${1:-}" = --build ]; then echo "$programs"; exit; fi

out=$VFETCH_TOP/build/profile
mkdir -p "$out"
sections=("$@")
[ $# -gt 0 ] || sections=(nothing:200 null:200 copy:4096:200 zero:4096:200 memfd:4096:200 read:4096:200 write:4096:200
  read:65536:50 read:1048576:10 write:1048576:10 sread:1048576:10)
for s in "${sections[@]}"; do
  [[ $s =~ ^[a-z]+(:[0-9]+)+$ ]] || die "'$s' is no section, e.g. read:4096:200"
done

ICOUNT=0 TOOLS=none LOG=$out/kernel.log TIMEOUT=${TIMEOUT:-500} FILES="$programs/probe" \
  QEMU_ARGS="-plugin $programs/halt.so -plugin $programs/trace.so,out=$out/trace" \
  CMD="./probe 0 ${sections[*]} && echo kallsyms && grep -i ' [tw] ' /proc/kallsyms" "$VFETCH_TOP/scripts/vm.sh" >"$out/said" ||
  { head -c 4000 "$out/said" >&2; die "the operations could not be run"; }
# With its debug information; profile_trace.py checks that it is the one that ran.
cp "$programs/probe.nm" build/stock/vfetch.ko "$out/"
read_trace "$out"
