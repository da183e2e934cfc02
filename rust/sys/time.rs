// SPDX-License-Identifier: GPL-2.0

//! Time and chance.

use kernel::bindings;

/// Monotonic time in nanoseconds since the machine was started.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: No requirements.
    // CAST: it is not negative.
    unsafe { bindings::ktime_get() as u64 }
}

/// A random number; all values are equally likely.
pub(crate) fn random() -> u32 {
    // SAFETY: No requirements.
    unsafe { bindings::get_random_u32() }
}
