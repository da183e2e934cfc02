// SPDX-License-Identifier: GPL-2.0

//! What user space says of parts of a space: where pages are wanted, and what it will do with them.

use core::ops::Range;

use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::sync::{new_mutex, Arc, Mutex};

use super::block::{Block, Locked};
use super::migrate::{Begun, Effort, Move};
use super::space::{region_of, Space, PAGE};
use crate::engine::advice::{Advice, Advised, BlockAdvice, Run};
use crate::engine::mask::{PageMask, Region, PAGES};
use crate::engine::owner::Page;
use crate::engine::prefetch::Location;
use crate::sys::abi::{self as hw, vfetch_advise};
use crate::sys::pci::BoundHold;
use crate::sys::wait::{killed, Signals};

/// What was said of the pages of a space.
#[pin_data]
pub(crate) struct Advisor {
    #[pin]
    said: Mutex<Advised<KVVec<Run>>>,
    /// Whether anything was: most spaces need not look.
    any: Atomic<bool>,
}

impl Advisor {
    /// Nothing was said.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            said <- new_mutex!(Advised::new(KVVec::new()), "vfetch: advice"),
            any: Atomic::new(false),
        })
    }

    /// What was said of the pages of block `index`; `None` where nothing was said of any page, as in most spaces.
    pub(crate) fn said_of_block(&self, index: u64) -> Option<BlockAdvice> {
        self.any
            .load(Acquire)
            .then(|| self.said.lock().of_block(index))
    }

    /// The same where that makes no difference.
    pub(crate) fn of_block(&self, index: u64) -> BlockAdvice {
        self.said_of_block(index).unwrap_or(BlockAdvice::NONE)
    }

    /// Changes what was said of `pages`. ENOSPC when too much was said already; ENOMEM.
    fn change(&self, pages: &Range<u64>, change: impl Fn(Advice) -> Advice) -> Result {
        loop {
            let enough = self.said.lock().enough();
            let most = enough.min(hw::VFETCH_ADVICE_MOST as usize);
            // Not under the lock.
            let storage = KVVec::from_elem(Run::EMPTY, most, GFP_KERNEL_ACCOUNT)?;
            let mut said = self.said.lock();
            match said.changed(pages.clone(), &change, storage) {
                Ok(changed) => {
                    self.any.store(!changed.is_empty(), Release);
                    let before = core::mem::replace(&mut *said, changed);
                    drop(said);
                    drop(before);
                    return Ok(());
                }
                // Somebody else has said something meanwhile.
                Err(_) if most == enough => {}
                Err(_) => return Err(ENOSPC),
            }
        }
    }

    /// Nothing is said of pages from `outer` on any more.
    pub(crate) fn cut(&self, outer: u64) {
        let mut said = self.said.lock();
        said.cut(outer);
        self.any.store(!said.is_empty(), Release);
    }
}

impl Space {
    /// See `VFETCH_IOC_ADVISE`.
    pub(crate) fn advise(self: &Arc<Self>, asked: &vfetch_advise) -> Result {
        if asked.advice > hw::VFETCH_ADVICE_DO_NOT_NEED
            || asked.offset % PAGE != 0
            || asked.bytes % PAGE != 0
        {
            return Err(EINVAL);
        }
        let end = asked.offset.checked_add(asked.bytes).ok_or(ERANGE)?;
        if end > self.bytes() {
            return Err(ERANGE);
        }
        let _device = self.function.enter()?;
        if self.flat.is() {
            // Its pages are where they are.
            return Err(EOPNOTSUPP);
        }
        let pages = asked.offset / PAGE..end / PAGE;
        let prefer = |preferred| {
            self.say(&pages, move |before| Advice {
                preferred,
                ..before
            })
        };
        let remote = |device_remote| {
            self.say(&pages, move |before| Advice {
                device_remote,
                ..before
            })
        };
        let prefetch = |yes: bool| {
            self.say(&pages, move |before| Advice {
                no_prefetch: !yes,
                ..before
            })
        };
        match asked.advice {
            hw::VFETCH_ADVICE_NORMAL => self.say(&pages, |_| Advice::NONE),
            hw::VFETCH_ADVICE_PREFER_HOST => prefer(Some(Location::Host)),
            hw::VFETCH_ADVICE_PREFER_DEVICE => prefer(Some(Location::Device)),
            hw::VFETCH_ADVICE_PREFER_NONE => prefer(None),
            hw::VFETCH_ADVICE_ACCESSED_BY_DEVICE => remote(true),
            hw::VFETCH_ADVICE_NOT_ACCESSED_BY_DEVICE => remote(false),
            hw::VFETCH_ADVICE_NO_PREFETCH => prefetch(false),
            hw::VFETCH_ADVICE_PREFETCH => prefetch(true),
            hw::VFETCH_ADVICE_WILL_NEED_HOST => self.bring(&pages, Location::Host),
            hw::VFETCH_ADVICE_WILL_NEED_DEVICE => self.bring(&pages, Location::Device),
            // DO_NOT_NEED.
            _ => self.discard(asked.offset..end, false),
        }
    }

    /// Says something of `pages` from now on. What stayed where it is because of what was said before, or of what happened, is
    /// looked at anew.
    fn say(&self, pages: &Range<u64>, change: impl Fn(Advice) -> Advice) -> Result {
        if pages.is_empty() {
            return Ok(());
        }
        self.advice.change(pages, change)?;
        if self.pages() < pages.end {
            // It has become smaller meanwhile, and what was said of the rest may have been too late to be forgotten.
            self.advice.cut(self.pages());
        }
        let mut next = pages.start / PAGES as u64;
        while let Some(block) = self
            .next_block(next)
            .filter(|block| block.first_page() < pages.end)
        {
            next = block.index + 1;
            let region = region_of(pages, block.index);
            let (remembered, shown) = {
                let mut locked = block.lock();
                let pages = region.into();
                locked.thrashing.clear(&pages);
                (
                    locked.unpin(&pages, &block),
                    locked.unpin_window(&pages, &block),
                )
            };
            self.invalidate(&block, &remembered);
            self.unmap(&block, &shown);
            if killed() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Lets the device reach pages of `block` that it wants, `host` ones, in host memory, where that was said, and all others of the block of which it
    /// was. Returns those that it may reach.
    pub(crate) fn reach_advised(
        &self,
        block: &Arc<Block>,
        locked: &mut Locked<'_>,
        host: &PageMask,
        advice: &BlockAdvice,
    ) -> PageMask {
        let stay = advice.stays_on_host();
        let mut reached = PageMask::EMPTY;
        if host.intersects(&stay) {
            for page in locked.among(&stay, Page::Host { remote: false }).iter() {
                // Where it cannot be done the page moves, as others do.
                if locked.pin_to_host(page, block).is_ok() {
                    reached.add(page);
                }
            }
        }
        reached
    }

    // ---- Bringing pages ---------------------------------------------------------------------------

    /// Brings those of `pages` that have contents to `to`, as far as there is room, and waits until they are there. EINTR.
    fn bring(self: &Arc<Self>, pages: &Range<u64>, to: Location) -> Result {
        /// Moves under way at a time.
        const DEPTH: usize = 4;
        let mut flying: [Option<Arc<Move>>; DEPTH] = [const { None }; DEPTH];
        // More would push out again what came first.
        let mut left = self.room.limit(to).min(self.function.room.limit(to));
        let (mut next, mut turn) = (pages.start / PAGES as u64, 0usize);
        let mut result = Ok(());
        while let Some(block) = self
            .next_block(next)
            .filter(|block| block.first_page() < pages.end && left > 0)
        {
            if killed() {
                result = Err(EINTR);
                break;
            }
            next = block.index + 1;
            let begun = match self.begin_to_bring(&block, region_of(pages, block.index), to) {
                Ok(Some(begun)) => begun,
                Ok(None) => continue,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            let moving = begun.carry_out(&PageMask::EMPTY, Effort::Usual).clone();
            left = left.saturating_sub(moving.pages.count() as u64);
            if let Some(place) = flying.get_mut(turn % DEPTH) {
                if let Some(before) = place.replace(moving) {
                    before.finish();
                }
            }
            turn = turn.wrapping_add(1);
        }
        for moving in flying.iter().flatten() {
            moving.finish();
        }
        if to == Location::Host {
            self.trim_later();
        }
        result
    }

    /// Pages in `region` of `block` begin to move to `to`, if there are any. ENOMEM, ENODEV.
    fn begin_to_bring(
        self: &Arc<Self>,
        block: &Arc<Block>,
        region: Region,
        to: Location,
    ) -> Result<Option<Begun>> {
        /// Looks at a block that others keep busy.
        const PATIENCE: usize = 16;
        let wanted = PageMask::from(region);
        for _ in 0..PATIENCE {
            let mut locked = block.lock();
            if locked.is_dead() {
                return Ok(None);
            }
            let busy = locked.busy().and(&wanted).first();
            if busy.is_some() || !locked.has_room_for_move() {
                let moving = busy.and_then(|page| locked.move_of(page).cloned());
                let version = block.version();
                drop(locked);
                let waited = match (moving, busy) {
                    (Some(moving), Some(page)) => moving.finish_page(page),
                    _ => false,
                };
                if !waited {
                    block.wait(version, Signals::Fatal);
                }
                continue;
            }
            // The user's word holds, whatever kept them where they are.
            match to {
                Location::Device => locked.unpin(&wanted, block),
                Location::Host => locked.unpin_window(&wanted, block),
            };
            let pages = locked.movable(&wanted, to, false);
            if pages.is_empty() {
                return Ok(None);
            }
            let hold = BoundHold::new(&self.function.bound).ok_or(ENODEV)?;
            let generation = locked.generation();
            let moving = Move::new(block, pages, to, generation, hold)?;
            let begun = locked.begin(&moving, false);
            // It was the user who moved them.
            locked.thrashing.clear(&wanted);
            return Ok(begun);
        }
        Ok(None)
    }
}
