// SPDX-License-Identifier: GPL-2.0

//! The machine's memory.

use super::shim;

/// How many pages of memory the machine has.
pub(crate) fn total_pages() -> u64 {
    // SAFETY: No requirements.
    // CAST: usize to u64 keeps the value.
    unsafe { shim::vfetch_total_pages() as u64 }
}
