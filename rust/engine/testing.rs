// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What property tests draw from: masks of all densities and shapes, blocks of all places and sizes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::mask::PageMask;
use super::page::{PageIndex, Region, GROUP_PAGES, PAGES};
use super::tree::{Bounds, Input, Mode, Threshold, Walk};
use proptest::prelude::*;
use std::vec::Vec;

/// So many cases of a property; few under Miri, which is slow and looks for something else.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { count },
        // No files beside the sources.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// At most so many steps of a sequence, likewise fewer under Miri.
pub(crate) const fn most(count: usize) -> usize {
    if cfg!(miri) {
        count.div_ceil(16)
    } else {
        count
    }
}

/// Any region, also an empty one.
pub(crate) fn region() -> impl Strategy<Value = Region> {
    (0..=PAGES, 0..=PAGES).prop_map(|(a, b)| Region::new(a.min(b), a.max(b)).unwrap())
}

/// Any page.
pub(crate) fn page() -> impl Strategy<Value = PageIndex> {
    (0..PAGES).prop_map(|page| PageIndex::new(page).unwrap())
}

/// A set of pages: none, all, of any density, a few pages, or runs.
pub(crate) fn mask() -> impl Strategy<Value = PageMask> {
    let words = || prop::array::uniform8(any::<u64>()).prop_map(PageMask::from_words);
    prop_oneof![
        1 => Just(PageMask::EMPTY),
        1 => Just(PageMask::ALL),
        3 => words(),
        2 => (words(), words()).prop_map(|(a, b)| a.and(&b)),
        2 => (words(), words(), words()).prop_map(|(a, b, c)| a.and(&b).and(&c)),
        2 => (words(), words()).prop_map(|(a, b)| a.or(&b)),
        4 => prop::collection::vec(page(), 0..20).prop_map(|pages| pages.into_iter().collect()),
        4 => prop::collection::vec(region(), 0..4).prop_map(union),
        4 => prop::collection::vec((page(), 0usize..40), 0..8).prop_map(|runs| {
            union(runs.iter().map(|(page, len)| Region::clipped(page.get(), page.get() + len)).collect())
        }),
    ]
}

fn union(regions: Vec<Region>) -> PageMask {
    let mut mask = PageMask::EMPTY;
    for region in regions {
        mask.insert(region);
    }
    mask
}

/// A block: mostly whole ones, else of any place, size and max region, small ones as often as large ones.
pub(crate) fn bounds() -> impl Strategy<Value = Bounds> {
    let any = (0..GROUP_PAGES, 0u32..10).prop_flat_map(|(va, bits)| {
        (1..=(1usize << bits).min(PAGES - va)).prop_flat_map(move |pages| {
            (0..=pages, 0..=pages, any::<bool>()).prop_map(move |(a, b, whole)| {
                let region = if whole {
                    Region::new(0, pages)
                } else {
                    Region::new(a.min(b), a.max(b))
                };
                Bounds::new(va, pages, region.unwrap()).unwrap()
            })
        })
    });
    // Padding of as many leaves as there are pages before the max region: a leaf has its page's number.
    let unmoved = (0..GROUP_PAGES, 0..=PAGES)
        .prop_map(|(first, outer)| Bounds::new(0, PAGES, Region::clipped(first, outer)).unwrap());
    prop_oneof![1 => Just(Bounds::BLOCK), 1 => unmoved, 4 => any]
}

/// A threshold, the ends more often than by chance.
pub(crate) fn threshold() -> impl Strategy<Value = Threshold> {
    prop_oneof![1 => Just(0u8), 1 => Just(100), 8 => 0u8..=100]
        .prop_map(|percent| Threshold::new(percent).unwrap())
}

/// What a decision is about, owned.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) threshold: Threshold,
    pub(crate) bounds: Bounds,
    pub(crate) resident: PageMask,
    pub(crate) faulted: PageMask,
    pub(crate) thrashing: PageMask,
}

impl Case {
    pub(crate) fn input(&self, mode: Mode, walk: Walk) -> Input<'_> {
        Input {
            mode,
            walk,
            threshold: self.threshold,
            bounds: self.bounds,
            resident: &self.resident,
            faulted: &self.faulted,
            thrashing: &self.thrashing,
        }
    }
}

/// The four ways to decide.
pub(crate) const WAYS: [(Mode, Walk); 4] = [
    (Mode::Compat, Walk::Managed),
    (Mode::Compat, Walk::Ats),
    (Mode::Strict, Walk::Managed),
    (Mode::Strict, Walk::Ats),
];

/// A decision to make. Faults are in the max region; they may be resident too.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    let thrashing = prop_oneof![2 => Just(PageMask::EMPTY), 3 => mask()];
    (threshold(), bounds(), mask(), mask(), thrashing).prop_map(
        |(threshold, bounds, resident, faulted, thrashing)| Case {
            threshold,
            bounds,
            resident,
            faulted: faulted.within(bounds.max_region()),
            thrashing,
        },
    )
}
