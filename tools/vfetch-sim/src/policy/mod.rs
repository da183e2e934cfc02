// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What decides which pages come along with those that were asked for.

mod best_offset;
mod choice;
mod engine;
mod leap;
mod readahead;

pub(crate) use choice::{list, Choice};

use crate::trace::{Side, BLOCK_PAGES};

/// Pages of a block, a bit each.
pub(crate) type Mask = [u64; 8];

/// A page that was touched and was not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// In its function's space.
    pub(crate) page: u32,
    /// Whether it was to be written.
    pub(crate) write: bool,
}

/// What the machine tells whoever decides.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) now_ns: u64,
    /// Who faulted: where the pages are to go.
    pub(crate) side: Side,
    /// Pages of the function's space.
    pub(crate) pages: u32,
    /// Frames of the device, and those that are taken or promised.
    pub(crate) capacity: u32,
    pub(crate) taken: u32,
    /// How much of all pages of all functions fits on the device, in percent.
    pub(crate) share: u8,
    /// Bytes that the link has carried.
    pub(crate) link_bytes: u64,
    /// For how long the link has pages to carry.
    pub(crate) backlog_ns: u64,
    /// By block of the space: pages on the device or on their way there.
    pub(crate) device: &'a dyn Residency,
}

impl View<'_> {
    /// How much of the device's memory is taken, in percent.
    fn pressure(&self) -> u8 {
        (u64::from(self.taken) * 100 / u64::from(self.capacity.max(1))) as u8
    }
}

/// Where pages are.
pub(crate) trait Residency: std::fmt::Debug {
    /// Pages of a block of the function's space that are on the device or on their way there.
    fn device(&self, block: u32) -> Mask;
    /// Pages of it that are thrashing, pinned ones included.
    fn thrashing(&self, _block: u32) -> Mask {
        [0; 8]
    }
    /// Whether a page of the function's space is.
    fn has(&self, page: u32) -> bool {
        let bit = page % BLOCK_PAGES;
        self.device(page / BLOCK_PAGES)[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }
}

/// What to prefetch.
#[derive(Debug, Default)]
pub(crate) struct Hint {
    /// Pages, most wanted first.
    pub(crate) pages: Vec<u32>,
    /// After these, as long as there are frames.
    pub(crate) gentle: Vec<u32>,
    /// Pages of blocks where nobody has faulted: after all others.
    pub(crate) ahead: Vec<u32>,
    /// After these, as long as there are frames.
    pub(crate) gentle_ahead: Vec<u32>,
}

impl Hint {
    /// Forgets all of it.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.gentle.clear();
        self.ahead.clear();
        self.gentle_ahead.clear();
    }
}

/// A prefetcher of one function.
pub(crate) trait Prefetcher {
    /// Pages to bring to `view.side` with those of a batch. The faults are distinct and in the order
    /// in which they were raised; those whose transfer was under way already are among them.
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint);

    /// A prefetched page is touched for the first time. May ask for more on the device.
    fn used(&mut self, _view: &View<'_>, _page: u32, _hint: &mut Hint) {}

    /// The link has nothing to do: what else to bring to the device, as far as there is room. `false` if there is nothing.
    fn idle(&mut self, _view: &View<'_>, _hint: &mut Hint) -> bool {
        false
    }

    /// A prefetched page is touched while it is still on its way. Its fault follows.
    fn late(&mut self, _view: &View<'_>, _page: u32) {}

    /// A page has arrived on the device.
    fn arrived(&mut self, _view: &View<'_>, _page: u32, _prefetched: bool) {}

    /// A page of a hint is not brought: there is no room, or it is just leaving.
    fn dropped(&mut self, _view: &View<'_>, _page: u32) {}

    /// All pages of a block that were on the device have left it, to make room.
    fn evicted(&mut self, _view: &View<'_>, _block: u32, _pages: &Mask) {}

    /// A page has left `view.side`, because the other side wants it or it comes along with one that it wants.
    fn moved(&mut self, _view: &View<'_>, _page: u32) {}

    /// Answers that were refused as invalid.
    fn invalid(&self) -> u64 {
        0
    }
}

/// Prefetches nothing, without asking anybody.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Prefetcher for Nothing {
    fn batch(&mut self, _view: &View<'_>, _faults: &[Fault], _hint: &mut Hint) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Pages that are on the device.
    #[derive(Debug, Default)]
    pub(crate) struct Known(pub(crate) BTreeSet<u32>);

    impl Residency for Known {
        fn device(&self, block: u32) -> Mask {
            let mut mask = [0; 8];
            let first = block * BLOCK_PAGES;
            for page in self.0.range(first..first + BLOCK_PAGES) {
                let bit = page - first;
                mask[(bit / 64) as usize] |= 1 << (bit % 64);
            }
            mask
        }
    }

    impl Known {
        /// The view of a space of so many pages.
        pub(crate) fn view(&self, pages: u32) -> View<'_> {
            View {
                now_ns: 0,
                side: Side::Device,
                pages,
                capacity: 1000,
                taken: 0,
                share: 50,
                link_bytes: 0,
                backlog_ns: 0,
                device: self,
            }
        }
    }
}
