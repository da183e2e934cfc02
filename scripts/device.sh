#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the device model and prints the path of vfetch-qemu.so, which is
# preloaded into the sandbox's stock QEMU:
#
#   in_sandbox env LD_PRELOAD=$(scripts/device.sh) qemu-system-x86_64 -device vfetch …
#
# QEMU itself is not built. Its headers are, from the source package of exactly
# the version that is installed: the device shares structures with the binary,
# so nothing else would be correct.
. "$(dirname "$0")/lib.sh"

# Runs in the sandbox: QEMU's source with Debian's patches, and its generated
# headers. build/ is configured for as little as possible, which leaves the
# structures that a PCI device shares with QEMU as they are in Debian's build.
headers_inside() {
  local version=$1
  cd "$2"
  apt_update
  echo "fetching the source of QEMU $version"
  apt-get source -qq --download-only "qemu=$version" ||
    apt-get source -qq --download-only "qemu=$version" || {
      echo "the mirror has no source package qemu $version, the version installed in the sandbox;" \
           "try again later, or remake the sandbox if the mirror has moved on"
      exit 1
    }
  echo "unpacking it"
  dpkg-source --no-check -x qemu_*.dsc source
  rm -f qemu_*

  local upstream=${version#*:}
  upstream=${upstream%%[+-]*}
  [ "$(cat source/VERSION)" = "$upstream" ] || {
    echo "the source is of QEMU $(cat source/VERSION), the binary of $upstream"
    exit 1
  }

  mkdir build && cd build
  ../source/configure --target-list=x86_64-softmmu --without-default-features --enable-tcg --enable-pixman \
    --disable-docs --disable-werror --disable-install-blobs
  # Fails without a message if no target is a header, which would be a bug here.
  local targets
  targets=$(ninja -t targets all | grep -E '\.h: ' | cut -d: -f1 | grep -vE 'pc-bios|tests/')
  # shellcheck disable=SC2086
  ninja -j2 $targets
  echo "$version" > ../version
}

# Runs in the sandbox: OUT, the headers' folder, the sources.
compile_inside() {
  local out=$1 qemu=$2 installed
  shift 2
  # "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"
  installed=$(qemu-system-x86_64 --version | sed -n '1s/.*(Debian \(.*\))$/\1/p')
  [ "$installed" = "$(cat "$qemu/version")" ] || {
    echo "the binary is QEMU $installed, the headers are of $(cat "$qemu/version")"
    exit 1
  }
  mkdir -p "$out"
  cd "$VFETCH_TOP"
  local objects=() source object pid flags pids=()
  read -ra flags <<< "$(pkg-config --cflags glib-2.0 pixman-1)"
  flags+=(-std=gnu11 -O2 -g -fPIC -fno-strict-aliasing -fwrapv -ffp-contract=off -ftrivial-auto-var-init=zero
    -isystem "$qemu/build" -isystem "$qemu/source/include" -isystem "$qemu/source" -isystem "$qemu/build/qapi"
    -isystem "$qemu/source/host/include/x86_64" -isystem "$qemu/source/host/include/generic"
    -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -include qemu/osdep.h)
  local warnings=(-Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare
    -Wshadow=local -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wformat=2
    -Wimplicit-fallthrough=2 -Wold-style-definition -Wwrite-strings)
  for source in "$@"; do
    object=$out/$(basename "$source" .c).o
    objects+=("$object")
    gcc -c "${flags[@]}" "${warnings[@]}" "-ffile-prefix-map=$VFETCH_TOP/=" -Iinclude -Iinclude/uapi -o "$object" "$source" &
    pids+=("$!")
    if [ "${#pids[@]}" = 2 ]; then
      wait "${pids[0]}"
      pids=("${pids[1]}")
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
  gcc -shared -Wl,-z,relro "${objects[@]}" -o "$out/vfetch-qemu.so"
  rm "${objects[@]}"
  # The device's tests drive it over QEMU's qtest protocol. The accelerator for
  # that is a file of QEMU which Debian builds and then leaves out.
  gcc -shared "${flags[@]}" "$qemu/source/accel/qtest/qtest.c" -o "$out/qtest-accel.so"
  # What the object needs and QEMU does not export would only show when it is called.
  LD_PRELOAD=$out/vfetch-qemu.so LD_BIND_NOW=1 qemu-system-x86_64 -device help | grep '^name "vfetch"'
  echo quit | LD_PRELOAD=$out/qtest-accel.so LD_BIND_NOW=1 qemu-system-x86_64 -accel qtest -machine none \
    -display none -monitor stdio
}

headers() { in_sandbox bash "$VFETCH_TOP/scripts/device.sh" --headers "$qemu_version" "$1"; }
compile() { in_sandbox bash "$VFETCH_TOP/scripts/device.sh" --compile "$1" "$qemu_headers" "${sources[@]}"; }

case "${1:-}" in
--headers) shift; mkdir -p "$2"; headers_inside "$@"; exit ;;
--compile) shift; compile_inside "$@"; exit ;;
''|--source) ;;
*) die "usage: scripts/device.sh [--source]" ;;
esac

qemu_version=$(in_sandbox dpkg-query -W -f '${source:Version}' qemu-system-x86)
[ -n "$qemu_version" ] || die "the sandbox has no qemu-system-x86"
step qemu-headers "$(key "$qemu_version" "$(sed -n '/^headers_inside()/,/^}/p' "$0")")" headers \
  "preparing the headers of QEMU $qemu_version (about a minute)"
qemu_headers=$REPLY
# QEMU's own source, for lint.
if [ "${1:-}" = --source ]; then echo "$qemu_headers/source"; exit; fi

cd "$VFETCH_TOP"
sources=(qemu/*.c)
step device "$(key "$qemu_headers" "$(sed -n '/^compile_inside()/,/^}/p' "$0")" \
    "$(sha256sum "${sources[@]}" qemu/*.h include/vfetch_hw.h include/uapi/linux/vfetch_job.h)")" compile "compiling the device"
echo "$REPLY/vfetch-qemu.so"
