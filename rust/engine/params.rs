// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can be set of the decisions of a function: as module parameters, and at run time.

use super::policy::Kind;
use super::tree::{Mode, Threshold, Walk};

/// An integer from `LOW` to `HIGH`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bounded<const LOW: u32, const HIGH: u32>(u32);

impl<const LOW: u32, const HIGH: u32> Bounded<LOW, HIGH> {
    /// The least there is.
    pub const MIN: Self = Self(LOW);
    /// The most there is.
    pub const MAX: Self = Self(HIGH);

    /// `value`; `None` out of range.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if LOW <= value && value <= HIGH {
            Some(Self(value))
        } else {
            None
        }
    }

    /// `value`, or the nearest in range.
    #[must_use]
    pub const fn clamped(value: u32) -> Self {
        if value < LOW {
            Self(LOW)
        } else if value > HIGH {
            Self(HIGH)
        } else {
            Self(value)
        }
    }

    /// From `LOW` to `HIGH`.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// How many pages of a block must have faulted towards a destination before anything is prefetched there, 1 to 20.
pub type MinFaults = Bounded<1, 20>;

/// How many strides ahead the stride policy prefetches, 1 to 64.
pub type StrideDegree = Bounded<1, 64>;

/// How many of a block's most recently touched 64 KiB the LRU-based policy looks at, 1 to 8.
pub type Neighbours = Bounded<1, 8>;

/// In percent, 0 to 1000: what the hit rate is multiplied with.
pub type Aggressiveness = Bounded<0, 1000>;

/// A time in microseconds, from 1 to 10 s.
pub type Micros = Bounded<1, 10_000_000>;

/// How long a page occupies the link, in nanoseconds: 1 to 1 ms.
pub type PageNanos = Bounded<1, 1_000_000>;

/// How a function decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Whether there are hints at all.
    pub enabled: bool,
    /// Who decides.
    pub policy: Kind,
    /// How nodes of the tree are translated back.
    pub mode: Mode,
    /// Whether faults grow to 64 KiB first.
    pub walk: Walk,
    /// What a node's occupancy must exceed, in the native decision.
    pub threshold: Threshold,
    /// Faults before the first hint.
    pub min_faults: MinFaults,
    /// How long the adaptive policies sample link and memory.
    pub sample_period_us: Micros,
    /// Of the stride policy.
    pub stride_degree: StrideDegree,
    /// Of the probabilistic policy.
    pub aggressiveness: Aggressiveness,
    /// Of the LRU-based policy.
    pub neighbours: Neighbours,
    /// How far ahead in time the fault-frequency-based policy prefetches.
    pub horizon_us: Micros,
    /// What a page costs, as auto reckons.
    pub page_ns: PageNanos,
}

impl Params {
    /// What holds unless something else is set.
    pub const DEFAULT: Self = Self {
        enabled: true,
        policy: Kind::Auto,
        mode: Mode::Strict,
        walk: Walk::Managed,
        threshold: Threshold::DEFAULT,
        min_faults: MinFaults::MIN,
        sample_period_us: Micros::clamped(1_000_000),
        stride_degree: StrideDegree::clamped(8),
        aggressiveness: Aggressiveness::clamped(100),
        neighbours: Neighbours::clamped(4),
        horizon_us: Micros::clamped(1_000),
        // At 8 GB/s.
        page_ns: PageNanos::clamped(512),
    };
}

impl Default for Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert_eq!(MinFaults::new(0), None);
        assert_eq!(MinFaults::new(21), None);
        assert_eq!(MinFaults::new(1), Some(MinFaults::MIN));
        assert_eq!(MinFaults::new(20), Some(MinFaults::MAX));
        assert_eq!(MinFaults::clamped(0), MinFaults::MIN);
        assert_eq!(MinFaults::clamped(21), MinFaults::MAX);
        assert_eq!(MinFaults::clamped(7).get(), 7);
    }
}
