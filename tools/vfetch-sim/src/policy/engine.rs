// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The engine's policies: the code of the kernel module, fed as its driver feeds it.

use vfetch_engine::{
    mask::PageMask,
    page::{PageIndex, Region, PAGES},
    params::Params,
    prefetch::{self, Batch, BlockId, BlockState, FunctionId, FunctionState, Location, Outcome},
    tree::Bounds,
};

use super::{Fault, Hint, Mask, Prefetcher, View};
use crate::trace::{Side, BLOCK_PAGES};

/// The engine for one function.
pub(crate) struct Engine {
    params: Params,
    function: Box<FunctionState>,
    blocks: Vec<BlockState>,
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

    fn feedback(&mut self, page: u32, outcome: Outcome) {
        if let Some(index) = PageIndex::new((page % BLOCK_PAGES) as usize) {
            let mut pages = PageMask::EMPTY;
            pages.add(index);
            self.feedback_block(page / BLOCK_PAGES, outcome, &pages);
        }
    }

    fn feedback_block(&mut self, block: u32, outcome: Outcome, pages: &PageMask) {
        if let Some(block) = self.blocks.get_mut(block as usize) {
            prefetch::feedback(&mut self.function, block, outcome, pages);
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
            pressure: view.pressure(),
            share: view.share,
            link_bytes: view.link_bytes,
            link_backlog_ns: view.backlog_ns,
        };
        let block = self.blocks.get_mut(index as usize)?;
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
        let block = self.blocks.get_mut(index as usize)?;
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
            self.blocks.resize(blocks, BlockState::NEW);
        }
        let mut faults = faults.to_vec();
        faults.sort_unstable_by_key(|fault| fault.page);
        for block in faults.chunk_by(|a, b| a.page / BLOCK_PAGES == b.page / BLOCK_PAGES) {
            // Every page is one of the space, and so of its block.
            let _ = self.decide(view, block, hint);
        }
    }

    fn used(&mut self, _view: &View<'_>, page: u32, _hint: &mut Hint) {
        self.feedback(page, Outcome::Used);
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

    fn late(&mut self, _view: &View<'_>, page: u32) {
        self.feedback(page, Outcome::Late);
    }

    fn dropped(&mut self, _view: &View<'_>, page: u32) {
        self.feedback(page, Outcome::Dropped);
    }

    fn moved(&mut self, _view: &View<'_>, page: u32) {
        self.feedback(page, Outcome::Moved);
    }

    fn evicted(&mut self, _view: &View<'_>, block: u32, pages: &Mask) {
        self.feedback_block(block, Outcome::Evicted, &PageMask::from_words(*pages));
    }

    fn invalid(&self) -> u64 {
        self.function.all_counters().invalid
    }
}

const _: () = assert!(PAGES == BLOCK_PAGES as usize);
