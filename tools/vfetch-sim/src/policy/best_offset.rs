// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A best-offset prefetcher: P. Michaud, "Best-Offset Hardware Prefetching", HPCA 2016, with pages for its lines.
//!
//! It prefetches page X + D when X is missed, or is touched for the first time after it was prefetched. D is learnt: each such access
//! tests one of 52 offsets d, in turn: if X - d is among the recent requests, a prefetch with d would have been in time, and d scores.
//! A phase ends with the round in which an offset reaches 31, or with the 100th; the best becomes D, and below a score of 2 there is no
//! prefetching until the next phase. Recent requests are a table of 256: the bases of prefetches that have arrived, or,
//! while prefetching is off, the pages that have. Access and arrival are learnt at once, and for free.

use super::{Fault, Hint, Prefetcher, View};

const SCORE_MAX: u32 = 31;
const ROUND_MAX: u32 = 100;
const BAD_SCORE: u32 = 1;
const RECENT: usize = 256;

/// The numbers to 256 without prime factors above 5.
const OFFSETS: [u32; 52] = [
    1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 18, 20, 24, 25, 27, 30, 32, 36, 40, 45, 48, 50, 54, 60,
    64, 72, 75, 80, 81, 90, 96, 100, 108, 120, 125, 128, 135, 144, 150, 160, 162, 180, 192, 200,
    216, 225, 240, 243, 250, 256,
];

/// See the module.
#[derive(Debug)]
pub(crate) struct BestOffset {
    recent: [Option<u32>; RECENT],
    scores: [u32; OFFSETS.len()],
    test: usize,
    round: u32,
    offset: Option<u32>,
}

impl BestOffset {
    pub(crate) fn new() -> Self {
        Self {
            recent: [None; RECENT],
            scores: [0; OFFSETS.len()],
            test: 0,
            round: 0,
            offset: Some(1),
        }
    }

    fn slot(page: u32) -> usize {
        ((page ^ (page >> 8)) & 0xff) as usize
    }

    fn learn(&mut self, page: u32) {
        let offset = OFFSETS[self.test];
        if let Some(base) = page.checked_sub(offset) {
            if self.recent[Self::slot(base)] == Some(base) {
                self.scores[self.test] += 1;
            }
        }
        self.test += 1;
        if self.test == OFFSETS.len() {
            self.test = 0;
            self.round += 1;
            if self.round == ROUND_MAX || self.scores.iter().any(|score| *score >= SCORE_MAX) {
                self.end_phase();
            }
        }
    }

    fn end_phase(&mut self) {
        let mut best = (0, 0);
        for (score, offset) in self.scores.iter().zip(OFFSETS) {
            if *score > best.0 {
                best = (*score, offset);
            }
        }
        self.offset = (best.0 > BAD_SCORE).then_some(best.1);
        self.scores = [0; OFFSETS.len()];
        self.test = 0;
        self.round = 0;
    }

    fn access(&mut self, view: &View<'_>, page: u32, hint: &mut Hint) {
        self.learn(page);
        if let Some(offset) = self.offset {
            hint.pages
                .extend(page.checked_add(offset).filter(|p| *p < view.pages));
        }
    }
}

impl Prefetcher for BestOffset {
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) {
        for fault in faults {
            self.access(view, fault.page, hint);
        }
    }

    fn used(&mut self, view: &View<'_>, page: u32, hint: &mut Hint) {
        self.access(view, page, hint);
    }

    fn arrived(&mut self, _view: &View<'_>, page: u32, prefetched: bool) {
        let base = match self.offset {
            Some(offset) if prefetched => page.checked_sub(offset),
            Some(_) => None,
            None => Some(page),
        };
        if let Some(base) = base {
            self.recent[Self::slot(base)] = Some(base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Known, *};

    #[test]
    fn the_offsets_are_the_numbers_of_the_paper() {
        let smooth = |mut n: u32| {
            for factor in [2, 3, 5] {
                while n % factor == 0 {
                    n /= factor;
                }
            }
            n == 1
        };
        let expected: Vec<u32> = (1..=256).filter(|n| smooth(*n)).collect();
        assert_eq!(OFFSETS.to_vec(), expected);
    }

    #[test]
    fn a_phase_ends_with_its_round() {
        let mut b = BestOffset::new();
        b.offset = None;
        b.recent[BestOffset::slot(999)] = Some(999);
        // The first offset of each round scores.
        for _ in 0..30 * OFFSETS.len() + 1 {
            b.learn(1000);
        }
        assert_eq!((b.scores[0], b.round, b.offset), (31, 30, None));
        for _ in 1..OFFSETS.len() {
            assert_eq!(b.offset, None);
            b.learn(1000);
        }
        assert_eq!((b.scores[0], b.round, b.offset), (0, 0, Some(1)));
    }

    #[test]
    fn it_learns_a_stride_and_gives_up_on_chance() {
        let device = Known::default();
        let view = device.view(u32::MAX);
        let mut b = BestOffset::new();
        let mut hint = Hint::default();
        for n in 0..8000 {
            b.batch(
                &view,
                &[Fault {
                    page: n * 12,
                    write: false,
                }],
                &mut hint,
            );
            for page in hint.pages.drain(..) {
                b.arrived(&view, page, true);
            }
            b.arrived(&view, n * 12, false);
        }
        assert!(b.offset.is_some_and(|d| d % 12 == 0), "{:?}", b.offset);
        let mut x = 1_u32;
        for _ in 0..20_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b.batch(
                &view,
                &[Fault {
                    page: x >> 4,
                    write: false,
                }],
                &mut hint,
            );
            b.arrived(&view, x >> 4, false);
            hint.clear();
        }
        assert_eq!(b.offset, None);
    }
}
