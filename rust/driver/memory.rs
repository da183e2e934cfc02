// SPDX-License-Identifier: GPL-2.0

//! A function's device memory: which frames are whose.

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::sync::{LockedBy, Mutex};

use crate::engine::frames::{FrameMap, FrameRun, Promise, Taken, Want};

/// Frames that a space is sure of.
pub(crate) type SpacePromise = LockedBy<Promise, Frames>;

/// What the lock protects.
pub(crate) struct Frames {
    map: FrameMap<KVVec<u64>>,
    /// Pages whose contents are in frames, in this generation.
    pages: u64,
    generation: u32,
}

impl Frames {
    /// Does something with the map and a promise of it.
    fn with<R>(
        &mut self,
        promise: &SpacePromise,
        action: impl FnOnce(&mut FrameMap<KVVec<u64>>, &mut Promise) -> R,
    ) -> R {
        let mut promised = *promise.access(self);
        let result = action(&mut self.map, &mut promised);
        *promise.access_mut(self) = promised;
        result
    }
}

/// The memory of a function.
///
/// Its *generation* counts the times that the device has scrubbed all of it. What was there in an
/// earlier generation is lost.
#[pin_data]
pub(crate) struct Memory {
    #[pin]
    frames: Mutex<Frames>,
    /// A copy of the generation, for those who cannot take the lock.
    generation: Atomic<u32>,
}

impl Memory {
    /// A memory of `total` frames, all free, of which the first `special` are the last to be taken. ENOMEM.
    pub(crate) fn new(total: u32, special: u32) -> Result<impl PinInit<Self>> {
        let words = FrameMap::<KVVec<u64>>::words(total);
        let taken = KVVec::from_elem(0, words, GFP_KERNEL)?;
        let dirty = KVVec::from_elem(0, words, GFP_KERNEL)?;
        let map = FrameMap::new(taken, dirty, total).ok_or(EINVAL)?;
        let map = map.behind(special);
        let frames = Frames {
            map,
            pages: 0,
            generation: 0,
        };
        Ok(pin_init!(Self {
            frames <- new_mutex!(frames, "vfetch: frames"),
            generation: Atomic::new(0),
        }))
    }

    /// Frames that could still be promised.
    pub(crate) fn available(&self) -> u32 {
        self.frames.lock().map.available()
    }

    /// How much of it is in use or promised, in percent.
    pub(crate) fn used_percent(&self) -> u8 {
        let map = &self.frames.lock().map;
        let (free, total) = (u64::from(map.available()), u64::from(map.total()).max(1));
        // CAST: at most 100.
        (100 - (free * 100 / total).min(100)) as u8
    }

    /// A promise of no frames, to a space of this function.
    pub(crate) fn no_promise(&self) -> SpacePromise {
        LockedBy::new(&self.frames, Promise::NONE)
    }

    /// Promises `count` more frames. ENOSPC when there are not that many.
    pub(crate) fn promise(&self, promise: &SpacePromise, count: u32) -> Result {
        let frames = &mut *self.frames.lock();
        if frames.with(promise, |map, promise| map.add_to(promise, count)) {
            Ok(())
        } else {
            Err(ENOSPC)
        }
    }

    /// Promises `count` frames less. Those of them that the space has are nobody's once they are given back.
    pub(crate) fn unpromise(&self, promise: &SpacePromise, count: u32) {
        let frames = &mut *self.frames.lock();
        frames.with(promise, |map, promise| map.remove_from(promise, count));
    }

    /// Takes up to `most` promised frames. EAGAIN if there are none: those for pages that have no frame yet are in the hands
    /// of others, who are about to give them to the pages.
    pub(crate) fn take(&self, promise: &SpacePromise, most: u32, want: Want) -> Result<Taken> {
        let frames = &mut *self.frames.lock();
        let taken = frames.with(promise, |map, promise| map.take_from(promise, most, want));
        taken.ok_or(EAGAIN)
    }

    /// Takes up to `most` frames that are promised to nobody. ENOSPC if there are none.
    pub(crate) fn take_free(&self, most: u32, want: Want) -> Result<Taken> {
        let map = &mut self.frames.lock().map;
        let most = most.min(map.available());
        if most == 0 || !map.promise(most) {
            return Err(ENOSPC);
        }
        let taken = map.take(most, want);
        // What there was no place for in one piece.
        map.unpromise(most - taken.map_or(0, |taken| taken.run.count));
        taken.ok_or(ENOSPC)
    }

    /// Takes a frame below `outer` that is promised to nobody, for contents that fill it. ENOSPC.
    pub(crate) fn take_below(&self, outer: u32) -> Result<Taken> {
        let map = &mut self.frames.lock().map;
        if !map.promise(1) {
            return Err(ENOSPC);
        }
        let taken = map.take_below(outer, 1, Want::Anything);
        if taken.is_none() {
            map.unpromise(1);
        }
        taken.ok_or(ENOSPC)
    }

    /// Takes `count` neighbouring frames that are promised to nobody, dirty or not. ENOSPC.
    pub(crate) fn take_whole(&self, count: u32) -> Result<FrameRun> {
        self.frames.lock().map.take_whole(count).ok_or(ENOSPC)
    }

    /// Gives back frames that hold zeros, or (`!clean`) may not have in `generation`: if all was scrubbed since, they do. Those of `promise` are
    /// promised again at once.
    pub(crate) fn give(&self, run: FrameRun, clean: bool, generation: u32, promise: &SpacePromise) {
        let frames = &mut *self.frames.lock();
        let given = if clean || frames.generation != generation {
            frames.map.give(run)
        } else {
            frames.map.give_dirty(run)
        };
        if given.is_err() {
            kernel::pr_warn_once!("frames given back twice: {:?}\n", run);
            return;
        }
        frames.with(promise, |map, promise| map.return_to(promise, run.count));
    }

    /// The present generation.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    /// `added` pages got contents in frames and `removed` ones have none any more, in `generation`.
    pub(crate) fn count_pages(&self, generation: u32, added: usize, removed: usize) {
        let mut frames = self.frames.lock();
        if frames.generation == generation {
            let pages = frames.pages.saturating_add(added as u64);
            frames.pages = pages.saturating_sub(removed as u64);
        }
    }

    /// Pages whose contents are in frames.
    pub(crate) fn pages(&self) -> u64 {
        self.frames.lock().pages
    }

    /// The device has scrubbed all of it: a new generation. Returns how many pages were lost.
    pub(crate) fn scrubbed(&self) -> u64 {
        let mut frames = self.frames.lock();
        frames.map.scrubbed();
        frames.generation = frames.generation.wrapping_add(1);
        self.generation.store(frames.generation, Release);
        core::mem::take(&mut frames.pages)
    }
}
