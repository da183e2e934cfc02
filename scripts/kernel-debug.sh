#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the debug kernel (KASAN, lockdep, kmemleak, DMA debug, fault injection;
# scripts/debug.config) from the stock kernel's source and prints its folder:
# release, tree/, image/ and kernel.elf as scripts/kernel.sh describes them, and
# append, what its command line needs.
. "$(dirname "$0")/lib.sh"

suffix=+vfetch-debug

# Runs in the sandbox: FOLDER, the stock kernel's folder.
build_inside() {
  echo "copying the source"
  cp -a "$2/tree" "$1/tree"
  cd "$1/tree"
  rm -f vmlinux Module.symvers
  make -s mrproper

  local options=(LLVM=1 "LOCALVERSION=$suffix")
  make -s "${options[@]}" tinyconfig
  cat "$VFETCH_TOP/scripts/debug.config" >> .config
  make -s "${options[@]}" olddefconfig
  assert_config
  # The modules as well: only they leave a Module.symvers.
  nice -n 15 make -j"$(nproc)" "${options[@]}" vmlinux modules
  make -s "${options[@]}" kernelrelease > ../release
  # What the stock kernel does by itself: room for the VFs' BARs, which the
  # firmware does not know. The kernel's own unit tests are not ours to run.
  echo "pci=realloc kunit.enable=0" > ../append
  make -s "${options[@]}" INSTALL_MOD_PATH="$1/image" INSTALL_MOD_STRIP=1 modules_install
  llvm-strip -o ../kernel.elf vmlinux
  grep -q '_RN' Module.symvers || { echo "Module.symvers has no Rust symbols"; exit 1; }

  # Building a module needs the headers, the host programs, Rust's metadata and
  # the kernel's BTF; the objects are gigabytes.
  llvm-strip --strip-debug vmlinux
  find . \( -path ./scripts -o -path ./tools \) -prune -o -name '*.[oa]' -type f -print0 | xargs -0 rm -f
  rm -f .tmp_vmlinux* vmlinux.unstripped
}

# Options disappear silently where what they depend on is missing.
assert_config() {
  local line missing=0
  while read -r line; do
    case $line in
    CONFIG_*=*) grep -qx "$line" .config || { echo "not in the configuration: $line"; missing=1; } ;;
    '# CONFIG_'*' is not set') line=${line#\# }; ! grep -q "^${line% is not set}=" .config || { echo "set: $line"; missing=1; } ;;
    esac
  done < "$VFETCH_TOP/scripts/debug.config"
  [ "$missing" = 0 ]
}

if [ "${1:-}" = --inside ]; then build_inside "$2" "$3"; exit; fi

build() {
  mkdir -p "$1"
  in_sandbox "$VFETCH_TOP/scripts/kernel-debug.sh" --inside "$1" "$stock"
}
stock=$("$VFETCH_TOP/scripts/kernel.sh")
step kernel_debug "$(key "$stock" "$(cat "$VFETCH_TOP/scripts/debug.config")" "$(sed -n '/^suffix/,/^if /p' "$0")")" build \
  "building the debug kernel (about 15 minutes)"
echo "$REPLY"
