// SPDX-License-Identifier: GPL-2.0

//! Asking the engine which pages come along, and telling it what became of them.

use core::ops::Range;

use kernel::sync::Arc;

use super::block::{Block, Locked};
use super::function::{Function, Prefetcher, State};
use super::migrate::{Effort, Move};
use super::space::{region_of, Space};
use super::trace::{place, words};
use crate::engine::advice::BlockAdvice;
use crate::engine::mask::{PageMask, PAGES};
use crate::engine::policy::Kind;
use crate::engine::prefetch::{
    self, Ahead, Batch, BlockId, BlockState, FunctionId, Hint, Location, Outcome, Reason,
};
use crate::engine::tree::Bounds;
use crate::sys::abi as hw;
use crate::sys::pci::BoundHold;
use crate::sys::time::now_ns;

impl Space {
    /// Where prefetching is allowed in `block`: in the pages of the space that `covered` names.
    pub(crate) fn bounds(&self, block: &Block, covered: Range<u64>) -> Bounds {
        let pages = covered.start..covered.end.min(self.pages());
        Bounds::new(0, PAGES, region_of(&pages, block.index)).unwrap_or(Bounds::BLOCK)
    }

    /// Asks the engine what is to come along with `faulted` pages, which go to `destination`. Pages of the hint may be anywhere but there, or
    /// on their way there. The engine expects them: [it is told](Self::feedback) of those that do not come.
    pub(crate) fn decide(
        &self,
        block: &Block,
        locked: &mut Locked<'_>,
        faulted: &PageMask,
        written: &PageMask,
        destination: Location,
        bounds: Bounds,
    ) -> Hint {
        let function = &self.function;
        let resident = locked.at_or_coming_to(destination);
        let (mapped, any) = (*locked.mapped(), !locked.is_empty());
        let thrashing = locked.thrashing.thrashing();
        let stats = &function.stats;
        let mut batch = Batch {
            function: FunctionId(function.identity.node),
            block: BlockId {
                space: self.id,
                index: block.index,
            },
            bounds,
            faulted,
            written,
            resident: &resident,
            resident_anywhere: any,
            mapped: &mapped,
            thrashing: &thrashing,
            destination: Some(destination),
            preferred: None,
            now_ns: now_ns(),
            random: 0,
            pressure: match destination {
                Location::Host => 0,
                Location::Device => function.memory.used_percent(),
            },
            share: match destination {
                Location::Host => 100,
                Location::Device => function.share(),
            },
            link_bytes: stats
                .to_host_bytes
                .get()
                .wrapping_add(stats.to_device_bytes.get()),
            link_backlog_ns: function.backlog_ns(),
        };
        let advice = self.advice.said_of_block(block.index);
        let mut prefetcher = function.prefetcher.lock();
        let prefetcher = &mut **prefetcher;
        if prefetcher.params.policy == Kind::Probabilistic {
            // Nobody else throws dice, and they are dear.
            batch.random = crate::sys::time::random();
        }
        let mut hint = match advice {
            None => prefetch::prefetch(
                &prefetcher.params,
                &mut prefetcher.state,
                &mut locked.engine,
                &batch,
            ),
            Some(advice) => {
                decide_apart(&advice, prefetcher, &mut locked.engine, batch, destination)
            }
        };
        hint.pages = hint.pages.minus(&resident);
        let policy = prefetcher.params.policy;
        function.trace.record(hw::VFETCH_TRACE_HINT, |record| {
            record.to = place(destination);
            record.policy = policy as u32;
            // CAST: at most 512.
            record.count = hint.pages.count() as u32;
            record.space = u64::from(self.id);
            record.first = block.first_page();
            record.pages = words(&hint.pages);
            record.more = words(faulted);
        });
        hint
    }

    /// Tells the engine what became of pages that are at `at`, or were to come there.
    pub(crate) fn feedback(
        &self,
        locked: &mut Locked<'_>,
        at: Location,
        outcome: Outcome,
        pages: &PageMask,
    ) {
        if pages.is_empty() {
            return;
        }
        let mut prefetcher = self.function.prefetcher.lock();
        prefetch::feedback(
            &mut prefetcher.state,
            &mut locked.engine,
            at,
            outcome,
            pages,
        );
    }

    /// Tells the engine which of the pages that came along to the device have been used by now, if that matters to it.
    pub(crate) fn see_used(&self, block: &Block, locked: &mut Locked<'_>) {
        let undecided = locked.engine.undecided();
        if undecided.is_empty() {
            return;
        }
        let here = undecided.and(locked.device()).minus(locked.busy());
        let used = locked.marked(&here);
        let at = BlockId {
            space: self.id,
            index: block.index,
        };
        let mut prefetcher = self.function.prefetcher.lock();
        prefetch::seen(&mut prefetcher.state, &mut locked.engine, at, &used);
    }

    /// Begins to bring pages of a neighbouring block, if nothing is in the way. Returns whether it did.
    pub(crate) fn bring_ahead(self: &Arc<Self>, ahead: &Ahead, to: Location) -> bool {
        let Some(block) = self.block(ahead.block.index) else {
            return false;
        };
        let Some(hold) = BoundHold::new(&self.function.bound) else {
            return false;
        };
        let begun = {
            let mut locked = block.lock();
            let said = self.advice.of_block(block.index);
            let wanted = prefetch::ahead_pages(&locked.engine, ahead).minus(&said.not_along(to));
            let pages = locked.movable(&wanted, to, false);
            if pages.is_empty() || locked.is_dead() || !locked.has_room_for_move() {
                return false;
            }
            let generation = locked.generation();
            let Ok(moving) = Move::new(&block, pages, to, generation, hold) else {
                return false;
            };
            let Some(begun) = locked.begin(&moving, false) else {
                return false;
            };
            let mut prefetcher = self.function.prefetcher.lock();
            prefetch::brought_ahead(&mut prefetcher.state, &mut locked.engine, ahead, &pages);
            begun
        };
        if begun.is_quiet() {
            drop(begun.carry_out(&PageMask::EMPTY, Effort::Gentle));
        } else {
            begun.hand_over(PageMask::EMPTY);
        }
        true
    }
}

/// Decides for `batch`, where there is `advice`: pages of which the same was said are decided together, and apart from others.
fn decide_apart(
    advice: &BlockAdvice,
    prefetcher: &mut Prefetcher,
    state: &mut BlockState,
    mut batch: Batch<'_>,
    destination: Location,
) -> Hint {
    let bounds = batch.bounds;
    let mut all = Hint {
        pages: PageMask::EMPTY,
        ahead: None,
        gentle: false,
        reason: Reason::Disabled,
    };
    let mut left = *batch.faulted;
    while let Some(page) = left.first() {
        let region = advice.around(page);
        left.remove(region);
        let said = advice.of(page);
        if said.no_prefetch {
            continue;
        }
        batch.bounds = bounds.cut(region);
        batch.preferred = said.preferred;
        let hint = prefetch::prefetch(&prefetcher.params, &mut prefetcher.state, state, &batch);
        all = Hint {
            pages: all.pages.or(&hint.pages),
            ahead: all.ahead.or(hint.ahead),
            ..hint
        };
    }
    let stay = all.pages.and(&advice.not_along(destination));
    if !stay.is_empty() {
        all.pages = all.pages.minus(&stay);
        let state_of = &mut prefetcher.state;
        prefetch::feedback(state_of, state, destination, Outcome::Dropped, &stay);
    }
    all
}

impl Function {
    /// Tells the engine which pages the device has used by now of the blocks that it wants to know that of.
    pub(crate) fn see_undecided(&self) {
        let blocks = prefetch::undecided(&mut self.prefetcher.lock().state);
        for at in blocks.into_iter().flatten() {
            let Some(space) = self.space_of(at) else {
                continue;
            };
            if let Some(block) = space.block(at.index) {
                space.see_used(&block, &mut block.lock());
            }
        }
    }

    /// The space that has, or had, a block.
    fn space_of(&self, at: BlockId) -> Option<Arc<Space>> {
        let open = self.open.lock();
        open.iter().find(|space| space.id == at.space).cloned()
    }

    /// Begins to bring to the device what the engine wants while the link has nothing to do.
    pub(crate) fn bring_while_idle(&self) {
        /// Answers of which nothing may be left to be brought.
        const TRIES: usize = 4;
        for _ in 0..TRIES {
            if self.backlog_ns() > 0 || self.state() != State::Ready {
                return;
            }
            let (pressure, share) = (self.memory.used_percent(), self.share());
            let ahead = {
                let mut prefetcher = self.prefetcher.lock();
                let prefetcher = &mut **prefetcher;
                prefetch::idle(&prefetcher.params, &mut prefetcher.state, pressure, share)
            };
            let Some(ahead) = ahead else {
                return;
            };
            let space = self.space_of(ahead.block);
            if space.is_some_and(|space| space.bring_ahead(&ahead, Location::Device)) {
                return;
            }
        }
    }
}
