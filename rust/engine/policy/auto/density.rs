// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many pages of blocks are used.

use super::super::super::mask::PageMask;
use super::super::super::page::{GROUP_PAGES, PAGES};
use super::super::super::prefetch::BlockId;

/// Neighbourhoods that are remembered; 12 bytes each.
pub(super) const NEIGHBOURHOODS: usize = 256;

/// How densely blocks are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Density {
    /// Blocks that arrived.
    pub(super) blocks: u16,
    /// Their 64 KiB units that were touched.
    pub(super) groups: u16,
    /// Their pages that were touched.
    pub(super) pages: u32,
}

impl Density {
    pub(super) const NEW: Self = Self {
        blocks: 0,
        groups: 0,
        pages: 0,
    };

    /// Beyond as many blocks the older half is forgotten.
    pub(super) const REMEMBERED: u16 = 64;

    pub(super) fn arrived(&mut self) {
        if self.blocks >= Self::REMEMBERED {
            self.blocks /= 2;
            self.groups /= 2;
            self.pages /= 2;
        }
        self.blocks = self.blocks.saturating_add(1);
    }

    pub(super) fn touched(&mut self, pages: usize, groups: usize) {
        self.pages = self.pages.saturating_add(u32::try_from(pages).unwrap_or(0));
        self.groups = self
            .groups
            .saturating_add(u16::try_from(groups).unwrap_or(0));
    }

    /// What to expect of a block, if `least` blocks are known.
    pub(super) fn expected(&self, least: u16) -> Option<Expected> {
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
pub(super) struct Expected {
    /// Pages of a block, up to 512.
    pub(super) pages: usize,
    /// Sixteenths of pages of a 64 KiB unit that is touched at all, up to 256.
    pub(super) of_group: usize,
}

/// Four blocks side by side, by a hash of where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Neighbourhood(u32);

impl Neighbourhood {
    /// Of no block in particular.
    pub(super) const NEW: Self = Self(0);

    pub(super) const fn of(block: BlockId) -> Self {
        let key = (block.index >> 2) ^ ((block.space as u64) << 48);
        // The upper bits of a multiplicative hash (Knuth).
        let [a, b, c, d, ..] = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// Its place among those that are remembered.
    pub(super) const fn slot(self) -> usize {
        self.0 as usize % NEIGHBOURHOODS
    }
}

/// How many 64 KiB units of `pages` have none of `before`.
pub(super) fn new_groups(pages: &PageMask, before: &PageMask) -> usize {
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
