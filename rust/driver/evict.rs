// SPDX-License-Identifier: GPL-2.0

//! Room: how many pages a space may have where, and whose go when it is needed.
//!
//! Frames are counted hard, but for a few of pages on their way: who needs one and finds none has the least recently used block written back first. Host pages are counted
//! softly: a page goes to the host at once, and blocks beyond the limit go to the device afterwards. New contents are refused before
//! both sides are full, so that one of them always has room for a block.

use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;

use super::block::{Block, Locked};
use super::function::Function;
use super::migrate::{Effort, Move};
use super::space::Space;
use crate::engine::frames::{FrameRun, Taken, Want};
use crate::engine::mask::{PageIndex, PageMask, PAGES};
use crate::engine::owner::Page;
use crate::engine::prefetch::{Location, Outcome};
use crate::sys::abi as hw;
use crate::sys::pci::BoundHold;

/// Pages of a space on each side, and how many there may be.
pub(crate) struct Room {
    pub(crate) host: Atomic<u64>,
    pub(crate) device: Atomic<u64>,
    /// Frames that were taken: those of the pages on the device, and of pages that are on their way there.
    frames: Atomic<u64>,
    pub(crate) host_limit: Atomic<u64>,
    pub(crate) device_limit: Atomic<u64>,
}

impl Room {
    /// Frames that pages on their way may have beyond a limit. Were there none, each block of a batch of faults would wait until others had gone to the
    /// host, with what was prefetched of them.
    const SPARE: u64 = 2 * PAGES as u64;

    /// No pages, and limits in pages.
    pub(crate) fn new(host_limit: u64, device_limit: u64) -> Self {
        Self {
            host: Atomic::new(0),
            device: Atomic::new(0),
            frames: Atomic::new(0),
            host_limit: Atomic::new(host_limit),
            device_limit: Atomic::new(device_limit),
        }
    }

    /// What is kept free of a side.
    fn spare(limit: u64) -> u64 {
        (limit / 4).min(PAGES as u64)
    }

    /// Whether `pages` more may get contents.
    fn has_room(&self, pages: u64) -> bool {
        let usable = |limit: &Atomic<u64>| {
            let limit = limit.load(Relaxed);
            limit - Self::spare(limit)
        };
        let most = usable(&self.host_limit).saturating_add(usable(&self.device_limit));
        let used = self
            .host
            .load(Relaxed)
            .saturating_add(self.device.load(Relaxed));
        used.saturating_add(pages) <= most
    }

    /// Takes room for up to `most` frames, as far as there is some: pages on their way count beyond what is [spare](Self::SPARE), and of several who take
    /// at a time none gets what another has. Returns for how many.
    fn take(&self, most: u64) -> u64 {
        let limit = self.device_limit.load(Relaxed);
        let most = most.min(limit.saturating_sub(self.used(Location::Device)));
        let outer = limit.saturating_add(Self::SPARE);
        let mut taken = self.frames.load(Relaxed);
        loop {
            let count = most.min(outer.saturating_sub(taken));
            if count == 0 {
                return 0;
            }
            match self
                .frames
                .cmpxchg(taken, taken.saturating_add(count), Relaxed)
            {
                Ok(_) => return count,
                Err(now) => taken = now,
            }
        }
    }

    /// Room for `count` frames is taken, whether there is some or not.
    fn occupy(&self, count: u64) {
        self.frames.fetch_add(count, Relaxed);
    }

    /// Room for `count` frames is there again.
    fn leave(&self, count: u64) {
        self.frames.fetch_sub(count, Relaxed);
    }

    /// Pages that there may be on a side.
    pub(crate) fn limit(&self, side: Location) -> u64 {
        match side {
            Location::Host => self.host_limit.load(Relaxed),
            Location::Device => self.device_limit.load(Relaxed),
        }
    }

    /// Pages on a side.
    pub(crate) fn used(&self, side: Location) -> u64 {
        match side {
            Location::Host => self.host.load(Relaxed),
            Location::Device => self.device.load(Relaxed),
        }
    }

    /// Whether a side holds more than it may, or is about to.
    pub(crate) fn is_over(&self, side: Location) -> bool {
        self.is_over_with(side, 0)
    }

    /// The same if `more` came to it.
    fn is_over_with(&self, side: Location, more: u64) -> bool {
        let limit = self.limit(side);
        let over = self.used(side).saturating_add(more) > limit;
        let frames = self.frames.load(Relaxed).saturating_add(more);
        over || side == Location::Device && frames > limit.saturating_add(Self::SPARE)
    }

    /// Pages came to or left a side.
    pub(crate) fn count(&self, on: Location, before: usize, after: usize) {
        let side = match on {
            Location::Host => &self.host,
            Location::Device => &self.device,
        };
        if after == before {
            return;
        }
        if after > before {
            side.fetch_add((after - before) as u64, Relaxed);
        } else {
            side.fetch_sub((before - after) as u64, Relaxed);
        }
    }
}

impl Function {
    /// The space whose least recently used block on a side is the oldest.
    pub(crate) fn oldest_space(&self, side: Location) -> Option<Arc<Space>> {
        let files = self.open.lock();
        let oldest = |space: &&Arc<Space>| match side {
            Location::Device => space.on_device.oldest(),
            Location::Host => space.on_host.oldest(),
        };
        // What is reserved is nobody else's.
        let with = files.iter().filter(|space| {
            let fixed = side == Location::Device && space.reserved.load(Relaxed);
            !fixed && oldest(space).is_some()
        });
        with.min_by_key(oldest).cloned()
    }
}

impl Space {
    /// Whether `page` of `block`, which is locked, may get contents: it has none, and is still part of the space.
    pub(crate) fn may_zero(&self, block: &Block, locked: &Locked<'_>, page: PageIndex) -> bool {
        let inside = block.first_page() + (page.get() as u64) < self.pages();
        inside && !locked.is_dead() && locked.state(page) == Some(Page::None)
    }

    /// Whether `pages` more may get contents.
    pub(crate) fn has_room(&self, pages: u64) -> bool {
        self.reserved.load(Relaxed)
            || self.room.has_room(pages) && self.function.room.has_room(pages)
    }

    /// `block` has pages on `side` and was used.
    pub(crate) fn used(&self, block: &Arc<Block>, side: Location) {
        if self.is_closed() || block.is_gone() || self.flat.is() {
            return;
        }
        let now = self.function.tick();
        match side {
            Location::Device => self.on_device.used(block, now),
            Location::Host => self.on_host.used(block, now),
        }
        if self.is_closed() {
            // Whoever closed it may have cleared them before.
            self.on_device.clear();
            self.on_host.clear();
        }
    }

    /// Takes up to `most` frames if there are any. ENOSPC.
    pub(crate) fn try_frames(&self, most: u32, want: Want) -> Result<Taken> {
        if self.reserved.load(Relaxed) {
            let taken = self.function.memory.take(&self.promise, most, want)?;
            self.occupy_room(taken.run.count);
            return Ok(taken);
        }
        self.within_room(most, |most| self.function.memory.take_free(most, want))
    }

    /// Takes up to `most` frames, as many as there is room for, by `take`. ENOSPC.
    pub(crate) fn within_room(
        &self,
        most: u32,
        take: impl FnOnce(u32) -> Result<Taken>,
    ) -> Result<Taken> {
        let own = self.room.take(most.into());
        let room = self.function.room.take(own);
        self.room.leave(own - room);
        if room == 0 {
            return Err(ENOSPC);
        }
        // CAST: at most `most`.
        let taken = take(room as u32);
        let count = taken.as_ref().map_or(0, |taken| taken.run.count);
        self.leave_room(room.saturating_sub(count.into()));
        taken
    }

    /// Frames were taken that limits say nothing of.
    pub(crate) fn occupy_room(&self, count: u32) {
        self.room.occupy(count.into());
        self.function.room.occupy(count.into());
    }

    /// Frames were given back.
    pub(crate) fn leave_room(&self, count: u64) {
        self.room.leave(count);
        self.function.room.leave(count);
    }

    /// Takes up to `most` frames, and makes room for them if there are none: blocks other than `keep`, last used before `limit`, go to the host.
    /// ENOSPC.
    pub(crate) fn take_frames(
        &self,
        most: u32,
        want: Want,
        keep: &Block,
        limit: u64,
    ) -> Result<Taken> {
        /// Blocks that may go in vain: somebody else takes what they leave.
        const TRIES: usize = 8;
        let mut error = ENOSPC;
        for _ in 0..TRIES {
            match self.try_frames(most, want) {
                Err(ENOSPC) => {}
                taken => return taken,
            }
            let own = self.room.is_over_with(Location::Device, 1);
            let victim = self.function.oldest_space(Location::Device);
            let evicted = match &victim {
                Some(victim) if !own => victim.evict(Location::Device, Some(keep), limit),
                _ => self.evict(Location::Device, Some(keep), limit),
            };
            if let Err(failed) = evicted {
                error = failed;
                if failed != EAGAIN {
                    break;
                }
            }
        }
        Err(error)
    }

    /// Takes up to `most` frames, which hold zeros; with `keep` other blocks go if there are none. ENOSPC; EIO, ENODEV when they could not be
    /// made to. May sleep for long.
    pub(crate) fn take_zeroed(
        &self,
        most: u32,
        keep: Option<&Block>,
        limit: u64,
    ) -> Result<FrameRun> {
        let generation = self.function.memory.generation();
        let taken = match keep {
            Some(keep) => self.take_frames(most, Want::Zeros, keep, limit)?,
            None => self.try_frames(most, Want::Zeros)?,
        };
        if taken.dirty {
            let scrubbed = self
                .function
                .scrub(core::iter::once(super::space::bytes_of(taken.run)));
            if let Err(error) = scrubbed {
                self.give(taken.run, false, generation);
                return Err(error);
            }
        }
        Ok(taken.run)
    }

    /// Has somebody send blocks to the device if there are more host pages than there may be.
    pub(crate) fn trim_later(self: &Arc<Self>) {
        let over = self.room.is_over(Location::Host) || self.function.room.is_over(Location::Host);
        if over && !self.is_closed() {
            // Once is enough.
            let _ = self.function.work.enqueue(self.clone());
        }
    }

    /// Sends blocks to the device while there are more host pages than there may be.
    pub(crate) fn trim_host(&self) {
        /// Blocks at a time: who comes next goes on.
        const MOST: usize = 4;
        for _ in 0..MOST {
            let victim = if self.room.is_over(Location::Host) {
                None
            } else if self.function.room.is_over(Location::Host) {
                self.function.oldest_space(Location::Host)
            } else {
                return;
            };
            let result = match &victim {
                None => self.evict(Location::Host, None, u64::MAX),
                Some(space) => space.evict(Location::Host, None, u64::MAX),
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// Sends the least recently used block other than `keep`, last used before `limit`, away from a side, and waits until it has gone. ENOSPC when
    /// there is none; EAGAIN when it did not go.
    pub(crate) fn evict(&self, from: Location, keep: Option<&Block>, limit: u64) -> Result {
        /// Blocks that may turn out to have nothing that can go, or to be in use.
        const TRIES: usize = 16;
        /// Those of them that may be in use.
        const CHANCES: usize = 8;
        let mut kept = None;
        let mut chances = CHANCES;
        let mut result = Err(ENOSPC);
        for _ in 0..TRIES {
            let taken = match from {
                Location::Device => self.on_device.take(limit),
                Location::Host => self.on_host.take(limit),
            };
            let Some((block, watched)) = taken else {
                break;
            };
            if keep.is_some_and(|keep| core::ptr::eq(&*block, keep)) {
                kept = Some(block);
                continue;
            }
            if block.is_gone() {
                continue;
            }
            if watched && chances > 0 && self.take_use(&block, from) {
                chances -= 1;
                self.used(&block, from);
                continue;
            }
            match self.evict_block(&block, from) {
                Ok(true) => {
                    self.function.stats.evictions.count();
                    result = Ok(());
                }
                Ok(false) => {}
                Err(error) => result = Err(error),
            }
            let left = {
                let locked = block.lock();
                let here = match from {
                    Location::Device => locked.device(),
                    Location::Host => locked.host(),
                };
                !here.is_empty() && !locked.is_dead()
            };
            if left {
                self.used(&block, from);
            }
            if result != Err(ENOSPC) {
                break;
            }
        }
        if let Some(block) = kept {
            self.used(&block, from);
        }
        // Until the next time.
        self.watch_next(from);
        result
    }

    /// Begins to watch the blocks whose turn to go is near.
    fn watch_next(&self, side: Location) {
        /// Most of them are watched already.
        const MOST: usize = 8;
        for _ in 0..MOST {
            let now = self.function.tick();
            let next = match side {
                Location::Device => self.on_device.next_to_watch(now),
                Location::Host => self.on_host.next_to_watch(now),
            };
            match next {
                Some(block) => {
                    self.take_use(&block, side);
                }
                None => return,
            }
        }
    }

    /// Whether a block was used on a side since this was last asked: the device's marks say so, or the processor's in page tables of
    /// processes, which lose it by that and fault once to have it mapped again.
    fn take_use(&self, block: &Block, side: Location) -> bool {
        let mut locked = block.lock();
        let used = match side {
            Location::Device => {
                let pages = locked.device().minus(locked.busy());
                locked.take_marked(&pages)
            }
            Location::Host => {
                let pages = locked.mapped().and(locked.host()).minus(locked.busy());
                self.unmap(block, &pages);
                locked.unmapped(&pages);
                locked.take_used(&pages)
            }
        };
        self.feedback(&mut locked, side, Outcome::Used, &used);
        drop(locked);
        if side == Location::Device {
            // A page that the device remembers is not marked again.
            self.invalidate(block, &used);
        }
        !used.is_empty()
    }

    /// Sends what can go of a block away. Returns whether anything went.
    fn evict_block(&self, block: &Arc<Block>, from: Location) -> Result<bool> {
        let hold = BoundHold::new(&self.function.bound).ok_or(ENODEV)?;
        let begun = {
            let mut locked = block.lock();
            let all = match from {
                Location::Device => *locked.device(),
                Location::Host => *locked.host(),
            };
            let pages = locked.movable(&all, from.other(), true);
            if pages.is_empty() || !locked.has_room_for_move() {
                return Ok(false);
            }
            let generation = locked.generation();
            let moving = Move::new(block, pages, from.other(), generation, hold)?;
            locked.begin(&moving, true).ok_or(EAGAIN)?
        };
        let moving = begun.carry_out(&PageMask::EMPTY, Effort::Must);
        moving.finish();
        let gone = {
            let locked = block.lock();
            let here = match from {
                Location::Device => locked.device(),
                Location::Host => locked.host(),
            };
            moving.pages.minus(here)
        };
        if gone.is_empty() {
            Err(EAGAIN)
        } else {
            self.function.stats.evicted_pages.add(gone.count() as u64);
            self.function
                .trace
                .moved(hw::VFETCH_TRACE_EVICTED, &moving, &gone, 0);
            Ok(true)
        }
    }
}
