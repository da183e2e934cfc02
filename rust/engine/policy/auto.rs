// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Learns how densely blocks are used, and brings along what pays.
//!
//! **What is learnt.** Of each block, of the four blocks around it, and of the whole function: how many of a block's pages are
//! touched, by a fault or as a prefetched page that was used, from its arrival until it is evicted, and how many of a
//! 64 KiB unit's. Prefetched pages that are evicted unused were never touched and spared faults were, whatever was
//! prefetched, so that learning needs no trials and reverts by itself when the use changes; newer blocks count
//! more. Of a block that was evicted, its *footprint*: which pages had been touched; and of all of these, how long runs of touched
//! neighbours are.
//!
//! **What it costs.** A fault costs its share of a batch, by the number of faults that batches have had lately. A page that comes along and
//! is not touched costs its way; where memory is full also the way of what goes for it, and a fault, as often as evicted blocks
//! come back. Where they come back almost at once, and much of what had come along has gone unused, whatever comes along displaces
//! what is needed sooner, and each page is charged for that, touched or not.
//!
//! **What pays.** Of a block that was here before its footprint, when the faults that are spared are worth more than that; besides
//! what the tree selects over the pages that were really touched, with growth to 64 KiB where units are used densely
//! enough, and as many pages behind a fault as runs are long. While memory is not full, the whole of a block where that is worth it, of one of which nothing is known, and of one
//! that is visited again and again; always where all has room. Nothing while the link has four blocks to carry already.
//!
//! **For whom room is made.** Where nearly all has room, and where much of what came along has gone unused, what comes along is worth no
//! eviction ([`Hint::gentle`](super::super::prefetch::Hint::gentle)): room that demands made is filled.
//!
//! **One block ahead.** Where blocks are used densely one after the other, the next one (or its footprint) comes along too while the
//! link has headroom, but for one page: the fault of that one tells when to bring the one after it. While memory is not full
//! they also come when the link has nothing to do ([`FunctionState::idle`]), one after the other.
//!
//! It is as good as the caller's accounts: pages that are used but not reported to [`super::super::prefetch::feedback`] look unused,
//! and the pages that a block is evicted with have to be reported together. What is reported late looks unused until then, too:
//! see [`super::super::prefetch::undecided`].
//!
//! The constants were set on `tools/vfetch-sim/matrix/tuning.toml`.

use super::super::mask::PageMask;
use super::super::page::{PageIndex, Region, GROUP_PAGES, PAGES};
use super::super::prefetch::{Ahead, Batch, BlockId, Location, Outcome};
use super::super::tree::{Input, Mode, Threshold, Tree, Walk};
use super::frequency::with_followers;
use super::{Plan, Policy, View};

mod density;
mod runs;
mod streams;

use density::{new_groups, Density, Expected, Neighbourhood, NEIGHBOURHOODS};
use runs::Runs;
use streams::Streams;

/// What a batch of faults costs, and each fault of it.
const BATCH_NS: u64 = 30_000;
const OF_BATCH_NS: u64 = 1_000;

/// In percent: where more memory is in use, something has to be evicted for what comes along.
const FULL: u8 = 95;

/// What nobody needs yet comes along while the link has no more than so many pages to carry.
const HEADROOM_PAGES: u64 = PAGES as u64 / 4;

/// Nothing comes along while the link has more than so many pages to carry.
const BACKLOG_PAGES: u64 = PAGES as u64 * 4;

/// Whether the link has little to do.
fn headroom(view: &View<'_>) -> bool {
    view.batch.link_backlog_ns <= HEADROOM_PAGES * u64::from(view.params.page_ns.get())
}

/// In idle time, where blocks are used at least so densely.
const IDLE_PAGES: usize = PAGES / 2;

/// Ahead where memory is full, likewise.
const AHEAD_PAGES: usize = PAGES / 2;

/// While there is room, a block that is visited so often comes as a whole.
const VISITS: u8 = 3;

/// In percent: where more than that of all has room, evictions are few, and each one counts.
const NEARLY_ALL: u8 = 94;

/// In 256ths of what was evicted: where more than that had come along and was not used, or had not even arrived, what comes along is
/// worth no eviction.
const WASTEFUL: u16 = 32;

/// Blocks with fewer pages say little about what is wasted.
const JUDGED_PAGES: usize = 16;

/// A block that faults after so many batches of other blocks is visited anew.
const APART: u32 = 16;

/// Memory counts as full for so many batches after a block had to go.
const FULL_BATCHES: u32 = 1024;

/// 256 would charge every page that comes along with a fault, where all that has gone is wanted back at once and half of what came
/// along was wasted.
const REGRET: u64 = 340;

/// What is learnt of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionState {
    all: Density,
    /// The last neighbourhood of each slot.
    near: [(Neighbourhood, Density); NEIGHBOURHOODS],
    streams: Streams,
    runs: Runs,
    /// Blocks that are here, and how many have been evicted.
    resident: u16,
    evicted: u16,
    /// Of the blocks that came back, how many had hardly gone; in 256ths, newer ones count more.
    regretted: u16,
    /// Of the pages of evicted blocks, and those that had no room meanwhile, how many came along and were not used; in 256ths,
    /// newer ones count more.
    wasted: u16,
    /// Pages that had no room since the last block was evicted.
    dropped: u32,
    /// Of the pages that a block was evicted with, how many were touched when it had come back; in 256ths, newer ones
    /// count more.
    repeats: u16,
    /// Blocks that were evicted, and those of them that came back soon enough; beyond 64 the older half is forgotten.
    went: u16,
    came_back: u16,
    /// When the last batch was, its faults so far, and those of a batch in sixteenths, newer ones counting more.
    now_ns: u64,
    faults: u16,
    mean_faults: u16,
    /// Batches of a block so far, and when the last block was evicted.
    batches: u32,
    full_at: Option<u32>,
}

/// What is learnt of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockState {
    neighbourhood: Neighbourhood,
    /// Pages that were touched since the block arrived, as far as they are still there.
    touched: PageMask,
    /// Pages that were touched until it was evicted the last time; none if that never happened.
    footprint: PageMask,
    /// How many blocks had been evicted when it was.
    evicted_at: Option<u16>,
    /// When it faulted last, and how often it did after others had.
    last: u32,
    visits: u8,
}

impl BlockState {
    /// Nothing known.
    pub const NEW: Self = Self {
        neighbourhood: Neighbourhood::NEW,
        touched: PageMask::EMPTY,
        footprint: PageMask::EMPTY,
        evicted_at: None,
        last: 0,
        visits: 0,
    };

    /// Of `pages` that are to come ahead: what was used of the block before, if it was, but for the page that tells that
    /// it is being used.
    #[must_use]
    pub fn of_ahead(&self, pages: &PageMask) -> PageMask {
        let mut known = self.footprint.and(pages);
        let wire = if pages.has(PageIndex::FIRST) {
            self.footprint.last_before(PAGES)
        } else {
            self.footprint.first()
        };
        match wire {
            Some(wire) => {
                known.take(wire);
                known
            }
            None => *pages,
        }
    }

    /// It is the state of `block`.
    pub fn is_at(&mut self, block: BlockId) {
        self.neighbourhood = Neighbourhood::of(block);
    }
}

/// A mean in which the newest value counts for an eighth.
const fn moved_towards(mean: u16, value: u16) -> u16 {
    (mean - mean / 8).saturating_add(value / 8)
}

/// How many of `whole` are `part`, in 256ths; none of none.
fn share(part: usize, whole: usize) -> u16 {
    let share = (part * 256).checked_div(whole).unwrap_or(0);
    u16::try_from(share).unwrap_or(256)
}

impl FunctionState {
    /// Nothing known.
    pub const NEW: Self = Self {
        all: Density::NEW,
        near: [(Neighbourhood::NEW, Density::NEW); NEIGHBOURHOODS],
        streams: Streams::NEW,
        runs: Runs::NEW,
        resident: 0,
        evicted: 0,
        regretted: 0,
        wasted: 128,
        dropped: 0,
        repeats: 128,
        went: 0,
        came_back: 0,
        now_ns: 0,
        faults: 0,
        mean_faults: 10 * 16,
        batches: 0,
        full_at: None,
    };

    fn each(&mut self, block: &BlockState, change: impl Fn(&mut Density)) {
        change(&mut self.all);
        if let Some((whose, near)) = self.near.get_mut(block.neighbourhood.slot()) {
            if *whose != block.neighbourhood {
                *whose = block.neighbourhood;
                *near = Density::NEW;
            }
            change(near);
        }
    }

    fn touch(&mut self, block: &mut BlockState, pages: &PageMask) {
        let new = pages.minus(&block.touched);
        if new.is_empty() {
            return;
        }
        if block.touched.is_empty() {
            self.each(block, Density::arrived);
            self.resident = self.resident.saturating_add(1);
        }
        let (count, groups) = (new.count(), new_groups(&new, &block.touched));
        self.each(block, |density| density.touched(count, groups));
        block.touched = block.touched.or(&new);
    }

    /// The pages of `batch` fault.
    pub fn faulted(&mut self, block: &mut BlockState, batch: &Batch<'_>, faulted: &PageMask) {
        block.is_at(batch.block);
        if let Some(at) = block.evicted_at.take() {
            let since = self.evicted.wrapping_sub(at);
            let near = since <= (self.resident / 8).max(1);
            self.regretted = moved_towards(self.regretted, if near { 256 } else { 0 });
            if since <= self.resident {
                self.came_back = self.came_back.saturating_add(1);
            }
        }
        if batch.now_ns != self.now_ns {
            // The blocks of a batch are served at the same time.
            let of_last = self.faults.min(512) * 16;
            self.mean_faults = moved_towards(self.mean_faults, of_last);
            self.now_ns = batch.now_ns;
            self.faults = 0;
        }
        let faults = u16::try_from(faulted.count()).unwrap_or(u16::MAX);
        self.faults = self.faults.saturating_add(faults);
        self.batches = self.batches.wrapping_add(1);
        if block.visits == 0 || self.batches.wrapping_sub(block.last) > APART {
            block.visits = block.visits.saturating_add(1);
        }
        block.last = self.batches;
        self.touch(block, faulted);
        self.streams.follow(batch.block);
    }

    /// `pages` of `block` ended so, `outstanding` of which were prefetched and not touched before.
    pub fn observe(
        &mut self,
        block: &mut BlockState,
        outcome: Outcome,
        pages: &PageMask,
        outstanding: &PageMask,
    ) {
        match outcome {
            Outcome::Used | Outcome::Late => self.touch(block, outstanding),
            Outcome::Evicted => {
                self.judge(pages.count(), outstanding.count());
                if block.touched.is_empty() && !outstanding.is_empty() {
                    // It came for nothing.
                    self.each(block, Density::arrived);
                }
                self.gone(block, pages);
            }
            Outcome::Moved => block.touched = block.touched.minus(pages),
            Outcome::Dropped => {
                let dropped = u32::try_from(outstanding.count()).unwrap_or(u32::MAX);
                self.dropped = self.dropped.saturating_add(dropped);
            }
        }
    }

    /// A block has been evicted with so many pages, `unused` of which had come along.
    fn judge(&mut self, pages: usize, unused: usize) {
        if pages >= JUDGED_PAGES {
            let dropped = core::mem::take(&mut self.dropped) as usize;
            self.wasted = moved_towards(self.wasted, share(unused + dropped, pages + dropped));
        }
    }

    fn gone(&mut self, block: &mut BlockState, pages: &PageMask) {
        let left = block.touched.minus(pages);
        if !block.touched.is_empty() && left.count() < pages.count() {
            // The block has been evicted. What is left was touched on its way here: it comes back with that.
            if !block.footprint.is_empty() {
                let again = block.touched.and(&block.footprint);
                let share = share(again.count(), block.footprint.count());
                self.repeats = moved_towards(self.repeats, share);
            }
            self.runs.learn(&block.touched);
            block.footprint = block.touched;
            block.evicted_at = Some(self.evicted);
            self.evicted = self.evicted.wrapping_add(1);
            self.full_at = Some(self.batches);
            if self.went >= Density::REMEMBERED {
                self.went /= 2;
                self.came_back /= 2;
            }
            self.went = self.went.saturating_add(1);
            if left.is_empty() {
                self.resident = self.resident.saturating_sub(1);
            } else {
                self.each(block, Density::arrived);
                let (count, groups) = (left.count(), new_groups(&left, &PageMask::EMPTY));
                self.each(block, |density| density.touched(count, groups));
            }
        }
        block.touched = left;
    }

    /// What was learnt of `block` is forgotten.
    pub fn forgotten(&mut self, block: &BlockState) {
        if !block.touched.is_empty() {
            self.resident = self.resident.saturating_sub(1);
        }
    }

    /// What to expect of a block in `neighbourhood`.
    fn expected(&self, neighbourhood: Neighbourhood) -> Option<Expected> {
        let near = self.near.get(neighbourhood.slot());
        near.filter(|(whose, _)| *whose == neighbourhood)
            .and_then(|(_, near)| near.expected(2))
            .or_else(|| self.all.expected(4))
    }
}

/// Learns ([`super::Kind::Auto`]).
#[derive(Debug)]
pub struct Auto<'a> {
    function: &'a FunctionState,
    block: &'a BlockState,
    /// Whether blocks like this one are worth it as a whole.
    dense: bool,
}

impl FunctionState {
    /// Whether something has to go for what comes along. (Right after a block has gone there is room, for a moment.)
    fn is_full(&self, pressure: u8) -> bool {
        pressure >= FULL
            || self
                .full_at
                .is_some_and(|at| self.batches.wrapping_sub(at) < FULL_BATCHES)
    }

    /// What a fault costs: its share of a batch.
    fn fault_ns(&self) -> u64 {
        BATCH_NS * 16 / u64::from(self.mean_faults.max(16)) + OF_BATCH_NS
    }

    /// What it costs that pages come along.
    fn costs(&self, view: &View<'_>) -> Costs {
        let page_ns = u64::from(view.params.page_ns.get());
        let fault_ns = self.fault_ns();
        if !self.is_full(view.batch.pressure) {
            return Costs {
                fault_ns,
                any_ns: 0,
                unused_ns: page_ns,
            };
        }
        let came_back =
            u64::from(self.came_back).saturating_mul(fault_ns) / u64::from(self.went.max(1));
        // Where what comes along is used before it goes again it does no harm.
        let regret = u64::from(self.regretted) * u64::from(self.wasted.min(128)) / 128;
        Costs {
            fault_ns,
            any_ns: fault_ns * regret / REGRET,
            unused_ns: page_ns * 2 + came_back.min(fault_ns),
        }
    }

    /// Whether what comes along is worth no eviction, where `share` per cent of all has room.
    pub const fn is_gentle(&self, share: u8) -> bool {
        share >= NEARLY_ALL || self.wasted > WASTEFUL
    }

    /// What to bring while the link has nothing to do.
    pub fn idle(&mut self, pressure: u8, fits: bool) -> Option<Ahead> {
        if !fits && self.is_full(pressure) {
            return None;
        }
        let block = self.streams.farther()?;
        let expected = self.expected(Neighbourhood::of(block))?;
        if !fits && expected.pages < IDLE_PAGES {
            return None;
        }
        Some(Ahead {
            block,
            pages: PageMask::ALL,
        })
    }
}

/// What a page costs that comes along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Costs {
    /// What a fault costs that could have been spared.
    fault_ns: u64,
    /// Each of them: it comes before it must, and what goes for it is wanted back at once.
    any_ns: u64,
    /// If it is not touched, besides: its way, and the way and perhaps the return of what goes for it.
    unused_ns: u64,
}

impl Costs {
    /// Whether it pays to bring `brought` pages of which `touched` will be touched.
    fn pays(self, touched: usize, brought: usize) -> bool {
        self.gain_ns(touched, brought) > 0
    }

    /// What is gained by that, at least 0.
    fn gain_ns(self, touched: usize, brought: usize) -> u64 {
        let unused = brought.saturating_sub(touched) as u64;
        let all = (brought as u64).saturating_mul(self.any_ns);
        (touched as u64)
            .saturating_mul(self.fault_ns)
            .saturating_sub(unused.saturating_mul(self.unused_ns))
            .saturating_sub(all)
    }

    /// For pages beside the one that faulted: they are used sooner than others.
    const fn soon(self) -> Self {
        Self {
            any_ns: self.any_ns / 2,
            ..self
        }
    }

    /// The occupancy at which it is even to bring the rest of a node.
    fn break_even(self) -> Threshold {
        let cost = self.unused_ns.saturating_add(self.any_ns);
        let worth = self.fault_ns.saturating_add(self.unused_ns).max(1);
        let percent = (cost.saturating_mul(100) / worth).min(100);
        let percent = u8::try_from(percent).ok().and_then(Threshold::new);
        percent.unwrap_or(Threshold::NEVER)
    }
}

impl<'a> Auto<'a> {
    /// With what was learnt so far.
    #[must_use]
    pub const fn new(function: &'a FunctionState, block: &'a BlockState) -> Self {
        Self {
            function,
            block,
            dense: false,
        }
    }

    /// What to bring of the next block.
    #[must_use]
    pub fn ahead(&self, view: &View<'_>) -> Option<Ahead> {
        let batch = view.batch;
        if !self.dense || !headroom(view) || batch.destination != Some(Location::Device) {
            return None;
        }
        let block = self.function.streams.next()?;
        let expected = self.function.expected(Neighbourhood::of(block))?;
        let sparse = expected.pages < AHEAD_PAGES && self.function.is_full(batch.pressure);
        if sparse || !self.function.costs(view).pays(expected.pages, PAGES) {
            return None;
        }
        // The fault of this one tells that the block is being used.
        let mut pages = PageMask::ALL;
        if let Some(wire) = PageIndex::new(if block.index > batch.block.index {
            0
        } else {
            PAGES - 1
        }) {
            pages.take(wire);
        }
        Some(Ahead { block, pages })
    }
}

impl Policy for Auto<'_> {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        let max_region: Region = view.tree.max_region();
        let costs = self.function.costs(view);

        if view.batch.share >= 100 && !view.calm().is_empty() {
            // Nothing ever has to go.
            self.dense = true;
            return Plan::Pages(max_region.into());
        }
        let roomy = !self.function.is_full(view.batch.pressure) && headroom(view);
        let Some(expected) = self.function.expected(self.block.neighbourhood) else {
            // Nothing is known, and it costs nothing to try.
            if roomy && !view.calm().is_empty() {
                self.dense = true;
                return Plan::Pages(max_region.into());
            }
            return Plan::Default;
        };
        if view.calm().is_empty() {
            return Plan::Pages(PageMask::EMPTY);
        }
        let touched = self.block.touched.count();
        let known = self.block.footprint.count();
        let expected_pages = if known > 0 { known } else { expected.pages };
        let missing = PageMask::from(max_region)
            .minus(view.batch.resident)
            .minus(view.batch.faulted);
        self.dense = costs.pays(expected_pages, PAGES);
        // While there is room, what is visited again and again fills up anyway.
        if roomy && self.block.visits >= VISITS {
            return Plan::Pages(max_region.into());
        }
        // Of a block that was here before only what was used then.
        let whole = if known > 0 || self.function.is_full(view.batch.pressure) {
            0
        } else {
            costs.gain_ns(expected_pages.saturating_sub(touched), missing.count())
        };
        // What the link has to carry already comes first; meanwhile it is known better what is needed.
        if view.batch.link_backlog_ns > BACKLOG_PAGES * u64::from(view.params.page_ns.get()) {
            return Plan::Threshold(Threshold::NEVER);
        }
        let again = self.block.footprint.and(&missing);
        let likely = again.count() * usize::from(self.function.repeats) / 256;
        let footprint = costs.gain_ns(likely, again.count());
        if whole > 0 {
            return Plan::Pages(max_region.into());
        }
        // Of a unit that is touched, so by one page already.
        let rest_of_group = (expected.of_group / 16).saturating_sub(1);
        let grow =
            view.params.walk == Walk::Managed && costs.soon().pays(rest_of_group, GROUP_PAGES - 1);
        // The tree over what was really touched: over what is resident it would take what it brought itself for use. One
        // page in eight is no evidence either: the fault itself is one.
        let threshold = costs.break_even().max(Threshold::DEFAULT);
        let tree = Tree::new(&Input {
            mode: Mode::Strict,
            walk: if grow { Walk::Managed } else { Walk::Ats },
            threshold,
            bounds: view.batch.bounds,
            resident: &self.block.touched,
            faulted: view.batch.faulted,
            thrashing: view.batch.thrashing,
        });
        let mut pages = tree.native(Mode::Strict, threshold, &view.calm());
        if footprint > 0 {
            pages = pages.or(&again);
        }
        let soon = costs.soon();
        let behind = self
            .function
            .runs
            .behind(|touched, brought| soon.pays(touched, brought));
        if behind > 0 {
            pages = pages.or(&with_followers(&view.calm(), behind));
        }
        Plan::Pages(pages)
    }
}

// Closed loops of thousands of decisions: too many under Miri, which sees each decision in other tests.
#[cfg(all(test, not(miri)))]
mod tests;
