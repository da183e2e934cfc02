// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Prefetching along the stride of the last faults of a block.
//!
//! When the last two strides s are equal, the pages `[p + s, p + s * (degree + 1))` behind the last fault p, mirrored
//! where s is negative; else the native decision: a stride policy that answers nothing whenever it is unsure costs most of
//! the throughput. The faults of a batch count in ascending order after those of the batches before it.

use super::super::mask::PageMask;
use super::super::page::{PageIndex, Region, PAGES};
use super::{Plan, Policy, View};

/// The last faults of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    last: Option<PageIndex>,
    /// To the last fault from the one before, and to that one.
    strides: [Option<i16>; 2],
}

impl State {
    /// Nothing known.
    pub const NEW: Self = Self {
        last: None,
        strides: [None; 2],
    };

    /// `faulted` faulted.
    pub fn observe(&mut self, faulted: &PageMask) {
        // Three pages have two strides: those before do not matter any more.
        let mut at = PAGES;
        let mut pages = [None; 3];
        for page in pages.iter_mut().rev() {
            *page = faulted.last_before(at);
            at = page.map_or(0, PageIndex::get);
        }
        for page in pages.into_iter().flatten() {
            if let Some(last) = self.last {
                let stride = i16::try_from(page.distance(last)).ok();
                self.strides = [stride, self.strides[0]];
            }
            self.last = Some(page);
        }
    }

    /// The pages ahead of the last fault, `degree` strides of them, if the last two strides are equal and not 0.
    #[must_use]
    pub fn ahead(&self, degree: u32) -> Option<Region> {
        let [Some(stride), Some(before)] = self.strides else {
            return None;
        };
        if stride != before || stride == 0 {
            return None;
        }
        let page = self.last?.get();
        let step = usize::from(stride.unsigned_abs());
        let end = step.saturating_mul((degree as usize).saturating_add(1));
        Some(if stride > 0 {
            Region::clipped(page.saturating_add(step), page.saturating_add(end))
        } else {
            // Mirrored, so half open at its other end: (p - end, p - step].
            let past = |distance: usize| page.saturating_add(1).saturating_sub(distance);
            Region::clipped(past(end), past(step))
        })
    }
}

/// By the last two strides ([`super::Kind::Stride`]).
#[derive(Debug)]
pub struct Stride<'a>(pub &'a State);

impl Policy for Stride<'_> {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        match self.0.ahead(view.params.stride_degree.get()) {
            Some(region) => Plan::Pages(region.into()),
            None => Plan::Default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{cases, mask};
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn pages(pages: &[usize]) -> PageMask {
        pages
            .iter()
            .filter_map(|page| PageIndex::new(*page))
            .collect()
    }

    fn after(batches: &[&[usize]]) -> State {
        let mut state = State::default();
        for batch in batches {
            state.observe(&pages(batch));
        }
        state
    }

    #[test]
    fn two_equal_strides_are_continued() {
        assert_eq!(after(&[&[10], &[13]]).ahead(2), None);
        assert_eq!(after(&[&[10], &[13], &[16]]).ahead(2), Region::new(19, 25));
        assert_eq!(after(&[&[10], &[13], &[17]]).ahead(2), None);
        assert_eq!(after(&[&[1, 2, 3]]).ahead(4), Region::new(4, 8));
        assert_eq!(after(&[&[1, 5], &[9]]).ahead(1), Region::new(13, 17));
    }

    #[test]
    fn a_negative_stride_is_mirrored() {
        // [p + s, p + 2 s) for s = 3 is p + 3, 4, 5.
        assert_eq!(after(&[&[26], &[23], &[20]]).ahead(1), Region::new(15, 18));
        // And ends with the block.
        assert_eq!(after(&[&[6], &[4], &[2]]).ahead(8), Region::new(0, 1));
        assert_eq!(after(&[&[4], &[2], &[0]]).ahead(8), Some(Region::EMPTY));
    }

    #[test]
    fn the_same_page_again_is_no_stride() {
        assert_eq!(after(&[&[7], &[7], &[7]]).ahead(8), None);
    }

    #[test]
    fn the_end_of_the_block_ends_it() {
        assert_eq!(after(&[&[509, 510, 511]]).ahead(64), Some(Region::EMPTY));
        assert_eq!(after(&[&[500, 503, 506]]).ahead(64), Region::new(509, 512));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn strides_are_those_of_all_faults_in_order(batches in prop::collection::vec(mask(), 0..6), degree in 1u32..64) {
            let mut state = State::default();
            let mut order: Vec<i32> = Vec::new();
            for batch in &batches {
                state.observe(batch);
                order.extend(batch.iter().map(|page| i32::try_from(page.get()).unwrap_or(0)));
            }
            let expected: Vec<usize> = match order.as_slice() {
                [.., a, b, c] if c - b == b - a && c != b => {
                    let stride = c - b;
                    let degree = i32::try_from(degree).unwrap_or(0);
                    let mut ahead: Vec<usize> = (stride.abs()..stride.abs() * (degree + 1))
                        .filter_map(|distance| usize::try_from(c + distance * stride.signum()).ok())
                        .filter(|page| *page < PAGES)
                        .collect();
                    ahead.sort_unstable();
                    ahead
                }
                _ => Vec::new(),
            };
            let found: Vec<usize> = state.ahead(degree).map_or(Vec::new(), |region| region.pages().map(PageIndex::get).collect());
            prop_assert_eq!(found, expected);
        }
    }
}
