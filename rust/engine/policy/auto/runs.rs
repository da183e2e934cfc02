// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many neighbouring pages are used one after the other.

use super::super::super::mask::PageMask;

/// Runs are told apart by the powers of two of pages that they have at least: 1 to 256.
const LENGTHS: usize = 9;

/// Beyond as many runs the older half is forgotten.
const REMEMBERED: u16 = 1024;

/// Fewer runs say nothing.
const LEAST: u16 = 16;

/// The runs of neighbouring pages that were touched in a stay of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Runs {
    /// Those of at least 1, 2, 4, … pages.
    at_least: [u16; LENGTHS],
}

impl Runs {
    pub(super) const NEW: Self = Self {
        at_least: [0; LENGTHS],
    };

    /// A block was left when so much of it had been touched.
    pub(super) fn learn(&mut self, touched: &PageMask) {
        let [all, ..] = self.at_least;
        if all > REMEMBERED {
            for runs in &mut self.at_least {
                *runs /= 2;
            }
        }
        // The first pages of as many as can be that are all touched.
        let mut firsts = *touched;
        let mut length = 1;
        for runs in &mut self.at_least {
            let count = firsts.minus(&firsts.moved_up(1)).count();
            *runs = runs.saturating_add(u16::try_from(count).unwrap_or(0));
            firsts = firsts.and(&firsts.moved_down(length));
            length *= 2;
        }
    }

    /// As many pages behind one as are worth it; `pays` says of how many touched ones it pays to bring how many.
    pub(super) fn behind(&self, pays: impl Fn(usize, usize) -> bool) -> usize {
        let [all, longer @ ..] = &self.at_least;
        if *all < LEAST {
            return 0;
        }
        let mut length = 1;
        for runs in longer {
            // Of all runs together, as many as there are: nothing is rounded.
            if !pays(length * usize::from(*runs), length * usize::from(*all)) {
                break;
            }
            length *= 2;
        }
        length - 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::super::super::page::{PageIndex, Region};
    use super::super::super::super::testing::{cases, mask};
    use super::*;
    use proptest::prelude::*;

    /// Pays where at least half are touched.
    fn half(touched: usize, brought: usize) -> bool {
        touched * 2 >= brought
    }

    fn touched(runs: &[(usize, usize)]) -> PageMask {
        let mut touched = PageMask::EMPTY;
        for (first, outer) in runs {
            touched.insert(Region::new(*first, *outer).unwrap());
        }
        touched
    }

    /// After `stays` in which those pages were touched.
    fn after(stays: usize, pages: &[(usize, usize)]) -> Runs {
        let mut runs = Runs::NEW;
        for _ in 0..stays {
            runs.learn(&touched(pages));
        }
        runs
    }

    #[test]
    fn what_comes_is_as_long_as_runs_are() {
        assert_eq!(after(15, &[(0, 512)]).behind(half), 0, "too few to tell");
        assert_eq!(after(16, &[(0, 512)]).behind(half), 255);
        assert_eq!(after(20, &[(3, 67)]).behind(half), 63);
        assert_eq!(after(20, &[(3, 66)]).behind(half), 31);
        assert_eq!(after(20, &[(3, 4), (9, 10)]).behind(half), 0);
        // Half of them are long.
        assert_eq!(after(20, &[(3, 4), (100, 132)]).behind(half), 31);
        assert_eq!(after(20, &[(3, 4), (7, 8), (100, 132)]).behind(half), 0);
        assert_eq!(after(20, &[(3, 67)]).behind(|_, _| false), 0);
    }

    #[test]
    fn newer_runs_count_more() {
        let mut runs = after(1500, &[(3, 67)]);
        assert_eq!(runs.behind(half), 63);
        let singles: PageMask = (0..128)
            .filter_map(|page| PageIndex::new(page * 4))
            .collect();
        for _ in 0..12 {
            runs.learn(&singles);
        }
        assert_eq!(runs.behind(half), 0);
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn runs_are_counted_by_their_length(touched in mask()) {
            let mut runs = Runs::NEW;
            runs.learn(&touched);
            for (power, count) in runs.at_least.iter().enumerate() {
                let expected = touched.runs().filter(|run| run.len() >= 1 << power).count();
                prop_assert_eq!(usize::from(*count), expected);
            }
        }
    }
}
