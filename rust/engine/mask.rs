// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sets of the pages of a block.

use super::page::ones_from;
pub use super::page::{PageIndex, Region, PAGES};

/// Words of a mask.
pub(super) const WORDS: usize = PAGES / 64;

/// A set of pages of a block.
///
/// The kernel is compiled without a processor's instruction that counts bits, so that a count costs about 20 instructions a word:
/// words without pages are left out wherever there can be many of them.
#[derive(Clone, Copy, Eq, Debug, Default)]
pub struct PageMask([u64; WORDS]);

/// The words that pages of `region` are in, and their bits there.
fn words_of(region: Region) -> impl Iterator<Item = (usize, u64)> {
    let (mut at, outer) = (region.first(), region.outer());
    core::iter::from_fn(move || {
        if at >= outer {
            return None;
        }
        let (index, low) = (at / 64, at % 64);
        let bits = u64::MAX << low;
        at = (index + 1) * 64;
        // It ends in this word.
        let bits = if outer < at {
            bits & !(u64::MAX << (outer % 64))
        } else {
            bits
        };
        Some((index, bits))
    })
}

impl PartialEq for PageMask {
    fn eq(&self, other: &Self) -> bool {
        // Comparing arrays would call memcmp().
        let words = self.0.iter().zip(&other.0);
        words.fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

impl From<Region> for PageMask {
    fn from(region: Region) -> Self {
        // By far the most frequent one.
        if region.len() == PAGES {
            return Self::ALL;
        }
        let mut words = [0; WORDS];
        for (index, bits) in words_of(region) {
            if let Some(word) = words.get_mut(index) {
                *word = bits;
            }
        }
        Self(words)
    }
}

impl FromIterator<PageIndex> for PageMask {
    fn from_iter<T: IntoIterator<Item = PageIndex>>(pages: T) -> Self {
        let mut mask = Self::EMPTY;
        for page in pages {
            mask.add(page);
        }
        mask
    }
}

impl PageMask {
    /// No page.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Every page.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// The pages whose bits are set; page 0 is the lowest bit of the first word.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// A bit per page; page 0 is the lowest bit of the first word.
    #[must_use]
    pub const fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// The same, to change.
    pub(super) fn words_mut(&mut self) -> &mut [u64; WORDS] {
        &mut self.0
    }

    /// Adds one page.
    pub fn add(&mut self, page: PageIndex) {
        if let Some(word) = self.0.get_mut(page.get() / 64) {
            *word |= 1 << (page.get() % 64);
        }
    }

    /// Removes one page.
    pub fn take(&mut self, page: PageIndex) {
        if let Some(word) = self.0.get_mut(page.get() / 64) {
            *word &= !(1 << (page.get() % 64));
        }
    }

    /// Whether `page` is in the set.
    #[must_use]
    pub fn has(&self, page: PageIndex) -> bool {
        self.contains(page.get())
    }

    /// Whether `page` is in the set. A page beyond the block is not.
    #[must_use]
    pub fn contains(&self, page: usize) -> bool {
        self.0
            .get(page / 64)
            .is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Adds the pages of `region`; returns how many were not in the set.
    pub fn insert(&mut self, region: Region) -> usize {
        let mut count = 0;
        for (index, bits) in words_of(region) {
            if let Some(word) = self.0.get_mut(index) {
                let added = bits & !*word;
                *word |= added;
                count += added.count_ones() as usize;
            }
        }
        count
    }

    /// Removes the pages of `region`; returns how many were in the set.
    pub fn remove(&mut self, region: Region) -> usize {
        let mut count = 0;
        for (index, bits) in words_of(region) {
            if let Some(word) = self.0.get_mut(index) {
                let removed = bits & *word;
                *word &= !removed;
                count += removed.count_ones() as usize;
            }
        }
        count
    }

    /// Number of pages in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        let with = self.0.iter().filter(|word| **word != 0);
        with.map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Comparing arrays would call memcmp().
        self.0.iter().fold(0, |all, word| all | word) == 0
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

    /// The pages that are in this set and not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// The pages of `region` that are in the set.
    #[must_use]
    pub fn within(&self, region: Region) -> Self {
        self.and(&region.into())
    }

    /// Whether a page is in both sets.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(a, b)| a & b != 0)
    }

    /// How many pages are in both sets. Cheap where few words have any.
    #[must_use]
    pub fn count_common(&self, other: &Self) -> usize {
        let mut count = 0;
        for (a, b) in self.0.iter().zip(&other.0) {
            let both = a & b;
            if both != 0 {
                count += both.count_ones() as usize;
            }
        }
        count
    }

    /// How many pages of `region` are in the set. Looks at the words of the region only.
    #[must_use]
    pub fn count_in(&self, region: Region) -> usize {
        let mut count = 0;
        for (index, bits) in words_of(region) {
            if let Some(word) = self.0.get(index) {
                count += (word & bits).count_ones() as usize;
            }
        }
        count
    }

    /// Every page moved `distance` pages up; those that would leave the block are dropped.
    #[must_use]
    pub fn moved_up(&self, distance: usize) -> Self {
        let Self(mut words) = *self;
        let (whole, bits) = (distance / 64, distance % 64);
        if whole >= WORDS {
            return Self::EMPTY;
        }
        // Whole words by 1, 2 and 4 of them: each of these is a plain copy.
        if whole & 1 != 0 {
            let [a, b, c, d, e, f, g, _] = words;
            words = [0, a, b, c, d, e, f, g];
        }
        if whole & 2 != 0 {
            let [a, b, c, d, e, f, ..] = words;
            words = [0, 0, a, b, c, d, e, f];
        }
        if whole & 4 != 0 {
            let [a, b, c, d, ..] = words;
            words = [0, 0, 0, 0, a, b, c, d];
        }
        if bits != 0 {
            let mut below = 0;
            for word in &mut words {
                let moved = (*word << bits) | below;
                below = *word >> (64 - bits);
                *word = moved;
            }
        }
        Self(words)
    }

    /// Every page moved `distance` pages down; those that would leave the block are dropped.
    #[must_use]
    pub fn moved_down(&self, distance: usize) -> Self {
        let Self(mut words) = *self;
        let (whole, bits) = (distance / 64, distance % 64);
        if whole >= WORDS {
            return Self::EMPTY;
        }
        if whole & 1 != 0 {
            let [_, b, c, d, e, f, g, h] = words;
            words = [b, c, d, e, f, g, h, 0];
        }
        if whole & 2 != 0 {
            let [.., c, d, e, f, g, h] = words;
            words = [c, d, e, f, g, h, 0, 0];
        }
        if whole & 4 != 0 {
            let [.., e, f, g, h] = words;
            words = [e, f, g, h, 0, 0, 0, 0];
        }
        if bits != 0 {
            let mut above = 0;
            for word in words.iter_mut().rev() {
                let moved = (*word >> bits) | above;
                above = *word << (64 - bits);
                *word = moved;
            }
        }
        Self(words)
    }

    /// The first page of the set.
    #[must_use]
    pub fn first(&self) -> Option<PageIndex> {
        self.iter().next()
    }

    /// The last page of the set that is before page `outer`.
    #[must_use]
    pub fn last_before(&self, outer: usize) -> Option<PageIndex> {
        let words = self.0.iter().enumerate().rev();
        let mut pages = words.filter_map(|(index, word)| {
            let before = word & !ones_from(outer, index);
            let bit = before.checked_ilog2()?;
            PageIndex::new(index * 64 + bit as usize)
        });
        pages.next()
    }

    /// The pages of the set, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        let mut words = self.0.iter();
        let mut left = 0_u64;
        core::iter::from_fn(move || {
            while left == 0 {
                left = *words.next()?;
            }
            // The word is behind those that are left.
            let base = (WORDS - 1 - words.len()) * 64;
            let page = PageIndex::new(base + left.trailing_zeros() as usize);
            left &= left - 1;
            page
        })
    }

    /// The pages that `f` makes of each word of the set that has any, and the same word of the `others`.
    pub(super) fn with_words<const N: usize>(
        &self,
        others: [&Self; N],
        f: impl Fn(u64, [u64; N]) -> u64,
    ) -> Self {
        let mut words = self.0;
        for (index, word) in words.iter_mut().enumerate() {
            if *word != 0 {
                let same = |other: &Self| other.0.get(index).copied().unwrap_or(0);
                *word = f(*word, others.map(same));
            }
        }
        Self(words)
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
        let flip = if within { 0 } else { u64::MAX };
        let mut left = u64::MAX << (page % 64);
        for index in page / 64..outer.div_ceil(64) {
            let word = (self.0.get(index).copied().unwrap_or(0) ^ flip) & left;
            if word != 0 {
                let found = index * 64 + word.trailing_zeros() as usize;
                return found.min(outer);
            }
            left = u64::MAX;
        }
        outer
    }

    /// The first `most` pages of the set; all of them where it has no more.
    #[must_use]
    pub fn leading(&self, most: usize) -> Self {
        let mut words = [0; WORDS];
        let mut left = most;
        for (some, all) in words.iter_mut().zip(&self.0) {
            let mut rest = *all;
            while rest != 0 && left > 0 {
                rest &= rest.wrapping_sub(1);
                left = left.saturating_sub(1);
            }
            *some = all ^ rest;
        }
        Self(words)
    }

    /// The longest run of pages from the start of `region` that are all in the set or all not, and which.
    ///
    /// An empty region gives an empty run.
    #[must_use]
    pub fn leading_run(&self, region: Region) -> (Region, bool) {
        let within = self.contains(region.first());
        let outer = self.next(region.first(), region.outer(), !within);
        (Region::new(region.first(), outer).unwrap_or(region), within)
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
    use super::super::testing::cases;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn region() -> impl Strategy<Value = Region> {
        (0..=PAGES, 0..=PAGES).prop_map(|(a, b)| Region::new(a.min(b), a.max(b)).unwrap())
    }

    fn mask() -> impl Strategy<Value = PageMask> {
        prop::array::uniform8(any::<u64>()).prop_map(PageMask::from_words)
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn masks_are_equal_where_all_pages_are(mask in mask(), pages in prop::collection::btree_set(0..PAGES, 0..4)) {
            // In none of them, in one, and in several, in one word or in more.
            let mut other = mask;
            for page in pages.iter().filter_map(|page| PageIndex::new(*page)) {
                if mask.has(page) {
                    other.take(page);
                } else {
                    other.add(page);
                }
            }
            prop_assert_eq!(mask == other, pages.is_empty());
        }

        #[test]
        fn the_leading_pages_are_the_first_ones(mask in mask(), most in 0..PAGES + 2) {
            let first: PageMask = mask.iter().take(most).collect();
            prop_assert_eq!(mask.leading(most), first);
        }

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

        #[test]
        fn masks_move_and_meet_as_sets_do(a in mask(), b in mask(), region in region(), by in 0..PAGES + 70) {
            let set = |mask: &PageMask| -> BTreeSet<usize> { mask.iter().map(PageIndex::get).collect() };
            let (pages, others) = (set(&a), set(&b));
            prop_assert_eq!(a.iter().collect::<PageMask>(), a);
            prop_assert_eq!(set(&a.and(&b)), &pages & &others);
            prop_assert_eq!(set(&a.or(&b)), &pages | &others);
            prop_assert_eq!(set(&a.minus(&b)), &pages - &others);
            prop_assert_eq!(a.intersects(&b), !pages.is_disjoint(&others));
            let inside: BTreeSet<usize> = pages.range(region.first()..region.outer()).copied().collect();
            prop_assert_eq!(a.count_in(region), inside.len());
            prop_assert_eq!(set(&a.within(region)), inside);
            prop_assert_eq!(PageMask::from(region).count(), region.len());
            prop_assert_eq!(a.last_before(by).map(PageIndex::get), pages.range(..by).next_back().copied());
            prop_assert_eq!(a.first().map(PageIndex::get), pages.first().copied());
            let up: BTreeSet<usize> = pages.iter().map(|page| page + by).filter(|page| *page < PAGES).collect();
            prop_assert_eq!(set(&a.moved_up(by)), up);
            let down: BTreeSet<usize> = pages.iter().filter_map(|page| page.checked_sub(by)).collect();
            prop_assert_eq!(set(&a.moved_down(by)), down);
            let mut one = a;
            for page in region.pages() {
                one.add(page);
                prop_assert!(one.has(page));
                one.take(page);
                prop_assert!(!one.has(page));
            }
            prop_assert_eq!(one, a.minus(&region.into()));
        }
    }
}
