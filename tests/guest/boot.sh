#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What has to be there once the guest has booted with VFS=8.

tests=0 failed=0

# claim NAME COMMAND...: a test that passes when COMMAND does.
claim() {
	local name=$1 out
	shift
	tests=$((tests + 1))
	if out=$("$@" 2>&1); then
		echo "ok $tests - $name"
	else
		echo "$out" | sed 's/^/# /'
		echo "not ok $tests - $name"
		failed=1
	fi
}

# The PCI addresses of the functions whose device id is $1.
functions() {
	local d
	for d in /sys/bus/pci/devices/*; do
		if [ "$(cat "$d/vendor")$(cat "$d/device")" = "0x1b36$1" ]; then echo "${d##*/}"; fi
	done
}

module_is_loaded() { grep '^vfetch ' /proc/modules; }

all_are_bound() {
	local f
	for f in $(functions "$1"); do
		[ -e "/sys/bus/pci/drivers/vfetch/$f" ] || { echo "$f has no driver"; return 1; }
	done
}

count_is() {
	local n
	n=$(functions "$1" | wc -l)
	echo "$n functions"
	[ "$n" = "$2" ]
}

nodes_are_there() {
	local n=0 mode
	while [ "$n" -lt "$1" ]; do
		[ -c "/dev/vfetch$n" ] || { echo "no /dev/vfetch$n"; return 1; }
		mode=$(stat -c %a "/dev/vfetch$n")
		[ "$mode" = 600 ] || { echo "/dev/vfetch$n has mode $mode"; return 1; }
		n=$((n + 1))
	done
}

echo "TAP version 14"
claim "the module is loaded" module_is_loaded
claim "there is one PF" count_is 0x7646 1
claim "there are 8 VFs" count_is 0x7647 8
claim "the PF has the driver" all_are_bound 0x7646
claim "every VF has the driver" all_are_bound 0x7647
claim "each function has a node that only root opens" nodes_are_there 9
echo "1..$tests"
exit $failed
