// SPDX-License-Identifier: GPL-2.0

//! Counters of a function. `struct vfetch_stats` says what each means.

use kernel::sync::atomic::{Atomic, Relaxed};

/// A number that only grows.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Adds `count`.
    pub(crate) fn add(&self, count: u64) {
        self.0.add(count, Relaxed);
    }

    /// Adds 1.
    pub(crate) fn count(&self) {
        self.add(1);
    }

    /// Its value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares the counters.
macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The counters that the driver keeps itself.
        pub(crate) struct Stats {
            $(
                #[doc = concat!("See `", stringify!($name), "` of `struct vfetch_stats`.")]
                pub(crate) $name: Counter,
            )*
        }

        impl Stats {
            /// All 0.
            pub(crate) const fn new() -> Self {
                Self { $($name: Counter::new(),)* }
            }

            /// Puts the counters where user space finds them.
            pub(crate) fn fill(&self, to: &mut crate::sys::abi::vfetch_stats) {
                $(to.$name = self.$name.get();)*
            }
        }
    };
}

counters!(
    reads,
    writes,
    read_bytes,
    written_bytes,
    transfers,
    transfer_errors,
    to_host_bytes,
    to_device_bytes,
    scrubbed_bytes,
    zero_bytes,
    timeouts,
    queue_resets,
    function_resets,
    lost_pages,
    interrupts,
    bad_completions,
    slot_waits,
    host_faults,
    device_faults,
    fault_batches,
    invalidations,
    evictions,
    evicted_pages,
    throttled,
    thrashing_pins,
    thrashing_unpins,
    thrashing_missed,
    window_pins,
    window_misses,
);
