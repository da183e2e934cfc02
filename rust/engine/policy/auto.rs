// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Learns how densely blocks are used, and brings along what pays.
//!
//! **What is learnt.** Of each block, of the four blocks around it, and of the whole function: how many of a block's pages are
//! touched, by a fault or as a prefetched page that was used, from its arrival until it is evicted, and how many of a
//! 64 KiB unit's. Prefetched pages that are evicted unused were never touched and spared faults were, whatever was
//! prefetched, so that learning needs no trials and reverts by itself when the use changes; newer blocks count
//! more.
//!
//! **What pays.** A page that is touched later and comes along now spares a fault; each page that comes along costs link time, and
//! more where something has to be evicted for it. So the whole block is brought when
//! `touched later * FAULT_NS > brought * PAGE_NS * pressure`; else what the tree selects over the pages that were really touched,
//! with growth to 64 KiB where units are used densely enough for that.
//!
//! **One block ahead.** Where blocks are used densely one after the other, the next one comes along too while the link
//! has headroom, but for one page: the fault of that one tells when to bring the one after it.
//!
//! It is as good as the caller's accounts: pages that are used but not reported to [`super::super::prefetch::feedback`] look unused.

use super::super::mask::PageMask;
use super::super::page::{PageIndex, Region, GROUP_PAGES, PAGES};
use super::super::prefetch::{Ahead, Batch, BlockId, Location, Outcome};
use super::super::tree::{Input, Mode, Threshold, Tree, Walk};
use super::{Plan, Policy, View};

/// What a fault costs that could have been spared: of a batch's 30 us a share, and 1 us.
const FAULT_NS: u64 = 4_000;

/// What a page costs the link, at 8 GB/s.
const PAGE_NS: u64 = 512;

/// In percent: where more memory is in use, something has to be evicted for what comes along.
const FULL: u8 = 95;

/// The next block comes along while the link has no more than this to do: half a block.
const HEADROOM_NS: u64 = PAGE_NS * PAGES as u64 / 2;

/// Neighbourhoods that are remembered; 12 bytes each.
const NEIGHBOURHOODS: usize = 256;

/// Streams of blocks that are followed at a time.
const STREAMS: usize = 8;

/// How densely blocks are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Density {
    /// Blocks that arrived.
    blocks: u16,
    /// Their 64 KiB units that were touched.
    groups: u16,
    /// Their pages that were touched.
    pages: u32,
}

impl Density {
    const NEW: Self = Self {
        blocks: 0,
        groups: 0,
        pages: 0,
    };

    /// Beyond as many blocks the older half is forgotten.
    const REMEMBERED: u16 = 64;

    fn arrived(&mut self) {
        if self.blocks >= Self::REMEMBERED {
            self.blocks /= 2;
            self.groups /= 2;
            self.pages /= 2;
        }
        self.blocks = self.blocks.saturating_add(1);
    }

    fn touched(&mut self, pages: usize, groups: usize) {
        self.pages = self.pages.saturating_add(u32::try_from(pages).unwrap_or(0));
        self.groups = self
            .groups
            .saturating_add(u16::try_from(groups).unwrap_or(0));
    }

    /// What to expect of a block, if `least` blocks are known.
    fn expected(&self, least: u16) -> Option<Expected> {
        if self.blocks < least.max(1) {
            return None;
        }
        let pages = self.pages as usize / usize::from(self.blocks);
        let of_group = self.pages as usize * 16 / usize::from(self.groups.max(1));
        Some(Expected {
            pages: pages.min(PAGES),
            of_group: of_group.min(GROUP_PAGES * 16),
        })
    }
}

/// What is expected to be touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Expected {
    /// Pages of a block, up to 512.
    pages: usize,
    /// Sixteenths of pages of a 64 KiB unit that is touched at all, up to 256.
    of_group: usize,
}

/// Blocks that are used one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stream {
    last: BlockId,
    /// +1 or -1.
    backwards: bool,
    /// Steps in this direction.
    steps: u8,
}

/// What is learnt of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionState {
    all: Density,
    /// The last neighbourhood of each slot.
    near: [(Neighbourhood, Density); NEIGHBOURHOODS],
    /// The one that moved last is the first.
    streams: [Option<Stream>; STREAMS],
}

/// What is learnt of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockState {
    neighbourhood: Neighbourhood,
    /// Pages that were touched since the block arrived, as far as they are still there.
    touched: PageMask,
    /// Pages that were touched until it was evicted the last time.
    before: Option<u16>,
}

impl BlockState {
    /// Nothing known.
    pub const NEW: Self = Self {
        neighbourhood: Neighbourhood(0),
        touched: PageMask::EMPTY,
        before: None,
    };

    /// It is the state of `block`.
    pub fn is_at(&mut self, block: BlockId) {
        self.neighbourhood = Neighbourhood::of(block);
    }
}

/// Four blocks side by side, by a hash of where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Neighbourhood(u32);

impl Neighbourhood {
    const fn of(block: BlockId) -> Self {
        let key = (block.index >> 2) ^ ((block.space as u64) << 48);
        // The upper bits of a multiplicative hash (Knuth).
        let [a, b, c, d, ..] = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// Its place among those that are remembered.
    const fn slot(self) -> usize {
        self.0 as usize % NEIGHBOURHOODS
    }
}

/// How many 64 KiB units of `pages` have none of `before`.
fn new_groups(pages: &PageMask, before: &PageMask) -> usize {
    let groups = |mask: &PageMask| {
        mask.words().map(|word| {
            (0..4).fold(0u8, |bits, at| {
                bits | (u8::from((word >> (at * 16)) & 0xffff != 0) << at)
            })
        })
    };
    (groups(pages).iter().zip(groups(before)))
        .map(|(new, old)| (new & !old).count_ones() as usize)
        .sum()
}

impl FunctionState {
    /// Nothing known.
    pub const NEW: Self = Self {
        all: Density::NEW,
        near: [(Neighbourhood(0), Density::NEW); NEIGHBOURHOODS],
        streams: [None; STREAMS],
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
        }
        let (count, groups) = (new.count(), new_groups(&new, &block.touched));
        self.each(block, |density| density.touched(count, groups));
        block.touched = block.touched.or(&new);
    }

    /// The pages of `batch` fault.
    pub fn faulted(&mut self, block: &mut BlockState, batch: &Batch<'_>, faulted: &PageMask) {
        block.is_at(batch.block);
        self.touch(block, faulted);
        self.follow(batch.block);
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
                if block.touched.is_empty() && !outstanding.is_empty() {
                    // It came for nothing.
                    self.each(block, Density::arrived);
                }
                self.gone(block, pages);
            }
            Outcome::Dropped => {}
        }
    }

    fn gone(&mut self, block: &mut BlockState, pages: &PageMask) {
        let left = block.touched.minus(pages);
        if left.is_empty() && !block.touched.is_empty() {
            block.before = u16::try_from(block.touched.count()).ok();
        }
        block.touched = left;
    }

    /// `block` is being used: moves the stream that it continues, or begins one.
    fn follow(&mut self, block: BlockId) {
        let continues = |stream: &Option<Stream>| {
            stream.is_some_and(|stream| {
                stream.last.space == block.space && stream.last.index.abs_diff(block.index) <= 1
            })
        };
        let at = self.streams.iter().position(continues);
        let found = at.and_then(|at| self.streams.get(at).copied().flatten());
        let moved = match found {
            Some(stream) if stream.last == block => stream,
            Some(stream) => {
                let backwards = block.index < stream.last.index;
                let turned = stream.steps > 0 && backwards != stream.backwards;
                Stream {
                    last: block,
                    backwards,
                    steps: if turned {
                        1
                    } else {
                        stream.steps.saturating_add(1)
                    },
                }
            }
            None => Stream {
                last: block,
                backwards: false,
                steps: 0,
            },
        };
        // To the front; without one that it continues, the one that moved least lately goes.
        if let Some(before) = self.streams.get_mut(..=at.unwrap_or(STREAMS - 1)) {
            before.rotate_right(1);
        }
        if let Some(first) = self.streams.first_mut() {
            *first = Some(moved);
        }
    }

    /// The block after this one, where blocks are used one after the other: the stream's that moved last.
    fn next(&self) -> Option<BlockId> {
        let stream = self.streams.first().copied().flatten()?;
        if stream.steps < 2 {
            return None;
        }
        let index = if stream.backwards {
            stream.last.index.checked_sub(1)?
        } else {
            stream.last.index.checked_add(1)?
        };
        Some(BlockId {
            space: stream.last.space,
            index,
        })
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
    /// Whether the whole block is worth it.
    whole: bool,
}

/// What a page costs that comes along.
fn page_ns(batch: &Batch<'_>) -> u64 {
    if batch.pressure >= FULL {
        PAGE_NS * 2
    } else {
        PAGE_NS
    }
}

/// The occupancy at which bringing all of a node is even.
fn break_even(page_ns: u64) -> Threshold {
    let percent = 100 * page_ns / (page_ns + FAULT_NS);
    Threshold::constant(u8::try_from(percent).unwrap_or(100))
}

impl<'a> Auto<'a> {
    /// With what was learnt so far.
    #[must_use]
    pub const fn new(function: &'a FunctionState, block: &'a BlockState) -> Self {
        Self {
            function,
            block,
            whole: false,
        }
    }

    /// What to bring of the next block.
    #[must_use]
    pub fn ahead(&self, view: &View<'_>) -> Option<Ahead> {
        let batch = view.batch;
        if !self.whole
            || batch.link_backlog_ns > HEADROOM_NS
            || batch.destination != Some(Location::Device)
        {
            return None;
        }
        let block = self.function.next()?;
        let expected = self.function.expected(Neighbourhood::of(block))?;
        if !pays(expected.pages, PAGES, page_ns(batch)) {
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

/// Whether it pays to bring `brought` pages of which `touched` will be touched.
fn pays(touched: usize, brought: usize, page_ns: u64) -> bool {
    (touched as u64).saturating_mul(FAULT_NS) > (brought as u64).saturating_mul(page_ns)
}

impl Policy for Auto<'_> {
    fn plan(&mut self, view: &View<'_>) -> Plan {
        let max_region: Region = view.tree.max_region();
        let page_ns = page_ns(view.batch);
        let Some(expected) = self.function.expected(self.block.neighbourhood) else {
            return Plan::Default;
        };
        if view.calm().is_empty() {
            return Plan::Pages(PageMask::EMPTY);
        }
        let touched = self.block.touched.count();
        let expected_pages = self.block.before.map_or(expected.pages, usize::from);
        let missing = PageMask::from(max_region)
            .minus(view.batch.resident)
            .minus(view.batch.faulted);
        if pays(
            expected_pages.saturating_sub(touched),
            missing.count(),
            page_ns,
        ) {
            self.whole = true;
            return Plan::Pages(max_region.into());
        }
        // Of a unit that is touched, so by one page already.
        let rest_of_group = (expected.of_group / 16).saturating_sub(1);
        let grow =
            view.params.walk == Walk::Managed && pays(rest_of_group, GROUP_PAGES - 1, page_ns);
        // The tree over what was really touched: over what is resident it would take what it brought itself for use. One
        // page in eight is no evidence either: the fault itself is one.
        let threshold = break_even(page_ns).max(Threshold::DEFAULT);
        let tree = Tree::new(&Input {
            mode: Mode::Strict,
            walk: if grow { Walk::Managed } else { Walk::Ats },
            threshold,
            bounds: view.batch.bounds,
            resident: &self.block.touched,
            faulted: view.batch.faulted,
            thrashing: view.batch.thrashing,
        });
        Plan::Pages(tree.native(Mode::Strict, threshold, &view.calm()))
    }
}

#[cfg(test)]
mod tests;
