// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Prefetching in the block's most recently touched 64 KiB neighbours.
//!
//! Of each fault, its own 64 KiB, and those beside it that are among the `neighbours` most recently touched ones of the
//! block. Units are counted from the start of the 2 MiB range, as virtual addresses are.

use super::super::mask::PageMask;
use super::super::page::{Region, GROUP_PAGES, PAGES};
use super::{Plan, Policy, View};

/// 64 KiB units of a block.
const GROUPS: usize = PAGES / GROUP_PAGES;

/// How many are remembered.
const REMEMBERED: usize = 8;

/// The most recently touched units of a block, the last one first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    recent: [Option<u8>; REMEMBERED],
}

impl State {
    /// Nothing known.
    pub const NEW: Self = Self {
        recent: [None; REMEMBERED],
    };

    /// `pages` of a block that starts `va_first_page` pages after a 64 KiB boundary were touched or faulted.
    pub fn observe(&mut self, va_first_page: usize, pages: &PageMask) {
        let mut groups = groups_of(va_first_page, pages);
        while groups != 0 {
            // CAST: below 32.
            #[allow(clippy::cast_possible_truncation, reason = "below 32")]
            let group = groups.trailing_zeros() as u8;
            groups &= groups - 1;
            let at = (self.recent.iter().position(|seen| *seen == Some(group)))
                .unwrap_or(REMEMBERED - 1);
            if let Some(before) = self.recent.get_mut(..=at) {
                before.rotate_right(1);
            }
            if let Some(first) = self.recent.first_mut() {
                *first = Some(group);
            }
        }
    }

    /// A bit for each of the `count` most recent ones.
    fn recent(&self, count: usize) -> u32 {
        (self.recent.iter().take(count).flatten()).fold(0, |groups, group| groups | (1 << group))
    }
}

/// A bit for each unit that has one of `pages`.
fn groups_of(va_first_page: usize, pages: &PageMask) -> u32 {
    let mut groups = 0;
    for (index, word) in pages.moved_up(va_first_page).words().iter().enumerate() {
        for group in 0..4 {
            if (word >> (group * GROUP_PAGES)) & 0xffff != 0 {
                groups |= 1 << (index * 4 + group);
            }
        }
    }
    groups
}

/// The pages of the units in `groups`.
fn pages_of(va_first_page: usize, groups: u32) -> PageMask {
    let mut pages = PageMask::EMPTY;
    for group in (0..GROUPS).filter(|group| (groups >> group) & 1 != 0) {
        let first = group * GROUP_PAGES;
        pages.insert(Region::clipped(first, first + GROUP_PAGES));
    }
    pages.moved_down(va_first_page)
}

/// By what was touched last ([`super::Kind::Lru`]).
#[derive(Debug)]
pub struct Lru<'a>(pub &'a State);

impl Policy for Lru<'_> {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        let va = view.batch.bounds.va_first_page();
        let faulted = groups_of(va, &view.calm());
        let recent = self.0.recent(view.params.neighbours.get() as usize);
        let beside = (faulted << 1) | (faulted >> 1);
        Plan::Pages(pages_of(va, faulted | (beside & recent)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{cases, mask};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn what_was_touched_last_is_remembered_in_order(
            va in 0usize..16,
            touches in prop::collection::vec(mask(), 0..10),
            count in 1usize..=REMEMBERED,
        ) {
            let mut state = State::default();
            let mut order: Vec<usize> = Vec::new();
            for pages in &touches {
                let pages = pages.within(Region::clipped(0, PAGES - va));
                state.observe(va, &pages);
                let groups: BTreeSet<usize> = pages.iter().map(|page| (page.get() + va) / GROUP_PAGES).collect();
                for group in groups {
                    order.retain(|seen| *seen != group);
                    order.insert(0, group);
                }
            }
            let expected = order.iter().take(count).fold(0, |groups, group| groups | (1u32 << group));
            prop_assert_eq!(state.recent(count), expected);
        }

        #[test]
        fn units_have_their_pages(va in 0usize..16, pages in mask()) {
            let pages = pages.within(Region::clipped(0, PAGES - va));
            let groups = groups_of(va, &pages);
            let whole = pages_of(va, groups);
            prop_assert!(pages.minus(&whole).is_empty());
            prop_assert_eq!(groups_of(va, &whole), groups);
        }
    }
}
