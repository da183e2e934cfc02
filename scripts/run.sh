#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# `make run`, the demonstration: boots the guest with a PF and VFS VFs (8), loads
# the module, moves data on all functions at once, then runs jobs on the PF and
# on the first and the last VF under several policies, and prints what each
# function did and what prefetching bought. All data and results are compared;
# exits with 0 only when all of it was right.
#
# Jobs that jump about get memory for all of their data here: with half of it they
# fault for minutes of real time, under every policy ('vfetch demo 0 --job bfs'
# shows it).
#
# The guest runs on virtual time, so that throughput and latency are those of
# a processor with an instruction a nanosecond and of the device's link,
# whatever else this machine does. ICOUNT= (empty) switches that off.
. "$(dirname "$0")/lib.sh"

export VFS=${VFS:-8} ICOUNT=${ICOUNT-0} TIMEOUT=${TIMEOUT:-900}
[[ $VFS =~ ^[0-9]+$ ]] || die "VFS=$VFS: how many VFs, a number"
if [ "$VFS" -gt 8 ] && [ -z "${DEVICE:-}" ]; then export DEVICE=total_vfs=$VFS; fi
cd "$VFETCH_TOP"

# Made before, so that what follows is about running.
scripts/kernel.sh >/dev/null
scripts/module.sh >/dev/null
scripts/device.sh >/dev/null
scripts/tools.sh >/dev/null
if [ -n "$ICOUNT" ]; then
  programs=$(scripts/profile.sh --build)
  export QEMU_ARGS="-plugin $programs/halt.so ${QEMU_ARGS:-}"
fi

say "booting Debian's kernel in QEMU, with a vfetch device of 1 PF and $VFS VFs …"
# shellcheck disable=SC2016 # for the guest's shell
guest='
echo "Linux $(uname -r), unmodified; vfetch.ko loaded; $(ls /dev/vfetch* | wc -l) functions bound."
echo "Each is written and read twice in requests of 1 MiB, all functions at once, then"
echo "read at random 4 KiB at a time. All that was read is compared."
echo
vfetch check && echo && vfetch demo 0 --job triad,stencil,gemm,conv2d,spmv,reduce &&
echo && vfetch demo 0 --job bfs,pagerank,gather,scatter --capacity 1 && vfs=$(vfetch list | sed -n "s,^/dev/vfetch\([0-9]*\) .* VF .*,\1,p" | sed -n "1p;\$p") &&
{ [ -z "$vfs" ] || { echo && vfetch demo $vfs --size 4m --capacity 1 --policy none,auto; }; }'
rc=0
CMD=$guest scripts/vm.sh || rc=$?
if [ "$rc" != 0 ]; then
  say "the demonstration failed (status $rc); the kernel's log: build/vm/kernel.log"
  exit "$rc"
fi
if [ -n "$ICOUNT" ]; then
  echo "Virtual time: one CPU with an instruction a nanosecond. It serves the faults, and"
  echo "it makes and compares the data, outside of the times of jobs but not of those of"
  echo "transfers; 'make bench' measures the driver by itself."
fi
cat <<'END'

Try next
  make vm VFS=8                                a shell in the guest; then
      vfetch list                              the functions
      vfetch demo 1 --job bfs --policy none,30,auto
      vfetch --help                            what else there is
  make vm VFS=2 CMD='vfetch bench all --runtime 100ms' ICOUNT=0
  make bench                                   all figures, and what is wanted
  make test                                    all tests
README.md goes on from here: using the module outside the VM, troubleshooting.
END
