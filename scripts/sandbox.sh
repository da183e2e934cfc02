#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes the sandbox, a Debian 13 root with every tool that vfetch is built and
# tested with, and prints its path. About 2 minutes and 3 GiB, once.
#
# VFETCH_MIRROR  the Debian mirror; by default the one this machine's apt uses.
. "$(dirname "$0")/lib.sh"

# Trixie's toolchain: Debian builds the backports kernel with exactly it.
packages=(
  # the kernel and its modules
  bc bindgen bison build-essential clang cpio flex kmod libelf-dev libssl-dev lld llvm pahole rsync
  rust-clippy rust-src rustc rustfmt xz-utils zstd
  # user space, and what the guest gets
  busybox-static ca-certificates cargo gcc-multilib liburing-dev libbpf-dev
  # QEMU, and what its device is compiled with
  dpkg-dev libfdt-dev libglib2.0-dev libpixman-1-dev meson ninja-build pkg-config python3
  python3-packaging python3-pycotap python3-setuptools python3-venv qemu-system-x86
  # checks
  clang-format python3-pyflakes shellcheck strace valgrind
)

mirror() {
  if [ -n "${VFETCH_MIRROR:-}" ]; then echo "$VFETCH_MIRROR"; return; fi
  "$VFETCH_TOP/scripts/mirror.sh" || die "the apt of this machine names no Debian mirror: set VFETCH_MIRROR to one's address"
}

need_mmdebstrap() {
  # The sandbox is entered by mounting.
  as_root unshare --mount --propagation=private true || {
    echo "this machine lets $(id -un) make no mount namespace: a container has to be privileged," \
         "an ordinary user needs user namespaces (sysctl kernel.unprivileged_userns_clone, AppArmor's restriction)"
    return 1
  }
  command -v mmdebstrap >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap
  else
    echo "mmdebstrap is not installed: 'apt-get install mmdebstrap uidmap' as root makes it so"
    return 1
  fi
}

build() {
  local root=$1 from include
  need_mmdebstrap
  from=$(mirror)
  include=$(IFS=,; echo "${packages[*]}")
  local sources=()
  for suite in trixie trixie-backports; do
    sources+=("deb $from $suite main" "deb-src $from $suite main")
  done
  local options=(--variant=apt --components=main "--include=$include"
    --aptopt='Acquire::Retries "3"' --dpkgopt='path-exclude=/usr/share/doc/*'
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*')
  if [ "$(id -u)" = 0 ]; then
    mmdebstrap --mode=root "${options[@]}" trixie "$root" "${sources[@]}"
  else
    # mmdebstrap's own user namespace may not reach this folder: by way of a tar.
    mmdebstrap --mode=unshare "${options[@]}" trixie "$root.tar" "${sources[@]}"
    mkdir -p "$root"
    as_root tar -C "$root" --exclude='./dev/*' -xf "$root.tar"
    rm -f "$root.tar"
  fi
}

step sandbox "$(key "${packages[@]}" "$(sed -n '/^build()/,/^}/p' "$0")")" build "making the sandbox (Debian 13 with the toolchain; about 2 minutes)"
echo "$REPLY"
