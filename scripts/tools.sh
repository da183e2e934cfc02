#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the tools, linked statically so that they run in the guest, and
# prints their paths, one a line: build/tools/NAME.
. "$(dirname "$0")/lib.sh"

cd "$VFETCH_TOP"
mkdir -p build
exec {lock}>build/tools.lock
flock "$lock"
in_cargo build --release --workspace --bins --locked --message-format=json-render-diagnostics >build/tools.json ||
  die "the tools do not build"
# Only cargo itself knows the names of what it made. The shared target folder
# holds those of whoever built last, hence the copies (which are links).
mkdir -p build/tools.part
rm -f build/tools.part/*
in_sandbox python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["reason"] == "compiler-artifact" and m.get("executable") and m["target"]["kind"] == ["bin"]:
        print(m["executable"])
' <build/tools.json >build/tools.list
while read -r program; do
  cp "$program" build/tools.part/
done <build/tools.list
rm -f build/tools.json build/tools.list
if ! diff -rq build/tools.part build/tools >/dev/null 2>&1; then
  rm -rf build/tools
  mv -T build/tools.part build/tools
fi
for program in build/tools/*; do echo "$VFETCH_TOP/$program"; done
