#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The demonstration: boots the guest with VFS VFs (8), moves and verifies data
# on PF and VFs at once, and prints what each did.
set -euo pipefail
export VFS=${VFS:-8} CMD=${CMD:-vfetch demo}
exec "$(dirname "$0")/vm.sh"
