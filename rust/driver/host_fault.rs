// SPDX-License-Identifier: GPL-2.0

//! Faults of processes that have a space mapped.

use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Msecs;

use super::block::{Block, Locked};
use super::migrate::{Begun, Effort, Move};
use super::space::{index_of, Space};
use super::thrash::{nap, ForHost};
use super::trace::words;
use crate::engine::mask::{PageIndex, PageMask, Region, PAGES};
use crate::engine::owner::Page;
use crate::engine::prefetch::{Ahead, Location, Outcome};
use crate::sys::abi as hw;
use crate::sys::fault::{Ended, Fault};
use crate::sys::host_page::{HostPage, Need};
use crate::sys::leaf::Place;
use crate::sys::pci::BoundHold;
use crate::sys::time::now_ns;
use crate::sys::wait::{killed, Signals, Waited};

/// What is to be done before the fault can be looked at again.
enum Next {
    /// It is over.
    Ended(Ended),
    /// Look again.
    Again,
    /// Look again with a page of zeros in hand.
    Zeros,
    /// The page is on its way, as of this version of the block.
    Wait(Arc<Move>, u32),
    /// Nobody moves it, but the block must change first.
    WaitForChange(u32),
    /// The device has it, and for so long.
    Nap(u64),
    /// It begins to move, as of this version of the block.
    Fetch(Begun, Option<Ahead>, u32),
}

impl Space {
    /// Serves a fault.
    ///
    /// What takes time is waited for without the lock that the fault came with, if it may do without, and not after a signal that kills; then
    /// the fault comes again. It may do without once: the next time round who changes mappings is held up for a moment, and when the page is not there by then
    /// the fault comes again once more.
    ///
    /// Some who fault never let go of the lock (`access_remote_vm`: `/proc/PID/mem`, ptrace), and the page may be waiting for somebody who wants it: a
    /// call that reads into memory that is not there yet keeps its other pages where they are, and queues for the lock behind who changes mappings. So
    /// they are told after a while that there is nothing.
    ///
    /// A page that comes before anybody has to sleep is mapped at once, with the lock kept: to come again costs as much as a fault of a page that is there.
    pub(crate) fn fault(self: &Arc<Self>, fault: &Fault<'_>) -> Ended {
        /// Times that a page may fail to come because of what others did.
        const PATIENCE: u32 = 5;
        /// Waits with the lock held, and how long each is at most.
        const LOOKS: usize = 8;
        const HELD_UP_MS: Msecs = 200;
        /// How long the lock is held by who never lets go of it.
        const BOUND_NS: u64 = 5_000_000_000;
        let begun = now_ns();
        let mut tries = 0;
        let mut zeros = None;
        // Others may take the page away again and again: the lock is kept for one try that takes time.
        let mut may_keep = true;
        if !fault.is_again() {
            self.function.stats.host_faults.count();
            self.function
                .trace
                .record(hw::VFETCH_TRACE_HOST_FAULT, |record| {
                    let (index, page) = index_of(fault.page());
                    let pages = PageMask::from(page.region());
                    record.count = 1;
                    record.space = u64::from(self.id);
                    record.first = index * PAGES as u64;
                    record.pages = words(&pages);
                    if fault.is_write() {
                        record.more = words(&pages);
                    }
                });
        }
        for look in 0.. {
            if fault.is_bound() {
                if now_ns().saturating_sub(begun) > BOUND_NS {
                    return Ended::Nothing;
                }
            } else if look >= LOOKS {
                break;
            }
            if fault.page() >= self.pages() {
                return Ended::Nothing;
            }
            let index = fault.page() / PAGES as u64;
            let block = match self.block_or_new(index) {
                Ok(block) => block,
                Err(ENOMEM) => return Ended::NoMemory,
                Err(_) => return Ended::Nothing,
            };
            // CAST: below 512.
            let Some(page) = PageIndex::new((fault.page() % PAGES as u64) as usize) else {
                return Ended::Nothing;
            };
            let sleep = || (!fault.unlock()).then_some(HELD_UP_MS);
            let waited = match self.look(fault, &block, page, &mut zeros) {
                Next::Ended(ended) => {
                    if ended == Ended::Done {
                        self.used(&block, Location::Host);
                        self.trim_later();
                    }
                    return ended;
                }
                Next::Again => continue,
                Next::Zeros => {
                    let made = self.spare_page(HostPage::zeroed).or_else(|_| {
                        // The page gets its contents all the same, and is mapped when the fault comes again.
                        let keep = fault.unlock().then_some(&*block);
                        self.page(HostPage::zeroed, Need::Want, keep)
                    });
                    match made {
                        Ok(page) => zeros = Some(page),
                        Err(_) => return Ended::NoMemory,
                    }
                    continue;
                }
                Next::Wait(moving, version) => {
                    if !core::mem::take(&mut may_keep) {
                        fault.unlock();
                    }
                    moving.await_page(page, version, sleep)
                }
                Next::WaitForChange(version) => block.wait_for(version, Signals::Fatal, sleep()),
                Next::Nap(until_us) => {
                    fault.unlock();
                    nap(until_us);
                    Waited::Done
                }
                Next::Fetch(begun, ahead, version) => {
                    let first = page.region().into();
                    let keep =
                        core::mem::take(&mut may_keep) && begun.is_immediate() && ahead.is_none();
                    let (moving, waited) = if keep {
                        let carried = begun.carry_out(&first, Effort::AtOnce);
                        let waited = carried.await_page(page, version, sleep);
                        (carried.clone(), waited)
                    } else if !fault.unlock() {
                        // It takes waiting for slots, for memory, and for those who use pages where they are: they may want the lock that this fault holds.
                        let moving = begun.hand_over(first);
                        let waited = moving.await_page(page, version, sleep);
                        (moving, waited)
                    } else {
                        let carried = begun.carry_out(&first, Effort::Usual);
                        let moving = carried.clone();
                        let waited = if let Some(ahead) = &ahead {
                            // That may wait for slots, which the transfers of this one have: somebody else is to see to them.
                            drop(carried);
                            self.bring_ahead(ahead, Location::Host);
                            moving.await_page(page, version, || None)
                        } else {
                            carried.await_page(page, version, || None)
                        };
                        (moving, waited)
                    };
                    match moving.failure_of(page) {
                        None => {}
                        // What could not be had at once.
                        Some(_) if keep => {}
                        Some(EAGAIN) if tries < PATIENCE => tries += 1,
                        Some(ENOMEM) => return Ended::NoMemory,
                        Some(_) => return Ended::Nothing,
                    }
                    waited
                }
            };
            if waited == Waited::Signal || killed() {
                break;
            }
            if fault.is_unlocked() || (waited == Waited::TimedOut && fault.retreat()) {
                return Ended::Again;
            }
        }
        // The page is not mapped: if it is still wanted it is asked for again.
        Ended::Done
    }

    /// Looks at the page that `fault` wants.
    fn look(
        self: &Arc<Self>,
        fault: &Fault<'_>,
        block: &Arc<Block>,
        page: PageIndex,
        zeros: &mut Option<HostPage>,
    ) -> Next {
        let mut locked = block.lock();
        // With the lock, since whoever makes the space smaller takes it afterwards.
        if fault.page() >= self.pages() || locked.is_fixed() {
            return Next::Ended(Ended::Nothing);
        }
        if locked.is_dead() {
            return Next::Again;
        }
        let Some(state) = locked.state(page) else {
            let late = PageMask::from(page.region());
            self.feedback(&mut locked, Location::Host, Outcome::Late, &late);
            return match locked.move_of(page) {
                Some(moving) => Next::Wait(moving.clone(), block.version()),
                None => Next::WaitForChange(block.version()),
            };
        };
        match state {
            Page::None if !self.has_room(1) => Next::Ended(Ended::Nothing),
            Page::None => match zeros.take() {
                Some(zeros) => {
                    locked.zero(page, Place::Host(zeros), block);
                    Next::Ended(self.map(fault, block, &mut locked, page))
                }
                // Made without the lock: others want pages of the block.
                None => Next::Zeros,
            },
            Page::Host { .. } => Next::Ended(self.map(fault, block, &mut locked, page)),
            Page::Device { .. } => match self.ask_for_host(fault, block, &mut locked, page) {
                ForHost::Wait(until_us) => Next::Nap(until_us),
                ForHost::Reached(ended) => Next::Ended(ended),
                ForHost::Take => self.fetch(fault, block, &mut locked, page),
            },
            _ => Next::Ended(Ended::Nothing),
        }
    }

    /// Maps `page`, which the host owns, and all pages of the block that it owns as far as the mapping covers them.
    fn map(
        &self,
        fault: &Fault<'_>,
        block: &Block,
        locked: &mut Locked<'_>,
        page: PageIndex,
    ) -> Ended {
        let Some(memory) = locked.host_page(page) else {
            return Ended::Nothing;
        };
        let ended = fault.map(&memory);
        if ended != Ended::Done {
            return ended;
        }
        let here = PageMask::from(page.region());
        self.feedback(locked, Location::Host, Outcome::Used, &here);
        let covered = Region::clipped(
            // CAST: at most 512.
            (fault.covers().start.saturating_sub(block.first_page())).min(PAGES as u64) as usize,
            (fault.covers().end.saturating_sub(block.first_page())).min(PAGES as u64) as usize,
        );
        let own = locked.host().minus(locked.busy()).within(covered);
        // Where somebody has the page mapped already this is another mapping, of which nothing is known.
        let beside = if locked.mapped().has(page) {
            own
        } else {
            own.minus(locked.mapped())
        };
        for run in beside.minus(&here).runs() {
            let pages = run.pages().filter_map(|page| locked.host_page(page));
            fault.map_beside(block.first_page() + run.first() as u64, pages);
        }
        locked.map(&own.or(&here));
        ended
    }

    /// Begins to fetch `page`, which the device owns, and what the engine wants to come along.
    fn fetch(
        self: &Arc<Self>,
        fault: &Fault<'_>,
        block: &Arc<Block>,
        locked: &mut Locked<'_>,
        page: PageIndex,
    ) -> Next {
        if !locked.has_room_for_move() {
            return Next::WaitForChange(block.version());
        }
        let Some(hold) = BoundHold::new(&self.function.bound) else {
            return Next::Ended(Ended::Nothing);
        };
        let wanted = PageMask::from(page.region());
        let written = if fault.is_write() {
            wanted
        } else {
            PageMask::EMPTY
        };
        let bounds = self.bounds(block, fault.covers());
        let hint = self.decide(block, locked, &wanted, &written, Location::Host, bounds);
        let along = locked.movable(&hint.pages, Location::Host, false);
        let moving = wanted.or(&along);
        let not = hint.pages.minus(&moving);
        self.feedback(locked, Location::Host, Outcome::Dropped, &not);
        let generation = locked.generation();
        let next = match Move::new(block, moving, Location::Host, generation, hold) {
            Ok(moving) => match locked.begin(&moving, false) {
                Some(begun) => return Next::Fetch(begun, hint.ahead, block.version()),
                None => Next::Again,
            },
            Err(_) => Next::Ended(Ended::NoMemory),
        };
        self.feedback(locked, Location::Host, Outcome::Dropped, &along);
        next
    }
}
