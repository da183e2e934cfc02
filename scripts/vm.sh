#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Boots the guest, runs a command there and exits with its status, after
# making whatever is needed for it. `make vm` calls this; all settings are
# environment variables:
#
#   CMD      what to run, by sh, in /host; without it an interactive shell
#   FILES    files and folders that are copied to /host, separated by blanks;
#            patterns, and quotes around names with blanks
#   SMP MEM  processors (2) and memory (1G)
#   VFS      how many VFs to switch on (0)
#   DEVICE   more properties of the device, e.g. 'total_vfs=63,x-test=on';
#            'none': no vfetch device
#   MODARGS  parameters of vfetch.ko
#   MODULE   'none': without vfetch.ko; 'noload': it is at
#            /lib/modules/vfetch.ko and not loaded
#   MODULES  modules of the kernel's own that are loaded first, e.g. vfio-pci
#   TOOLS    'none': without the command-line tools
#   KERNEL   stock or debug
#   THREADS  'multi': a thread of QEMU for each processor, with a danger that
#            scripts/vm.py describes; the default is 'single'
#   ICOUNT   N: deterministic virtual time, 2^N ns an instruction, one CPU
#   IOMMU    1: an emulated IOMMU in front of the device
#   QMP      1: the guest's program 'qmp' may give QEMU commands
#   RESULTS  a file: what the guest gives to its program 'results' goes there
#   TIMEOUT  seconds (120)
#   ACCEL    kvm: use it, at your own risk; the default is tcg
#   APPEND   more of the kernel's command line
#   QEMU_ARGS  more arguments for QEMU
#   ALLOW    a regular expression: lines of the kernel's log that are no defect
#   LOG      where the kernel's log goes (build/vm/kernel.log)
#   TIME     1: say at the end how long it all took
#   V        1: show QEMU's command line
. "$(dirname "$0")/lib.sh"

kernel=${KERNEL:-stock}
case $kernel in
stock) folder=$("$VFETCH_TOP/scripts/kernel.sh") ;;
debug) folder=$("$VFETCH_TOP/scripts/kernel-debug.sh") ;;
*) die "KERNEL=$kernel: it is 'stock' or 'debug'" ;;
esac

args=(--kernel "$folder" --smp "${SMP:-2}" --mem "${MEM:-1G}" --vfs "${VFS:-0}" --accel "${ACCEL:-tcg}"
  --iommu "${IOMMU:-0}" --qmp "${QMP:-0}"
  "--modargs=${MODARGS:-}" "--modules=${MODULES:-}" "--append=${APPEND:-}" "--qemu-args=${QEMU_ARGS:-}" --threads "${THREADS:-single}")

case ${MODULE:-} in
none) ;;
''|noload)
  module=$("$VFETCH_TOP/scripts/module.sh" "$kernel")
  args+=(--module "$module")
  if [ "${MODULE:-}" = noload ]; then args+=(--load 0); fi ;;
*) die "MODULE=$MODULE: it is 'none', 'noload' or nothing" ;;
esac

if [ "${DEVICE:-}" != none ]; then
  device=$("$VFETCH_TOP/scripts/device.sh")
  args+=(--device "$device" "--props=${DEVICE:-}")
fi

if [ "${TOOLS:-}" != none ]; then
  tools=$("$VFETCH_TOP/scripts/tools.sh")
  for t in $tools; do args+=(--tool "$t"); done
fi

# What goes in and comes out may lie where the sandbox does not see it: by way
# of the cache.
find "$VFETCH_CACHE" -mindepth 1 -maxdepth 1 -name 'vm.??????' -mtime +14 -exec rm -rf {} +
staged=$(mktemp -d "$VFETCH_CACHE/vm.XXXXXX")
trap 'rm -rf "$staged"' EXIT
mkdir "$staged/host"
args+=(--log "$staged/log" --log-name "${LOG:-build/vm/kernel.log}")
add_file() {
  local name
  name=$(basename -- "$1")
  # . and .. have a name too, which says more.
  case $name in .|..|/) name=$(basename "$(realpath -- "$1")") ;; esac
  [ ! -e "$staged/host/$name" ] || die "FILES: two are called '$name', which is one name in /host"
  cp -RLT --preserve=mode -- "$1" "$staged/host/$name"
  args+=(--file "$staged/host/$name")
}
words=$(xargs -r printf '%s\n' <<<"${FILES:-}") || die "FILES: its quotes do not match"
while IFS= read -r word; do
  [ -n "$word" ] || continue
  if [ -e "$word" ]; then add_file "$word"; continue; fi
  found=$(compgen -G "$word") || die "FILES: there is no '$word'"
  while IFS= read -r f; do add_file "$f"; done <<<"$found"
done <<<"$words"
if [ -n "${RESULTS:-}" ]; then args+=(--results "$staged/results"); fi

if [ -n "${CMD:-}" ]; then args+=("--cmd=$CMD"); fi
if [ -n "${ICOUNT:-}" ]; then args+=(--icount "$ICOUNT"); fi
if [ -n "${TIMEOUT:-}" ]; then args+=(--timeout "$TIMEOUT"); fi
if [ -n "${ALLOW:-}" ]; then args+=("--allow=$ALLOW"); fi
if [ "${TIME:-}" = 1 ]; then args+=(--time); fi
if [ "${V:-}" = 1 ]; then args+=(--show); fi

rc=0
(cd "$VFETCH_TOP" && in_sandbox python3 scripts/vm.py "${args[@]}") || rc=$?

# hand_over FILE TARGET: whole or not at all.
hand_over() {
  [ -e "$1" ] || return 0
  mkdir -p "$(dirname "$2")"
  cp "$1" "$2.part.$$"
  mv "$2.part.$$" "$2"
}
hand_over "$staged/log" "${LOG:-$VFETCH_TOP/build/vm/kernel.log}"
if [ "$rc" = 0 ] && [ -n "${RESULTS:-}" ]; then hand_over "$staged/results" "$RESULTS"; fi
exit "$rc"
