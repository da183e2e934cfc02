// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's time lacks.

use kernel::bindings;

/// Monotonic time in nanoseconds since the machine was started.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: No requirements.
    // CAST: it is not negative.
    unsafe { bindings::ktime_get() as u64 }
}
