#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The documentation of the host's crates, and of the module as rustdoc sees it:
# build/doc/.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"
in_cargo doc --workspace --no-deps --locked --document-private-items
rm -rf build/doc
mkdir -p build/doc
cp -r "$CARGO_TARGET/x86_64-unknown-linux-gnu/doc" build/doc/host

# Kbuild has no rustdoc for modules outside its tree: its own command for
# compiling, as it was recorded, with rustdoc in the compiler's place.
scripts/module.sh stock >/dev/null
command=$(sed -n 's/^savedcmd_.* := //p' build/stock/rust/.vfetch_main.o.cmd)
command=${command%% ; *}
command=$(sed -E 's/(^| )rustc /\1rustdoc --document-private-items --output '"${VFETCH_TOP//\//\\/}"'\/build\/doc\/module /
  s/ --emit=[^ ]*//g; s/ --out-dir [^ ]*//g; s/ --crate-type [^ ]*//g; s/\$\(pound\)/#/g' <<<"$command")
(cd build/stock && in_sandbox env RUSTC_BOOTSTRAP=1 "VFETCH_ABI=$VFETCH_TOP/build/stock/rust/sys/abi_generated.rs" sh -c "$command")
say "build/doc/host/libvfetch/index.html, build/doc/module/vfetch_main/index.html"
