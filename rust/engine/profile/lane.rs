// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Accesses near one another, whoever makes them: lanes, and the stride of each.
//!
//! Interleaved streams hide each other's strides; so accesses are told apart by where they are. A stride is confident after
//! [`CONFIDENT`] steps, like that of Chen and Baer ("Effective hardware-based data prefetching for high-performance processors", IEEE
//! Transactions on Computers 44, 1995); it may leave out up to [`GAP`] of its own steps.

use super::score::Score;
use super::{Answer, Distance, Reach};

/// Lanes that are followed at a time.
const LANES: usize = 16;

/// Pages to either side of the last one that are near: a block.
const NEAR: u64 = 512;

/// Steps of one stride that make it one.
const CONFIDENT: u8 = 2;

/// Steps of a stride that may be one.
const GAP: i64 = 3;

/// Accesses near one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    space: u32,
    /// Steps of `stride` in a row, at most [`u8::MAX`].
    steps: u8,
    pub(super) score: Score,
    /// Steps behind the last access that were asked for already.
    pub(super) ahead: u8,
    last: u64,
    stride: i32,
    /// When it moved last.
    moved: u32,
}

impl Lane {
    const fn new(space: u32, page: u64, now: u32) -> Self {
        Self {
            space,
            steps: 0,
            score: Score::NONE,
            ahead: 0,
            last: page,
            stride: 0,
            moved: now,
        }
    }

    /// The stride, where it is confident.
    pub(super) const fn stride(&self) -> Option<i32> {
        if self.steps >= CONFIDENT && self.stride != 0 {
            Some(self.stride)
        } else {
            None
        }
    }

    /// The page `steps` steps behind the last access.
    pub(super) fn page(&self, steps: u8) -> Option<u64> {
        let by = i64::from(self.stride()?).checked_mul(i64::from(steps))?;
        self.last.checked_add_signed(by)
    }

    /// Whether its stride is worth following.
    pub(super) fn good(&self) -> bool {
        self.stride().is_some() && self.score.good()
    }

    /// The pages ahead that were not asked for: first few, then more with each step.
    pub(super) fn ask(&mut self, reach: Reach, answer: &mut Answer) {
        let most = reach.distance.min(self.steps.saturating_mul(2));
        let missing = most.saturating_sub(self.ahead);
        if missing < reach.degree.min(most) {
            return;
        }
        for _ in 0..missing {
            self.ahead = self.ahead.saturating_add(1);
            match self.page(self.ahead) {
                Some(page) => answer.push(page),
                None => return,
            }
        }
    }

    /// How near `page` is: 0 where it is the next one, `None` where it is none of this lane.
    fn near(&self, space: u32, page: u64) -> Option<u64> {
        if self.space != space {
            return None;
        }
        if self.page(1) == Some(page) {
            return Some(0);
        }
        let by = self.last.abs_diff(page);
        (by <= NEAR).then_some(by.saturating_add(1))
    }

    /// The next access of the lane.
    fn step(&mut self, page: u64, now: u32) {
        self.moved = now;
        let by = Distance::wide(self.last, page);
        if by == 0 {
            return;
        }
        let stride = i64::from(self.stride);
        let steps = by.checked_div(stride).unwrap_or(0);
        let follows = (1..=GAP).contains(&steps) && steps.saturating_mul(stride) == by;
        if self.stride().is_some() {
            self.score.count(follows);
        }
        if follows {
            self.steps = self.steps.saturating_add(1);
            if self.steps == CONFIDENT && self.score == Score::NONE {
                // A new one is worth following until it was wrong.
                self.score = Score::GOOD;
            }
            // CAST: at most 3.
            self.ahead = self.ahead.saturating_sub(u8::try_from(steps).unwrap_or(0));
        } else if self.steps > CONFIDENT && self.score.good() {
            // One that does not fit is no end.
            self.steps = CONFIDENT;
            if by.unsigned_abs() <= NEAR && by.signum() != stride.signum() {
                // From behind: the lane is where it was.
                return;
            }
            self.ahead = 0;
        } else {
            self.stride = i32::try_from(by).unwrap_or(0);
            self.steps = 1;
            self.ahead = 0;
        }
        self.last = page;
    }
}

/// The lanes that moved last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lanes {
    lanes: [Option<Lane>; LANES],
}

impl Lanes {
    pub(super) const NEW: Self = Self {
        lanes: [None; LANES],
    };

    /// An access at `now`, which only grows: moves the lane that it is near, or begins one.
    pub(super) fn follow(&mut self, space: u32, page: u64, now: u32) -> usize {
        let near = (self.lanes.iter().enumerate())
            .filter_map(|(at, lane)| Some((lane.as_ref()?.near(space, page)?, at)))
            .min();
        if let Some((_, at)) = near {
            if let Some(Some(lane)) = self.lanes.get_mut(at) {
                lane.step(page, now);
            }
            return at;
        }
        // In the place of the one that has no stride and moved least lately; of those with a stride if all have one.
        let oldest = (self.lanes.iter().enumerate()).min_by_key(|(_, lane)| {
            lane.map(|lane| {
                let stands = u32::from(lane.stride().is_some());
                // A stride lives eight times as long.
                now.wrapping_sub(lane.moved) >> (3 * stands)
            })
            .map_or((0, 0), |idle| (1, u32::MAX.saturating_sub(idle)))
        });
        let at = oldest.map_or(0, |(at, _)| at);
        if let Some(lane) = self.lanes.get_mut(at) {
            *lane = Some(Lane::new(space, page, now));
        }
        at
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Lane> {
        self.lanes.get_mut(at)?.as_mut()
    }

    /// The lane that `page` of `space` is near.
    pub(super) fn near(&self, space: u32, page: u64) -> Option<&Lane> {
        (self.lanes.iter().flatten())
            .filter_map(|lane| Some((lane.near(space, page)?, lane)))
            .min_by_key(|(near, _)| *near)
            .map(|(_, lane)| lane)
    }

    pub(super) fn forget(&mut self, space: u32) {
        for lane in &mut self.lanes {
            *lane = lane.filter(|lane| lane.space != space);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pages: &[u64]) -> (Lanes, usize) {
        let mut lanes = Lanes::NEW;
        let mut at = 0;
        for (now, page) in (0..).zip(pages) {
            at = lanes.follow(0, *page, now);
        }
        (lanes, at)
    }

    fn stride(pages: &[u64]) -> Option<i32> {
        let (lanes, at) = after(pages);
        lanes.lanes[at].as_ref().and_then(Lane::stride)
    }

    #[test]
    fn two_equal_steps_make_a_stride() {
        assert_eq!(stride(&[5, 8]), None);
        assert_eq!(stride(&[5, 8, 11]), Some(3));
        assert_eq!(stride(&[20, 13, 6]), Some(-7));
        assert_eq!(stride(&[5, 8, 12]), None);
        assert_eq!(stride(&[5, 5, 5]), None);
        // The same page again is no step.
        assert_eq!(stride(&[5, 5, 6, 6, 7, 7]), Some(1));
        let (lanes, at) = after(&[2, 1, 0]);
        assert_eq!(lanes.lanes[at].as_ref().and_then(|lane| lane.page(1)), None);
    }

    #[test]
    fn a_stride_may_leave_steps_out() {
        let (lanes, at) = after(&[10, 12, 14, 20, 22]);
        assert_eq!(
            lanes.lanes[at].as_ref().and_then(|lane| lane.page(2)),
            Some(26)
        );
    }

    #[test]
    fn interleaved_streams_do_not_hide_each_other() {
        let mut lanes = Lanes::NEW;
        let mut now = 0;
        for step in 0..50u64 {
            for stream in 0..8u64 {
                now += 1;
                lanes.follow(0, stream * 10_000 + step * (stream + 1), now);
            }
        }
        for stream in 0..8u64 {
            let at = lanes.follow(0, stream * 10_000 + 50 * (stream + 1), now);
            let expected = i32::try_from(stream + 1).ok();
            assert_eq!(lanes.lanes[at].as_ref().and_then(Lane::stride), expected);
        }
    }

    #[test]
    fn strides_outlive_noise() {
        let mut lanes = Lanes::NEW;
        let mut random = 88_172_645_463_325_252u64;
        let mut now = 0;
        for step in 0..200u32 {
            now += 1;
            let at = lanes.follow(0, u64::from(step) * 2, now);
            if step > 8 {
                assert_eq!(lanes.lanes[at].as_ref().and_then(Lane::stride), Some(2));
            }
            // The noise begins when the stride is known.
            for _ in 0..if step > 4 { 20 } else { 0 } {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                now += 1;
                lanes.follow(0, (1 << 30) + random % (1 << 40), now);
            }
        }
    }

    #[test]
    fn the_ends_of_the_numbers_do_no_harm() {
        let mut lanes = Lanes::NEW;
        for page in [0, u64::MAX, u64::MAX - 1, u64::MAX - 2, 0, 1, 1 << 63, 2] {
            let at = lanes.follow(0, page, u32::MAX);
            for ahead in 0..=u8::MAX {
                let _ = lanes.lanes[at].as_ref().and_then(|lane| lane.page(ahead));
            }
        }
    }
}
