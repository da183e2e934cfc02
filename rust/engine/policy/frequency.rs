// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Prefetching as far ahead as a block faults often.
//!
//! The degree is the number of faults that the block would make within `horizon_us` at the rate at which it
//! did lately; that many pages behind each fault are brought along. A block whose rate is not known yet gets the
//! native decision.

use super::super::mask::PageMask;
use super::super::page::PAGES;
use super::super::params::Micros;
use super::{Plan, Policy, View};

/// How often a block faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    last_ns: Option<u64>,
    /// Faults per second, each batch counting for a quarter of it.
    per_second: Option<u32>,
}

impl State {
    /// Nothing known.
    pub const NEW: Self = Self {
        last_ns: None,
        per_second: None,
    };

    /// `faults` pages faulted.
    pub fn observe(&mut self, now_ns: u64, faults: usize) {
        let last_ns = self.last_ns.replace(now_ns);
        let Some(last_ns) = last_ns else { return };
        let rate = (faults as u64)
            .saturating_mul(1_000_000_000)
            .checked_div(now_ns.saturating_sub(last_ns))
            .unwrap_or(u64::MAX);
        let rate = match self.per_second {
            Some(before) => (u64::from(before) * 3 + rate.min(u64::from(u32::MAX))) / 4,
            None => rate,
        };
        self.per_second = Some(u32::try_from(rate).unwrap_or(u32::MAX));
    }

    /// Pages to bring along behind each fault, at most a block of them.
    #[must_use]
    pub fn degree(&self, horizon: Micros) -> Option<usize> {
        let expected = u64::from(self.per_second?) * u64::from(horizon.get()) / 1_000_000;
        Some(usize::try_from(expected).unwrap_or(PAGES).min(PAGES))
    }
}

/// The pages of `mask` and the `degree` behind each of them.
pub(super) fn with_followers(mask: &PageMask, degree: usize) -> PageMask {
    // Twice as many with each step, then what is missing.
    let mut pages = *mask;
    let mut reach = 0;
    while reach < degree {
        let step = (reach + 1).min(degree - reach);
        pages = pages.or(&pages.moved_up(step));
        reach += step;
    }
    pages
}

/// By the block's faults per second ([`super::Kind::Frequency`]).
#[derive(Debug)]
pub struct Frequency<'a>(pub &'a State);

impl Policy for Frequency<'_> {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        match self.0.degree(view.params.horizon_us) {
            Some(degree) => Plan::Pages(with_followers(&view.calm(), degree)),
            None => Plan::Default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::page::{PageIndex, Region};
    use super::super::super::testing::{cases, mask};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_degree_follows_the_rate() {
        let horizon = Micros::clamped(1_000);
        let mut state = State::default();
        state.observe(1_000, 7);
        assert_eq!(state.degree(horizon), None);
        // 4 in 1 ms.
        state.observe(1_001_000, 4);
        assert_eq!(state.degree(horizon), Some(4));
        assert_eq!(state.degree(Micros::clamped(2_000)), Some(8));
        // Nothing for 1 s: a quarter less each time.
        state.observe(1_001_001_000, 1);
        assert_eq!(state.degree(horizon), Some(3));
        // As fast as it gets.
        state.observe(1_001_001_000, 512);
        assert_eq!(state.degree(horizon), Some(PAGES));
        assert_eq!(state.degree(Micros::MIN), Some(PAGES));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn followers_are_the_pages_behind(mask in mask(), degree in 0usize..600) {
            let mut expected = PageMask::EMPTY;
            for page in mask.iter() {
                expected.insert(Region::clipped(page.get(), page.get() + degree + 1));
            }
            prop_assert_eq!(with_followers(&mask, degree), expected);
            prop_assert!(mask.first().is_none_or(|first: PageIndex| expected.has(first)));
        }
    }
}
