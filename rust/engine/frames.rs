// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which frames of a function's memory are free.
//!
//! A *frame* is 4 KiB of device memory. A free frame holds zeros, or is *dirty*: it may hold what its last user left
//! there. Who takes it says which it would rather have, and is told which it got.

mod promise;

use core::ops::DerefMut;

pub use promise::Promise;

/// Neighbouring frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRun {
    /// The first frame's index in the function's memory.
    pub first: u32,
    /// How many there are; at least 1.
    pub count: u32,
}

impl FrameRun {
    /// Its frames.
    fn frames(self) -> core::ops::Range<usize> {
        let first = self.first as usize;
        first..first.saturating_add(self.count as usize)
    }
}

/// What frames are wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// They shall hold zeros.
    Zeros,
    /// All of them will be overwritten.
    Anything,
}

/// Frames that were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// They.
    pub run: FrameRun,
    /// They may hold what their last user left there: whoever wants zeros has to scrub them.
    pub dirty: bool,
}

/// What is wrong with frames that were given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotTaken;

/// The frames of a function's memory: taken, free (dirty or not), and promised.
///
/// `S` is storage for a bit per frame.
#[derive(Debug)]
pub struct FrameMap<S> {
    /// Frames that somebody has.
    taken: S,
    /// Free frames that were given back without being scrubbed.
    dirty: S,
    total: u32,
    free: u32,
    promised: u32,
    /// Where the search begins: behind what was taken last.
    next: u32,
}

impl<S: DerefMut<Target = [u64]>> FrameMap<S> {
    /// Words of storage that either map of `total` frames needs.
    #[must_use]
    pub const fn words(total: u32) -> usize {
        (total as usize).div_ceil(64)
    }

    /// All `total` frames free. `None` if either storage is too small; it is cleared.
    #[must_use]
    pub fn new(mut taken: S, mut dirty: S, total: u32) -> Option<Self> {
        if taken.len().min(dirty.len()) < Self::words(total) {
            return None;
        }
        taken.fill(0);
        dirty.fill(0);
        Some(Self {
            taken,
            dirty,
            total,
            free: total,
            promised: 0,
            next: 0,
        })
    }

    /// All frames.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// Frames that nobody has and that are promised to nobody.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free.saturating_sub(self.promised)
    }

    /// Promises `count` frames, to be taken later. `false` when there are not that many.
    #[must_use]
    pub fn promise(&mut self, count: u32) -> bool {
        if count > self.available() {
            return false;
        }
        self.promised += count;
        true
    }

    /// Takes `count` promised frames out of the promise again.
    pub fn unpromise(&mut self, count: u32) {
        self.promised = self.promised.saturating_sub(count);
    }

    /// Takes up to `most` of the promised frames: neighbours of one kind, the kind that is wanted if there are any, and all of them
    /// where there is a place for them.
    ///
    /// `None` when nothing is promised or `most` is 0. Linear in the memory's size.
    pub fn take(&mut self, most: u32, want: Want) -> Option<Taken> {
        let taken = self.take_between(self.next, self.total, most, want)?;
        self.next = taken.run.first + taken.run.count;
        Some(taken)
    }

    /// The same of frames below `outer` only; `None` also when none of those is free.
    pub fn take_below(&mut self, outer: u32, most: u32, want: Want) -> Option<Taken> {
        self.take_between(0, outer.min(self.total), most, want)
    }

    /// Searches from `next` to `outer` first.
    fn take_between(&mut self, next: u32, outer: u32, most: u32, want: Want) -> Option<Taken> {
        let most = most.min(self.promised).min(self.free);
        if most == 0 {
            return None;
        }
        let dirty = want == Want::Anything;
        let find = |dirty| self.find(next, outer, most, dirty);
        let taken = find(dirty).or_else(|| find(!dirty))?;
        self.mark(taken.run, true);
        self.free -= taken.run.count;
        self.promised -= taken.run.count;
        Some(taken)
    }

    /// Takes `count` neighbouring frames that are promised to nobody, dirty or not. `None` if there are not so many in one piece, or `count` is 0.
    ///
    /// Linear in the memory's size.
    pub fn take_whole(&mut self, count: u32) -> Option<FrameRun> {
        if count == 0 || count > self.available() {
            return None;
        }
        let whole = |run: &FrameRun| run.count == count;
        let ahead = self.search(self.next, self.total, count, None);
        let run = (ahead.filter(whole))
            .or_else(|| self.search(0, self.total, count, None).filter(whole))?;
        self.mark(run, true);
        self.free -= count;
        self.next = run.first + count;
        Some(run)
    }

    /// Searches behind the first `frames` first, so that those are the last to be taken.
    #[must_use]
    pub fn behind(mut self, frames: u32) -> Self {
        if frames < self.total {
            self.next = frames;
        }
        self
    }

    /// The best run of up to `most` free frames of one kind.
    fn find(&self, next: u32, outer: u32, most: u32, dirty: bool) -> Option<Taken> {
        let ahead = self.search(next, outer, most, Some(dirty));
        let run = match ahead {
            Some(run) if run.count == most => run,
            // Behind, and across the place where this search began.
            _ => ahead
                .into_iter()
                .chain(self.search(0, outer, most, Some(dirty)))
                .max_by_key(|run| (run.count, core::cmp::Reverse(run.first)))?,
        };
        Some(Taken { run, dirty })
    }

    /// The first run of `most` free frames, of one kind or (`None`) of either, between `first` and `outer`, else the longest.
    fn search(&self, first: u32, outer: u32, most: u32, dirty: Option<bool>) -> Option<FrameRun> {
        let mut best: Option<FrameRun> = None;
        let mut at = first;
        while at < outer {
            // Whole words without such a frame are skipped at once.
            let left = !self.unfit(at / 64, dirty) >> (at % 64);
            if left == 0 {
                at = (at / 64 + 1).saturating_mul(64);
                continue;
            }
            at += left.trailing_zeros();
            let mut count = 0;
            while count < most && at + count < outer.min(self.total) {
                let here = at + count;
                // Frames from here to the word's end that are fit.
                let fit = (self.unfit(here / 64, dirty) >> (here % 64)).trailing_zeros();
                let fit = fit.min(64 - here % 64);
                count += fit;
                if fit == 0 || (here + fit) % 64 != 0 {
                    break;
                }
            }
            let count = count
                .min(most)
                .min(outer.min(self.total).saturating_sub(at));
            if count == 0 {
                break;
            }
            if best.is_none_or(|best| count > best.count) {
                best = Some(FrameRun { first: at, count });
            }
            if count == most {
                break;
            }
            at += count;
        }
        best
    }

    /// The frames of a word that are not free, or not of this kind.
    fn unfit(&self, word: u32, dirty: Option<bool>) -> u64 {
        let word = word as usize;
        let (Some(taken), Some(marked)) = (self.taken.get(word), self.dirty.get(word)) else {
            return u64::MAX;
        };
        match dirty {
            Some(true) => taken | !marked,
            Some(false) => taken | marked,
            None => *taken,
        }
    }

    /// Frames of `run` are taken, or free and clean.
    fn mark(&mut self, run: FrameRun, taken: bool) {
        for frame in run.frames() {
            let bit = 1 << (frame % 64);
            if let Some(word) = self.taken.get_mut(frame / 64) {
                *word = if taken { *word | bit } else { *word & !bit };
            }
            if let Some(word) = self.dirty.get_mut(frame / 64) {
                *word &= !bit;
            }
        }
    }

    /// Whether every frame of `run` is taken.
    fn is_taken(&self, run: FrameRun) -> bool {
        let frames = run.frames();
        frames.end <= self.total as usize
            && frames.into_iter().all(|frame| {
                self.taken
                    .get(frame / 64)
                    .is_some_and(|word| word & (1 << (frame % 64)) != 0)
            })
    }

    /// Gives frames back that hold zeros. They are free, not promised.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] if not all of them were taken; nothing has changed then.
    pub fn give(&mut self, run: FrameRun) -> Result<(), NotTaken> {
        if !self.is_taken(run) {
            return Err(NotTaken);
        }
        self.mark(run, false);
        self.free += run.count;
        Ok(())
    }

    /// Gives frames back that may hold somebody's data.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] if not all of them were taken; nothing has changed then.
    pub fn give_dirty(&mut self, run: FrameRun) -> Result<(), NotTaken> {
        self.give(run)?;
        for frame in run.frames() {
            if let Some(word) = self.dirty.get_mut(frame / 64) {
                *word |= 1 << (frame % 64);
            }
        }
        Ok(())
    }

    /// The whole memory was scrubbed: no free frame is dirty any more.
    pub fn scrubbed(&mut self) {
        self.dirty.fill(0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::{cases, most};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    fn map(total: u32) -> FrameMap<Vec<u64>> {
        let words = FrameMap::<Vec<u64>>::words(total);
        FrameMap::new(vec![u64::MAX; words], vec![u64::MAX; words], total).unwrap()
    }

    fn run(map: &mut FrameMap<Vec<u64>>, most: u32) -> FrameRun {
        map.take(most, Want::Zeros).unwrap().run
    }

    #[test]
    fn storage_that_is_too_small_is_refused() {
        assert!(FrameMap::new(vec![0u64; 1], vec![0u64; 2], 65).is_none());
        assert!(FrameMap::new(vec![0u64; 2], vec![0u64; 2], 65).is_some());
    }

    #[test]
    fn nothing_is_taken_without_a_promise() {
        let mut map = map(100);
        assert_eq!(map.take(10, Want::Zeros), None);
        assert!(!map.promise(101));
        assert!(map.promise(100));
        assert!(!map.promise(1));
        assert_eq!(
            run(&mut map, 200),
            FrameRun {
                first: 0,
                count: 100
            }
        );
        assert_eq!(map.take(1, Want::Zeros), None);
    }

    #[test]
    fn neighbours_are_preferred_to_the_first_hole() {
        let mut map = map(64);
        assert!(map.promise(64));
        assert_eq!(run(&mut map, 64).count, 64);
        map.give(FrameRun { first: 3, count: 1 }).unwrap();
        map.give(FrameRun {
            first: 10,
            count: 8,
        })
        .unwrap();
        assert!(map.promise(9));
        assert_eq!(
            run(&mut map, 8),
            FrameRun {
                first: 10,
                count: 8
            }
        );
        assert_eq!(run(&mut map, 8), FrameRun { first: 3, count: 1 });
    }

    #[test]
    fn the_first_frames_are_kept_for_those_who_need_them() {
        let mut map = map(100).behind(30);
        assert!(map.promise(100));
        assert_eq!(
            run(&mut map, 60),
            FrameRun {
                first: 30,
                count: 60
            }
        );
        let below = |map: &mut FrameMap<_>, most| {
            let taken = map.take_below(30, most, Want::Anything);
            taken.map(|taken| (taken.run.first, taken.run.count))
        };
        assert_eq!(below(&mut map, 20), Some((0, 20)));
        assert_eq!(below(&mut map, 20), Some((20, 10)));
        assert_eq!(below(&mut map, 20), None);
        // The others are still there.
        assert_eq!(
            run(&mut map, 60),
            FrameRun {
                first: 90,
                count: 10
            }
        );
        assert_eq!(map.take(1, Want::Zeros), None);
    }

    #[test]
    fn what_is_promised_is_not_taken_in_one_piece() {
        let mut map = map(100);
        assert!(map.promise(30));
        assert_eq!(map.take_whole(71), None);
        assert_eq!(map.take_whole(0), None);
        let whole = map.take_whole(70).unwrap();
        assert_eq!((whole.count, map.available()), (70, 0));
        assert_eq!(run(&mut map, 40).count, 30);
    }

    #[test]
    fn frames_given_back_twice_are_refused() {
        let mut map = map(10);
        assert!(map.promise(4));
        let run = run(&mut map, 4);
        map.give(run).unwrap();
        assert_eq!(map.give(run), Err(NotTaken));
        assert_eq!(map.give(FrameRun { first: 8, count: 4 }), Err(NotTaken));
        assert_eq!(map.available(), 10);
    }

    #[test]
    fn dirty_frames_are_for_those_who_overwrite_them() {
        let mut map = map(200);
        assert!(map.promise(200));
        map.take(200, Want::Zeros).unwrap();
        let (dirty, clean) = (
            FrameRun {
                first: 60,
                count: 70,
            },
            FrameRun {
                first: 150,
                count: 50,
            },
        );
        map.give_dirty(dirty).unwrap();
        map.give(clean).unwrap();
        assert_eq!(map.give_dirty(dirty), Err(NotTaken));
        assert_eq!(map.available(), 120);
        assert!(map.promise(120));
        let taken = |map: &mut FrameMap<_>, most, want| map.take(most, want).unwrap();
        assert_eq!(
            taken(&mut map, 40, Want::Zeros),
            Taken {
                run: FrameRun {
                    first: 150,
                    count: 40
                },
                dirty: false
            }
        );
        assert_eq!(
            taken(&mut map, 40, Want::Anything),
            Taken {
                run: FrameRun {
                    first: 60,
                    count: 40
                },
                dirty: true
            }
        );
        assert_eq!(
            taken(&mut map, 40, Want::Zeros),
            Taken {
                run: FrameRun {
                    first: 190,
                    count: 10
                },
                dirty: false
            }
        );
        // What there is else, and it is said.
        assert_eq!(
            taken(&mut map, 10, Want::Zeros),
            Taken {
                run: FrameRun {
                    first: 100,
                    count: 10
                },
                dirty: true
            }
        );
        map.give_dirty(FrameRun {
            first: 60,
            count: 1,
        })
        .unwrap();
        map.scrubbed();
        assert!(map.promise(1));
        assert_eq!(
            taken(&mut map, 9, Want::Anything),
            Taken {
                run: FrameRun {
                    first: 110,
                    count: 9
                },
                dirty: false
            }
        );
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn no_frame_is_had_twice(total in 1u32..300, steps in prop::collection::vec((0u8..5, 1u32..80), 0..most(200))) {
            let mut map = map(total);
            let mut had: Vec<FrameRun> = Vec::new();
            let mut frames = BTreeSet::new();
            let mut dirty = BTreeSet::new();
            for (what, count) in steps {
                match what {
                    0 | 1 => {
                        let available = map.available();
                        prop_assert_eq!(available, total - u32::try_from(frames.len()).unwrap());
                        if map.promise(count) {
                            let mut left = count;
                            while left > 0 {
                                let want = if what == 0 { Want::Zeros } else { Want::Anything };
                                let Taken { run, dirty: is_dirty } = map.take(left, want).unwrap();
                                prop_assert!(run.count >= 1 && run.count <= left);
                                let some_clean = (0..total).any(|frame| !frames.contains(&frame) && !dirty.contains(&frame));
                                prop_assert_eq!(is_dirty, match want {
                                    Want::Zeros => !some_clean,
                                    Want::Anything => !dirty.is_empty(),
                                });
                                for frame in run.first..run.first + run.count {
                                    prop_assert!(frame < total);
                                    prop_assert!(frames.insert(frame));
                                    prop_assert_eq!(dirty.remove(&frame), is_dirty);
                                }
                                left -= run.count;
                                had.push(run);
                            }
                        } else {
                            prop_assert!(count > available);
                        }
                    }
                    4 => {
                        let free = |frame: u32| frame < total && !frames.contains(&frame);
                        let there = (0..total).any(|first| (first..first + count).all(free));
                        let run = map.take_whole(count);
                        prop_assert_eq!(run.is_some(), there);
                        if let Some(run) = run {
                            prop_assert_eq!(run.count, count);
                            for frame in run.first..run.first + run.count {
                                prop_assert!(frame < total);
                                prop_assert!(frames.insert(frame));
                                dirty.remove(&frame);
                            }
                            had.push(run);
                        }
                    }
                    2 => if let Some(run) = had.pop() {
                        map.give(run).unwrap();
                        for frame in run.first..run.first + run.count { frames.remove(&frame); }
                    },
                    _ => if count % 2 == 0 {
                        map.scrubbed();
                        dirty.clear();
                    } else if let Some(run) = had.pop() {
                        map.give_dirty(run).unwrap();
                        for frame in run.first..run.first + run.count {
                            frames.remove(&frame);
                            dirty.insert(frame);
                        }
                    },
                }
            }
        }
    }
}
