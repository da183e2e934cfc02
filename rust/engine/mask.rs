// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sets of the pages of a block.

#![allow(
    clippy::cast_possible_truncation,
    reason = "pages of a block are numbered to 512; each place says so"
)]

/// Pages of a block: 512 of 4 KiB in 2 MiB.
pub const PAGES: usize = 512;

const WORDS: usize = PAGES / 64;

/// A half-open range of pages of a block.
///
/// Invariant: `first <= outer <= PAGES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    first: u16,
    outer: u16,
}

impl Region {
    /// The whole block.
    pub const BLOCK: Self = Self {
        first: 0,
        // CAST: 512.
        outer: PAGES as u16,
    };

    /// The pages from `first` to before `outer`; `None` if that is not a range of a block.
    #[must_use]
    pub const fn new(first: usize, outer: usize) -> Option<Self> {
        if first <= outer && outer <= PAGES {
            // CAST: at most 512.
            Some(Self {
                first: first as u16,
                outer: outer as u16,
            })
        } else {
            None
        }
    }

    /// Its first page.
    #[must_use]
    pub const fn first(self) -> usize {
        self.first as usize
    }

    /// The page after its last.
    #[must_use]
    pub const fn outer(self) -> usize {
        self.outer as usize
    }

    /// Its number of pages.
    #[must_use]
    pub const fn len(self) -> usize {
        // No underflow, by the invariant.
        (self.outer - self.first) as usize
    }

    /// Whether it has no pages.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.first == self.outer
    }

    /// Its bits of word `word` of a mask.
    const fn bits(self, word: usize) -> u64 {
        ones_from(self.first(), word) & !ones_from(self.outer(), word)
    }
}

/// The bits of word `word` that stand for pages from `page` on.
const fn ones_from(page: usize, word: usize) -> u64 {
    let base = word * 64;
    if page <= base {
        u64::MAX
    } else if page >= base + 64 {
        0
    } else {
        u64::MAX << (page - base)
    }
}

/// A set of pages of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageMask([u64; WORDS]);

impl PageMask {
    /// No page.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Whether `page` is in the set. A page beyond the block is not.
    #[must_use]
    pub fn contains(&self, page: usize) -> bool {
        self.0
            .get(page / 64)
            .is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Adds the pages of `region`; returns how many were not in the set.
    pub fn insert(&mut self, region: Region) -> usize {
        let before = self.count();
        for (index, word) in self.0.iter_mut().enumerate() {
            *word |= region.bits(index);
        }
        self.count() - before
    }

    /// Removes the pages of `region`; returns how many were in the set.
    pub fn remove(&mut self, region: Region) -> usize {
        let before = self.count();
        for (index, word) in self.0.iter_mut().enumerate() {
            *word &= !region.bits(index);
        }
        before - self.count()
    }

    /// Number of pages in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The pages that are in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// The pages that are in either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = [0; WORDS];
        for (word, (a, b)) in words.iter_mut().zip(self.0.iter().zip(other.0.iter())) {
            *word = f(*a, *b);
        }
        Self(words)
    }

    /// The first page at or after `page`, and before `outer`, that is (`within`) or is not in the set;
    /// `outer` if there is none.
    fn next(&self, page: usize, outer: usize, within: bool) -> usize {
        let mut at = page;
        while at < outer {
            let Some(word) = self.0.get(at / 64) else {
                return outer;
            };
            let word = if within { *word } else { !*word } & ones_from(at, at / 64);
            if word != 0 {
                let found = (at / 64) * 64 + word.trailing_zeros() as usize;
                return found.min(outer);
            }
            at = (at / 64 + 1) * 64;
        }
        outer
    }

    /// The longest run of pages from the start of `region` that are all in the set or all not, and which.
    ///
    /// An empty region gives an empty run.
    #[must_use]
    pub fn leading_run(&self, region: Region) -> (Region, bool) {
        let within = self.contains(region.first());
        let outer = self.next(region.first(), region.outer(), !within);
        (
            Region {
                first: region.first,
                // CAST: at most 512.
                outer: outer as u16,
            },
            within,
        )
    }

    /// The runs of neighbouring pages of the set, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Region> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let first = self.next(at, PAGES, true);
            if first == PAGES {
                return None;
            }
            at = self.next(first, PAGES, false);
            Region::new(first, at)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn region() -> impl Strategy<Value = Region> {
        (0..=PAGES, 0..=PAGES).prop_map(|(a, b)| Region::new(a.min(b), a.max(b)).unwrap())
    }

    #[test]
    fn a_region_that_is_not_of_a_block_does_not_exist() {
        assert_eq!(Region::new(2, 1), None);
        assert_eq!(Region::new(0, PAGES + 1), None);
        assert!(Region::new(PAGES, PAGES).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn a_mask_is_a_set(steps in prop::collection::vec((region(), any::<bool>()), 0..20), ask in region()) {
            let mut mask = PageMask::EMPTY;
            let mut set = BTreeSet::new();
            for (region, add) in steps {
                let pages = region.first()..region.outer();
                let before = set.len();
                if add {
                    set.extend(pages);
                    prop_assert_eq!(mask.insert(region), set.len() - before);
                } else {
                    set.retain(|page| !pages.contains(page));
                    prop_assert_eq!(mask.remove(region), before - set.len());
                }
            }
            prop_assert_eq!(mask.count(), set.len());
            prop_assert_eq!(mask.is_empty(), set.is_empty());
            for page in 0..PAGES + 70 {
                prop_assert_eq!(mask.contains(page), set.contains(&page));
            }
            let listed: Vec<usize> = mask.runs().flat_map(|run| run.first()..run.outer()).collect();
            prop_assert_eq!(listed, set.iter().copied().collect::<Vec<_>>());
            let mut last = None;
            for run in mask.runs() {
                prop_assert!(!run.is_empty());
                prop_assert!(last.is_none_or(|last| last < run.first()));
                last = Some(run.outer());
            }
            let (run, within) = mask.leading_run(ask);
            prop_assert_eq!(run.first(), ask.first());
            prop_assert!(run.outer() <= ask.outer());
            prop_assert_eq!(run.is_empty(), ask.is_empty());
            for page in run.first()..run.outer() {
                prop_assert_eq!(set.contains(&page), within);
            }
            if run.outer() < ask.outer() {
                prop_assert_ne!(set.contains(&run.outer()), within);
            }
        }
    }
}
