// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How often a predictor was right lately.

/// The part of its guesses that were right, those of long ago counting less: each counts 1/16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Score(u16);

impl Score {
    /// It was never right.
    pub(super) const NONE: Self = Self(0);

    /// From here on its answers are worth something: 5 of 8.
    pub(super) const GOOD: Self = Self(u16::MAX / 8 * 5);

    /// One guess more, that was right or not.
    pub(super) fn count(&mut self, right: bool) {
        let step = if right {
            (u16::MAX - self.0) / 16
        } else {
            self.0.div_ceil(16)
        };
        self.0 = if right {
            // Rounded up, or it never gets to the end.
            self.0.saturating_add(step.max(1))
        } else {
            self.0.saturating_sub(step)
        };
    }

    /// Whether its answers are worth something.
    pub(super) fn good(self) -> bool {
        self >= Self::GOOD
    }

    /// In percent, 0 to 100.
    pub(super) fn percent(self) -> u8 {
        // CAST: at most 100.
        u8::try_from(u32::from(self.0) * 100 / u32::from(u16::MAX)).unwrap_or(100)
    }

    /// Whether it is so much better than `other` that a change is worthwhile: by 1/16 of all guesses.
    pub(super) fn beats(self, other: Self) -> bool {
        self.0 > other.0.saturating_add(u16::MAX / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_nears_the_part_that_is_right() {
        let mut score = Score::NONE;
        for _ in 0..200 {
            score.count(true);
        }
        assert!(score.percent() >= 99 && score.good());
        for turn in 0..400 {
            score.count(turn % 2 == 0);
        }
        assert!((45..=55).contains(&score.percent()) && !score.good());
        for _ in 0..400 {
            score.count(false);
        }
        assert_eq!(score, Score::NONE);
    }

    #[test]
    fn better_by_little_is_no_reason_to_change() {
        assert!(!Score(1_000).beats(Score(900)));
        assert!(Score(6_000).beats(Score(900)));
    }
}
