// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far ahead and how much a function's prefetch buffer fetches, by what came of it.
//!
//! After Srinath et al. ("Feedback directed prefetching", HPCA 2007): at the end of each interval *accuracy* (prefetched pages that were used),
//! *lateness* (used ones that were still on their way) and *pollution* (misses of pages that a prefetch displaced) move an aggressiveness of
//! six levels up or down. Beyond the paper each predictor has one of its own; and the lowest one is silence: a predictor below
//! break-even stops, and is tried now and then with one page, until most of those pages are used.

use super::profile::{Predictor, Reach, FARTHEST};

/// Reaches from silence up.
const LEVELS: [Reach; 6] = [
    reach(0, 1),
    reach(2, 1),
    reach(4, 2),
    reach(8, 4),
    reach(16, 8),
    reach(32, 16),
];

/// The highest level.
const TOP: u8 = 5;
const _: () = assert!(LEVELS.len() == TOP as usize + 1);

/// Where a predictor begins.
const START: u8 = 3;

/// Prefetched pages whose end is known that are an interval; and while a predictor is silent.
const INTERVAL: u32 = 32;
const TRIALS: u32 = 4;

/// Answers of a silent predictor of which one is tried.
const SELDOM: u32 = 64;

const fn reach(distance: u8, degree: u8) -> Reach {
    Reach { distance, degree }
}

/// What became of a prefetched page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It was there when it was wanted.
    Used,
    /// It was on its way when it was wanted.
    Late,
    /// It went and nobody had wanted it.
    Unused,
}

/// What a user allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// At most so far ahead, in accesses.
    pub distance: u8,
    /// At most so many pages together.
    pub degree: u8,
}

impl Limits {
    /// As far as an answer goes.
    pub const MOST: Self = Self {
        distance: FARTHEST,
        degree: FARTHEST,
    };
}

/// What came of one predictor's pages in the interval, and how aggressive it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Control {
    level: u8,
    used: u16,
    late: u16,
    unused: u16,
    /// Misses of pages that its pages displaced.
    polluted: u16,
    /// Answers since it fell silent.
    silent: u32,
}

impl Control {
    const NEW: Self = Self {
        level: START,
        used: 0,
        late: 0,
        unused: 0,
        polluted: 0,
        silent: 0,
    };

    /// The interval is over: the level of the next one.
    fn decide(&mut self) {
        let useful = u32::from(self.used).saturating_add(u32::from(self.late));
        let known = useful.saturating_add(u32::from(self.unused));
        if known < if self.level == 0 { TRIALS } else { INTERVAL } {
            return;
        }
        let percent = useful.saturating_mul(100) / known.max(1);
        // A 16th of the used ones.
        let late = u32::from(self.late).saturating_mul(16) > useful;
        let polluting = u32::from(self.polluted).saturating_mul(16) > known;
        let up = self.level.saturating_add(1).min(TOP);
        let down = self.level.saturating_sub(1);
        self.level = match (self.level, percent) {
            (0, 75..) => 1,
            // Below break-even: it costs more than it gains.
            (0, _) | (_, ..=24) => 0,
            (_, 25..=49) => down,
            // The paper's table.
            (_, 50..=74) if polluting => down,
            (_, 75..) if polluting && !late => down,
            (_, 50..) if late => up,
            (level, _) => level,
        };
        *self = Self {
            level: self.level,
            ..Self::NEW
        };
    }
}

/// The feedback of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feedback {
    controls: [Control; 3],
}

impl Feedback {
    /// Nothing came of anything yet.
    pub const NEW: Self = Self {
        controls: [Control::NEW; 3],
    };

    fn control(&mut self, predictor: Predictor) -> &mut Control {
        &mut self.controls[predictor.number()]
    }

    /// How far `predictor` may reach, within `limits`, if it has an answer now. A distance of 0: it shall be silent.
    pub fn reach(&mut self, predictor: Predictor, limits: Limits) -> Reach {
        let control = self.control(predictor);
        let reach = if control.level == 0 {
            control.silent = control.silent.saturating_add(1);
            if control.silent < SELDOM {
                return LEVELS[0];
            }
            control.silent = 0;
            reach(1, 1)
        } else {
            let level = LEVELS.get(usize::from(control.level));
            level.copied().unwrap_or(LEVELS[1])
        };
        let distance = reach.distance.min(limits.distance);
        Reach {
            distance,
            degree: reach.degree.min(limits.degree).clamp(1, distance.max(1)),
        }
    }

    /// What became of a page that `predictor` asked for.
    pub fn count(&mut self, predictor: Predictor, outcome: Outcome) {
        let control = self.control(predictor);
        let count = match outcome {
            Outcome::Used => &mut control.used,
            Outcome::Late => &mut control.late,
            Outcome::Unused => &mut control.unused,
        };
        *count = count.saturating_add(1);
        control.decide();
    }

    /// A page was wanted that one of `predictor`'s pages had displaced.
    pub fn polluted(&mut self, predictor: Predictor) {
        let control = self.control(predictor);
        control.polluted = control.polluted.saturating_add(1);
    }

    /// How aggressive `predictor` is, from 0, silence, to 5.
    #[must_use]
    pub fn level(&self, predictor: Predictor) -> u8 {
        self.controls[predictor.number()].level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Predictor = Predictor::Markov;

    fn after(feedback: &mut Feedback, outcomes: &[(Outcome, u32)]) -> u8 {
        for (outcome, times) in outcomes {
            for _ in 0..*times {
                feedback.count(WHO, *outcome);
            }
        }
        feedback.level(WHO)
    }

    #[test]
    fn what_comes_late_is_asked_for_earlier() {
        let mut feedback = Feedback::NEW;
        assert_eq!(
            after(&mut feedback, &[(Outcome::Late, INTERVAL)]),
            START + 1
        );
        assert_eq!(after(&mut feedback, &[(Outcome::Late, 5 * INTERVAL)]), 5);
        // In time: that is enough.
        assert_eq!(after(&mut feedback, &[(Outcome::Used, 5 * INTERVAL)]), 5);
        assert_eq!(feedback.level(Predictor::Stride), START);
    }

    #[test]
    fn what_displaces_others_is_asked_for_less() {
        let mut feedback = Feedback::NEW;
        for _ in 0..3 {
            feedback.polluted(WHO);
        }
        assert_eq!(
            after(&mut feedback, &[(Outcome::Used, INTERVAL)]),
            START - 1
        );
    }

    #[test]
    fn what_nobody_uses_stops_and_is_tried_now_and_then() {
        let mut feedback = Feedback::NEW;
        assert_eq!(after(&mut feedback, &[(Outcome::Unused, INTERVAL)]), 0);
        let tries = (0..SELDOM * 10)
            .filter(|_| feedback.reach(WHO, Limits::MOST).distance > 0)
            .count();
        assert_eq!(tries, 10);
        // Not again, unless most of the tries are used.
        assert_eq!(
            after(&mut feedback, &[(Outcome::Used, 2), (Outcome::Unused, 2)]),
            0
        );
        assert_eq!(after(&mut feedback, &[(Outcome::Used, TRIALS)]), 1);
    }

    #[test]
    fn nothing_is_asked_for_beyond_the_limits() {
        let mut feedback = Feedback::NEW;
        after(&mut feedback, &[(Outcome::Late, 5 * INTERVAL)]);
        for distance in 0..=40 {
            for degree in 0..=40 {
                let reach = feedback.reach(WHO, Limits { distance, degree });
                assert!(reach.distance <= distance);
                assert!(reach.degree >= 1 && reach.degree <= degree.max(1));
                assert!(reach.degree <= reach.distance.max(1));
            }
        }
    }
}
