// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The engine's policies: the code of the kernel module, fed as its driver feeds it.
//!
//! That a page is used on the device, or through a mapping, costs no fault. So it is only marked, and the engine is told when the page
//! leaves that side, or when it looks at the marks ([`prefetch::undecided`]). (The driver also reads those of blocks whose turn to go is
//! near. They go soon; that is left out.)

use vfetch_engine::{
    mask::PageMask,
    page::{PageIndex, Region, PAGES},
    params::Params,
    prefetch::{self, Batch, BlockId, BlockState, FunctionId, FunctionState, Location, Outcome},
    tree::Bounds,
};

use super::{Fault, Hint, Mask, Prefetcher, View};
use crate::trace::{Side, BLOCK_PAGES};

/// A block of the function's space.
#[derive(Clone)]
struct Block {
    state: BlockState,
    /// Prefetched pages that were used on the host, or on the device, and of which the engine has not been told.
    host: PageMask,
    device: PageMask,
}

impl Block {
    const NEW: Self = Self {
        state: BlockState::NEW,
        host: PageMask::EMPTY,
        device: PageMask::EMPTY,
    };

    fn marks(&mut self, side: Side) -> &mut PageMask {
        match side {
            Side::Host => &mut self.host,
            Side::Device => &mut self.device,
        }
    }
}

const fn location(side: Side) -> Location {
    match side {
        Side::Host => Location::Host,
        Side::Device => Location::Device,
    }
}

/// A page of the space in its block.
fn only(page: u32) -> PageMask {
    let index = PageIndex::new((page % BLOCK_PAGES) as usize);
    index.map_or(PageMask::EMPTY, |index| index.region().into())
}

/// The engine for one function.
pub(crate) struct Engine {
    params: Params,
    function: Box<FunctionState>,
    blocks: Vec<Block>,
    random: u32,
}

impl Engine {
    /// With these parameters; `seed` is that of the random numbers that it is given.
    pub(crate) fn new(params: Params, seed: u32) -> Self {
        Self {
            params,
            function: Box::new(FunctionState::NEW),
            blocks: Vec::new(),
            random: seed | 1,
        }
    }

    fn next_random(&mut self) -> u32 {
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }

    fn feedback(&mut self, side: Side, page: u32, outcome: Outcome) {
        self.feedback_block(side, page / BLOCK_PAGES, outcome, &only(page));
    }

    fn feedback_block(&mut self, side: Side, block: u32, outcome: Outcome, pages: &PageMask) {
        if let Some(block) = self.blocks.get_mut(block as usize) {
            let at = location(side);
            prefetch::feedback(&mut self.function, &mut block.state, at, outcome, pages);
        }
    }

    /// Reads the marks of `pages` of a block, which are leaving a side.
    fn read_marks(&mut self, side: Side, block: u32, pages: &PageMask) {
        let Some(marked) = self.blocks.get_mut(block as usize) else {
            return;
        };
        let marks = marked.marks(side);
        let used = marks.and(pages);
        *marks = marks.minus(pages);
        if !used.is_empty() {
            self.feedback_block(side, block, Outcome::Used, &used);
        }
    }

    /// Sees which pages of a block the device has used so far.
    fn look_at(&mut self, at: BlockId) {
        let index = usize::try_from(at.index).ok();
        if let Some(block) = index.and_then(|index| self.blocks.get_mut(index)) {
            let used = std::mem::replace(&mut block.device, PageMask::EMPTY);
            prefetch::seen(&mut self.function, &mut block.state, at, &used);
        }
    }

    /// Decides for the faults of one block.
    fn decide(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) -> Option<()> {
        let index = faults.first()?.page / BLOCK_PAGES;
        let first = index * BLOCK_PAGES;
        let pages = (view.pages - first).min(BLOCK_PAGES) as usize;
        let region = Region::new(0, pages)?;
        let (mut faulted, mut written) = (PageMask::EMPTY, PageMask::EMPTY);
        for fault in faults {
            let page = PageIndex::new((fault.page - first) as usize)?;
            faulted.add(page);
            if fault.write {
                written.add(page);
            }
        }
        let device = PageMask::from_words(view.device.device(index));
        let thrashing = PageMask::from_words(view.device.thrashing(index));
        let host = PageMask::ALL.minus(&device).within(region);
        let (destination, resident) = match view.side {
            Side::Device => (Location::Device, device),
            Side::Host => (Location::Host, host),
        };
        let random = self.next_random();
        let batch = Batch {
            function: FunctionId(0),
            block: BlockId {
                space: 0,
                index: u64::from(index),
            },
            bounds: Bounds::new(0, pages, region)?,
            faulted: &faulted,
            written: &written,
            resident: &resident,
            // All pages have contents from the beginning.
            resident_anywhere: true,
            mapped: &host,
            thrashing: &thrashing,
            destination: Some(destination),
            preferred: None,
            now_ns: view.now_ns,
            random,
            // The host has room for all, as far as the model goes.
            pressure: match view.side {
                Side::Host => 0,
                Side::Device => view.pressure(),
            },
            share: match view.side {
                Side::Host => 100,
                Side::Device => view.share,
            },
            link_bytes: view.link_bytes,
            link_backlog_ns: view.backlog_ns,
        };
        if view.side == Side::Device {
            self.look_at(batch.block);
        }
        let block = &mut self.blocks.get_mut(index as usize)?.state;
        let answer = prefetch::prefetch(&self.params, &mut self.function, block, &batch);
        let bring = answer.pages.minus(&resident);
        let pages = bring.iter().map(|page| first + page.get() as u32);
        if answer.gentle {
            hint.gentle.extend(pages);
        } else {
            hint.pages.extend(pages);
        }
        if let Some(ahead) = answer.ahead {
            self.ahead(view, ahead, false, hint);
        }
        Some(())
    }

    fn ahead(
        &mut self,
        view: &View<'_>,
        ahead: prefetch::Ahead,
        gentle: bool,
        hint: &mut Hint,
    ) -> Option<()> {
        let index = u32::try_from(ahead.block.index).ok()?;
        let first = index.checked_mul(BLOCK_PAGES)?;
        let pages = view.pages.checked_sub(first)?.min(BLOCK_PAGES) as usize;
        let region = Region::new(0, pages)?;
        let device: Mask = view.device.device(index);
        let block = &mut self.blocks.get_mut(index as usize)?.state;
        let bring = prefetch::ahead_pages(block, &ahead)
            .within(region)
            .minus(&PageMask::from_words(device));
        prefetch::brought_ahead(&mut self.function, block, &ahead, &bring);
        if gentle {
            &mut hint.gentle_ahead
        } else {
            &mut hint.ahead
        }
        .extend(bring.iter().map(|page| first + page.get() as u32));
        Some(())
    }
}

impl Prefetcher for Engine {
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) {
        let blocks = view.pages.div_ceil(BLOCK_PAGES) as usize;
        if self.blocks.len() < blocks {
            self.blocks.resize(blocks, Block::NEW);
        }
        if view.side == Side::Device {
            for at in prefetch::undecided(&mut self.function)
                .into_iter()
                .flatten()
            {
                self.look_at(at);
            }
        }
        let mut faults = faults.to_vec();
        faults.sort_unstable_by_key(|fault| fault.page);
        for block in faults.chunk_by(|a, b| a.page / BLOCK_PAGES == b.page / BLOCK_PAGES) {
            // Every page is one of the space, and so of its block.
            let _ = self.decide(view, block, hint);
        }
    }

    fn used(&mut self, view: &View<'_>, page: u32, _hint: &mut Hint) {
        if let Some(block) = self.blocks.get_mut((page / BLOCK_PAGES) as usize) {
            let marks = block.marks(view.side);
            *marks = marks.or(&only(page));
        }
    }

    fn idle(&mut self, view: &View<'_>, hint: &mut Hint) -> bool {
        let pressure = view.pressure();
        let Some(ahead) = prefetch::idle(&self.params, &mut self.function, pressure, view.share)
        else {
            return false;
        };
        self.ahead(view, ahead, true, hint);
        true
    }

    fn late(&mut self, view: &View<'_>, page: u32) {
        self.feedback(view.side, page, Outcome::Late);
    }

    fn dropped(&mut self, view: &View<'_>, page: u32) {
        self.feedback(view.side, page, Outcome::Dropped);
    }

    fn moved(&mut self, view: &View<'_>, page: u32) {
        self.read_marks(view.side, page / BLOCK_PAGES, &only(page));
        self.feedback(view.side, page, Outcome::Moved);
    }

    fn evicted(&mut self, view: &View<'_>, block: u32, pages: &Mask) {
        let pages = PageMask::from_words(*pages);
        self.read_marks(view.side, block, &pages);
        self.feedback_block(view.side, block, Outcome::Evicted, &pages);
    }

    fn invalid(&self) -> u64 {
        self.function.all_counters().invalid
    }
}

const _: () = assert!(PAGES == BLOCK_PAGES as usize);
