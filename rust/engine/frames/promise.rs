// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Frames that one of a memory's users is sure of.

use core::ops::DerefMut;

use super::{FrameMap, Taken, Want};

/// Frames that are promised to one user of a [`FrameMap`]. It has some of them, and can take the others whenever it likes.
///
/// When the promise becomes smaller the user may have more frames than it for a while: those that it gives back then are nobody's.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Promise {
    frames: u32,
    taken: u32,
}

impl Promise {
    /// Of no frames.
    pub const NONE: Self = Self {
        frames: 0,
        taken: 0,
    };

    /// Frames that the user can take yet.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.frames.saturating_sub(self.taken)
    }
}

impl<S: DerefMut<Target = [u64]>> FrameMap<S> {
    /// Adds `count` frames to `promise`. `false` when there are not that many.
    #[must_use]
    pub fn add_to(&mut self, promise: &mut Promise, count: u32) -> bool {
        let frames = promise.frames.saturating_add(count);
        self.change(promise, Promise { frames, ..*promise })
    }

    /// Takes `count` frames out of `promise`, whether the user has them or not.
    pub fn remove_from(&mut self, promise: &mut Promise, count: u32) {
        let frames = promise.frames.saturating_sub(count);
        // There is less left of it.
        let _ = self.change(promise, Promise { frames, ..*promise });
    }

    /// Takes up to `most` frames of `promise`, as [`take`](Self::take) does. `None` also when none is left of it.
    pub fn take_from(&mut self, promise: &mut Promise, most: u32, want: Want) -> Option<Taken> {
        let taken = self.take(most.min(promise.left()), want)?;
        promise.taken = promise.taken.saturating_add(taken.run.count);
        Some(taken)
    }

    /// The user of `promise` has given back `count` frames, which are free by now.
    pub fn return_to(&mut self, promise: &mut Promise, count: u32) {
        let taken = promise.taken.saturating_sub(count);
        // What there may be more left of it is free.
        let _ = self.change(promise, Promise { taken, ..*promise });
    }

    /// `promise` becomes what it is to be, if there are frames for that.
    fn change(&mut self, promise: &mut Promise, to_be: Promise) -> bool {
        let more = to_be.left().saturating_sub(promise.left());
        let there = more == 0 || self.promise(more);
        if there {
            self.unpromise(promise.left().saturating_sub(to_be.left()));
            *promise = to_be;
        }
        there
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::super::testing::{cases, most};
    use super::super::FrameRun;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn map(total: u32) -> FrameMap<Vec<u64>> {
        let words = FrameMap::<Vec<u64>>::words(total);
        FrameMap::new(vec![0; words], vec![0; words], total).unwrap()
    }

    #[test]
    fn who_gets_less_with_frames_in_hand_takes_nothing_from_others() {
        let mut map = map(20);
        let (mut one, mut other) = (Promise::NONE, Promise::NONE);
        assert!(map.add_to(&mut one, 10) && map.add_to(&mut other, 10));
        let hand = map.take_from(&mut one, 4, Want::Zeros).unwrap().run;
        map.remove_from(&mut one, 10);
        assert_eq!((one.left(), other.left(), map.available()), (0, 10, 6));
        assert_eq!(map.take_from(&mut one, 1, Want::Zeros), None);
        map.give(hand).unwrap();
        map.return_to(&mut one, hand.count);
        assert_eq!(map.available(), 10);
        let taken = map.take_from(&mut other, 20, Want::Zeros).unwrap();
        assert_eq!((taken.run.count, map.available()), (10, 10));
    }

    #[test]
    fn what_is_in_hand_is_not_promised_twice() {
        let mut map = map(10);
        let mut promise = Promise::NONE;
        assert!(map.add_to(&mut promise, 10));
        let hand = map.take_from(&mut promise, 10, Want::Zeros).unwrap().run;
        map.remove_from(&mut promise, 6);
        assert!(map.add_to(&mut promise, 6));
        assert!(!map.add_to(&mut promise, 1));
        map.give(hand).unwrap();
        map.return_to(&mut promise, hand.count);
        assert_eq!((promise.left(), map.available()), (10, 0));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_promise_is_kept(total in 1u32..200, steps in prop::collection::vec((0u8..4, 0usize..3, 1u32..80), 0..most(200))) {
            let mut map = map(total);
            let mut users: [(Promise, Vec<FrameRun>); 3] = Default::default();
            for (what, who, count) in steps {
                let available = map.available();
                let (promise, had) = &mut users[who];
                match what {
                    0 => {
                        let more = (promise.frames + count).saturating_sub(promise.taken) - promise.left();
                        prop_assert_eq!(map.add_to(promise, count), more <= available);
                    }
                    1 => map.remove_from(promise, count),
                    2 => {
                        let left = promise.left();
                        let taken = map.take_from(promise, count, Want::Anything);
                        prop_assert_eq!(taken.is_some(), left > 0);
                        had.extend(taken.map(|taken| taken.run));
                        prop_assert!(taken.is_none_or(|taken| taken.run.count <= left.min(count)));
                    }
                    _ => if let Some(run) = had.pop() {
                        map.give_dirty(run).unwrap();
                        map.return_to(promise, run.count);
                    },
                }
                for (promise, had) in &users {
                    prop_assert_eq!(promise.taken, had.iter().map(|run| run.count).sum::<u32>());
                }
                let had: u32 = users.iter().map(|(promise, _)| promise.taken).sum();
                let left: u32 = users.iter().map(|(promise, _)| promise.left()).sum();
                prop_assert!(had + left <= total);
                prop_assert_eq!(map.available(), total - had - left);
            }
        }
    }
}
