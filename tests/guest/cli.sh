#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The vfetch command on real functions: what it prints, and its exit statuses.
# Boot with VFS=2. The last claims reset a function, unplug the device and
# unload the module, so this wants a machine of its own.

tests=0 failed=0

# claim NAME STATUS PATTERN COMMAND: by sh; passes when it exits with STATUS and what it prints matches.
claim() {
	local out status
	tests=$((tests + 1))
	out=$(sh -c "$4" 2>&1)
	status=$?
	if [ "$status" = "$2" ] && echo "$out" | grep -qE -- "$3"; then
		echo "ok $tests - $1"
	else
		echo "$out" | sed 's/^/# /'
		echo "# status $status, wanted $2, and /$3/"
		echo "not ok $tests - $1"
		failed=1
	fi
}

pci=/sys/bus/pci/devices
pf=0000:01:00.0
vf=0000:01:00.1
unprivileged="su -s /bin/sh nobody -c"

echo "TAP version 14"

claim "list names the PF and how many VFs it has" 0 "^/dev/vfetch0 +$pf +PF, 2 of [0-9]+ VFs +ready" "vfetch list"
claim "list names each VF and its PF" 0 "^/dev/vfetch2 .* VF 2 of $pf" "vfetch list"
claim "list --json has one entry a function" 0 "^3$" "vfetch list --json | grep -c '\"node\":'"
claim "list fits 80 columns" 1 "^0$" "vfetch list | grep -cE '.{81}'"
claim "list works without permission, and says so" 0 "no permission" "$unprivileged 'vfetch list'"
claim "what needs the node is refused without permission" 5 "run as root" "$unprivileged 'vfetch info 0'"

claim "info takes a node, a path and an address" 0 "^3$" "vfetch info 1 /dev/vfetch1 $vf | grep -c '^/dev/vfetch1  $vf  VF 1, ready'"
claim "a node that is not there is status 4" 4 "bound: vfetch0, vfetch1, vfetch2" "vfetch info 9"
claim "a function of no driver is status 4, with advice" 4 "drivers/vfetch/bind" "vfetch info 0000:00:00.0"

claim "a new space is all zeros" 0 "all zeros" "vfetch read 1 --size 1m"
claim "a pattern comes back by DMA" 0 "verified" "vfetch read 1 --size 3m --fill --block-size 100000"
claim "a file comes back as it was" 0 "verified" "vfetch write $vf --input /bin/busybox --verify"
claim "a space that is too large is refused, with how much there is" 1 "no room for a space of 1 TiB" "vfetch write 1 --length 1t"
claim "a size in part of a page is refused, with its neighbours" 1 "use 4096 or 8192" "vfetch read 1 --size 5000"
claim "two commands on the shell's space see the same data" 0 "verified" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m --seed 7; vfetch read fd:3 --verify --seed 7"
claim "wrong data is status 7, and where" 7 "wrong data at offset 0" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m --seed 7; vfetch read fd:3 --verify --seed 8"
claim "a copy by way of a space is the same file" 0 "" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --input - </bin/busybox &&
	 vfetch read fd:3 --length \$(stat -c %s /bin/busybox) --output /tmp/copy && cmp /bin/busybox /tmp/copy"
claim "another command's space is empty again" 0 "all zeros" "vfetch write 1 --length 8m && vfetch read 1 --size 8m"

claim "stats of one function explain its counters" 0 "^timeouts +0 +transfers given up" "vfetch stats 1"
claim "stats of all functions are a line each" 0 "^3$" "vfetch stats | grep -c '^vfetch[0-9]'"
claim "stats --watch ends after its count" 0 "^2$" "vfetch stats 0 --watch=100ms --count 2 --json | grep -c link_share"

claim "bench verifies and compares with the link" 0 "^write +rand +64 KiB +2 +3 +[0-9.]+ +[0-9.]+ %" \
	"vfetch bench all --count 20 --block-size 4k,64k --depth 1,2 --size 1m --verify"
claim "bench --save writes its figures" 0 "own_ns_per_request" \
	"vfetch bench 0 --count 5 --size 1m --save /tmp/figures >/dev/null && cat /tmp/figures"
claim "bench refuses a block that is larger than the space" 1 "give a larger --size" "vfetch bench 0 --size 4k --count 1"
claim "check moves and verifies data on all functions" 0 "^3 of 3 functions right" "vfetch check --size 1m"
claim "check does not change the number of VFs that are there" 0 "^2$" \
	"vfetch check --size 4k --vfs 1 >/dev/null; cat $pci/$pf/sriov_numvfs"
claim "demo runs every job on PF and VF, and all results are right" 0 "^40 of 40 results" \
	"vfetch demo 0 1 --size 256k --capacity 1 --policy none,auto"
claim "demo with less memory than data has faults and right results" 0 "^8 of 8 results" \
	"vfetch demo 2 --job spmv,scatter --size 2m --policy none,75"
claim "demo prefetches under 51 and not under none" 0 "^yes$" \
	"vfetch demo 1 --job triad --size 1m --capacity 1 --policy none,51 --json >/tmp/demo;
	 set -- \$(sed -n 's/.*\"prefetched_pages\": \([0-9]*\),/\1/p' /tmp/demo); [ \$1 = 0 ] && [ \$2 -gt 100 ] && echo yes"

claim "demo puts the policy back" 0 "^/dev/vfetch1: auto" "vfetch policy show 1"

claim "policy list tells what each does" 0 "^12$" "vfetch policy list | tail -n +2 | grep -c '^[a-z-]*  '"
claim "policy set holds for one function, and stays" 0 "^/dev/vfetch2: auto" \
	"vfetch policy set 75 1 --min-faults 4 && vfetch policy show 1 | grep -q 'threshold 75 %, min-faults 4' && vfetch policy show 2"
claim "policy set keeps what is not given" 0 "threshold 75 %, min-faults 4,.* ats yes" \
	"vfetch policy set stride 1 --ats true; vfetch policy show 1"
claim "policy set without a name changes parameters only" 0 "^/dev/vfetch1: stride, but" \
	"vfetch policy set --enabled false --function 1; vfetch policy show 1"
claim "policy set by its name enables" 0 "^/dev/vfetch1: auto$" "vfetch policy set auto; vfetch policy show 1"
claim "a policy that is not there is status 2, with those that are" 2 "always-max, fixed" "vfetch policy set clever"
claim "policy show tells what came along" 0 "^  fixed .* [0-9.]+ %$" "vfetch policy show 1"

claim "limits of a function stay" 0 "^vfetch1 .* all its spaces .* 16 MiB$" \
	"vfetch limits 1 --device 16m >/dev/null; vfetch limits 1"
claim "limits of a space are its own" 0 "^vfetch2 .* the space .* 8 MiB +0 B +4 MiB$" \
	"exec 3<>/dev/vfetch2; vfetch limits fd:3 --host 8m --device 4m"
claim "limits that are too small are refused" 1 "at least" "vfetch limits 1 --device 4k"

claim "residency tells where pages are" 0 "256 on the device" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m --size 2m; vfetch residency fd:3"
claim "residency draws them" 0 "^ +0 d{64}$" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m; vfetch residency fd:3"
claim "residency --json has the runs" 0 "\"place\": \"device\"" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m; vfetch residency fd:3 --json"
claim "residency of another process's space" 0 "^ +0 d{64}$" \
	"(exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m >/dev/null; : >/tmp/ready; exec sleep 60 <&3) & pid=\$!
	 until [ -e /tmp/ready ]; do sleep 0.1; done; vfetch residency pid:\$pid:3; status=\$?; kill \$pid; exit \$status"
claim "residency of a function says what to name" 1 "fd:N or pid:PID" "vfetch residency 1"
claim "residency beyond the end is refused" 1 "beyond|end" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m; vfetch residency fd:3 --offset 2m --length 4k"

claim "record writes what a job faults on, and ends with its command" 0 "^/tmp/t.vft: a trace of 512 pages" \
	"vfetch record 1 -o /tmp/t.vft --policy none -- vfetch demo 1 --job triad --size 1m --capacity 1 --policy none"
claim "the simulator reads it" 0 "working set +258 pages|258 pages|1.0 MiB" "vfetch-sim stats /tmp/t.vft"
claim "the simulator replays it, and prefetching spares faults" 0 "^ *(51|fixed).* [5-9][0-9](\.[0-9])? ?%" \
	"vfetch-sim replay /tmp/t.vft --policy none,51 --no-measure"
claim "record --events writes a line for each record" 0 "^yes$" \
	"vfetch record 1 --events /tmp/e -- vfetch demo 1 --job triad --size 1m --capacity 1 --policy always-max >/dev/null &&
	 grep -q '\"kind\":\"batch\"' /tmp/e && grep -q '\"kind\":\"arrived\".*\"to\":\"device\"' /tmp/e &&
	 grep -q '\"policy\":\"always-max\"' /tmp/e && echo yes"
claim "record tells what was lost" 0 "records were lost" \
	"vfetch record 1 --events /dev/full --records 64 -- true 2>&1;
	 vfetch record 1 --events /tmp/e --records 64 -- vfetch demo 1 --job gather --size 8m --capacity 1 --policy none"
claim "record of nothing says so, and writes nothing" 1 "nothing faulted" \
	"vfetch record 1 -o /tmp/none -- true; status=\$?; [ ! -e /tmp/none ] && exit \$status"
claim "record of a command that fails is a failure" 1 "the command failed .*nothing was written" "vfetch record 1 -o /tmp/none -- false"
claim "record puts the policy back" 0 "^/dev/vfetch1: auto" "vfetch policy show 1"
claim "one recorder a function" 1 "busy|EBUSY|Device or resource busy" \
	"vfetch record 1 --events /dev/null -- vfetch record 1 --events /dev/null -- true"

claim "advise brings pages to the host" 0 "256 pages on the host" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 1m; vfetch advise fd:3 will-need-host; vfetch residency fd:3"
claim "advise of a part is of that part" 0 "^ +0 d{16}h{16}d{32}$" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 256k;
	 vfetch advise fd:3 will-need-host --offset 64k --length 64k; vfetch residency fd:3"
claim "advice that is none is status 2, with what there is" 2 "will-need-device" "vfetch advise fd:3 hurry"
claim "advise of a function says what to name" 1 "fd:N or pid:PID" "vfetch advise 1 normal"
claim "top --once has a line for each function" 0 "^3$" "vfetch top --once --interval 100ms | grep -c '^vfetch[0-9] .*auto'"
claim "top --json sees what a job does" 0 "^yes$" \
	"vfetch top 1 --json --interval 100ms >/tmp/top & pid=\$!
	 until [ -s /tmp/top ]; do sleep 0.1; done
	 vfetch demo 1 --job triad,bfs --size 1m --capacity 1 >/dev/null; n=\$(wc -l </tmp/top)
	 until [ \$(wc -l </tmp/top) -gt \$((n + 1)) ]; do sleep 0.1; done; kill \$pid
	 grep -q '\"device_faults_per_s\":[1-9]' /tmp/top && grep -q '\"prefetched_pages_per_s\":[1-9]' /tmp/top && echo yes"

claim "contents lost in a reset are status 7" 7 "lost in a function reset \(16 pages" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 64k; echo 1 >$pci/$vf/reset; vfetch read fd:3"
claim "lost contents can be overwritten" 0 "verified" \
	"exec 3<>/dev/vfetch1; vfetch write fd:3 --length 64k; echo 1 >$pci/$vf/reset; vfetch write fd:3 --length 64k --verify"

claim "more VFs than there can be are refused" 1 "ask for at most" \
	"echo 0 >$pci/$pf/sriov_numvfs; vfetch check --vfs 200"
claim "check --vfs enables them and uses them" 0 "^4 of 4 functions right" "vfetch check --vfs 3 --size 1m"
claim "a device that goes away under load is status 6" 6 "the device is gone" \
	"(sleep 1; echo 1 >$pci/$pf/remove) & vfetch bench 1 --op read --block-size 4k --runtime 20s"
claim "without a function list says what to look at" 0 "lspci" "vfetch list"
claim "without a function the rest is status 3" 3 "no function is bound" "vfetch info"
claim "without the module everything is status 3" 3 "insmod vfetch.ko" "rmmod vfetch; vfetch list"

echo "1..$tests"
exit $failed
