#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# lint.sh: everything that can be checked without running it. Every check is
# made, each failing one shows what it found, any fails the whole.
. "$(dirname "$0")/lib.sh"
cd "$VFETCH_TOP"

files_matching() { grep -E "$1" "$list" | while IFS= read -r f; do if [ -f "$f" ]; then echo "$f"; fi; done; }

rust_format() {
  cargo fmt --all --check
  files_matching '^rust/.*\.rs$' | xargs -d '\n' rustfmt --check --edition 2021
}
host_clippy() { cargo clippy --quiet --workspace --all-targets --locked -- -D warnings; }
host_docs() { RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --locked --document-private-items; }

# The module once more with the kernel's own lints as errors, and those that
# keep what can panic out of it.
module_clippy() {
  local out=$VFETCH_TOP/build/lint release
  mkdir -p "$out"
  release=$(cat "$kernel/release")
  make -s -j"$(nproc)" -C "$kernel/tree" M="$VFETCH_TOP" MO="$out" CLIPPY=1 KCFLAGS=-Werror \
    "LOCALVERSION=${release#"$(make -s -C "$kernel/tree" kernelversion)"}" \
    KRUSTFLAGS='-Dwarnings -Dclippy::unwrap_used -Dclippy::expect_used -Dclippy::panic -Dclippy::todo -Dclippy::unimplemented' \
    modules
}

sources() { xargs -d '\n' python3 scripts/lint_sources.py <"$list"; }
# Not: single quotes that keep a $ for another shell, `a && b || c` where b cannot
# fail, functions that are called by name.
shell_scripts() {
  local options=(-x -P SCRIPTDIR -e 'SC2016,SC2015,SC2317')
  scripts_of bash | xargs -d '\n' shellcheck "${options[@]}"
  # These run in the guest.
  scripts_of sh | xargs -d '\n' shellcheck "${options[@]}" -s busybox -e SC1091
}
python_scripts() {
  { files_matching '\.py$'; scripts_of python3; } | sort -u | xargs -d '\n' python3 -m pyflakes
}
# The files that start with '#!…/$1' or another of the names given; those that
# are only sourced count as bash.
scripts_of() {
  local f first names
  names=$(IFS='|'; echo "$*")
  while IFS= read -r f; do
    first=
    IFS= read -r first <"$f" 2>/dev/null || true
    if [[ $first =~ ^'#!'.*/($names)$ ]] || [[ $f == *.sh && $first != '#!'* && $names == *bash* ]]; then echo "$f"; fi
  done < <(files_matching . 2>/dev/null) 2>/dev/null
}

# (A probe of the profiler runs in the guest and is no part of QEMU. User programs have neither the kernel's types
# nor its names for attributes.)
kernel_style_c() {
  files_matching '^((include|rust|bpf|tests/guest)/.*\.[ch]|qemu/profile/probe.*)$' |
    xargs -d '\n' "$kernel/tree/scripts/checkpatch.pl" --no-tree --quiet --terse --show-types --max-line-length=100 \
      --ignore SPDX_LICENSE_TAG,FILE_PATH_CHANGES,PREFER_KERNEL_TYPES,NEW_TYPEDEFS,PREFER_DEFINED_ATTRIBUTE_MACRO -f
}

# QEMU's own script wants its own choice of licences, which is not ours to make.
qemu_style_c() {
  local found
  found=$(files_matching '^qemu/.*\.[ch]$' | grep -vx 'qemu/profile/probe.*' | sed "s|^|$VFETCH_TOP/|" |
    (cd "$qemu_source" && xargs -d '\n' scripts/checkpatch.pl --no-tree --quiet --terse -f 2>&1) |
    grep -vE 'unacceptable licenses|line over 80 characters|^total: ') || true
  [ -z "$found" ] || { echo "$found"; return 1; }
}

check() {
  local name=${1//_/ } start=$SECONDS rc
  set +e
  (set -e; "$1") >"$log" 2>&1 </dev/null
  rc=$?
  set -e
  if [ "$rc" = 0 ] && ! grep -qE '^(warning|WARNING)' "$log"; then
    printf 'ok      %s (%s s)\n' "$name" $((SECONDS - start))
  else
    printf 'FAILED  %s\n' "$name"
    sed 's/^/        /' "$log"
    failed=1
  fi
}

if [ "${1:-}" = --inside ]; then
  list=$2 kernel=$3 qemu_source=$4 failed=0
  log=$(mktemp)
  for c in sources shell_scripts python_scripts rust_format host_clippy host_docs module_clippy kernel_style_c qemu_style_c; do
    check "$c"
  done
  [ "$failed" = 0 ] || { echo "lint: there are findings"; exit 1; }
  echo "lint: no findings"
  exit
fi

mkdir -p build
exec {lock}>build/lint.lock
wait_for "$lock" "lint"
# What is or could be committed.
if git rev-parse --git-dir >/dev/null 2>&1; then
  git ls-files --cached --others --exclude-standard
else
  find . \( -path ./build -o -path ./target -o -path ./.git -o -name __pycache__ \) -prune -o -type f -printf '%P\n'
fi >build/lint.files
kernel=$("$VFETCH_TOP/scripts/kernel.sh")
device=$("$VFETCH_TOP/scripts/device.sh" --source)
cargo_fetch
in_sandbox env "${CARGO_ENVIRONMENT[@]}" scripts/lint.sh --inside build/lint.files "$kernel" "$device"
