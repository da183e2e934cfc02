#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Fetches Debian's stock kernel with Rust and makes the tree that modules are
# built against. Prints the folder, which holds:
#
#   release   the kernel's name, e.g. 7.3.4+deb13-amd64
#   tree/     the prepared source: make -C tree M=… LOCALVERSION=… modules
#   kernel.elf  what QEMU boots: the image's own kernel, unpacked already, which
#             saves the guest a second
#   image/    the image's own modules, in lib/modules, with their dependencies
#
# The newest 7.3.x for which source, headers, image and modules are all there
# is taken; once it is in the cache it stays until `make clean-cache`.
. "$(dirname "$0")/lib.sh"
series=7.3

# The newest version of each package that the others have too.
choose() {
  apt-cache madison "linux-source-$series" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | sort -rVu > versions
  local v name arch=amd64
  while read -r v; do
    # 7.3.4-1~bpo13+1 -> names that start with 7.3.4+deb13
    for name in $(apt-cache search --names-only "^linux-headers-${series//./\\.}\\.[0-9]+.*-$arch\$" | awk '{ print $1 }' | grep -vE -- '-(rt|cloud)-' | sort -rV); do
      name=${name#linux-headers-}
      if apt-cache show "linux-headers-$name=$v" "linux-binary-unsigned-$name=$v" "linux-modules-$name=$v" >/dev/null 2>&1; then
        echo "$v $name"; return
      fi
    done
  done < versions
  echo "no $series kernel has its source, headers, image and modules on the mirror; the mirror has: $(tr '\n' ' ' < versions)" >&2
  return 1
}

# What the tree's Rust metadata is made with, and bound to.
toolchain() {
  awk -v RS= '/(^|\n)Package: (rustc|bindgen|gcc|pahole|libclang-rt[^\n]*)\n/' "$VFETCH_SANDBOX/var/lib/dpkg/status" |
    grep -E '^(Package|Version):'
}

# Runs in the sandbox.
fetch_inside() {
  cd "$1"
  apt_update
  local version name
  read -r version name < <(choose)
  [ -n "$name" ] || exit 1
  echo "kernel $name, package version $version"
  local p
  for p in "linux-source-$series" "linux-headers-$name" "linux-binary-unsigned-$name" "linux-modules-$name"; do
    echo "fetching $p"
    apt-get download -qq "$p=$version" || apt-get download -qq "$p=$version"
    dpkg -x "$p"_*.deb "unpacked"
    rm "$p"_*.deb
  done
  echo "unpacking the source"
  mkdir tree
  tar xf "unpacked/usr/src/linux-source-$series.tar.xz" -C tree --strip-components=1
  cp -r "unpacked/usr/src/linux-headers-$name" headers
  cp "unpacked/usr/lib/modules/$name/vmlinuz.unsigned" vmlinuz
  mkdir -p image/lib && cp -r unpacked/usr/lib/modules image/lib/
  depmod -b image "$name"
  unpack_image vmlinuz kernel.elf
  rm -rf unpacked

  echo "preparing the tree"
  cd tree
  cp ../headers/.config .config
  make rustavailable
  make olddefconfig
  make -j"$(nproc)" "LOCALVERSION=${name#"$(make -s kernelversion)"}" modules_prepare
  cp ../headers/Module.symvers ../headers/vmlinux .
  check "$name" "$version"
  echo "$name" > ../release
  echo "$version" > ../package-version
  rm -rf ../headers
}

# The ELF file inside a bzImage; QEMU starts it by its PVH entry. The header is
# described in Documentation/arch/x86/boot.rst.
unpack_image() {
  python3 - "$1" <<'PYTHON' | zstd -dcq >"$2" || true # zstd dislikes the length behind its stream
import struct, sys
image = open(sys.argv[1], "rb").read()
assert image[0x202:0x206] == b"HdrS", "not a bzImage"
offset, length = struct.unpack_from("<II", image, 0x248)
start = (image[0x1f1] + 1) * 512 + offset
sys.stdout.buffer.write(image[start:start + length])
PYTHON
  readelf -h "$2" >/dev/null
  readelf -n "$2" | grep -q Xen || { echo "the kernel has no PVH entry"; exit 1; }
}

# With MODVERSIONS off nothing else notices when these do not belong together.
check() {
  local name=$1 made
  made=$(cat include/config/kernel.release)
  [ "$made" = "$name" ] || { echo "the source makes kernel '$made', the headers are of '$name'"; exit 1; }
  # The configuration may differ in what the compiler is called, in nothing else: the
  # Rust compiler's version is in the hash of every symbol that it makes.
  if diff <(grep -E '^CONFIG' ../headers/.config | grep -v '^CONFIG_CC_VERSION_TEXT=' | sort) \
          <(grep -E '^CONFIG' .config | grep -v '^CONFIG_CC_VERSION_TEXT=' | sort); then :; else
    echo "the source's configuration is not the one that the image was built with"; exit 1
  fi
  # The image says in its header what it is and which package it is of.
  grep -qaF "$name (" ../vmlinuz && grep -qaF "Debian $version " ../vmlinuz ||
    { echo "the image is not $name of $version"; exit 1; }
  grep -q '_RN' Module.symvers || { echo "Module.symvers has no Rust symbols"; exit 1; }
}

if [ "${1:-}" = --inside ]; then fetch_inside "$2"; exit; fi

build() { mkdir -p "$1"; in_sandbox "$VFETCH_TOP/scripts/kernel.sh" --inside "$1"; }
sandbox_root
step kernel "$(key "$series" "$(toolchain)" "$(sed -n '/^choose()/,/^if /p' "$0")")" build "fetching the stock kernel and preparing its tree (about 4 minutes)"
echo "$REPLY"
