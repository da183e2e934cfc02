// SPDX-License-Identifier: GPL-2.0

//! Moving pages of a block between host and device.
//!
//! A [`Move`] takes rights away ([`Move::revoke`]), gives the device descriptors for the data ([`Move::submit`]), and is then ended
//! piece by piece as they complete: by whoever waits for a page, and by work that sees to the rest. It has a hold on the device, not on
//! the caller.

use core::ops::Deref;

use kernel::dma::DataDirection;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::time::Msecs;
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

use super::block::{Arrival, Block, Revocation};
use super::queue::{Command, Failure, OwnedTransfer, Queue};
use crate::engine::frames::{FrameRun, Want};
use crate::engine::mask::{PageIndex, PageMask, Region};
use crate::engine::owner::TransactionId;
use crate::engine::prefetch::{Location, Outcome};
use crate::sys::abi as hw;
use crate::sys::host_memory::HostMemory;
use crate::sys::host_page::{HostPage, HostPages, Need};
use crate::sys::pci::BoundHold;
use crate::sys::wait::{Signals, Waited};

/// Most pages of a piece. What arrives together is published together.
const PIECE_PAGES: usize = 32;

/// Pages of one block on their way from where they are to the other side.
#[pin_data]
pub(crate) struct Move {
    pub(crate) block: Arc<Block>,
    pub(crate) id: TransactionId,
    /// Where to.
    pub(crate) to: Location,
    pub(crate) pages: PageMask,
    /// The generation of the function's memory in which it began.
    pub(crate) generation: u32,
    hold: BoundHold,
    #[pin]
    pieces: Mutex<Pieces>,
    /// Why pages were not even sent, if some were not: an errno, or 0.
    error: Atomic<i32>,
    /// What work has to do first, if that was [handed over](Begun::hand_over) to it.
    #[pin]
    deferred: Mutex<Option<Deferred>>,
    #[pin]
    work: Work<Move>,
}

/// What is left to work.
struct Deferred {
    revocation: Revocation,
    /// Pages that somebody waits for.
    first: PageMask,
}

/// The parts of a move.
struct Pieces {
    /// The first takes no memory of its own: most moves have no other.
    first: Option<Piece>,
    more: Option<KVec<Piece>>,
    /// All there will be are there.
    complete: bool,
    /// Pages of pieces that have ended, and of those that there will not be.
    ended: PageMask,
    /// All before this one have ended.
    oldest: usize,
}

/// What one descriptor moves.
struct Piece {
    /// They need not be neighbours: a scatter list says where they are in host memory.
    pages: PageMask,
    /// The first of the frames that they move to, or from, and that follow one another.
    frame: u32,
    state: State,
}

/// What is happening to a piece.
enum State {
    /// The device has it, and nobody waits for it yet.
    Flying(OwnedTransfer),
    /// Somebody waits for it, and touches the block when it has ended, or is left to others.
    Awaited,
    /// It is over. Why it brought nothing: an errno, or 0. EAGAIN: it may be tried again.
    Ended(i32),
}

impl Pieces {
    /// None yet.
    const NONE: Self = Self {
        first: None,
        more: None,
        complete: false,
        ended: PageMask::EMPTY,
        oldest: 0,
    };

    fn get(&mut self, index: usize) -> Option<&mut Piece> {
        match index.checked_sub(1) {
            None => self.first.as_mut(),
            Some(index) => self.more.as_mut()?.get_mut(index),
        }
    }

    /// The number of the piece that `page` travels in.
    fn find(&mut self, page: PageIndex) -> Option<usize> {
        (0..)
            .map_while(|index| Some((index, self.get(index)?.pages.has(page))))
            .find_map(|(index, found)| found.then_some(index))
    }

    /// Makes room for another. ENOMEM.
    fn reserve(&mut self) -> Result {
        match &mut self.more {
            _ if self.first.is_none() => {}
            Some(more) => more.reserve(1, GFP_KERNEL)?,
            none @ None => *none = Some(KVec::with_capacity(1, GFP_KERNEL)?),
        }
        Ok(())
    }

    /// Adds one, for which there is room.
    fn push(&mut self, piece: Piece) {
        match &mut self.more {
            _ if self.first.is_none() => self.first = Some(piece),
            Some(more) => drop(more.push_within_capacity(piece)),
            None => {}
        }
    }
}

impl_has_work! {
    impl HasWork<Self> for Move { self.work }
}

impl WorkItem for Move {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let deferred = this.deferred.lock().take();
        match deferred {
            Some(Deferred { revocation, first }) => {
                let effort = if first.is_empty() {
                    Effort::Gentle
                } else {
                    Effort::Usual
                };
                // It is queued again when it was submitted.
                drop(Begun::new(this, revocation).carry_out(&first, effort));
            }
            None => {
                this.finish();
                if this.to == Location::Device {
                    // Each that ends brings the next, for as long as there is one.
                    this.block.space.function.bring_while_idle();
                }
            }
        }
    }
}

/// What a move is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    /// Nothing is waited for that others have: not even pages that somebody waits for come where there is no slot, or no memory, at once.
    AtOnce,
    /// No eviction, and no wait: pages that find no room stay.
    Gentle,
    /// No wait for a slot.
    Usual,
    /// All that it takes.
    Must,
}

/// A move that has begun: its pages are busy until it is carried out or, when this is dropped, given up. Not to be dropped with
/// the block's lock held.
#[must_use]
pub(crate) struct Begun {
    moving: Arc<Move>,
    revocation: Revocation,
    carried_out: bool,
}

impl Begun {
    /// `moving` has begun, and `revocation` is to be done.
    pub(super) fn new(moving: Arc<Move>, revocation: Revocation) -> Self {
        Self {
            moving,
            revocation,
            carried_out: false,
        }
    }

    /// Whether it can be carried out without waiting for anybody who uses the pages where they are.
    pub(crate) fn is_quiet(&self) -> bool {
        self.revocation.quiet
    }

    /// The same, nor for the device to forget them.
    pub(crate) fn is_immediate(&self) -> bool {
        self.is_quiet() && self.revocation.invalidate.is_empty()
    }

    /// The same as [`carry_out`](Self::carry_out), by somebody else, who holds no lock.
    pub(crate) fn hand_over(mut self, first: PageMask) -> Arc<Move> {
        let function = self.moving.block.space.function.clone();
        let moving = self.moving.clone();
        *moving.deferred.lock() = Some(Deferred {
            revocation: self.revocation,
            first,
        });
        self.carried_out = true;
        // It is queued once only.
        let _ = function.work.enqueue(moving.clone());
        moving
    }

    /// Takes rights away and gives the device descriptors for all pages, `first` before the rest. See [`Move::submit`].
    pub(crate) fn carry_out(mut self, first: &PageMask, effort: Effort) -> CarriedOut {
        self.carried_out = true;
        let moving = self.moving.clone();
        moving.block.space.revoke(&moving.block, &self.revocation);
        moving.submit(first, effort);
        let seen_to = !moving.pages.minus(first).is_empty();
        if seen_to {
            // Pages that nobody waits for are not to be later for that.
            moving.see_to();
        }
        CarriedOut { moving, seen_to }
    }
}

/// A move that the device has descriptors for. What has not arrived when this is dropped is seen to by work: until then its transfers keep
/// their slots, so that whoever has this must wait for nothing but the move itself.
#[must_use]
pub(crate) struct CarriedOut {
    moving: Arc<Move>,
    /// Work sees to it already.
    seen_to: bool,
}

impl Deref for CarriedOut {
    type Target = Arc<Move>;

    fn deref(&self) -> &Arc<Move> {
        &self.moving
    }
}

impl Drop for CarriedOut {
    fn drop(&mut self) {
        if !self.seen_to && !self.moving.end_if_over() {
            self.moving.see_to();
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.carried_out {
            // Rights that were taken away are asked for again.
            self.moving.give_up(ECANCELED);
        }
    }
}

impl Move {
    /// Pages of `block` that shall move to `to`, once they have [begun](super::block::Pages::begin) to. ENOMEM.
    pub(crate) fn new(
        block: &Arc<Block>,
        pages: PageMask,
        to: Location,
        generation: u32,
        hold: BoundHold,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                block: block.clone(),
                id: block.space.function.next_transaction(),
                to,
                pages,
                generation,
                hold,
                pieces <- new_mutex!(
                    Pieces::NONE,
                    "vfetch: move"
                ),
                error: Atomic::new(0),
                deferred <- new_mutex!(None, "vfetch: deferred move"),
                work <- new_work!("vfetch: move"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has work see to what has not arrived.
    fn see_to(self: &Arc<Self>) {
        // It is queued once only.
        let _ = self.block.space.function.work.enqueue(self.clone());
    }

    /// Nothing will be moved after all.
    fn give_up(self: &Arc<Self>, error: Error) {
        self.error.store(error.to_errno(), Release);
        self.stay(&self.pages);
        self.pieces.lock().complete = true;
        self.end_if_over();
    }

    /// Gives the device descriptors for all pages, `first` before the rest. Where there are no slots, no memory or no frames those
    /// that come later stay where they are, as `effort` says.
    fn submit(self: &Arc<Self>, first: &PageMask, effort: Effort) {
        let mut left = self.pages;
        if self.to == Location::Device {
            left = self.without_held(left);
        }
        let mut first = first.and(&left);
        loop {
            let urgent = !first.is_empty();
            let wanted = if urgent { first } else { left };
            if wanted.is_empty() {
                break;
            }
            match self.submit_some(&wanted, urgent, effort) {
                Ok(pages) => {
                    left = left.minus(&pages);
                    first = first.minus(&pages);
                }
                Err(error) => {
                    self.error.store(error.to_errno(), Release);
                    break;
                }
            }
        }
        self.stay(&left);
        // There will be no more pieces.
        self.pieces.lock().complete = true;
    }

    /// Those of `pages` that nobody else has references to. The others stay with the host.
    fn without_held(&self, pages: PageMask) -> PageMask {
        let held = (self.block.lock()).host_pages_that(&pages, HostPage::is_shared);
        self.stay(&held);
        pages.minus(&held)
    }

    /// `pages` stay where they are.
    fn stay(&self, pages: &PageMask) {
        if pages.is_empty() {
            return;
        }
        let error = self.error.load(Acquire);
        let trace = &self.block.space.function.trace;
        trace.moved(hw::VFETCH_TRACE_STAYED, self, pages, error);
        let mut locked = self.block.lock();
        locked.stay(self, pages);
        let space = &self.block.space;
        space.feedback(&mut locked, self.to, Outcome::Dropped, pages);
        let mut pieces = self.pieces.lock();
        pieces.ended = pieces.ended.or(pages);
    }

    /// Submits a piece: the first of `pages`, of which there are some, as many as it can have. Returns which.
    fn submit_some(
        self: &Arc<Self>,
        pages: &PageMask,
        urgent: bool,
        effort: Effort,
    ) -> Result<PageMask> {
        match self.to {
            Location::Host => self.submit_to_host(pages, urgent, effort),
            Location::Device => self.submit_to_device(pages, urgent, effort),
        }
    }

    fn submit_to_host(
        self: &Arc<Self>,
        pages: &PageMask,
        urgent: bool,
        effort: Effort,
    ) -> Result<PageMask> {
        let (pages, frame) = (self.block.lock()).leading_frames(pages, PIECE_PAGES);
        let frame = frame.ok_or(EIO)?;
        let memory = self.pages_to_fill(pages.count(), urgent, effort)?;
        // Fewer have come if there is no memory for all.
        let pages = pages.leading(memory.len());
        let host = HostMemory::from_pages(self.hold.clone(), memory, DataDirection::FromDevice)?;
        let device_addr = u64::from(frame) << hw::VFETCH_PAGE_SHIFT;
        let command = Command::Read { device_addr, host };
        self.push(pages, frame, command, urgent, effort)?;
        Ok(pages)
    }

    /// Up to `most` pages of host memory for what comes. An `urgent` page has contents that somebody waits for: it does not fail. The others are no reason
    /// for anybody else to have less.
    fn pages_to_fill(
        self: &Arc<Self>,
        most: usize,
        urgent: bool,
        effort: Effort,
    ) -> Result<HostPages> {
        let space = &self.block.space;
        let alloc = HostPage::to_be_filled;
        let mut pages = HostPages::with_capacity(most)?;
        while pages.len() < most {
            let page = match space.spare_page(alloc) {
                Err(_) if urgent && effort != Effort::AtOnce => {
                    // Who waits for others to go has nothing that they could wait for.
                    while self.finish_one() {}
                    let keep = (effort != Effort::Gentle).then_some(&*self.block);
                    space.page(alloc, Need::Must, keep)?
                }
                Err(_) if !pages.is_empty() => break,
                page => page?,
            };
            pages.push(page)?;
        }
        Ok(pages)
    }

    fn submit_to_device(
        self: &Arc<Self>,
        pages: &PageMask,
        urgent: bool,
        effort: Effort,
    ) -> Result<PageMask> {
        let first = pages.first().ok_or(EINVAL)?;
        let space = &self.block.space;
        let generation = space.function.memory.generation();
        let shown = space.window_frame(&self.block, first);
        let pages = match space.advice.said_of_block(self.block.index) {
            None => pages.leading(PIECE_PAGES),
            // Of each run it is asked whether it is to be in the window.
            Some(_) => {
                let run = Region::clipped(first.get(), first.get() + PIECE_PAGES);
                pages.leading_run(run).0.into()
            }
        };
        // CAST: at most 512.
        let most = pages.count() as u32;
        let frames = match shown.map_or_else(|| space.try_frames(most, Want::Anything), Ok) {
            // What somebody waits for is worth more than that.
            Err(ENOSPC) if urgent || effort != Effort::Gentle => {
                // Who waits for others to go has nothing that they could wait for.
                while self.finish_one() {}
                let limit = if effort == Effort::Must {
                    u64::MAX
                } else {
                    space.function.not_lately()
                };
                space
                    .take_frames(most, Want::Anything, &self.block, limit)?
                    .run
            }
            taken => taken?.run,
        };
        let pages = pages.leading(frames.count as usize);
        let submitted: Result = (|| {
            let mut memory = HostPages::with_capacity(frames.count as usize)?;
            {
                let locked = self.block.lock();
                for run in pages.runs() {
                    locked.leaf.share(run.first()..run.outer(), &mut memory)?;
                }
            }
            let host = HostMemory::from_pages(self.hold.clone(), memory, DataDirection::ToDevice)?;
            let device_addr = u64::from(frames.first) << hw::VFETCH_PAGE_SHIFT;
            let command = Command::Write { device_addr, host };
            self.push(pages, frames.first, command, urgent, effort)
        })();
        if submitted.is_err() {
            space.give(frames, false, generation);
        }
        submitted.map(|()| pages)
    }

    /// Submits `command` as a piece.
    fn push(
        self: &Arc<Self>,
        pages: PageMask,
        frame: u32,
        mut command: Command<'static, BoundHold>,
        urgent: bool,
        effort: Effort,
    ) -> Result {
        let function = &self.block.space.function;
        let queue = if urgent {
            &function.priority
        } else {
            &function.ordinary
        };
        let insists = urgent && effort != Effort::AtOnce || effort == Effort::Must;
        // Room for it, so that nothing can fail once the device has it.
        self.pieces.lock().reserve()?;
        let transfer = loop {
            let slot = match Queue::reserve_owned(queue, true, Signals::None) {
                // Nobody waits for a slot while having others: they might be waited for in turn.
                Err(EAGAIN) if insists => {
                    if self.finish_one() {
                        continue;
                    }
                    Queue::reserve_owned(queue, false, Signals::None)?
                }
                slot => slot?,
            };
            let current = || function.memory.generation() == self.generation;
            match slot.submit(command, current) {
                Ok(transfer) => break transfer,
                Err((Failure::Recovering, again)) if insists => command = again,
                Err((failure, _)) => return Err(failure.into()),
            }
        };
        self.pieces.lock().push(Piece {
            pages,
            frame,
            state: State::Flying(transfer),
        });
        Ok(())
    }

    /// Waits until `page` has arrived, or it is certain that it will not, or nothing is known of it yet: then the block's next change is
    /// to be waited for. Returns whether it has waited.
    pub(crate) fn finish_page(self: &Arc<Self>, page: PageIndex) -> bool {
        let index = self.pieces.lock().find(page);
        index.is_some_and(|index| self.finish_piece(index).is_some())
    }

    /// Waits until something has become of `page`, or at least of something of the block since `version`, which was read while the page was
    /// busy; or until the caller is killed, and for at most `limit`, which is asked only when this is about to sleep.
    pub(crate) fn await_page(
        self: &Arc<Self>,
        page: PageIndex,
        version: u32,
        limit: impl FnOnce() -> Option<Msecs>,
    ) -> Waited {
        let index = self.pieces.lock().find(page);
        match index.and_then(|index| Some((index, self.take(index)?))) {
            Some((index, State::Flying(flying))) => {
                let waited = flying.wait_with(Signals::Fatal, limit);
                if waited == Waited::Done {
                    self.publish(index, flying);
                } else {
                    if let Some(piece) = self.pieces.lock().get(index) {
                        piece.state = State::Flying(flying);
                    }
                    // Others wait for what this one has not waited for.
                    self.block.touch();
                }
                waited
            }
            Some((_, State::Ended(_))) => Waited::Done,
            // Whoever waits says when it is over; or leaves it to the work that sees to all.
            Some((_, State::Awaited)) | None => {
                self.block.wait_for(version, Signals::Fatal, limit())
            }
        }
    }

    /// The state of a piece, from now on *awaited* unless it has ended: by the caller, if it was *flying*. `None` if there is none.
    fn take(&self, index: usize) -> Option<State> {
        let mut pieces = self.pieces.lock();
        let state = &mut pieces.get(index)?.state;
        match state {
            State::Ended(error) => Some(State::Ended(*error)),
            state => Some(core::mem::replace(state, State::Awaited)),
        }
    }

    /// The same for all of `pages`. Returns those of which nothing is known yet.
    pub(crate) fn finish_pages(&self, pages: &PageMask) -> PageMask {
        let mut left = *pages;
        for index in 0.. {
            if left.is_empty() {
                break;
            }
            let pages = self.pieces.lock().get(index).map(|piece| piece.pages);
            let Some(pages) = pages else {
                break;
            };
            if left.intersects(&pages) {
                left = left.minus(&pages);
                self.finish_piece(index);
            }
        }
        left
    }

    /// Waits for one of the pieces that have not ended. `false` when all have.
    fn finish_one(&self) -> bool {
        let index = {
            let pieces = &mut *self.pieces.lock();
            let mut index = pieces.oldest;
            while let Some(State::Ended(_)) = pieces.get(index).map(|piece| &piece.state) {
                index = index.saturating_add(1);
            }
            pieces.oldest = index;
            index
        };
        self.finish_piece(index).is_some()
    }

    /// Waits until all that was submitted has ended.
    pub(crate) fn finish(self: &Arc<Self>) {
        for index in 0.. {
            if self.finish_piece(index).is_none() {
                break;
            }
        }
        self.end_if_over();
    }

    /// Makes room for others if all pages have arrived or gone back. Returns whether they have.
    fn end_if_over(self: &Arc<Self>) -> bool {
        let over = {
            let pieces = self.pieces.lock();
            pieces.complete && self.pages.minus(&pieces.ended).is_empty()
        };
        if over {
            let ended = self.block.lock().end(self);
            if ended {
                self.block.touch();
            }
        }
        over
    }

    /// Why `page` did not arrive, if it did not. EAGAIN: it may be tried again.
    pub(crate) fn failure_of(&self, page: PageIndex) -> Option<Error> {
        let error = {
            let mut pieces = self.pieces.lock();
            let index = pieces.find(page);
            match index.and_then(|index| pieces.get(index)) {
                None => self.error.load(Acquire),
                Some(piece) => match piece.state {
                    State::Ended(error) => error,
                    State::Flying(_) | State::Awaited => 0,
                },
            }
        };
        match error {
            0 => None,
            error => Some(Error::from_errno(error)),
        }
    }

    /// Waits until a piece has ended, and publishes it unless somebody else does. `None` if there is none.
    fn finish_piece(&self, index: usize) -> Option<()> {
        loop {
            // Before the look: whoever waits for the piece may be done right after it.
            let version = self.block.version();
            match self.take(index)? {
                State::Flying(flying) => self.publish(index, flying),
                State::Awaited => {
                    self.block.wait(version, Signals::None);
                    continue;
                }
                State::Ended(_) => {}
            }
            return Some(());
        }
    }

    /// Waits for the transfer of a piece, which the caller has taken, and publishes it.
    fn publish(&self, index: usize, flying: OwnedTransfer) {
        let (outcome, memory) = flying.finish();
        let mut memory = memory.map_or(HostPages::NONE, HostMemory::into_pages);
        let function = &self.block.space.function;
        let mut locked = self.block.lock();
        let error = match outcome {
            // What was moved before a reset was scrubbed by it.
            Ok(()) if self.to == Location::Device && locked.generation() != self.generation => {
                Some(EAGAIN)
            }
            Ok(()) => None,
            // A reset of the queue ends what others have broken too.
            Err(Failure::Aborted | Failure::Stale) => Some(EAGAIN),
            Err(failure) => Some(failure.into()),
        };
        let errno = error.map_or(0, Error::to_errno);
        let (pages, frame) = {
            // With the lock of the block: whoever finds the pages in another move shall not find them in this one too. And before the block is
            // touched, for those who wait for this.
            let pieces = &mut *self.pieces.lock();
            let Some(piece) = pieces.get(index) else {
                return;
            };
            piece.state = State::Ended(errno);
            let place = (piece.pages, piece.frame);
            pieces.ended = pieces.ended.or(&place.0);
            place
        };
        let what = match error {
            None => hw::VFETCH_TRACE_ARRIVED,
            Some(_) => hw::VFETCH_TRACE_STAYED,
        };
        function.trace.moved(what, self, &pages, errno);
        let bytes = (pages.count() as u64) << hw::VFETCH_PAGE_SHIFT;
        match (error, self.to) {
            (None, Location::Host) => {
                function.stats.to_host_bytes.add(bytes);
                locked.arrive(self, &pages, Arrival::Pages(&mut memory, frame));
            }
            (None, Location::Device) => {
                function.stats.to_device_bytes.add(bytes);
                locked.arrive(self, &pages, Arrival::Frames(frame));
            }
            (Some(_), to) => {
                locked.stay(self, &pages);
                if to == Location::Device {
                    // CAST: at most 512.
                    let run = FrameRun {
                        first: frame,
                        count: pages.count() as u32,
                    };
                    self.block.space.give(run, false, self.generation);
                }
            }
        }
        drop(locked);
        self.block.space.used(&self.block, self.to);
    }

    /// Whether `page` is still on its way by this move.
    pub(crate) fn is_moving(&self, page: PageIndex) -> bool {
        self.pages.has(page) && !self.pieces.lock().ended.has(page)
    }
}
