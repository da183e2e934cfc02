// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Control of thrashing: the engine's detector, fed as the module's driver feeds it.
//!
//! It is told whenever pages begin to move, also when they are evicted: that is a move to the host. Before pages move
//! for a fault it is asked: the fault goes on, or is put off until a nap ends and then raised again, or its page is pinned
//! and reached where it is, for as long as that lasts. Pages that are thrashing are told to whoever prefetches; pinned ones
//! come along with nothing.

use vfetch_engine::{
    mask::PageMask,
    page::PageIndex,
    prefetch::Location,
    thrashing::{Answer, Detector, Pages, Params, Place},
};

use super::config::Control;
use crate::{
    policy::Mask,
    trace::{Side, BLOCK_PAGES},
};

/// What is known of a block.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    detector: Detector,
    pages: Option<Box<Pages>>,
}

impl Watched {
    /// Pages that are thrashing, pinned ones included.
    pub(super) fn pages(&self) -> Mask {
        *self.detector.thrashing().words()
    }
}

/// The detectors of all blocks; none if thrashing is not controlled.
#[derive(Debug)]
pub(super) struct Thrashing {
    params: Params,
    blocks: Vec<Watched>,
}

/// The block of a page, and where it is in that.
fn parts(page: u32) -> Option<(usize, PageIndex)> {
    let block = (page / BLOCK_PAGES) as usize;
    Some((block, PageIndex::new((page % BLOCK_PAGES) as usize)?))
}

fn location(side: Side) -> Location {
    match side {
        Side::Device => Location::Device,
        Side::Host => Location::Host,
    }
}

impl Thrashing {
    /// Of so many blocks.
    pub(super) fn new(control: Control, blocks: usize) -> Self {
        let watched = Watched {
            detector: Detector::NEW,
            pages: None,
        };
        Self {
            params: Params::DEFAULT,
            blocks: match control {
                Control::On => vec![watched; blocks],
                Control::Off => Vec::new(),
            },
        }
    }

    /// What is known of blocks; those that are not watched are not there.
    pub(super) fn blocks(&self, blocks: std::ops::Range<usize>) -> &[Watched] {
        self.blocks.get(blocks).unwrap_or_default()
    }

    /// `pages` of `block` begin to move to `side`.
    pub(super) fn moved(&mut self, block: usize, side: Side, pages: &Mask, now_ns: u64) {
        let (to, pages, now_us) = (location(side), PageMask::from_words(*pages), now_ns / 1000);
        let Some(watched) = self.blocks.get_mut(block).filter(|_| !pages.is_empty()) else {
            return;
        };
        let Watched {
            detector,
            pages: state,
        } = watched;
        if detector.event(&self.params, state, to, &pages, now_us) {
            *state = Some(Box::new(Pages::NEW));
            // With state for its pages it wants no other.
            let _ = detector.event(&self.params, state, to, &pages, now_us);
        }
    }

    /// `side` has faulted on `page`, which `owner` has.
    pub(super) fn ask(&mut self, page: u32, side: Side, owner: Side, now_ns: u64) -> Answer {
        let Some((watched, page)) =
            parts(page).and_then(|(block, page)| Some((self.blocks.get_mut(block)?, page)))
        else {
            return Answer::Go;
        };
        let place = Place {
            owner: location(owner),
            preferred: None,
            host_reaches_device: true,
            device_reaches_host: true,
        };
        watched.detector.ask(
            &self.params,
            &mut watched.pages,
            location(side),
            page,
            place,
            now_ns / 1000,
        )
    }

    /// Whether `page` is still pinned.
    pub(super) fn is_pinned(&mut self, page: u32, now_ns: u64) -> bool {
        let Some((watched, page)) =
            parts(page).and_then(|(block, page)| Some((self.blocks.get_mut(block)?, page)))
        else {
            return false;
        };
        let Watched { detector, pages } = watched;
        if detector.pinned().has(page) {
            detector.expire(&self.params, pages, now_ns / 1000);
        }
        detector.pinned().has(page)
    }
}
