// SPDX-License-Identifier: GPL-2.0

//! What can be set at load time, and its ranges.

use core::ops::RangeInclusive;

use kernel::prelude::*;
use kernel::time::Msecs;

use crate::engine::params::{Bounded, Params};
use crate::engine::thrashing;
use crate::engine::tree::Threshold;
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
    /// How functions prefetch that are bound from now on, until user space says otherwise.
    pub(crate) prefetch: Params,
    /// How they keep pages from thrashing, if they do.
    pub(crate) thrashing: Option<thrashing::Params>,
}

/// EINVAL, with a message, unless the `value` of the parameter `name` is within `range`.
fn within(name: &str, value: u32, range: &RangeInclusive<u32>) -> Result {
    if range.contains(&value) {
        return Ok(());
    }
    pr_err!(
        "{}={} is not within {} to {}\n",
        name,
        value,
        range.start(),
        range.end()
    );
    Err(EINVAL)
}

/// The `value` of the parameter `name`. EINVAL, with a message, out of its range.
fn bounded<const LOW: u32, const HIGH: u32>(name: &str, value: u32) -> Result<Bounded<LOW, HIGH>> {
    within(name, value, &(LOW..=HIGH))?;
    Bounded::new(value).ok_or(EINVAL)
}

impl Parameters {
    /// Shortest and longest time-out. Shorter ones would reset queues that are only busy; with longer
    /// ones tasks that wait, which cannot be interrupted, would be taken for hung.
    const TIMEOUT_MS: RangeInclusive<u32> = 10..=30_000;
    /// Longest time without sleeping; more would only heat the room.
    const SPIN_US: RangeInclusive<u32> = 0..=1000;
    /// Fewest and most slots, as powers of two.
    const QUEUE_ORDER: RangeInclusive<u32> = 2..=10;
    /// 0 is for tests of the engine: everything would come along with every fault.
    const THRESHOLD: RangeInclusive<u32> = 1..=100;
    const ENABLE: RangeInclusive<u32> = 0..=1;

    /// Reads the parameters. EINVAL, with a message, when one is out of range.
    pub(crate) fn read() -> Result<Self> {
        let timeout_ms = module_parameters::timeout_ms.value();
        let entries = module_parameters::queue_entries.value();
        let spin_us = module_parameters::spin_us.value();
        within("timeout_ms", timeout_ms, &Self::TIMEOUT_MS)?;
        within("spin_us", spin_us, &Self::SPIN_US)?;
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
            prefetch: Self::prefetch()?,
            thrashing: Self::thrashing()?,
        })
    }

    /// What of thrashing is set at load time.
    fn thrashing() -> Result<Option<thrashing::Params>> {
        let enable = module_parameters::thrashing_enable.value();
        within("thrashing_enable", enable, &Self::ENABLE)?;
        let params = thrashing::Params {
            threshold: bounded(
                "thrashing_threshold",
                module_parameters::thrashing_threshold.value(),
            )?,
            pin_threshold: bounded(
                "thrashing_pin_threshold",
                module_parameters::thrashing_pin_threshold.value(),
            )?,
            lapse_us: bounded(
                "thrashing_lapse_us",
                module_parameters::thrashing_lapse_us.value(),
            )?,
            pin_lapses: bounded(
                "thrashing_pin_lapses",
                module_parameters::thrashing_pin_lapses.value(),
            )?,
            ..thrashing::Params::DEFAULT
        };
        Ok((enable == 1).then_some(params))
    }

    /// What of prefetching is set at load time.
    fn prefetch() -> Result<Params> {
        let enable = module_parameters::prefetch_enable.value();
        let threshold = module_parameters::prefetch_threshold.value();
        let min_faults = module_parameters::prefetch_min_faults.value();
        within("prefetch_enable", enable, &Self::ENABLE)?;
        within("prefetch_threshold", threshold, &Self::THRESHOLD)?;
        Ok(Params {
            enabled: enable == 1,
            threshold: Threshold::new(u8::try_from(threshold)?).ok_or(EINVAL)?,
            min_faults: bounded("prefetch_min_faults", min_faults)?,
            ..Params::DEFAULT
        })
    }
}
