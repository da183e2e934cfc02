// SPDX-License-Identifier: GPL-2.0

//! What can be set at load time, and its ranges.

use kernel::prelude::*;
use kernel::time::Msecs;

use crate::module_parameters;

/// The module's parameters, checked.
#[derive(Clone, Copy)]
pub(crate) struct Parameters {
    /// How long a transfer may take before its queue is reset.
    pub(crate) timeout_ms: Msecs,
    /// log2 of the slots of a queue.
    pub(crate) queue_order: u32,
    /// How long to wait for a transfer without sleeping, if it promises to end within that time.
    pub(crate) spin_us: u32,
}

impl Parameters {
    /// Shortest and longest time-out. Shorter ones would reset queues that are only busy; with longer
    /// ones tasks that wait, which cannot be interrupted, would be taken for hung.
    const TIMEOUT_MS: core::ops::RangeInclusive<u32> = 10..=30_000;
    /// Longest time without sleeping; more would only heat the room.
    const SPIN_US: core::ops::RangeInclusive<u32> = 0..=1000;
    /// Fewest and most slots, as powers of two.
    const QUEUE_ORDER: core::ops::RangeInclusive<u32> = 2..=10;

    /// Reads the parameters. EINVAL, with a message, when one is out of range.
    pub(crate) fn read() -> Result<Self> {
        let timeout_ms = module_parameters::timeout_ms.value();
        let entries = module_parameters::queue_entries.value();
        if !Self::TIMEOUT_MS.contains(&timeout_ms) {
            pr_err!(
                "timeout_ms={} is not within {} to {}\n",
                timeout_ms,
                Self::TIMEOUT_MS.start(),
                Self::TIMEOUT_MS.end()
            );
            return Err(EINVAL);
        }
        let spin_us = module_parameters::spin_us.value();
        if !Self::SPIN_US.contains(&spin_us) {
            pr_err!(
                "spin_us={} is not within {} to {}\n",
                spin_us,
                Self::SPIN_US.start(),
                Self::SPIN_US.end()
            );
            return Err(EINVAL);
        }
        let order = entries.checked_ilog2().unwrap_or(0);
        if !entries.is_power_of_two() || !Self::QUEUE_ORDER.contains(&order) {
            pr_err!(
                "queue_entries={} is not a power of two within {} to {}\n",
                entries,
                1u32 << Self::QUEUE_ORDER.start(),
                1u32 << Self::QUEUE_ORDER.end()
            );
            return Err(EINVAL);
        }
        Ok(Self {
            timeout_ms,
            queue_order: order,
            spin_us,
        })
    }
}
