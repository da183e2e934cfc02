#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What scripts/bench.sh runs in the guest: all measurements, as JSON with lines
# of '=== NAME' between them, for scripts/bench.py; progress on stderr. An
# argument n divides the numbers of requests.

set -e
divide=${1:-1}

part() { echo "=== $1"; }
count() { n=$(($1 / divide)); [ $n -ge 4 ] || n=4; echo $n; }

# measure NAME FUNCTIONS SIZE ORDER BLOCK DEPTHS REQUESTS (of each thread)
measure() {
	n=$(count "$7")
	echo "  $1, $4, $5, depth $6" >&2
	part "results $1"
	vfetch bench "$2" --json --size "$3" --op read,write --order "$4" --block-size "$5" --depth "$6" --count "$n"
}

part guest
uname -r
cat /proc/cmdline

# Each is a section for the profiler, in this order.
n=$(count 200)
m=$(count 20)
part operations
echo "  instructions of single operations" >&2
./probe 0 "nothing:$n" "null:$n" "copy:4096:$n" "zero:4096:$n" "memfd:4096:$n" "read:4096:$n" "write:4096:$n" \
	"read:65536:$n" "write:65536:$n" "read:1048576:$m" "write:1048576:$m" "sread:1048576:$m" "swrite:1048576:$m"

# The numbers of pages are not divided: what is counted needs whole blocks.
part managed
echo "  instructions of faults" >&2
./probe 0 shared:200 mfault:200 mload:3000 dfault:2048 dscatter:2048 block:512 \
	decide:1 decide:25 decide:30 decide:51 decide:75 decide:99 decide:100

# Nor is the data of jobs: they would be over before the calls that begin them.
part jobs
echo "  jobs whose data is there" >&2
vfetch demo 0 --json --policy flat,resident --capacity 1 --size 4m --strands 4 --element-ps 4000

measure "one function" 0 4m seq 4k 1 500
measure "one function" 0 4m seq 64k 1 200
measure "one function" 0 4m seq 1m 1 40
measure "one function" 0 4m rand 4k 1 500
measure "one function" 0 4m rand 4k 16 100

measure "8 functions together" all 2m seq 4k 1 200
measure "8 functions together" all 2m seq 64k 1 60
measure "8 functions together" all 2m seq 1m 1 16
measure "8 functions together" all 2m rand 4k 1 200
measure "8 functions together" all 2m rand 4k 16 30

echo "  the kernel's symbols" >&2
part kallsyms
grep -i ' [tw] ' /proc/kallsyms
