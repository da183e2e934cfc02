// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which frames of a function's memory are free.
//!
//! A *frame* is 4 KiB of device memory. A free frame holds zeros: whoever gives one back has
//! scrubbed it, or says that it could not, and then nobody gets it before
//! the whole memory was scrubbed.

use core::ops::DerefMut;

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

/// What is wrong with frames that were given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotTaken;

/// The frames of a function's memory: taken, free, dirty, and promised.
///
/// `S` is storage for a bit per frame.
#[derive(Debug)]
pub struct FrameMap<S> {
    /// Frames that somebody has.
    taken: S,
    /// Frames that were given back without being scrubbed.
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

    /// Takes up to `most` of the promised frames: neighbours, and all of them where there is a place for them.
    ///
    /// `None` when nothing is promised or `most` is 0. Linear in the memory's size.
    pub fn take(&mut self, most: u32) -> Option<FrameRun> {
        let most = most.min(self.promised).min(self.free);
        if most == 0 {
            return None;
        }
        let ahead = self.search(self.next, self.total, most);
        let run = match ahead {
            Some(run) if run.count == most => run,
            // Behind, and across the place where this search began.
            _ => ahead
                .into_iter()
                .chain(self.search(0, self.total, most))
                .max_by_key(|run| (run.count, core::cmp::Reverse(run.first)))?,
        };
        self.mark(run, true);
        self.free -= run.count;
        self.promised -= run.count;
        self.next = run.first + run.count;
        Some(run)
    }

    /// The first run of `most` free frames between `first` and `outer`, else the longest.
    fn search(&self, first: u32, outer: u32, most: u32) -> Option<FrameRun> {
        let mut best: Option<FrameRun> = None;
        let mut at = first;
        while at < outer {
            if self.is_used(at) {
                // Whole words without a free frame are skipped at once.
                let word = at / 64;
                let full = self.used_word(word) == u64::MAX;
                at = if full {
                    (word + 1).saturating_mul(64)
                } else {
                    at + 1
                };
                continue;
            }
            let mut count = 1;
            while count < most && at + count < outer && !self.is_used(at + count) {
                count += 1;
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

    fn used_word(&self, word: u32) -> u64 {
        let word = word as usize;
        match (self.taken.get(word), self.dirty.get(word)) {
            (Some(taken), Some(dirty)) => taken | dirty,
            _ => u64::MAX,
        }
    }

    fn is_used(&self, frame: u32) -> bool {
        frame >= self.total || self.used_word(frame / 64) & (1 << (frame % 64)) != 0
    }

    fn mark(&mut self, run: FrameRun, taken: bool) {
        for frame in run.frames() {
            if let Some(word) = self.taken.get_mut(frame / 64) {
                let bit = 1 << (frame % 64);
                *word = if taken { *word | bit } else { *word & !bit };
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

    /// Gives frames back that may hold somebody's data. Nobody gets them until [`scrubbed`](Self::scrubbed).
    ///
    /// # Errors
    ///
    /// [`NotTaken`] if not all of them were taken; nothing has changed then.
    pub fn give_dirty(&mut self, run: FrameRun) -> Result<(), NotTaken> {
        if !self.is_taken(run) {
            return Err(NotTaken);
        }
        self.mark(run, false);
        for frame in run.frames() {
            if let Some(word) = self.dirty.get_mut(frame / 64) {
                *word |= 1 << (frame % 64);
            }
        }
        Ok(())
    }

    /// The whole memory was scrubbed: dirty frames are free again. Returns how many there were.
    pub fn scrubbed(&mut self) -> u32 {
        let mut count = 0;
        for word in self.dirty.iter_mut() {
            count += word.count_ones();
            *word = 0;
        }
        self.free += count;
        count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::cases;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    fn map(total: u32) -> FrameMap<Vec<u64>> {
        let words = FrameMap::<Vec<u64>>::words(total);
        FrameMap::new(vec![u64::MAX; words], vec![u64::MAX; words], total).unwrap()
    }

    #[test]
    fn storage_that_is_too_small_is_refused() {
        assert!(FrameMap::new(vec![0u64; 1], vec![0u64; 2], 65).is_none());
        assert!(FrameMap::new(vec![0u64; 2], vec![0u64; 2], 65).is_some());
    }

    #[test]
    fn nothing_is_taken_without_a_promise() {
        let mut map = map(100);
        assert_eq!(map.take(10), None);
        assert!(!map.promise(101));
        assert!(map.promise(100));
        assert!(!map.promise(1));
        assert_eq!(
            map.take(200),
            Some(FrameRun {
                first: 0,
                count: 100
            })
        );
        assert_eq!(map.take(1), None);
    }

    #[test]
    fn neighbours_are_preferred_to_the_first_hole() {
        let mut map = map(64);
        assert!(map.promise(64));
        let all = map.take(64).unwrap();
        assert_eq!(all.count, 64);
        map.give(FrameRun { first: 3, count: 1 }).unwrap();
        map.give(FrameRun {
            first: 10,
            count: 8,
        })
        .unwrap();
        assert!(map.promise(9));
        assert_eq!(
            map.take(8),
            Some(FrameRun {
                first: 10,
                count: 8
            })
        );
        assert_eq!(map.take(8), Some(FrameRun { first: 3, count: 1 }));
    }

    #[test]
    fn frames_given_back_twice_are_refused() {
        let mut map = map(10);
        assert!(map.promise(4));
        let run = map.take(4).unwrap();
        map.give(run).unwrap();
        assert_eq!(map.give(run), Err(NotTaken));
        assert_eq!(map.give(FrameRun { first: 8, count: 4 }), Err(NotTaken));
        assert_eq!(map.available(), 10);
    }

    #[test]
    fn dirty_frames_are_out_of_use_until_all_is_scrubbed() {
        let mut map = map(8);
        assert!(map.promise(8));
        let run = map.take(8).unwrap();
        map.give_dirty(run).unwrap();
        assert_eq!(map.available(), 0);
        assert_eq!(map.give_dirty(run), Err(NotTaken));
        assert_eq!(map.scrubbed(), 8);
        assert_eq!(map.available(), 8);
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn no_frame_is_had_twice(total in 1u32..300, steps in prop::collection::vec((0u8..4, 1u32..80), 0..200)) {
            let mut map = map(total);
            let mut had: Vec<FrameRun> = Vec::new();
            let mut frames = BTreeSet::new();
            let mut dirty = 0u32;
            for (what, count) in steps {
                match what {
                    0 | 1 => {
                        let available = map.available();
                        prop_assert_eq!(available, total - u32::try_from(frames.len()).unwrap() - dirty);
                        if map.promise(count) {
                            let mut left = count;
                            while left > 0 {
                                let run = map.take(left).unwrap();
                                prop_assert!(run.count >= 1 && run.count <= left);
                                for frame in run.first..run.first + run.count {
                                    prop_assert!(frame < total);
                                    prop_assert!(frames.insert(frame));
                                }
                                left -= run.count;
                                had.push(run);
                            }
                        } else {
                            prop_assert!(count > available);
                        }
                    }
                    2 => if let Some(run) = had.pop() {
                        map.give(run).unwrap();
                        for frame in run.first..run.first + run.count { frames.remove(&frame); }
                    },
                    _ => if count % 2 == 0 {
                        prop_assert_eq!(map.scrubbed(), dirty);
                        dirty = 0;
                    } else if let Some(run) = had.pop() {
                        map.give_dirty(run).unwrap();
                        dirty += run.count;
                        for frame in run.first..run.first + run.count { frames.remove(&frame); }
                    },
                }
            }
        }
    }
}
