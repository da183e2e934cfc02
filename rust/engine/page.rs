// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Pages of a block, and ranges of them.

#![allow(
    clippy::cast_possible_truncation,
    reason = "pages of a block are numbered to 512; each place says so"
)]

/// Pages of a block: 512 of 4 KiB in 2 MiB.
pub const PAGES: usize = 512;

/// Pages of a *big group*: 64 KiB.
pub const GROUP_PAGES: usize = 16;

/// A page of a block, 0 to 511.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageIndex(u16);

impl PageIndex {
    /// The first page of a block.
    pub const FIRST: Self = Self(0);

    /// Page `page`; `None` beyond the block.
    #[must_use]
    pub const fn new(page: usize) -> Option<Self> {
        if page < PAGES {
            // CAST: below 512.
            Some(Self(page as u16))
        } else {
            None
        }
    }

    /// Its number, below [`PAGES`].
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// The page `distance` pages further, backwards where that is negative; `None` beyond the block.
    #[must_use]
    pub const fn offset(self, distance: i32) -> Option<Self> {
        let page = distance.saturating_add(self.0 as i32);
        if page < 0 {
            None
        } else {
            // CAST: not negative.
            #[allow(clippy::cast_sign_loss, reason = "not negative")]
            Self::new(page as usize)
        }
    }

    /// How many pages `self` is behind `other`; negative where it is before it.
    #[must_use]
    pub const fn distance(self, other: Self) -> i32 {
        self.0 as i32 - other.0 as i32
    }

    /// The region of this page alone.
    #[must_use]
    pub const fn region(self) -> Region {
        Region {
            first: self.0,
            // At most 512.
            outer: self.0 + 1,
        }
    }
}

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

    /// No page.
    pub const EMPTY: Self = Self { first: 0, outer: 0 };

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

    /// The pages of the block from `first` to before `outer`; none if the range is inverted.
    #[must_use]
    pub const fn clipped(first: usize, outer: usize) -> Self {
        let outer = if outer < PAGES { outer } else { PAGES };
        if first < outer {
            // CAST: at most 512.
            Self {
                first: first as u16,
                outer: outer as u16,
            }
        } else {
            Self::EMPTY
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

    /// Whether `page` is in it.
    #[must_use]
    pub const fn contains(self, page: PageIndex) -> bool {
        self.first <= page.0 && page.0 < self.outer
    }

    /// Whether every page of `other` is in it.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.first <= other.first && other.outer <= self.outer)
    }

    /// The pages that are in both; [`EMPTY`](Self::EMPTY) if there are none.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        let first = if self.first > other.first {
            self.first
        } else {
            other.first
        };
        let outer = if self.outer < other.outer {
            self.outer
        } else {
            other.outer
        };
        if first < outer {
            Self { first, outer }
        } else {
            Self::EMPTY
        }
    }

    /// Its pages in ascending order.
    pub fn pages(self) -> impl DoubleEndedIterator<Item = PageIndex> {
        (self.first..self.outer).map(PageIndex)
    }
}

/// The bits of word `word`, below 8, that stand for pages from `page` on.
pub(super) const fn ones_from(page: usize, word: usize) -> u64 {
    let base = word * 64;
    if page <= base {
        u64::MAX
    } else if page >= base + 64 {
        0
    } else {
        u64::MAX << (page - base)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_page_beyond_the_block_does_not_exist() {
        assert_eq!(PageIndex::new(PAGES), None);
        assert_eq!(PageIndex::new(PAGES - 1).map(PageIndex::get), Some(511));
        let page = PageIndex::new(500).unwrap();
        assert_eq!(page.offset(11), PageIndex::new(511));
        assert_eq!(page.offset(12), None);
        assert_eq!(page.offset(-501), None);
        assert_eq!(page.offset(i32::MAX), None);
        assert_eq!(page.offset(i32::MIN), None);
        assert_eq!(
            page.offset(-500)
                .map(|first| (first, page.distance(first), first.distance(page))),
            Some((PageIndex::FIRST, 500, -500))
        );
    }

    #[test]
    fn a_region_that_is_not_of_a_block_does_not_exist() {
        assert_eq!(Region::new(2, 1), None);
        assert_eq!(Region::new(0, PAGES + 1), None);
        assert!(Region::new(PAGES, PAGES).unwrap().is_empty());
    }

    /// All pairs of regions among the first pages and the last ones of a block.
    /// Regions with such ends as may be mistaken; fewer under Miri, which is slow and looks for something else.
    fn corners() -> Vec<Region> {
        let ends: &[usize] = if cfg!(miri) {
            &[0, 3, 64, 512]
        } else {
            &[0, 1, 2, 3, 63, 64, 65, 510, 511, 512]
        };
        let mut regions = Vec::new();
        for &first in ends {
            regions.extend(ends.iter().filter_map(|outer| Region::new(first, *outer)));
        }
        regions
    }

    #[test]
    fn regions_are_sets_of_pages() {
        for a in corners() {
            assert_eq!(a.pages().count(), a.len());
            for b in corners() {
                let both: Vec<_> = a.pages().filter(|page| b.contains(*page)).collect();
                let found: Vec<_> = a.intersection(b).pages().collect();
                assert_eq!(found, both);
                assert_eq!(
                    a.covers(b),
                    b.pages().all(|page| a.contains(page)),
                    "{a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_beyond_the_block_is_clipped() {
        assert_eq!(Region::clipped(500, 600), Region::new(500, 512).unwrap());
        assert!(Region::clipped(600, 700).is_empty());
        assert!(Region::clipped(7, 3).is_empty());
        assert_eq!(Region::clipped(0, usize::MAX), Region::BLOCK);
    }

    #[test]
    fn a_region_that_is_left_without_pages_is_the_empty_one() {
        assert_eq!(Region::clipped(5, 5), Region::EMPTY);
        let (low, high) = (Region::clipped(3, 5), Region::clipped(5, 9));
        assert_eq!(low.intersection(high), Region::EMPTY);
        assert_eq!(high.intersection(low), Region::EMPTY);
    }

    #[test]
    fn the_bits_from_a_page_on_are_those_of_it_and_of_later_ones() {
        for page in 0..=PAGES {
            for word in 0..PAGES / 64 {
                let bits = (0..64).filter(|bit| word * 64 + bit >= page);
                let expected = bits.fold(0, |ones, bit| ones | (1 << bit));
                assert_eq!(ones_from(page, word), expected, "{page} {word}");
            }
        }
    }
}
