#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# enter.sh ROOT FOLDER CMD...: the inner half of in_sandbox (lib.sh). Runs in a
# mount namespace of its own, which takes every mount made here with it.
set -euo pipefail
root=$1 folder=$2; shift 2

mount --bind "$root" "$root"
cd "$root"
mount --rbind /dev dev
mount --rbind /proc proc 2>/dev/null || mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs tmp tmp
# The checkout and the cache keep their paths, so that messages, debug
# information and cargo's fingerprints mean the same inside and outside.
for d in "$VFETCH_CACHE" "$VFETCH_TOP" ${VFETCH_BIND:-}; do
  mkdir -p "$root$d"
  mount --rbind "$d" "$root$d"
done
# The sandbox trusts and resolves what the host does.
for f in /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
  if [ -s "$f" ] && [ -e "$root$f" ]; then mount --bind "$(readlink -f "$f")" "$root$f"; fi
done

keep=()
# No MAKEFLAGS: the variables in it would override kbuild's own.
for v in CI TERM COLUMNS http_proxy https_proxy no_proxy \
         HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  if [ -n "${!v:-}" ]; then keep+=("$v=${!v}"); fi
done
while IFS= read -r v; do keep+=("$v=${!v}"); done < <(compgen -e | grep -E '^(VFETCH_[A-Z_]+|CARGO_REGISTRIES_[A-Z_]+|PROPTEST_[A-Z_]+)$')
exec env -i HOME="$VFETCH_CACHE/home" PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
  PYTHONDONTWRITEBYTECODE=1 CARGO_HOME="$VFETCH_CACHE/cargo" SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
  CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt "${keep[@]}" \
  chroot "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$folder" "$@"
