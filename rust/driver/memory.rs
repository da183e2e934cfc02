// SPDX-License-Identifier: GPL-2.0

//! A function's device memory: which frames are whose.

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::sync::Mutex;

use crate::engine::frames::{FrameMap, FrameRun, Taken, Want};

/// What the lock protects.
struct Frames {
    map: FrameMap<KVVec<u64>>,
    /// Pages whose contents are in frames, in this generation.
    pages: u64,
    generation: u32,
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

    /// Promises `count` frames. ENOSPC when there are not that many.
    pub(crate) fn promise(&self, count: u32) -> Result {
        if self.frames.lock().map.promise(count) {
            Ok(())
        } else {
            Err(ENOSPC)
        }
    }

    /// Gives up a promise of `count` frames.
    pub(crate) fn unpromise(&self, count: u32) {
        self.frames.lock().map.unpromise(count);
    }

    /// Takes up to `most` promised frames. EIO if there are none: a promise was not kept.
    pub(crate) fn take(&self, most: u32, want: Want) -> Result<Taken> {
        self.frames.lock().map.take(most, want).ok_or(EIO)
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

    /// Gives back frames that hold zeros, or (`!clean`) may not have in `generation`: if all was scrubbed since, they do. They are promised
    /// again at once if they were (`promised`).
    pub(crate) fn give(&self, run: FrameRun, clean: bool, generation: u32, promised: bool) {
        let mut frames = self.frames.lock();
        let given = if clean || frames.generation != generation {
            frames.map.give(run)
        } else {
            frames.map.give_dirty(run)
        };
        if given.is_err() {
            kernel::pr_warn_once!("frames given back twice: {:?}\n", run);
        } else if promised && !frames.map.promise(run.count) {
            kernel::pr_warn_once!("a promise of {} frames is lost\n", run.count);
        }
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
