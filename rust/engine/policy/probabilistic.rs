// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The native decision as often as the block's prefetches were used.
//!
//! `random < hit_rate(block) * aggressiveness`. The hit rate counts what became of the block's last prefetches, newer ones more;
//! it is never 0, so that a block that was unlucky is tried again.

use super::super::mask::PageMask;
use super::super::params::Aggressiveness;
use super::{Plan, Policy, View};

/// What became of a block's prefetched pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    used: u16,
    unused: u16,
}

/// Beyond as many pages the older half is forgotten.
const REMEMBERED: u16 = 1024;

impl State {
    /// Nothing known.
    pub const NEW: Self = Self { used: 0, unused: 0 };

    /// `used` prefetched pages were used, `unused` were evicted before.
    pub fn observe(&mut self, used: usize, unused: usize) {
        let add = |sum: u16, count: usize| sum.saturating_add(u16::try_from(count).unwrap_or(512));
        self.used = add(self.used, used);
        self.unused = add(self.unused, unused);
        if self.used.saturating_add(self.unused) > REMEMBERED {
            self.used /= 2;
            self.unused /= 2;
        }
    }

    /// How many of `scale` prefetched pages are used, from 1 to `scale`; all of them while nothing is known.
    #[must_use]
    pub fn hit_rate(&self, scale: u32) -> u32 {
        let used = u64::from(self.used) + 1;
        let all = used + u64::from(self.unused);
        let rate = u64::from(scale) * used / all;
        u32::try_from(rate).unwrap_or(scale).max(1)
    }
}

/// By chance ([`super::Kind::Probabilistic`]).
#[derive(Debug)]
pub struct Probabilistic<'a>(pub &'a State);

/// Whether `random`, any number, is less than the share `hit_rate` of 65,536 times `aggressiveness`.
fn is_tried(random: u32, hit_rate: u32, aggressiveness: Aggressiveness) -> bool {
    let random = u64::from(random & 0xffff);
    random * 100 < u64::from(hit_rate) * u64::from(aggressiveness.get())
}

impl Policy for Probabilistic<'_> {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        let hit_rate = self.0.hit_rate(1 << 16);
        if is_tried(view.batch.random, hit_rate, view.params.aggressiveness) {
            Plan::Default
        } else {
            Plan::Pages(PageMask::EMPTY)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hit_rate_follows_what_became_of_pages() {
        let mut state = State::default();
        assert_eq!(state.hit_rate(100), 100);
        state.observe(0, 99);
        assert_eq!(state.hit_rate(100), 1);
        state.observe(300, 0);
        assert_eq!(state.hit_rate(100), 75);
        for _ in 0..10 {
            state.observe(0, 512);
        }
        assert_eq!(state.hit_rate(100), 1, "never 0");
        for _ in 0..10 {
            state.observe(512, 0);
        }
        assert!(state.hit_rate(100) >= 99, "the past is forgotten");
    }

    #[test]
    fn chance_is_as_large_as_the_rate() {
        let tried = |rate, aggressiveness| {
            (0..1 << 16)
                .filter(|random| is_tried(*random, rate, Aggressiveness::clamped(aggressiveness)))
                .count()
        };
        assert_eq!(tried(1 << 16, 100), 1 << 16);
        assert_eq!(tried(1 << 15, 100), 1 << 15);
        assert_eq!(tried(1 << 15, 200), 1 << 16);
        assert_eq!(tried(1 << 16, 25), 1 << 14);
        assert_eq!(tried(1 << 16, 0), 0);
    }
}
