#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the programs that run in the guest, the workspace's tools and the
# tests' programs, linked statically, when anything that they are made from has
# changed, and prints their paths, one a line: build/tools/NAME.
. "$(dirname "$0")/lib.sh"

cd "$VFETCH_TOP"
sandbox_root
out=$VFETCH_TOP/build/tools
mkdir -p build

inputs() {
  echo "$VFETCH_SANDBOX" "${RUSTFLAGS:-}"
  { find Cargo.toml Cargo.lock include tools tests/guest tests/host/conformance rust/engine scripts/tools.sh -type f || true; } 2>/dev/null |
    LC_ALL=C sort | xargs -d '\n' sha256sum
}

exec {lock}>build/tools.lock
wait_for "$lock" "building the tools"
key=$(inputs | key)
if [ "$(cat "$out/.made-from" 2>/dev/null)" != "$key" ]; then
  say "building the tools"
  rm -rf "$out.part"
  mkdir -p "$out.part"
  build() { in_cargo build --bins --locked --message-format=json-render-diagnostics "$@" >>"$out.json" || die "the tools do not build"; }
  : >"$out.json"
  build --release --workspace --exclude vfetch-guest-tests
  build --profile guest-tests --package vfetch-guest-tests
  # Only cargo itself knows the names of what it made, and the target folder
  # holds what was built last: hence the copies.
  in_sandbox python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["reason"] == "compiler-artifact" and m.get("executable") and m["target"]["kind"] == ["bin"]:
        print(m["executable"])
' <"$out.json" >"$out.list"
  while read -r program; do
    in_sandbox objcopy --strip-debug "$program" "$out.part/$(basename "$program")"
  done <"$out.list"
  rm "$out.json" "$out.list"
  # What C programs see of the driver, and 32-bit ones.
  in_sandbox make -s -C tests/guest/c "O=$VFETCH_TOP/build/c" || die "the tests' C programs do not build"
  cp build/c/* "$out.part/"
  echo "$key" >"$out.part/.made-from"
  # Each at once, since another make may be reading them: the old one or the new one.
  mkdir -p "$out"
  rm -f "$out/.made-from"
  for program in "$out"/*; do
    if [ ! -e "$out.part/$(basename "$program")" ]; then rm -f "$program"; fi
  done
  mv "$out.part"/* "$out.part/.made-from" "$out/"
  rmdir "$out.part"
fi
for program in "$out"/*; do echo "$program"; done
