// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Leap's majority trend: H. Al Maruf and M. Chowdhury, "Effectively Prefetching Remote Memory with Leap", USENIX ATC 2020.
//!
//! The last 32 differences between accessed pages are searched for one that is in the majority (Boyer and Moore's vote), in the
//! latest half first and then in all. That is the trend. So many pages along it are prefetched as were hit since the last
//! prefetch, and one, rounded up to a power of two, at most 8; the window at most halves at a time; without hits it is 1 if
//! the access follows the trend, and 0 otherwise. Without a majority the last trend goes on.
//!
//! As in the paper, accesses are faults and first touches of prefetched pages, of all strands of the function; the
//! latter are learnt at once, and for free.

use super::{Fault, Hint, Prefetcher, View};

const HISTORY: usize = 32;
const SPLIT: usize = 2;
const MAX_WINDOW: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Leap {
    /// Differences; the latest is at `head`.
    history: [i64; HISTORY],
    filled: usize,
    head: usize,
    previous: Option<u32>,
    /// The last trend that had a majority.
    trend: Option<i64>,
    hits: usize,
    window: usize,
}

impl Leap {
    pub(crate) fn new() -> Self {
        Self {
            history: [0; HISTORY],
            filled: 0,
            head: 0,
            previous: None,
            trend: None,
            hits: 0,
            window: 0,
        }
    }

    /// Notes an access; its difference to the one before.
    fn access(&mut self, page: u32) -> Option<i64> {
        let difference = self.previous.map(|p| i64::from(page) - i64::from(p));
        self.previous = Some(page);
        if let Some(difference) = difference {
            self.head = (self.head + 1) % HISTORY;
            self.history[self.head] = difference;
            self.filled = (self.filled + 1).min(HISTORY);
        }
        difference
    }

    fn latest(&self, count: usize) -> impl Iterator<Item = i64> + '_ {
        (0..count.min(self.filled)).map(|back| self.history[(self.head + HISTORY - back) % HISTORY])
    }

    /// The difference that more than half of the latest ones are.
    fn find_trend(&self) -> Option<i64> {
        let mut width = HISTORY / SPLIT;
        while width <= HISTORY {
            let (mut candidate, mut votes) = (0, 0);
            for difference in self.latest(width) {
                if votes == 0 {
                    candidate = difference;
                }
                votes += if difference == candidate { 1 } else { -1 };
            }
            let count = self.latest(width).filter(|d| *d == candidate).count();
            if count > width.min(self.filled) / 2 {
                return Some(candidate);
            }
            width *= 2;
        }
        None
    }

    fn next_window(&mut self, follows: bool) -> usize {
        let mut window = if self.hits == 0 {
            usize::from(follows)
        } else {
            (self.hits + 1).next_power_of_two().min(MAX_WINDOW)
        };
        window = window.max(self.window / 2);
        self.hits = 0;
        self.window = window;
        window
    }
}

impl Prefetcher for Leap {
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) {
        for fault in faults {
            let difference = self.access(fault.page);
            let follows = difference.is_some() && difference == self.trend;
            let window = self.next_window(follows);
            if window == 0 {
                // Only the majority is looked for.
                self.trend = self.find_trend().or(self.trend);
                continue;
            }
            self.trend = self.find_trend().or(self.trend);
            let Some(trend) = self.trend.filter(|t| *t != 0) else {
                continue;
            };
            let ahead = (1..=window as i64).map(|n| i64::from(fault.page) + n * trend);
            hint.pages.extend(
                ahead
                    .filter_map(|page| u32::try_from(page).ok())
                    .filter(|page| *page < view.pages),
            );
        }
    }

    fn used(&mut self, _view: &View<'_>, page: u32, _hint: &mut Hint) {
        self.hits += 1;
        self.access(page);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Known, *};

    #[test]
    fn the_trend_is_found_through_noise_and_after_it_turns() {
        // The paper's example, with a history of 8 there: -3, then +2, with stray ones between.
        let mut leap = Leap::new();
        let pages = [
            0x48, 0x45, 0x42, 0x3f, 0x3c, 0x02, 0x04, 0x06, 0x08, 0x0a, 0x0c, 0x10, 0x39, 0x12,
            0x14, 0x16,
        ];
        for (index, page) in pages.into_iter().enumerate() {
            leap.access(page);
            if index == 4 {
                assert_eq!(leap.find_trend(), Some(-3));
            }
        }
        // Of 15 differences 7 are +2 and 4 are -3.
        assert_eq!(leap.find_trend(), None);
        leap.access(0x18);
        assert_eq!(leap.find_trend(), None);
        leap.access(0x1a);
        assert_eq!(leap.find_trend(), Some(2));
    }

    #[test]
    fn the_window_follows_the_hits() {
        let device = Known::default();
        let view = device.view(10_000);
        let mut leap = Leap::new();
        let fault = |leap: &mut Leap, page| {
            let mut hint = Hint::default();
            leap.batch(&view, &[Fault { page, write: false }], &mut hint);
            hint.pages
        };
        assert!(fault(&mut leap, 10).is_empty());
        assert!(fault(&mut leap, 12).is_empty());
        assert_eq!(fault(&mut leap, 14), [16]);
        leap.used(&view, 16, &mut Hint::default());
        assert_eq!(fault(&mut leap, 18), [20, 22]);
        leap.used(&view, 20, &mut Hint::default());
        leap.used(&view, 22, &mut Hint::default());
        assert_eq!(fault(&mut leap, 24), [26, 28, 30, 32]);
        // Without hits it halves, on the old trend.
        assert_eq!(fault(&mut leap, 5000).len(), 2);
        assert_eq!(fault(&mut leap, 100).len(), 1);
        assert_eq!(fault(&mut leap, 7000).len(), 0);
    }
}
