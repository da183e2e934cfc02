// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is counted of decisions.

/// Of one policy of one function. None of them ever goes down; all stop at the largest number there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Decisions that it was asked for.
    pub decisions: u64,
    /// Those that gave a hint with pages.
    pub hints: u64,
    /// Hints that were withheld because of too few faults.
    pub withheld: u64,
    /// Answers that were invalid, so that the native decision held.
    pub invalid: u64,
    /// Pages of hints that were not at the destination yet.
    pub prefetched: u64,
    /// Of these, those that were used.
    pub used: u64,
    /// Those that were demanded while still in flight. They are useful, but not counted in `used`.
    pub late: u64,
    /// Those that were evicted before anybody used them.
    pub evicted_unused: u64,
    /// Those of which nothing more is known: not brought, or another policy took over.
    pub dropped: u64,
}

impl Counters {
    /// Nothing yet.
    pub const ZERO: Self = Self {
        decisions: 0,
        hints: 0,
        withheld: 0,
        invalid: 0,
        prefetched: 0,
        used: 0,
        late: 0,
        evicted_unused: 0,
        dropped: 0,
    };

    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            decisions: self.decisions.saturating_add(other.decisions),
            hints: self.hints.saturating_add(other.hints),
            withheld: self.withheld.saturating_add(other.withheld),
            invalid: self.invalid.saturating_add(other.invalid),
            prefetched: self.prefetched.saturating_add(other.prefetched),
            used: self.used.saturating_add(other.used),
            late: self.late.saturating_add(other.late),
            evicted_unused: self.evicted_unused.saturating_add(other.evicted_unused),
            dropped: self.dropped.saturating_add(other.dropped),
        }
    }

    /// Prefetched pages of which is not known yet what became.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.prefetched
            .saturating_sub(self.used)
            .saturating_sub(self.late)
            .saturating_sub(self.evicted_unused)
            .saturating_sub(self.dropped)
    }
}

/// Of a function, whoever decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Batches of faults of one block.
    pub batches: u64,
    /// Distinct pages in them.
    pub faults: u64,
    /// Batches whose faults went to more than one place.
    pub several_destinations: u64,
    /// Batches that were the first touch of a block, where it was wanted.
    pub first_touches: u64,
    /// Batches for a block that was wanted elsewhere.
    pub not_preferred: u64,
}

impl Totals {
    /// Nothing yet.
    pub const ZERO: Self = Self {
        batches: 0,
        faults: 0,
        several_destinations: 0,
        first_touches: 0,
        not_preferred: 0,
    };
}

/// Adds to a counter, which stops at the largest number.
pub(super) fn add(counter: &mut u64, count: usize) {
    *counter = counter.saturating_add(count as u64);
}
